"""The header of a search: data, folds, estimator and parameters as text, which another process can compare."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from inspect import signature
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.base import is_classifier
from sklearn.model_selection import check_cv

from sklr._utils.random import RandomStream, global_generators_kept
from sklr._utils.sklearn import count_rows
from sklr.experiment.datasets import DatasetRows
from sklr.experiment.experiment import Cell, Experiment
from sklr.search.storage.describe import describe, digest, said

N_ITEMS = 32  # items of a Dataset that are compared
HEAD = "sklr:search"  # user attribute of a study: the header
FORMAT = 3  # version of what sklr writes into a study

# Parameters that may change when a study is resumed; all others must be the same. docs/guide/cluster.rst has them too.
MAY_CHANGE = {
    "how many candidates": ("n_trials", "n_iter", "rounds", "extend"),
    "what proposes more": ("sampler",),
    "what is done with the results": ("refit", "select", "confidence"),
    "how the work is done": (
        "engine",
        "n_jobs",
        "pre_dispatch",
        "timeout",
        "callbacks",
        "catch",
        "verbose",
        "progress",
    ),
    "where it is kept": ("storage", "study_name", "study", "resume"),
    "nothing at all": ("max_iter",),
}
# only of a grid: a strategy that learns from scores would propose other candidates in another space
GRIDS_MAY_CHANGE = ("param_grid", "lrs", "n_lrs", "lr_range")
ESTIMATORS_MAY_CHANGE = ("n_jobs", "verbose")  # of the estimator and of its sub-estimators
IN_FOLDS = ("cv", "random_state")  # compared through the folds and seeds that they lead to
PACKAGES = ("sklr", "torch", "skorch", "scikit-learn", "scikit-optimize", "optuna", "numpy")


def may_change(search: Any) -> set[str]:
    """Return the parameters of a search that may change when it is resumed."""
    names = {name for group in MAY_CHANGE.values() for name in group}
    return names | set(GRIDS_MAY_CHANGE) if "param_grid" in search.get_params(deep=False) else names


def data_fingerprint(X: Any, y: Any, params: Mapping[str, Any]) -> dict[str, str]:
    """Return the number of rows and a description with a hash, for X, y and each parameter of `fit`."""
    parts = {"X": X, "y": y, **{f"fit({name}=...)": value for name, value in sorted(params.items())}}
    return {name: _with_rows(value) for name, value in parts.items() if value is not None}


def _with_rows(value: Any) -> str:
    try:
        rows = f"{count_rows(value)} rows, "
    except TypeError:
        rows = ""
    return rows + (_described_dataset(value) if isinstance(value, DatasetRows) else describe(value))


def _described_dataset(rows: DatasetRows) -> str:
    """Describe a Dataset by its class and some items, because reading may change its attributes (a counter, a cache).

    The items are read twice in the same random state. If they differ nevertheless, only the class counts.
    """
    some = np.unique(np.linspace(0, len(rows) - 1, N_ITEMS, dtype=int))
    with global_generators_kept():
        first, again = ([_items(part, some) for part in (rows, rows.evaluated())] for _ in range(2))
    name = describe(type(rows.dataset))
    return f"{name} {describe(first)}" if first == again else name


def _items(rows: DatasetRows, some: np.ndarray) -> list[str]:
    with RandomStream(0):
        return [digest(describe(rows[int(row)])) for row in some]


def fold_fingerprints(cells: Sequence[Cell]) -> list[str]:
    """Return a short hash of the row indices and the seed of each cell."""
    return [digest(_bytes(cell)) for cell in cells]


def _described_folds(search: Any, experiment: Experiment) -> str:
    """Describe the splitter as a user would write it, with the parameters that are not defaults."""
    cv = search.cv
    if cv is None and len({cell.fold for cell in experiment.cells}) == 1:
        return "left out, with a validation set"
    if cv is None or isinstance(cv, Integral):
        cv = check_cv(cv, experiment.y, classifier=is_classifier(experiment.estimator))
    if not hasattr(cv, "split"):
        return describe(cv)
    defaults = {name: parameter.default for name, parameter in signature(type(cv)).parameters.items()}
    given = {name: getattr(cv, name, default) for name, default in defaults.items()}
    texts = [f"{name}={said(describe(value))}" for name, value in given.items() if value is not defaults[name]]
    return f"{type(cv).__name__}({', '.join(texts)}) #{digest(describe(cv))}"


def _bytes(cell: Cell) -> bytes:
    parts = (np.asarray([cell.fold, cell.seed_index, cell.seed, len(cell.train)]), cell.train, cell.test)
    return b"".join(np.ascontiguousarray(part, dtype=np.int64).tobytes() for part in parts)


def header(search: Any, experiment: Experiment, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return what must be the same for two processes to share a search, and the versions, which may differ.

    Parameters
    ----------
    search : BaseLRSearchCV
    experiment : Experiment
    params : mapping
        The parameters of `fit`.
    """
    own = search.get_params(deep=False)
    settings = {"cv": _described_folds(search, experiment), "random_state": describe(own["random_state"])}
    compared = {name: value for name, value in own.items() if name not in may_change(search) | {*IN_FOLDS, "estimator"}}
    compared["refit"] = experiment.metric  # of refit only the metric matters: candidates are compared by it
    if isinstance(compared.get("search_spaces"), list):  # without the budgets in (dict, int) tuples
        compared["search_spaces"] = [s[0] if isinstance(s, tuple) else s for s in compared["search_spaces"]]
    return {
        "format": str(FORMAT),
        "search": type(search).__name__,
        "entries": {
            "estimator": _entries_of(_params_of(experiment.estimator)),
            "search parameters": _entries_of(compared),
        },
        "data": data_fingerprint(experiment.X, experiment.y, params),
        "estimator": _described_params(experiment.estimator),
        "search parameters": {name: describe(value) for name, value in compared.items()},
        "fold settings": settings,
        "folds and seeds": {str(i): text for i, text in enumerate(fold_fingerprints(experiment.cells))},
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
    }


