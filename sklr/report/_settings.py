"""The part of the report that is needed to reproduce a search: parameters, seeds, folds and versions."""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

PACKAGES = ("sklr", "torch", "scikit-learn", "skorch", "optuna", "scikit-optimize", "numpy", "scipy", "joblib")
MAX_PARAMETERS = 200
MAX_FOLDS = 200


def cut(value: Any, length: int) -> str:
    """Return `value` as text, truncated to `length` characters with an ellipsis.

    >>> cut("learning", 8), cut("learning rate", 8)
    ('learning', 'learnin…')
    """
    text = str(value)
    return text if len(text) <= length else text[: length - 1] + "…"


def representation(value: Any, length: int = 20_000) -> str:
    """Return the `repr` of a value without memory addresses, which differ from process to process.

    >>> representation({"callback": object()})
    "{'callback': <object object>}"
    """
    return cut(re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value)), length)


def parameters(estimator: Any) -> list[tuple[str, str]]:
    """Return the names and values of an estimator's parameters.

    Of a search, the parameters of its estimator are not included, as they are listed separately.
    """
    has_own = hasattr(estimator, "cv_results_")
    params = estimator.get_params(deep=not has_own)
    names = [name for name in params if not (has_own and name == "estimator")]
    return [(name, representation(params[name], 300)) for name in names[:MAX_PARAMETERS]]


def cells_drawn(cells: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Return of each cell: fold, seed index, seed, numbers of training and test rows, and a hash of the test rows."""
    return [(c.fold, c.seed_index, c.seed, len(c.train), len(c.test), _fingerprint(c.test)) for c in cells[:MAX_FOLDS]]


def _fingerprint(rows: np.ndarray) -> str:
    """Return a hash of row indices, eight hexadecimal digits."""
    return hashlib.sha256(np.asarray(rows, dtype=np.int64).tobytes()).hexdigest()[:8]


def versions() -> list[tuple[str, str]]:
    """Return the versions of Python and of the packages that affect the result of a search."""
    return [("python", platform.python_version()), *((name, _version(name)) for name in PACKAGES)]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a source tree on the path that is not installed
        return "unknown"
