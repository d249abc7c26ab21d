"""How all engines call the scorer: at the end of a run, and after each epoch where that is wanted."""

from __future__ import annotations

import warnings
from typing import Any

from skorch import NeuralNet

from sklr._utils.random import RandomStream
from sklr._utils.sklearn import score_estimator
from sklr.engines.metrics import quick_metric
from sklr.experiment.cell_data import CellData, scorers_of
from sklr.experiment.experiment import Cell, Experiment
from sklr.experiment.wrappers import changes_predictions
from sklr.results import Scores, pick_score


class ScorerError(Exception):
    """A scorer raised the error that is this one's ``__cause__``, and with `error_score="raise"` it ends the search."""


def is_followed(experiment: Experiment, net: NeuralNet) -> bool:
    """Say whether a stack scores its runs after each epoch.

    With `follow="free"` it does so where it computes the scores of all runs at once, at almost no cost: accuracy, log
    loss and the usual errors of regressors. Other scorers, and steps that transform predictions, may be slow or count
    their calls. A net trained by itself has no free scores, since they take one more pass over the validation rows.
    """
    if experiment.follow == "free":
        own = not changes_predictions(experiment.estimator)
        return own and quick_metric(net, followed_scorer(experiment)) is not None
    return experiment.follow == "always"


def followed_scorer(experiment: Experiment) -> Any:
    """Return the scorer to call after each epoch: of several, only the one of the experiment's metric.

    Where there are score parameters it is the multimetric scorer as a whole, since that routes them to its parts.
    """
    parts = scorers_of(experiment.scorer)
    if parts is None or experiment.score_params:
        return experiment.scorer
    return next((part for name, part in parts.items() if name == experiment.metric), next(iter(parts.values())))


def followed_score(experiment: Experiment, cell: Cell, subject: Any, data: CellData) -> float:
    """Return the current score on the validation rows; NaN, without a warning, if the scorer raises.

    The final scores will report the error, once.
    """
    y = () if data.y_test is None else (data.y_test,)
    with RandomStream(cell.seed), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            scores = followed_scorer(experiment)(subject, data.X_test, *y, **data.score_test)
            return float(pick_score(scores, experiment.metric))
        except Exception:  # a user's scorer may raise anything
            return float("nan")


def final_scores(experiment: Experiment, cell: Cell, subject: Any, data: CellData, train: bool = False) -> Scores:
    """Return the scores of a run on the validation rows, or on the training rows.

    Random numbers drawn while scoring come from the cell's own stream, so that scores are reproducible.
    """
    rows = (data.X_train, data.y_train) if train else (data.X_test, data.y_test)
    params = data.score_train if train else data.score_test
    with RandomStream(cell.seed):
        return score_estimator(subject, *rows, experiment.scorer, params, experiment.error_score)
