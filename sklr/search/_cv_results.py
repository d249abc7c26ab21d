"""The candidates and outcomes of a search so far, and scikit-learn's `cv_results_` made from them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sklr._utils.sklearn import insert_error_scores
from sklr._utils.warnings import warn
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
from sklr.search._failures import Failure, causes_text, failures, report_failures

_OUTPUTS = {  # what skorch or torch takes the logarithm of
    "NLLLoss": "probabilities, not their logarithms",
    "GaussianNLLLoss": "a mean, and a variance above 0",
}


class Record:
    """Candidates and the outcomes of their runs, in the order in which they were proposed.

    Parameters
    ----------
    n_seeds : int
        Cells per fold.
    metric : str or None
        With multimetric scoring, the score that candidates are compared by.
    criterion : str, default ""
        The name of the loss's class, for advice; "" if there is none.
    """

    def __init__(self, n_seeds: int, metric: str | None, criterion: str = ""):
        self.n_seeds, self.metric, self.criterion = n_seeds, metric, criterion
        self.candidates: list[dict] = []
        self.outcomes: list[list[Outcome]] = []

    def score(self, row: Sequence[Outcome]) -> float:
        """Return a candidate's mean score; NaN if it diverged, failed, was stopped or was not scored."""
        if has_status(row, DIVERGED) or has_status(row, STOPPED):
            return float("nan")
        score = float(cell_scores([row], self.metric).mean())
        return score if np.isfinite(score) else float("nan")

    def add(self, candidates: Sequence[dict], outcomes: Sequence[Sequence[Outcome]]) -> np.ndarray:
        """Add a batch; return its mean scores, shape (n_candidates,), NaN for candidates without a score."""
        self.candidates += candidates
        self.outcomes += map(list, outcomes)
        return np.array([self.score(row) for row in outcomes])

    def lessons(self, n: int) -> np.ndarray:
        """Return the scores of the last `n` candidates as a strategy learns them, shape (n,).

        A stopped candidate has the last score it reached, at most just below that of the best finished one, because
        short trainings can look better than they are. NaN if a candidate diverged or failed.
        """
        finished = np.array([self.score(row) for row in self.outcomes])
        below = np.nextafter(np.nanmax(finished), -np.inf) if np.isfinite(finished).any() else np.inf
        return np.where(np.isnan(finished), np.minimum(self.last_scores(), below), finished)[len(finished) - n :]

    def last_scores(self) -> np.ndarray:
        """Return the last mean score of each stopped candidate, NaN for all others."""
        stopped = self._marked(STOPPED) & ~self._marked(DIVERGED, FAILED)
        return np.where(stopped, cell_scores(self.outcomes, self.metric).mean(axis=1), np.nan)

    def _marked(self, *statuses: str) -> np.ndarray:
        return np.array([any(has_status(row, status) for status in statuses) for row in self.outcomes], dtype=bool)

    def cell_scores(self) -> np.ndarray:
        """Return the test scores of all runs, shape (n_candidates, n_cells); NaN for stopped runs."""
        return cell_scores(self._shown(), self.metric)

    def _shown(self) -> list[list[Outcome]]:
        """Return the outcomes; stopped runs lose their score unless no candidate was trained to the end."""
        if not np.isfinite([self.score(row) for row in self.outcomes]).any():
            return self.outcomes
        return [list(map(_without_score, row)) for row in self.outcomes]

    def statuses(self) -> list[str]:
        """Return the status of every candidate, in words."""
        return [candidate_status(row, self.metric) for row in self.outcomes]

    def has_scores(self) -> bool:
        """Return whether any candidate that did not diverge has a score; `error_score` counts too."""
        return bool(np.isfinite(self.cell_scores().mean(axis=1)[~self._marked(DIVERGED)]).any())

    def history(self) -> dict[str, np.ndarray]:
        """Return the epochs of all runs as a table."""
        return history_table(self.outcomes, self.n_seeds)

    def cv_results(self, format_results: Callable, error_score: Any, scoring_is_callable: bool) -> dict[str, Any]:
        """Return scikit-learn's `cv_results_`, with a `status` column, diverged candidates ranked last."""
        rows = split_rows(self._shown(), self.n_seeds)
        diverged = self._marked(DIVERGED)
        self._raise_if_nothing_trained(diverged, self.failures())
        report_failures(*self._fits(), error_score)
        if scoring_is_callable:
            insert_error_scores(rows, error_score)
        with warnings.catch_warnings():
            if self._only_diverged_are_nan(diverged):  # DivergedWarning reports these
                warnings.filterwarnings("ignore", message=r"One or more of the (test|train) scores are non-finite")
            results = format_results(self.candidates, self._n_splits, rows, self._extra_columns())
        rank_last(results, diverged | self._marked(STOPPED))
        self._warn_about(diverged)
        return results

    def failures(self) -> list[Failure]:
        """Return the distinct causes of failed fits, the most frequent first."""
        return failures(*self._fits())

    def score_error(self) -> str | None:
        """Return the traceback of the first scorer that raised an exception; None if there was none."""
        return next((o.score_error for row in self.outcomes for o in row if o.score_error is not None), None)

    def _fits(self) -> tuple[list[str | None], list[dict[str, Any]]]:
        """Return the error and the candidate of every fit."""
        rows = split_rows(self._shown(), self.n_seeds)
        return [row["fit_error"] for row in rows], [c for c in self.candidates for _ in range(self._n_splits)]

    @property
    def _n_splits(self) -> int:
        return len(self.outcomes[0]) // self.n_seeds

    def _extra_columns(self) -> dict[str, list]:
        columns: dict[str, list] = {"status": self.statuses()}
        if any(o.history for row in self.outcomes for o in row):
            columns["n_epochs"] = [max(len(o.history) for o in row) for row in self.outcomes]
        if self._marked(STOPPED).any():
            columns["last_score"] = self.last_scores().tolist()
        return columns

    def _only_diverged_are_nan(self, diverged: np.ndarray) -> bool:
        return bool(np.isfinite(self.cell_scores()[~(diverged | self._marked(STOPPED))]).all())

    def _raise_if_nothing_trained(self, diverged: np.ndarray, failed: list[Failure]) -> None:
        if not (diverged | self._marked(FAILED)).all() or not diverged.any():
            return
        status = candidate_status(self.outcomes[0])
        advice = "Search smaller learning rates, add warmup, or scale the features."
        statuses = {candidate_status(row) for row in self.outcomes}
        if len(self.outcomes) > 1 == len(statuses) and "loss nan" in status:
            advice += " As all of them diverged at the same step, also check X and y for NaN or infinity."
        if all("at step 0:" in candidate_status(row) for row in self.outcomes):
            advice = (
                "The very first loss is not finite, whatever the learning rate: check X and y for NaN or infinity, and "
                f"for numbers far larger than 1.{advice_for_loss(self._criterion())}"
            )
        of_failed = f"\nSome fits failed{causes_text(failed)}" if failed else ""
        raise AllDivergedError(
            f"All {len(self.candidates)} candidates diverged or failed, so there is none to choose; the first, "
            f"{self.candidates[0]}, {status}. {advice}{of_failed}"
        )

    def _criterion(self) -> str:
        """Return the name of the loss that all candidates have; "" if it is searched or unknown."""
        searched = any(name.rpartition("__")[2] == "criterion" for params in self.candidates for name in params)
        return "" if searched else self.criterion

    def _warn_about(self, diverged: np.ndarray) -> None:
        if diverged.any():
            n_runs = sum(outcome.status == DIVERGED for row in self.outcomes for outcome in row)
            warn(
                f"{diverged.sum()} of {len(diverged)} candidates diverged ({n_runs} runs); they rank last. "
                "cv_results_['status'] says where.",
                DivergedWarning,
            )


