"""Utilities shared by all subpackages."""

import warnings
from contextlib import suppress

with warnings.catch_warnings(), suppress(ImportError):
    # Optuna imports tqdm.auto, which warns in a notebook without ipywidgets; sklr needs no progress widget
    warnings.filterwarnings("ignore", message="IProgress not found")
    import tqdm.auto  # noqa: F401
