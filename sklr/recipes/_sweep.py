"""Training of candidates on all rows with several seeds; the recipes look at the training loss, not at validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import check_random_state, indexable

from sklr._utils.sklearn import count_rows, take_params
from sklr.engines import SequentialEngine, engine_names, pick_engine
from sklr.experiment.experiment import Cell, Experiment
from sklr.experiment.folds import MAX_SEED
from sklr.experiment.settings import check_settings


class SweepResult(NamedTuple):
    """The result of a sweep, with arrays of shape (n_candidates, n_seeds, n_epochs).

    `loss` is the mean training loss of an epoch and `score` the score on the training rows after it; both are NaN from
    where a run diverged. `engine` is the name of the engine that trained.
    """

    loss: np.ndarray
    score: np.ndarray
    engine: str


def sweep(
    estimator: Any,
    X: Any,
    y: Any,
    candidates: Sequence[dict],
    *,
    n_seeds: int,
    random_state: Any,
    engine: Any,
    n_jobs: int | None,
    scorer: Callable | None = None,
    enough: Callable[[np.ndarray], bool] = lambda scores: False,
    fit_params: Mapping[str, Any],
    caller: Callable,
) -> SweepResult:
    """Train every candidate with the same seeds on all rows, epoch by epoch, until `enough` of the scores is True.

    Without a scorer all scores are NaN. `caller` is the function that the user has called.
    """
    X, y = indexable(X, y)
    rows = np.arange(count_rows(X))
    seeds = check_random_state(random_state).randint(MAX_SEED, size=n_seeds)
    test = rows if scorer is not None else rows[:1]  # without a scorer nothing is predicted
    experiment = Experiment(
        estimator=estimator,
        X=X,
        y=y,
        cells=[Cell(0, i, int(seed), rows, test) for i, seed in enumerate(seeds)],
        scorer=scorer or _no_score,
        fit_params=take_params(X, params=dict(fit_params)),
        error_score="raise",
        n_jobs=n_jobs,
        follow="never" if scorer is None else "always",
        caller=caller,
    )
    check_settings(experiment, candidates, n_seeds)
    chosen, _ = pick_engine(engine, experiment, candidates)
    training = chosen.start(experiment, candidates)
    losses, scores = [], []
    while not training.done:
        report = training.advance(1)
        losses.append(report.train_loss)
        scores.append(report.valid_score)
        if enough(np.concatenate(scores, axis=-1)):
            break
    ran = (SequentialEngine.name if i in training.reasons() else chosen.name for i in range(len(candidates)))
    return SweepResult(np.concatenate(losses, axis=-1), np.concatenate(scores, axis=-1), engine_names(ran))


def _no_score(estimator: Any, X: Any, y: Any = None, **params: Any) -> float:
    return 0.0


def steps_per_epoch(net: Any, n_rows: int) -> int:
    """Return the number of optimizer steps of one epoch over `n_rows` rows, from the net's own batch iterator."""
    return len(net.get_iterator(range(n_rows), training=True))


def log_spaced(low: float, high: float, n: int) -> np.ndarray:
    """Return `n` learning rates from `low` to `high`, evenly spaced on a log scale, with exact ends.

    >>> log_spaced(0.01, 1.0, 3).tolist()
    [0.01, 0.1, 1.0]
    """
    lrs = np.geomspace(low, high, n)
    lrs[[0, -1]] = low, high
    return lrs