def _entries_of(params: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Describe each entry of the parameters that are dicts, so that a message can name the one that differs.

    Only of long ones: a short dict is readable as a whole.
    """
    found = {name: dict(_entries(name, value)) for name, value in params.items() if _is_nested(value)}
    return {name: entries for name, entries in found.items() if len("".join(entries.values())) > LONGEST_SAID}


def _entries(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield the name and the description of each entry, such as ``param_grid['lr']`` or ``search_spaces[0]['lr']``."""
    if not _is_nested(value):
        yield name, describe(value)
        return
    for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
        yield from _entries(f"{name}[{key!r}]", item)


def _is_nested(value: Any) -> bool:
    if isinstance(value, Mapping):
        return bool(value)
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(item, Mapping) for item in value)


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from source without an installation
        return "unknown"


def _described_params(estimator: Any) -> dict[str, str]:
    """Describe the parameters of an estimator; a sub-estimator, whose own parameters are listed too, by its class."""
    params = _params_of(estimator)
    described = {"class": describe(type(estimator))}
    for name, value in sorted(params.items()):
        if name.rpartition("__")[2] not in ESTIMATORS_MAY_CHANGE:
            described[name] = describe(_without_parts(name, value, params))
    return described


def _params_of(estimator: Any) -> dict[str, Any]:
    return estimator.get_params() if hasattr(estimator, "get_params") else {}


