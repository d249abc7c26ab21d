"""`fit(start=...)`: the fitted search that another one continues from, and what must be the same in both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from sklr._utils.validation import must_be
from sklr.exceptions import StudyError
from sklr.results import Outcome
from sklr.search.storage.codec import OUTCOME, outcomes_from
from sklr.search.storage.fingerprint import differences

SAME = ("scoring", "refit", "n_seeds", "error_score", "return_train_score")  # compared; of refit only its metric


class Known(NamedTuple):
    """Candidates of an earlier search with their mean scores, as a strategy learns them."""

    candidates: list[dict]
    scores: np.ndarray


NOTHING = Known([], np.empty(0))


def check_start(start: Any, search: Any) -> None:
    """Check that `start` is another, fitted search, and that `cv` and `n_seeds` agree with it."""
    if start is search or not hasattr(start, "cells_") or not hasattr(start, "cv_results_"):
        raise ValueError(must_be("start", "another search of sklr, fitted", start, "Fit it first, on the same data."))
    if search.cv is not None and search.cv is not start.cv and repr(search.cv) != repr(start.cv):
        advice = "The folds and seeds of start are reused."
        raise ValueError(must_be("cv", "left out, or that of start, if start is given", search.cv, advice))
    if search.n_seeds != start.n_seeds:
        rule = f"{start.n_seeds}, as it is in start"
        raise ValueError(must_be("n_seeds", rule, search.n_seeds, "The folds and seeds of start are reused."))


def check_same(head: Mapping[str, Any], earlier: Mapping[str, Any]) -> None:
    """Check that another search had the same data, estimator and score.

    Raises
    ------
    StudyError
        If not; the message names the difference.
    """
    different = differences(_part(head), _part(earlier))
    if different:
        raise StudyError(f"start belongs to a different search and cannot be continued. {'; '.join(different)}.")


def _part(head: Mapping[str, Any]) -> dict[str, Any]:
    settings = {name: value for name, value in head["search parameters"].items() if name in SAME}
    return {"data": head["data"], "estimator": head["estimator"], "search parameters": settings}


def tried_by(start: Any) -> tuple[list[dict], list[list[Outcome]]]:
    """Return the candidates of a fitted search and the outcomes of their runs."""
    found = {
        trial.user_attrs.get("candidate"): outcomes_from(trial.user_attrs, len(start.cells_))
        for trial in start.study_.get_trials(deepcopy=False)
        if OUTCOME in trial.user_attrs and trial.state.is_finished()
    }
    pairs = [(params, found.get(i)) for i, params in enumerate(start.cv_results_["params"])]
    return [dict(params) for params, row in pairs if row], [row for _, row in pairs if row]
