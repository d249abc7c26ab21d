"""How a scorer is called, the same in all engines: at the end of a run, and after each epoch where that is wanted."""

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
    """A scorer has raised the error that is its cause, and `error_score="raise"` has that end the search."""


def is_followed(experiment: Experiment, net: NeuralNet) -> bool:
    """Say whether a stack takes the score after each epoch.

    With `follow="free"` it does where it has the scores of all its runs at once, which costs next to nothing: accuracy,
    log loss and the usual errors of regressors. Other scorers may take any time, and count their calls; so may what
    transforms the net's predictions. One by one no score is free: it takes another pass over the validation rows.
    """
    if experiment.follow == "free":
        own = not changes_predictions(experiment.estimator)
        return own and quick_metric(net, followed_scorer(experiment)) is not None
    return experiment.follow == "always"


def followed_scorer(experiment: Experiment) -> Any:
    """Return the scorer whose score is followed: the only one, or that of the experiment's metric among several.

    Parameters of the scorers are routed by the whole of them, so where there are any it is the whole.
    """
    parts = scorers_of(experiment.scorer)
    if parts is None or experiment.score_params:
        return experiment.scorer
    return next((part for name, part in parts.items() if name == experiment.metric), next(iter(parts.values())))


def followed_score(experiment: Experiment, cell: Cell, subject: Any, data: CellData) -> float:
    """Return the present score on the validation rows: NaN where it fails, and without warnings.

    What is wrong with the scorer is said once, at the end.
    """
    y = () if data.y_test is None else (data.y_test,)
    with RandomStream(cell.seed), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            scores = followed_scorer(experiment)(subject, data.X_test, *y, **data.score_test)
            return float(pick_score(scores, experiment.metric))
        except Exception:  # a scorer of the user's may raise anything
            return float("nan")


def final_scores(experiment: Experiment, cell: Cell, subject: Any, data: CellData, train: bool = False) -> Scores:
    """Return what the scorer says of a run on the validation rows, or on the training rows.

    Whatever is drawn on the way comes from the cell's own stream, so that scores repeat.
    """
    rows = (data.X_train, data.y_train) if train else (data.X_test, data.y_test)
    params = data.score_train if train else data.score_test
    with RandomStream(cell.seed):
        return score_estimator(subject, *rows, experiment.scorer, params, experiment.error_score)
