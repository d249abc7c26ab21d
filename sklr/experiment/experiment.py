"""The experiment that a search carries out, and the cells in which each candidate is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np


@dataclass(frozen=True, eq=False)
class Cell:
    """One fold and one seed: the random numbers with which every candidate of a search is trained once.

    `train` and `test` are row indices into X. `seed` fixes initial weights, batch order and dropout.
    """

    fold: int
    seed_index: int
    seed: int
    train: np.ndarray
    test: np.ndarray


@dataclass(frozen=True, eq=False)
class Experiment:
    """All that the trainings of one search share; candidates are the only thing that differs.

    `fit_params` and `score_params` are as scikit-learn routed them, still for all rows; `scorer` is one scorer or
    a multimetric one, `metric` the name of the score that is followed epoch by epoch (None for a single one).
    `follow` says when: "always", "never", or "free", in stacks that have the score of all their runs at once. A scorer
    is otherwise called once a run, as in scikit-learn's own searches: it may take any time, and count its calls.
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
        """Leave the caller's study behind: a worker writes nothing into it, and may not reach its storage."""
        caller = copy(self.caller)
        if caller is not None:
            vars(caller).update({name: None for name in ("study_", "study", "storage") if name in vars(caller)})
        return {**vars(self), "caller": caller}