def _without_parts(name: str, value: Any, params: Mapping[str, Any]) -> Any:
    if any(other.startswith(f"{name}__") for other in params):
        return type(value) if hasattr(value, "get_params") else value
    above = name.rpartition("__")[0]
    parts = [item[0] for item in value if isinstance(item, tuple) and item] if isinstance(value, list) else []
    names = [f"{above}__{part}" if above else part for part in parts]
    return parts if names and len(names) == len(value) and params.keys() >= set(names) else value


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Return the differences between two headers as text, except versions.

    >>> differences({"data": {"X": "150 rows"}, "search": "A"}, {"data": {"X": "140 rows"}, "search": "A"})
    ['data: X is 150 rows, was 140 rows']
    >>> differences({"estimator": {"lr": "0.1"}}, {"estimator": {}})
    ['estimator: lr is 0.1, was not there']
    >>> differences({"data": {"X": "10 rows #0123456789abcdef"}}, {"data": {"X": "10 rows #fedcba9876543210"}})
    ['data: X has other values than before (10 rows)']
    """
    parts = ("search", "data", "estimator", "search parameters")
    found = [f"{part}: {text}" for part in parts if (text := _difference(*_by_entry(part, ours, theirs)))]
    folds = "folds and seeds"
    if ours.get(folds) != theirs.get(folds):
        settings = _difference(ours.get("fold settings"), theirs.get("fold settings"))
        if settings or not found:
            found.append(f"{folds}: {settings or OTHER_FOLDS}")
    return found


def _by_entry(part: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return a part of both headers, with the entries of each dict that differs in place of its description.

    >>> one, other = ({"a": {"p": text}, "entries": {"a": {"p": {"p[0]": "same", "p[1]": text}}}} for text in "12")
    >>> _by_entry("a", one, other)
    ({'p[0]': 'same', 'p[1]': '1'}, {'p[0]': 'same', 'p[1]': '2'})
    """
    mine, other = ours.get(part), theirs.get(part)
    known, known_before = (head.get("entries", {}).get(part, {}) for head in (ours, theirs))
    if not isinstance(mine, Mapping) or not isinstance(other, Mapping):
        return mine, other
    for name in [name for name in known if name in known_before and mine.get(name) != other.get(name)]:
        if known[name] != known_before[name]:
            mine, other = ({k: text for k, text in side.items() if k != name} for side in (mine, other))
            mine, other = mine | known[name], other | known_before[name]
    return mine, other


OTHER_FOLDS = (
    "they differ although cv and random_state look the same; give the search, and a splitter that shuffles, an integer "
    "random_state"
)


def other_versions(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """Return the versions that differ as text; "" if none does.

    >>> other_versions({"versions": {"torch": "2.8", "numpy": "2.1"}}, {"versions": {"torch": "2.6", "numpy": "2.1"}})
    'torch is 2.8, was 2.6'
    """
    return _difference(ours.get("versions"), theirs.get("versions"))


def _difference(mine: Any, theirs: Any) -> str:
    if not isinstance(mine, Mapping) or not isinstance(theirs, Mapping):
        return "" if mine == theirs else f"{mine} now, {theirs} in the study"
    names = [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]
    described = [_in_words(name, mine.get(name), theirs.get(name)) for name in names[:3]]
    return "; ".join(described) + (f"; and {len(names) - 3} more" if len(names) > 3 else "")


def _in_words(name: str, mine: str | None, theirs: str | None) -> str:
    mine, theirs = (None if text is None else said(str(text)) for text in (mine, theirs))
    if mine == theirs:
        return f"{name} has other values than before ({_short(mine)})"
    pairs = enumerate(zip(mine or "", theirs or "", strict=False))
    same = next((i for i, (one, other) in pairs if one != other), 0)
    return f"{name} is {_short(mine, same)}, was {_short(theirs, same)}"


LONGEST_SAID = 80  # characters of a value in a message


def _short(text: str | None, same: int = 0) -> str:
    """Return a text, shortened to about 80 characters around position `same`, where it differs from the other one.

    >>> _short("a, " * 40 + "b" + ", c" * 40, 120)
    '... a, a, a, a, a, b, c, c, c, c, c, c, c, c, c, c, c, c, c, c, c, c, c, c, c, c...'
    """
    if text is None:
        return "not there"
    start = max(0, same - 16) if same > 60 else 0
    end = start + 77
    return "..." * (start > 0) + text[start:end] + "..." * (end < len(text)) if len(text) > LONGEST_SAID else text


def candidate_key(candidate: Mapping[str, Any]) -> str:
    """Return a short key that identifies a candidate; numbers are compared to twelve digits.

    >>> candidate_key({"lr": 0.1}) == candidate_key({"lr": 0.1 + 1e-16}) != candidate_key({"lr": 0.2})
    True
    """
    parts = [
        f"{name}={value:.12g}" if _is_real(value) else f"{name}={describe(value)}"
        for name, value in sorted(candidate.items())
    ]
    return digest("\n".join(parts))


def _is_real(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
