"""What a search has seen so far, and scikit-learn's tables made of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sklr._sklearn import insert_error_scores, warn_or_raise_about_fit_failures
from sklr.exceptions import AllDivergedError, DivergedWarning
from sklr.results import (
    DIVERGED,
    FAILED,
    STOPPED,
    Outcome,
    candidate_status,
    cell_scores,
    has_status,
    history_table,
    rank_last,
    split_rows,
)


class Record:
    """Candidates and the outcomes of their runs, in the order in which they were proposed.

    Parameters
    ----------
    n_seeds : int
        Cells per fold.
    metric : str or None
        The score candidates are compared by, where there are several.
    """

    def __init__(self, n_seeds: int, metric: str | None):
        self.n_seeds, self.metric = n_seeds, metric
        self.candidates: list[dict] = []
        self.outcomes: list[list[Outcome]] = []

    def add(self, candidates: Sequence[dict], outcomes: Sequence[Sequence[Outcome]]) -> np.ndarray:
        """Remember a batch; return its mean scores, shape (n_candidates,), NaN for what diverged, failed or stopped."""
        self.candidates += candidates
        self.outcomes += map(list, outcomes)
        scores = cell_scores(outcomes, self.metric).mean(axis=1)
        scores[self._marked(DIVERGED, STOPPED)[-len(candidates) :]] = np.nan
        return scores

    def _marked(self, *statuses: str) -> np.ndarray:
        return np.array([any(has_status(row, status) for status in statuses) for row in self.outcomes], dtype=bool)

    def cell_scores(self) -> np.ndarray:
        """Return the test scores of all runs, shape (n_candidates, n_cells)."""
        return cell_scores(self.outcomes, self.metric)

    def statuses(self) -> list[str]:
        """Return the status of every candidate, in words."""
        return [candidate_status(row) for row in self.outcomes]

    def history(self) -> dict[str, np.ndarray]:
        """Return the epochs of all runs as a table."""
        return history_table(self.outcomes, self.n_seeds)

    def cv_results(self, format_results: Callable, error_score: Any, scoring_is_callable: bool) -> dict[str, Any]:
        """Return scikit-learn's `cv_results_`, with a `status` column, diverged candidates ranked last."""
        rows = split_rows(self.outcomes, self.n_seeds)
        diverged = self._marked(DIVERGED)
        self._raise_if_nothing_trained(diverged)
        if not diverged.any():
            warn_or_raise_about_fit_failures(rows, error_score)
        elif any(row["fit_error"] for row in rows):
            survivors = [row for row, gone in zip(rows, np.repeat(diverged, self._n_splits), strict=True) if not gone]
            warn_or_raise_about_fit_failures(survivors, error_score)
        if scoring_is_callable:
            insert_error_scores(rows, error_score)
        with warnings.catch_warnings():
            if self._only_diverged_are_nan(diverged):
                warnings.filterwarnings("ignore", message=r"One or more of the (test|train) scores are non-finite")
            results = format_results(self.candidates, self._n_splits, rows, self._extra_columns())
        rank_last(results, diverged | self._marked(STOPPED))
        self._warn_about(diverged)
        return results

    @property
    def _n_splits(self) -> int:
        return len(self.outcomes[0]) // self.n_seeds

    def _extra_columns(self) -> dict[str, list]:
        columns: dict[str, list] = {"status": self.statuses()}
        if any(o.history for row in self.outcomes for o in row):
            columns["n_epochs"] = [max(len(o.history) for o in row) for row in self.outcomes]
        return columns

    def _only_diverged_are_nan(self, diverged: np.ndarray) -> bool:
        return bool(np.isfinite(self.cell_scores()[~diverged]).all())

    def _raise_if_nothing_trained(self, diverged: np.ndarray) -> None:
        if not (diverged | self._marked(FAILED)).all() or not diverged.any():
            return
        status = candidate_status(self.outcomes[0])
        raise AllDivergedError(
            f"All {len(self.candidates)} candidates diverged or failed, so there is none to choose; the first, "
            f"{self.candidates[0]}, {status}. Search smaller learning rates, add warmup, or scale the features."
        )

    def _warn_about(self, diverged: np.ndarray) -> None:
        if diverged.any():
            n_runs = sum(outcome.status == DIVERGED for row in self.outcomes for outcome in row)
            warnings.warn(
                f"{diverged.sum()} of {len(diverged)} candidates diverged ({n_runs} runs); they rank last. "
                "cv_results_['status'] says where.",
                DivergedWarning,
                stacklevel=7,  # where `fit` was called, past scikit-learn's wrapper of it
            )


def warn_about_refit(params: dict) -> None:
    """Warn that the chosen candidate, trained on all rows, diverged."""
    warnings.warn(
        f"The refit with {params} diverged, though that candidate trained well on the folds. "
        "Set refit=False and train with a smaller learning rate, or with warmup.",
        DivergedWarning,
        stacklevel=5,
    )
