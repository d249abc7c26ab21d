"""Optuna's TPE and GP samplers for a single continuous parameter, adapted to LR curves."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from sklr._utils.quiet_optuna import at_verbosity, quiet_study
from sklr.results import DIVERGED
from sklr.search.proposals.acquisition import GRID, basin, bounded, promise, retreat, settle, stretch
from sklr.search.proposals.dimension_types import Range
from sklr.search.proposals.even_cover import even_cover, keep_apart
from sklr.search.proposals.gp import fit_line

if TYPE_CHECKING:
    _Sampler = RandomSampler  # any concrete sampler, so that mypy knows the methods of the mixin
else:
    _Sampler = object

POSITION = "position"  # the only parameter of the inner study


class OnLine(_Sampler):
    """Mixin for a sampler of one continuous parameter.

    After the even cover, Optuna's own sampler is asked in an inner study, created anew for each trial. There the
    parameter is a position from 0 to 1, scores are bounded, and the range is cut to a window, so that trials beyond the
    cliff neither mislead the sampler nor are proposed again. Its proposal is moved to the nearest position with a good
    expected improvement (`settle`), and into the widest gap if it is too near to an earlier trial.

    Parameters
    ----------
    line : Range
        The range of the raw values.
    n_start : int
        How many trials cover the range evenly at first.
    seed : int
    """

    def __init__(self, line: Range, n_start: int, seed: int):
        super().__init__(seed=seed)
        self._line, self._n_start = line, n_start
        self._start = even_cover(n_start, 1, np.random.RandomState(seed))[:, 0]
        self._advisor = self._make_advisor(seed)

    def _make_advisor(self, seed: int) -> BaseSampler:
        """Return the sampler for the inner study."""
        raise NotImplementedError

    def _window(self, positions: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
        """Return the part of the axis to search."""
        raise NotImplementedError

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if trial.number < self._n_start:
            return self._line.at(self._start[trial.number])
        trials = [t for t in study.get_trials(deepcopy=False) if param_name in t.params]
        positions = np.array([self._line.position(t.params[param_name]) for t in trials])
        return self._line.at(self._next(positions, trials))

    def _next(self, positions: np.ndarray, trials: list[FrozenTrial]) -> float:
        running = np.array([t.state == TrialState.RUNNING for t in trials], dtype=bool)
        scores = _capped(np.array([_score(t) for t in trials]), trials)
        distance = min(self._line.resolution, 0.5 / (len(trials) + 1))
        if not np.isfinite(scores).any():
            return retreat(positions, 1, distance)[0] if len(positions) else 0.5
        low, high = self._window(positions[~running], scores[~running])
        inside = (positions >= low) & (positions <= high)
        proposed = self._ask(FloatDistribution(low, high), positions[inside], scores[inside], running[inside])
        gain, mean = promise(positions[~running], scores[~running], distance, fit_line)
        if running.any():  # a running trial is assumed to score what the model predicts
            scores[running] = np.interp(positions[running], GRID, mean)
            gain, _ = promise(positions, scores, distance, fit_line)
        return keep_apart(settle(proposed, gain), positions, distance)

    def _ask(self, window: FloatDistribution, positions: np.ndarray, scores: np.ndarray, running: np.ndarray) -> float:
        study = quiet_study(self._advisor)
        values = bounded(scores)
        for position, value, runs in zip(positions.tolist(), values.tolist(), running, strict=True):
            state, told = (TrialState.RUNNING, None) if runs else (TrialState.COMPLETE, value)
            params, distributions = {POSITION: position}, dict[str, BaseDistribution]({POSITION: window})
            study.add_trial(create_trial(state=state, value=told, params=params, distributions=distributions))
        with without_log_lines():
            return study.ask({POSITION: window}).params[POSITION]


class LineTPESampler(OnLine, TPESampler):
    """Optuna's `TPESampler` between the neighbours of the best trial.

    On the whole axis TPE needs dozens of trials to close in on a basin, because only a tenth of them count as good. In
    a budget of eight or twelve the even cover finds the basin, and the other trials are better spent inside it.
    """

    def _make_advisor(self, seed: int) -> BaseSampler:
        return TPESampler(seed=seed, n_startup_trials=1)

    def _window(self, positions: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
        return basin(positions, scores)


class LineGPSampler(OnLine, GPSampler):
    """Optuna's `GPSampler` below the cliff."""

    def _make_advisor(self, seed: int) -> BaseSampler:
        return GPSampler(seed=seed, n_startup_trials=1)

    def _window(self, positions: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
        return stretch(positions, scores)


def _score(trial: FrozenTrial) -> float:
    """Return a trial's score; NaN if it diverged, because its value in the study is made up."""
    diverged = trial.user_attrs.get("status", "").startswith(DIVERGED)
    return np.nan if trial.value is None or diverged else trial.value


def _capped(scores: np.ndarray, trials: list[FrozenTrial]) -> np.ndarray:
    """Cap the scores of pruned trials below the best finished one: short trainings can look better than they are."""
    finished = [score for score, t in zip(scores, trials, strict=True) if t.state == TrialState.COMPLETE]
    pruned = np.array([t.state == TrialState.PRUNED for t in trials], dtype=bool)
    best = np.nanmax(finished) if np.isfinite(finished).any() else np.inf
    return np.where(pruned, np.minimum(scores, np.nextafter(best, -np.inf)), scores)


def without_log_lines() -> AbstractContextManager[None]:
    """Silence Optuna's log line that recommends the package greenlet for its GP."""
    return at_verbosity(max(optuna.logging.get_verbosity(), optuna.logging.ERROR))
