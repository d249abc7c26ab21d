"""Optuna's samplers by name; TPE and GP with an even start and no repeats."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from sklr.search._cover import even_cover, keep_apart
from sklr.search._dimensions import Dimension, Range

SAMPLERS = ("gp", "halton", "random", "sobol", "tpe")
BLIND = ("halton", "random", "sobol")  # these learn nothing from scores, so all trials can be proposed at once

if TYPE_CHECKING:
    _Sampler = RandomSampler  # any concrete one
else:
    _Sampler = object


class EvenStart(_Sampler):
    """Mixed into a sampler: the first trials cover the space evenly, the later ones in one dimension keep apart.

    Parameters
    ----------
    dimensions : mapping of str to Dimension
        Of the raw values.
    n_start : int
        How many trials cover the space.
    seed : int
    """

    def __init__(self, dimensions: Mapping[str, Dimension], n_start: int, seed: int):
        super().__init__(seed=seed, n_startup_trials=n_start)  # type: ignore[call-arg]
        positions = even_cover(n_start, len(dimensions), np.random.RandomState(seed))
        self._start = {
            name: [dimension.at(u) for u in column]
            for (name, dimension), column in zip(dimensions.items(), positions.T, strict=True)
        }
        self._n_start, self._dimensions = n_start, dict(dimensions)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if trial.number < self._n_start:
            return {}
        proposed = super().sample_relative(study, trial, search_space)
        return {name: self._apart(study, name, raw) for name, raw in proposed.items()}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if trial.number < self._n_start:
            return self._start[param_name][trial.number]
        return super().sample_independent(study, trial, param_name, param_distribution)

    def _apart(self, study: optuna.Study, name: str, raw: Any) -> Any:
        dimension = self._dimensions[name]
        if len(self._dimensions) > 1 or not isinstance(dimension, Range) or dimension.size < np.inf:
            return raw
        trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.RUNNING))
        taken = np.array([dimension.position(t.params[name]) for t in trials if name in t.params])
        position = dimension.position(raw)
        kept = keep_apart(position, taken, min(dimension.resolution, 0.5 / (len(taken) + 1)))
        return raw if kept == position else dimension.at(kept)


class EvenTPESampler(EvenStart, TPESampler):
    """Optuna's `TPESampler` after an even start."""


class EvenGPSampler(EvenStart, GPSampler):
    """Optuna's `GPSampler` after an even start, without its log line on the optional package greenlet."""

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        level = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(max(level, optuna.logging.ERROR))
        try:
            return super().sample_relative(study, trial, search_space)
        finally:
            optuna.logging.set_verbosity(level)


def make_sampler(name: str, dimensions: Mapping[str, Dimension], n_start: int, seed: int) -> BaseSampler:
    """Return the sampler called `name`, one of `SAMPLERS`.

    >>> from sklr.search._dimensions import Range
    >>> type(make_sampler("sobol", {"lr": Range(1e-5, 1.0, log=True)}, 8, seed=0)).__name__
    'QMCSampler'
    """
    if name in ("tpe", "gp"):
        return (EvenTPESampler if name == "tpe" else EvenGPSampler)(dimensions, n_start, seed)
    if name == "random":
        return RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # Optuna has called QMC experimental since 3.0
        return QMCSampler(qmc_type=name, scramble=True, seed=seed)
