"""A self-contained HTML report of a search: verdict, plots, tables, and how to reproduce it."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from datetime import UTC, datetime
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Any

from sklearn.utils.validation import check_is_fitted

from sklr._utils.optional import require
from sklr._utils.validation import must_be
from sklr.report._pictures import pictures
from sklr.report._settings import cells_drawn, cut, parameters, representation, versions
from sklr.report._tables import candidates_table, cells_table

__all__ = ["write_report"]


def write_report(search: Any, path: str | PathLike[str]) -> Path:
    """Write a self-contained HTML report of a search.

    The page loads no other files and stays under 1 MB: of a search with hundreds of candidates it shows only the best,
    and says so. It is readable on a phone, in dark mode, and without JavaScript, which only makes the tables sortable.

    Parameters
    ----------
    search : fitted search
        Any search, including one with several metrics or without a learning rate.
    path : str or path-like
        The file to write, such as ``"lr.html"``; an existing file is replaced.

    Returns
    -------
    path : Path
        The path of the file.

    Raises
    ------
    ImportError
        If matplotlib or Jinja2 is missing.
    sklearn.exceptions.NotFittedError
        If the search has not been fitted.
    FileNotFoundError, IsADirectoryError
        If the folder of `path` does not exist, or `path` is a folder.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.ensemble import GradientBoostingClassifier
    >>> from sklr.report import write_report
    >>> from sklr.search import LRGridSearchCV
    >>> X, y = load_iris(return_X_y=True)
    >>> model = GradientBoostingClassifier(n_estimators=3, random_state=0)
    >>> search = LRGridSearchCV(model, lr_range=(1e-4, 0.1), n_lrs=4, cv=3).fit(X, y)
    >>> page = write_report(search, mkdtemp() + "/lr.html")
    >>> page.name, page.read_text(encoding="utf-8").count("<svg")
    ('lr.html', 1)
    """
    check_is_fitted(search, "cv_results_")
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(must_be("path", "a file", str(path), "Add a name, such as 'lr.html'."))
    if not path.parent.is_dir():  # said before the pictures are drawn
        advice = f"Create the folder {str(path.parent)!r} first."
        raise FileNotFoundError(must_be("path", "in an existing folder", str(path), advice))
    text = _page(search)
    path.write_text(text, encoding="utf-8")
    return path


def _page(search: Any) -> str:
    jinja2 = require("jinja2", extra="report")
    files = resources.files(__name__)
    script = files.joinpath("page.js").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(files.joinpath("page.html").read_text(encoding="utf-8")).render(
        markup=require("markupsafe", extra="report").Markup,
        script=script,
        script_hash=b64encode(hashlib.sha256(script.encode()).digest()).decode(),  # for the content security policy
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        headline=_headline(search),
        about=_about(search),
        verdict=_verdict(search),
        pictures=pictures(search),
        tables=[candidates_table(search), cells_table(search)],
        settings=parameters(search),
        estimator=parameters(search.estimator),
        cells=cells_drawn(getattr(search, "cells_", [])),  # a search from `load_search` has no `cells_`
        versions=versions(),
        representation=representation(getattr(search, "best_estimator_", search.estimator)),
    )


def _headline(search: Any) -> str:
    """Return the selected parameters in one line, the learning rate first; the verdict below adds the noise."""
    if hasattr(search, "lr_choice_"):
        chosen = getattr(search, "best_params_", {})
        others = [f"{name} {_short(value)}" for name, value in chosen.items() if name != search.lr_param_]
        return ", ".join([f"Learning rate {search.lr_choice_.lr:.3g}", *others])
    if getattr(search, "best_params_", None):
        return "Best: " + ", ".join(f"{name} {_short(value)}" for name, value in search.best_params_.items())
    return "The best candidate of a search" if hasattr(search, "best_index_") else "A search without a best candidate"


def _short(value: Any) -> str:
    text = f"{value:.3g}" if isinstance(value, float) else getattr(value, "__name__", None) or str(value)
    return cut(text, 40)


def _about(search: Any) -> list[str]:
    n_candidates, n_cells = search.cell_scores_.shape
    return [
        f"{type(search).__name__} of {type(search.estimator).__name__}",
        f"{n_candidates} candidates",
        f"{search.n_splits_} fold{'s' * (search.n_splits_ > 1)} x {search.n_seeds} seed{'s' * (search.n_seeds > 1)}",
        f"{n_candidates * n_cells} runs",
        f"{search.engine_} engine",
    ]


def _verdict(search: Any) -> list[tuple[str, str]]:
    """Return the lines of the search's summary, each split into its label and its text."""
    lines = [line.partition(": ") for line in search.summary().splitlines()]
    return [(word, text) if text else ("", word) for word, _, text in lines]
