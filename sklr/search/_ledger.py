"""The record of a search: every trial goes into an Optuna study, as it happens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import Trial, TrialState

from sklr.results import DIVERGED, FAILED, STOPPED, Outcome, candidate_status, has_status
from sklr.search._space import is_number


def quiet_study(sampler: optuna.samplers.BaseSampler | None = None) -> optuna.Study:
    """Create a fresh in-memory study that maximizes, without Optuna's log line."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study(direction="maximize", sampler=sampler or optuna.samplers.RandomSampler(seed=0))
    finally:
        optuna.logging.set_verbosity(level)


class Ledger:
    """Open a trial per candidate, report its epochs, close it with its score.

    Parameters
    ----------
    study : optuna.Study
        A study that maximizes.
    log_params : collection of str
        Parameters that live on a logarithmic axis: the lr.
    """

    def __init__(self, study: optuna.Study, log_params: Sequence[str] = ()):
        self.study = study
        self.log_params = log_params
        self._asked: list[Trial] = []
        self._open: list[Trial] = []

    def ask(self, distributions: Mapping[str, BaseDistribution], n: int) -> list[dict[str, Any]]:
        """Let the study's sampler propose `n` trials; return their parameters, to be yielded as the next candidates."""
        self._asked = [self.study.ask(dict(distributions)) for _ in range(n)]
        return [dict(trial.params) for trial in self._asked]

    def open(self, candidates: Sequence[Mapping[str, Any]]) -> None:
        """Open a trial for each candidate, unless the sampler has proposed them and they are open already."""
        self._open = self._asked or [self._enqueue(candidate) for candidate in candidates]
        self._asked = []
        for trial, candidate in zip(self._open, candidates, strict=True):
            trial.set_user_attr("params", {name: _plain(value) for name, value in candidate.items()})

    def _enqueue(self, candidate: Mapping[str, Any]) -> Trial:
        numbers = {name: float(value) for name, value in candidate.items() if is_number(value)}
        self.study.enqueue_trial(numbers)
        return self.study.ask({name: self._axis(name, value) for name, value in numbers.items()})

    def _axis(self, name: str, value: float) -> FloatDistribution:
        log = name in self.log_params and value > 0
        return FloatDistribution(value, value, log=log)

    def report(self, epoch: int, means: np.ndarray) -> None:
        """Write the mean validation score of each open trial after `epoch` epochs; NaN is not a score."""
        for trial, mean in zip(self._open, means, strict=True):
            if np.isfinite(mean):
                trial.report(float(mean), epoch)

    def should_prune(self) -> np.ndarray:
        """Ask the study's pruner about every open trial; a boolean array of shape (n_candidates,)."""
        return np.array([trial.should_prune() for trial in self._open])

    def close(self, ended: Mapping[int, Sequence[Outcome]], scores: np.ndarray) -> None:
        """Tell the study how open trials ended; the others stay open.

        Parameters
        ----------
        ended : mapping of int to sequence of Outcome
            Which of the open trials, by their place in the batch, and the outcomes of their runs.
        scores : ndarray of shape (n_ended,)
            Mean test scores; NaN where there is none.

        Notes
        -----
        A sampler learns nothing from a trial that is marked as failed, so a diverged one is told as complete, with
        a value below every score there is; the attribute ``status`` says what it was.
        """
        worst = self._below_all(scores)
        for (i, row), score in zip(ended.items(), scores, strict=True):
            trial = self._open[i]
            trial.set_user_attr("status", candidate_status(row))
            if has_status(row, STOPPED):
                self.study.tell(trial, state=TrialState.PRUNED)
            elif np.isfinite(score):
                self.study.tell(trial, float(score))
            elif has_status(row, DIVERGED) and not has_status(row, FAILED) and worst is not None:
                self.study.tell(trial, worst)
            else:
                self.study.tell(trial, state=TrialState.FAIL)
        self._open = [trial for i, trial in enumerate(self._open) if i not in ended]

    def _below_all(self, scores: np.ndarray) -> float | None:
        told = [t.value for t in self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]
        known = [*told, *scores[np.isfinite(scores)].tolist()]
        if not known:
            return None
        low, high = min(known), max(known)
        return low - 0.1 * (high - low) - 1e-6 * max(abs(low), 1.0)

    def abandon(self) -> None:
        """Mark the open trials as failed: the search ends before they do."""
        for trial in [*self._open, *self._asked]:
            self.study.tell(trial, state=TrialState.FAIL)
        self._open = self._asked = []


def _plain(value: Any) -> Any:
    """Return a value that JSON can hold: itself, or its repr."""
    if is_number(value) or isinstance(value, (str, bool, type(None))):
        return value.item() if isinstance(value, np.generic) else value
    return repr(value)
