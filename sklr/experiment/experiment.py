"""The experiment of a search, and its cells: the folds and seeds with which each candidate is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np


@dataclass(frozen=True, eq=False)
class Cell:
    """One fold and one seed, with which every candidate of a search is trained once (common random numbers).

    `train` and `test` are row indices into X. `seed` determines initial weights, batch order and dropout.
    """

    fold: int
    seed_index: int
    seed: int
    train: np.ndarray
    test: np.ndarray


@dataclass(frozen=True, eq=False)
class Experiment:
    """Everything that the runs of one search share; they differ only in candidate and cell.

    `fit_params` and `score_params` are as routed by scikit-learn, for all rows. `scorer` is a single or a multimetric
    scorer, and `metric` the name of the score that is monitored epoch by epoch (None for a single scorer). `follow`
    says when it is monitored: "always", "never", or "free", which is in stacks that compute the scores of all their
    runs at once. Otherwise a scorer is called once per run, as in scikit-learn's searches, since it may be slow or
    count its calls. With ``scores_repeat=False``, for scikit-learn's own searches, test rows with random items are not
    stacked, since every fit must draw its own. `caller` is the search, which callbacks refer to, or the
    function that the user has called; if such a function calls a search, it is the search's `called_by`.
    """

    estimator: Any
    X: Any
    y: Any
    cells: Sequence[Cell]
    scorer: Any
    metric: str | None = None
    fit_params: Mapping[str, Any] = field(default_factory=dict)
    score_params: Mapping[str, Any] = field(default_factory=dict)
    return_train_score: bool = False
    error_score: Any = np.nan
    verbose: int = 0
    n_jobs: int | None = None
    pre_dispatch: Any = "2*n_jobs"
    keep_estimators: bool = False
    follow: Literal["always", "free", "never"] = "free"
    scores_repeat: bool = True
    caller: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """Drop the caller's study: a worker process does not write to it, and may be unable to reach its storage."""
        caller = copy(self.caller)
        if caller is not None:
            vars(caller).update({name: None for name in ("study_", "study", "storage") if name in vars(caller)})
        return {**vars(self), "caller": caller}
