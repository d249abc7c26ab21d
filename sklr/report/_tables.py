"""The tables of the report: all candidates, and their scores in every cell."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sklr.plotting._axes import metric_key
from sklr.report._settings import cut

MAX_ROWS = 400  # candidates; a table of thousands is slow to load, and nobody reads it
MAX_CELLS = 6000  # scores in the table of cells


class Field(NamedTuple):
    """One field of a table: its text, the number by which it is sorted (None for text), and the length of its bar."""

    text: str
    number: float | None = None
    bar: float | None = None


class Column(NamedTuple):
    """The header of a column, and whether its fields are numbers."""

    name: str
    is_number: bool


class Table(NamedTuple):
    """A table of the page; `states` has ``"best"``, ``"lost"`` (diverged, failed, stopped) or ``""`` for each row."""

    name: str
    title: str
    note: str
    columns: list[Column]
    rows: list[list[Field]]
    states: list[str]


def candidates_table(search: Any) -> Table:
    """Return the table of the candidates, the best first: rank, parameters, scores, time, status."""
    shown = _best_first(search, MAX_ROWS)
    columns = _columns(search)
    rows = [[field(i) for field in columns.values()] for i in shown]
    note = "One row per candidate, the best first."
    if search.n_splits_ > 1:
        note += " sd: standard deviation over the folds."
    if getattr(getattr(search, "lr_choice_", None), "candidate", 0) is None:
        note += " The chosen learning rate was not tried; the tried one closest to it is marked."
    return _table(search, "Candidates", note, list(columns), rows, shown)


def cells_table(search: Any) -> Table:
    """Return the table of the scores in every cell, with a column for each fold and seed."""
    scores = search.cell_scores_
    shown = _best_first(search, max(1, min(MAX_ROWS, MAX_CELLS // scores.shape[1])))
    columns = ["candidate", *("fold {} seed {}".format(*divmod(i, search.n_seeds)) for i in range(scores.shape[1]))]
    finite = scores[np.isfinite(scores)]
    low, height = (finite.min(), max(float(np.ptp(finite)), 1e-12)) if len(finite) else (0.0, 1.0)
    rows = [[_number(int(i), "g"), *(_number(s, ".4f", (s - low) / height) for s in scores[i])] for i in shown]
    note = "The score of each candidate in each cell. All candidates have the same folds and seeds. Bluer is higher."
    return _table(search, "Cells", note, columns, rows, shown)


def _table(search: Any, title: str, note: str, names: list[str], rows: list[list[Field]], shown: np.ndarray) -> Table:
    columns = [
        Column(name, any(field.number is not None for field in fields))
        for name, fields in zip(names, zip(*rows, strict=True), strict=True)
    ]
    return Table(title.lower(), title, note + _left_out(search, shown), columns, rows, _states(search, shown))


def _columns(search: Any) -> dict[str, Any]:
    """Return, by column name, the functions from a candidate's index to its field."""
    results, params = search.cv_results_, search.cv_results_["params"]
    key = metric_key(search)
    columns: dict[str, Any] = {"rank": lambda i: _number(results[f"rank_test_{key}"][i], "g")}
    columns["candidate"] = lambda i: _number(int(i), "g")
    names = list(dict.fromkeys(name for row in params for name in row))
    lr_param = getattr(search, "lr_param_", None)
    for name in sorted(names, key=lambda name: name != lr_param):
        columns[name] = lambda i, name=name: _value(params[i], name)
    for score in [k.removeprefix("mean_test_") for k in results if k.startswith("mean_test_")]:
        columns[f"mean {score}"] = lambda i, score=score: _number(results[f"mean_test_{score}"][i], ".4f")
        if search.n_splits_ > 1:  # with one fold scikit-learn reports 0, which would read as "no noise"
            columns[f"sd {score}"] = lambda i, score=score: _number(results[f"std_test_{score}"][i], ".4f")
    columns["fit time (s)"] = lambda i: _number(results["mean_fit_time"][i], ".2g")
    if "n_epochs" in results:
        columns["epochs"] = lambda i: _number(results["n_epochs"][i], "g")
    columns["status"] = lambda i: Field(cut(results["status"][i], 200))
    return columns


def _value(params: dict[str, Any], name: str) -> Field:
    if name not in params:
        return Field("")
    value = params[name]
    if isinstance(value, float | int | np.number) and not isinstance(value, bool):
        return _number(float(value), ".4g") if isinstance(value, float) else Field(str(value), float(value))
    return Field(cut(getattr(value, "__name__", None) or str(value), 80))


def _number(value: float, form: str, bar: float | None = None) -> Field:
    if not np.isfinite(value):
        return Field("–" if np.isnan(value) else str(value))
    return Field(format(value, form), float(value), bar)


def _best_first(search: Any, limit: int) -> np.ndarray:
    ranks = search.cv_results_[f"rank_test_{metric_key(search)}"]
    return np.argsort(ranks, kind="stable")[:limit]


def _left_out(search: Any, shown: np.ndarray) -> str:
    n = len(search.cv_results_["params"])
    if len(shown) == n:
        return ""
    return f" The best {len(shown)} of {n} candidates; cv_results_ and cell_scores_ have all."


def _states(search: Any, shown: np.ndarray) -> list[str]:
    best, status = getattr(search, "best_index_", None), search.cv_results_["status"]
    return ["best" if i == best else "" if status[i] == "ok" else "lost" for i in shown]
