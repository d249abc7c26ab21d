"""Optuna's samplers by name; TPE and GP start with an even cover. `optuna_line.py` has those for one parameter."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, QMCSampler, RandomSampler, TPESampler
from optuna.samplers._lazy_random_state import LazyRandomState
from optuna.trial import FrozenTrial

from sklr.search.proposals.dimension_types import Dimension
from sklr.search.proposals.dimensions import line_of
from sklr.search.proposals.even_cover import even_cover
from sklr.search.proposals.optuna_line import LineGPSampler, LineTPESampler, without_log_lines

SAMPLERS = ("gp", "halton", "random", "sobol", "tpe")
BLIND = ("halton", "random", "sobol")  # they do not learn from scores, so all trials can be proposed at once

if TYPE_CHECKING:
    _Sampler = RandomSampler  # any concrete sampler, so that mypy knows the methods of the mixin
else:
    _Sampler = object


class EvenStart(_Sampler):
    """Mixin for a sampler: the first trials cover the space evenly.

    Parameters
    ----------
    dimensions : mapping of str to Dimension
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
        self._n_start = n_start

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {} if trial.number < self._n_start else super().sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if trial.number < self._n_start:
            return self._start[param_name][trial.number]
        return super().sample_independent(study, trial, param_name, param_distribution)


class EvenTPESampler(EvenStart, TPESampler):
    """Optuna's `TPESampler` after an even start."""


class EvenGPSampler(EvenStart, GPSampler):
    """Optuna's `GPSampler` after an even start, without its log line about the optional package greenlet."""

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        with without_log_lines():
            return super().sample_relative(study, trial, search_space)


def make_sampler(name: str, dimensions: Mapping[str, Dimension], n_start: int, seed: int) -> BaseSampler:
    """Return the sampler called `name`, one of `SAMPLERS`.

    >>> from sklr.search.proposals.dimension_types import Choices, Range
    >>> lr, batch_size = Range(1e-5, 1.0, log=True), Choices((16, 32))
    >>> type(make_sampler("sobol", {"lr": lr}, 8, seed=0)).__name__
    'QMCSampler'
    >>> type(make_sampler("tpe", {"lr": lr}, 8, seed=0)).__name__
    'LineTPESampler'
    >>> type(make_sampler("tpe", {"lr": lr, "batch_size": batch_size}, 8, seed=0)).__name__
    'EvenTPESampler'
    """
    if name in ("tpe", "gp"):
        line = line_of(dimensions)
        if line is not None:
            return (LineTPESampler if name == "tpe" else LineGPSampler)(line, n_start, seed)
        return (EvenTPESampler if name == "tpe" else EvenGPSampler)(dimensions, n_start, seed)
    if name == "random":
        return RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # Optuna has called QMC experimental since 3.0
        return QMCSampler(qmc_type=name, scramble=True, seed=seed)


def with_seed(sampler: BaseSampler, seed: int) -> BaseSampler:
    """Return the sampler, after seeding those of its generators that have no seed yet.

    Processes that share a search must draw the same candidates. Optuna's `reseed_rng` takes no seed.

    >>> studies = [optuna.create_study(sampler=with_seed(sampler, 0)) for sampler in (RandomSampler(), RandomSampler())]
    >>> first, second = (study.ask().suggest_float("lr", 0, 1) for study in studies)
    >>> first == second
    True
    """
    draw = np.random.RandomState(seed)
    for generator in _generators(sampler, {}):
        own = int(draw.randint(2**31 - 1))
        if generator._rng is None:
            generator.rng.seed(own)
    return sampler


def _generators(part: object, seen: dict[int, object]) -> Iterator[LazyRandomState]:
    """Yield the random generators of a sampler and of Optuna's objects inside it, such as another sampler."""
    if id(part) in seen:
        return
    seen[id(part)] = part
    if isinstance(part, LazyRandomState):
        yield part
    elif isinstance(part, BaseSampler) or type(part).__module__.startswith("optuna."):
        for inner in vars(part).values() if hasattr(part, "__dict__") else ():
            yield from _generators(inner, seen)