def advice_for_loss(criterion: str) -> str:
    """Return a sentence about a loss that is not finite for some outputs of a module; "" for other losses.

    >>> advice_for_loss("torch.nn.modules.loss.NLLLoss")
    ' With criterion NLLLoss the module must return probabilities, not their logarithms.'
    >>> advice_for_loss("MSELoss")
    ''
    """
    name = criterion.rpartition(".")[2]
    return f" With criterion {name} the module must return {_OUTPUTS[name]}." if name in _OUTPUTS else ""


def _without_score(outcome: Outcome) -> Outcome:
    """Return the outcome with NaN scores if the run was stopped: they cannot be compared with those of full runs."""
    if outcome.status != STOPPED:
        return outcome
    test, train = (_nan_for(scores) for scores in (outcome.test_scores, outcome.train_scores))
    return replace(outcome, test_scores=test, train_scores=train)


def _nan_for(scores: Any) -> Any:
    return dict.fromkeys(scores, np.nan) if isinstance(scores, dict) else None if scores is None else np.nan


def warn_about_refit(params: dict) -> None:
    """Warn that the chosen candidate, trained on all rows, diverged."""
    warn(
        f"The refit with {params} diverged, though that candidate trained well on the folds. "
        "Set refit=False and train with a smaller learning rate, or with warmup.",
        DivergedWarning,
    )
