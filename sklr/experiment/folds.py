"""Folds and seeds, drawn once per search and shared by all candidates."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np

from sklr._utils.sklearn import count_rows, take_rows
from sklr.experiment.experiment import Cell

MAX_SEED = 2**31 - 1


def draw_cells(
    cv: Any,
    X: Any,
    y: Any,
    split_params: dict[str, Any],
    *,
    n_seeds: int,
    rows: np.ndarray | None,
    random_state: np.random.RandomState,
) -> list[Cell]:
    """Split the rows into folds and draw the seeds of each fold.

    Parameters
    ----------
    cv : splitter
        As returned by `check_cv`; its `split` is called once.
    rows : ndarray of shape (n_rows,) or None
        The rows to search on; None for all of them. The indices of the cells always refer to the whole X.

    Returns
    -------
    list of Cell, of length n_splits * n_seeds
        Ordered by fold, then by seed.
    """
    folds = list(split_rows_of(cv, X, y, split_params, rows))
    n_splits = len(folds)
    if n_splits == 0:
        raise ValueError("No fits were performed. Was the CV iterator empty? Were there no candidates?")
    seeds = random_state.randint(MAX_SEED, size=(n_splits, n_seeds))
    return [
        Cell(fold, index, int(seed), train, test)
        for fold, (train, test) in enumerate(folds)
        for index, seed in enumerate(seeds[fold])
    ]


def split_rows_of(cv: Any, X: Any, y: Any, split_params: dict[str, Any], rows: np.ndarray | None) -> Any:
    """Return the folds of `cv` over the selected rows, as indices into the whole X."""
    if rows is None:
        expected = cv.get_n_splits(X, y, **split_params)
        folds = list(cv.split(X, y, **split_params))
        if len(folds) != expected:
            raise ValueError(
                "cv.split and cv.get_n_splits returned inconsistent results. "
                f"Expected {expected} splits, got {len(folds)}"
            )
        return folds
    n_samples = count_rows(X)
    X, y = (None if a is None else take_rows(a, rows) for a in (X, y))
    split_params = {
        name: take_rows(value, rows) if value is not None and count_rows(value) == n_samples else value
        for name, value in split_params.items()
    }
    return [(rows[train], rows[test]) for train, test in cv.split(X, y, **split_params)]


def seeded(cv: Any, random_state: np.random.RandomState) -> Any:
    """Return the splitter, with a seed if it shuffles without one, so that another process draws the same folds.

    >>> from sklearn.model_selection import KFold
    >>> seeded(KFold(3, shuffle=True), np.random.RandomState(0))
    KFold(n_splits=3, random_state=209652396, shuffle=True)
    """
    if getattr(cv, "random_state", 0) is not None or not getattr(cv, "shuffle", True):
        return cv
    cv = copy(cv)
    cv.random_state = int(random_state.randint(MAX_SEED))
    return cv


def cross_seeds(cells: list[Cell]) -> list[Cell]:
    """Return the cells with the seeds of the first fold in every fold."""
    seeds = [cell.seed for cell in cells if cell.fold == 0]
    return [replace(cell, seed=seeds[cell.seed_index]) for cell in cells]
