"""The arguments of an Optuna search: checks, distributions, and the rows to search on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection

from sklr._utils.validation import check_count, must_be, unknown_name
from sklr.experiment.lr_param import is_number
from sklr.search.proposals.dimension_types import Choices, Dimension
from sklr.search.proposals.dimensions import to_dimension
from sklr.search.proposals.optuna_samplers import SAMPLERS

JSON = (str, int, float, bool, type(None))  # what Optuna's storages give back as it was


@dataclass(frozen=True)
class Asked:
    """One parameter of an Optuna search: its distribution in the study, and the dimension that decodes its values."""

    dimension: Dimension
    distribution: BaseDistribution


def ask_for(what: str, given: Any, *, stored: bool = False) -> Asked:
    """Return the distribution and the dimension of a parameter.

    Optuna's own distributions are used unchanged, unless the study is `stored` and has to write choices as JSON:
    a tuple would come back as a list, which is none of the choices. Such choices are written as labels.

    >>> from optuna.distributions import CategoricalDistribution
    >>> ask_for("x", [None, 3]).distribution, ask_for("x", CategoricalDistribution([None, 3])).distribution
    (CategoricalDistribution(choices=('None', '3')), CategoricalDistribution(choices=(None, 3)))
    """
    dimension = to_dimension(what, given)
    if not isinstance(given, BaseDistribution):
        return Asked(dimension, dimension.optuna())
    if isinstance(dimension, Choices) and isinstance(given, CategoricalDistribution):
        if stored and not all(isinstance(choice, JSON) for choice in given.choices):
            return Asked(dimension, dimension.optuna())
        dimension = replace(dimension, verbatim=True)
    return Asked(dimension, given)


def check_limits(n_trials: Any, timeout: Any, has_callbacks: bool) -> None:
    """Check that the search ends: by a number of trials, a time in seconds, or a callback."""
    if timeout is not None and not (is_number(timeout) and timeout > 0):
        raise ValueError(must_be("timeout", "a number of seconds > 0, or None", timeout))
    if n_trials is not None:
        check_count("n_trials", n_trials)
    elif timeout is None and not has_callbacks:
        advice = "Without a number of trials or a timeout in seconds the search would never end."
        raise ValueError(must_be("n_trials", "an integer >= 1 if there is no timeout", None, advice))


def check_sampler(sampler: Any, study: Any) -> None:
    """Check the sampler's name, that the study maximizes, and that not both have a sampler."""
    if not isinstance(sampler, BaseSampler) and sampler not in SAMPLERS:
        raise unknown_name("sampler", sampler, SAMPLERS)
    if study is None:
        return
    if not isinstance(study, optuna.Study):
        raise ValueError(must_be("study", "an optuna.Study or None", study, "Call optuna.create_study."))
    if study.directions != [StudyDirection.MAXIMIZE]:
        names = [direction.name.lower() for direction in study.directions]
        advice = "Create it with direction='maximize'; a loss is searched with a scorer such as 'neg_log_loss'."
        raise ValueError(must_be("study", "one that maximizes a single score", names, advice))
    if sampler != "tpe":
        advice = "Give the sampler to optuna.create_study instead."
        raise ValueError(must_be("sampler", "left out if a study is given", sampler, advice))


def check_left_to_study(storage: Any, pruner: Any) -> None:
    """Check that the search itself has neither a storage nor a pruner, because the given study has them."""
    if storage is not None:
        raise ValueError(must_be("storage", "left out if a study is given", storage, "The study has its own."))
    if pruner is not None:
        advice = "Give the pruner to optuna.create_study, and set enable_pruning=True."
        raise ValueError(must_be("pruner", "left out if a study is given", pruner, advice))


def check_subsample(subsample: Any) -> None:
    """Check the fraction or the number of rows to search on."""
    share = isinstance(subsample, (float, np.floating)) and 0 < subsample <= 1
    number = isinstance(subsample, (int, np.integer)) and not isinstance(subsample, bool) and subsample >= 1
    if not (share or number):
        rule = "a fraction of the rows in (0, 1], a float, or a number of rows >= 1, an int"
        raise ValueError(must_be("subsample", rule, subsample, "Write for example subsample=0.5."))


def drawn_rows(subsample: float | int, n_samples: int, random_state: np.random.RandomState) -> np.ndarray:
    """Return the indices of the rows to search on, ascending; all of them if `subsample` covers them.

    >>> drawn_rows(0.5, 4, np.random.RandomState(0)).tolist(), drawn_rows(9, 4, np.random.RandomState(0)).tolist()
    ([2, 3], [0, 1, 2, 3])
    """
    is_fraction = isinstance(subsample, (float, np.floating))
    n_rows = max(1, int(subsample * n_samples)) if is_fraction else int(subsample)
    if n_rows >= n_samples:
        return np.arange(n_samples)
    return np.sort(random_state.choice(n_samples, n_rows, replace=False))


def check_callbacks(callbacks: Any) -> None:
    """Check that the callbacks are a list of callables."""
    if callbacks is not None and (not isinstance(callbacks, (list, tuple)) or not all(map(callable, callbacks))):
        advice = "Write for example callbacks=[lambda study, trial: print(trial.value)]."
        raise ValueError(must_be("callbacks", "a list of callables", callbacks, advice))


def check_catch(catch: Any) -> None:
    """Check that `catch` names exceptions."""
    kinds = [catch] if isinstance(catch, type) else catch
    if not isinstance(kinds, (list, tuple)) or not all(isinstance(k, type) and issubclass(k, Exception) for k in kinds):
        raise ValueError(must_be("catch", "an exception type or a tuple of them", catch, "Write (ValueError,)."))
