"""What a search is about, in texts that another process can compare: the data, the folds, the estimator, the space."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from functools import cache, partial
from hashlib import sha1
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from joblib import hash as joblib_hash
from sklearn.base import BaseEstimator

from sklr._sklearn import count_rows
from sklr.engines._base import Cell, Experiment

FORMAT = 1  # of what sklr writes into a study
FREE = (  # parameters that do not change what is tried nor how it is scored, or that show in the folds
    *("estimator", "cv", "random_state", "refit", "select", "confidence", "extend", "callbacks", "catch", "study"),
    *("n_jobs", "pre_dispatch", "verbose", "engine", "timeout", "storage", "study_name", "resume", "progress"),
)
PACKAGES = ("sklr", "torch", "skorch", "scikit-learn", "scikit-optimize", "optuna", "numpy")


def data_fingerprint(X: Any, y: Any, params: Mapping[str, Any]) -> dict[str, str]:
    """Return what tells one set of rows from another: a hash and the number of rows, for X, y and the weights."""
    parts = {"X": X, "y": y, **{f"fit({name}=...)": value for name, value in sorted(params.items())}}
    return {name: _hash(value) for name, value in parts.items() if value is not None}


def _hash(value: Any) -> str:
    try:
        rows = f"{count_rows(value)} rows, "
    except TypeError:
        rows = ""
    try:
        return rows + joblib_hash(value)
    except Exception:  # what cannot be pickled can still be told by its kind and size
        return rows + describe(value)


def fold_fingerprints(cells: Sequence[Cell]) -> list[str]:
    """Return a short hash of the rows and the seed of each cell."""
    return [sha1(_bytes(cell)).hexdigest()[:16] for cell in cells]


def _bytes(cell: Cell) -> bytes:
    parts = (np.asarray([cell.fold, cell.seed_index, cell.seed, len(cell.train)]), cell.train, cell.test)
    return b"".join(np.ascontiguousarray(part, dtype=np.int64).tobytes() for part in parts)


def header(search: Any, experiment: Experiment, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return what must be the same for two processes to work on one search, and the versions, which need not.

    Parameters
    ----------
    search : BaseLRSearchCV
    experiment : Experiment
    params : mapping
        The parameters of `fit`.
    """
    own = {name: value for name, value in search.get_params(deep=False).items() if name not in FREE}
    own["refit"] = experiment.metric  # the name of a score is what candidates are compared by; else it decides nothing
    return {
        "format": str(FORMAT),
        "search": type(search).__name__,
        "data": data_fingerprint(experiment.X, experiment.y, params),
        "folds and seeds": {str(i): text for i, text in enumerate(fold_fingerprints(experiment.cells))},
        "estimator": _described_params(search.estimator),
        "search parameters": {name: describe(value) for name, value in own.items()},
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
    }


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from its sources
        return "unknown"


def _described_params(estimator: Any) -> dict[str, str]:
    params = estimator.get_params() if hasattr(estimator, "get_params") else {}
    return {"class": describe(type(estimator)), **{name: describe(value) for name, value in sorted(params.items())}}


def describe(value: Any, depth: int = 3, inside: tuple[int, ...] = ()) -> str:
    """Return a text that is equal for equal values, in this process and the next.

    Parameters
    ----------
    value : object
    depth : int
        How many plain objects within each other are looked into.
    inside : tuple of int
        The identities of what is being described: something that holds itself is not described for ever.

    >>> from optuna.pruners import MedianPruner, NopPruner
    >>> describe({"lr": [0.1, 1], "module": np.ndarray})
    "{'lr': [0.1, 1], 'module': numpy.ndarray}"
    >>> describe(object())
    '<object object>'
    >>> describe(NopPruner()), describe(MedianPruner()) == describe(MedianPruner(n_warmup_steps=3))
    ('<optuna.pruners._nop.NopPruner object>', False)
    >>> itself = [1]
    >>> itself.append(itself)
    >>> describe(itself)
    '[1, ...]'
    """
    if id(value) in inside:
        return "..."
    inner = partial(describe, depth=depth, inside=(*inside, id(value)))
    if isinstance(value, np.ndarray):
        return f"array {value.shape} {joblib_hash(value)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k!r}: {inner(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        parts = ", ".join(map(inner, value))
        return f"[{parts}]" if isinstance(value, list) else f"({parts})"
    if isinstance(value, BaseEstimator):
        return f"{describe(type(value))}({inner(value.get_params(deep=False))})"
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    if type(value).__repr__ is object.__repr__ and getattr(value, "__dict__", None) and depth:
        return f"{describe(type(value))}({inner(vars(value), depth=depth - 1)})"
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Return what differs between two headers, in words; versions may.

    >>> differences({"data": {"X": "150 rows, ab"}, "search": "A"}, {"data": {"X": "140 rows, cd"}, "search": "A"})
    ['data: X is 150 rows, ab, was 140 rows, cd']
    >>> differences({"estimator": {"lr": "0.1"}}, {"estimator": {}})
    ['estimator: lr is 0.1, was not there']
    """
    return [
        f"{part}: {_difference(ours.get(part), theirs.get(part))}"
        for part in ours
        if part != "versions" and ours.get(part) != theirs.get(part)
    ]


def _difference(mine: Any, theirs: Any) -> str:
    if not isinstance(mine, Mapping) or not isinstance(theirs, Mapping):
        return f"{mine} now, {theirs} in the study"
    names = [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]
    said = [f"{n} is {_short(mine.get(n))}, was {_short(theirs.get(n))}" for n in names[:3]]
    return "; ".join(said) + (f"; and {len(names) - 3} more" if len(names) > 3 else "")


def _short(text: str | None) -> str:
    if text is None:
        return "not there"
    return text if len(text) <= 80 else f"{text[:77]}..."


def candidate_key(candidate: Mapping[str, Any]) -> str:
    """Return a short text by which a candidate is known again; numbers are compared by twelve digits.

    >>> candidate_key({"lr": 0.1}) == candidate_key({"lr": 0.1 + 1e-16}) != candidate_key({"lr": 0.2})
    True
    """
    parts = [
        f"{name}={value:.12g}" if _is_real(value) else f"{name}={describe(value)}"
        for name, value in sorted(candidate.items())
    ]
    return sha1("\n".join(parts).encode()).hexdigest()[:16]


def _is_real(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
