"""Utilities shared by all subpackages."""

import warnings
from contextlib import suppress

with warnings.catch_warnings(), suppress(ImportError):
    # Optuna imports it, and it warns in a notebook without ipywidgets, which nothing here needs
    warnings.filterwarnings("ignore", message="IProgress not found")
    import tqdm.auto  # noqa: F401
