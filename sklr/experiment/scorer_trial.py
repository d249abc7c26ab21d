"""A trial of the scorer before training: scikit-learn's metrics that the predictions or the targets are not for.

Scorers of the user's own are not tried, since they may read what only training makes, or count their calls.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, is_regressor

from sklr._utils.random import RandomStream
from sklr._utils.validation import must_be
from sklr.experiment.cell_data import CellData, cell_data, scorers_of
from sklr.experiment.experiment import Cell, Experiment
from sklr.nets._parts import NetParts

FEW = 64  # rows to try first: enough for most metrics, and little work


def check_scorer(experiment: Experiment, net: NetParts) -> None:
    """Raise a ValueError if the scorer that decides the search can score no fold, whatever the net will predict.

    Parameters
    ----------
    experiment : Experiment
    net : NetParts
        The search's estimator, initialized on the training rows; a net in a pipeline cannot predict yet.
    """
    scorer = _deciding(experiment)
    metric = getattr(scorer, "_score_func", None)
    own = type(net).__module__.startswith("sklr.")  # a subclass may be unable to predict before it is trained
    if not own or not hasattr(experiment.X, "shape") or not getattr(metric, "__module__", "").startswith("sklearn."):
        return
    few = Cell(0, 0, 0, experiment.cells[0].train[:FEW], experiment.cells[0].test[:FEW])
    for cell in (few, *experiment.cells):  # one fold may lack a class
        error = _error(experiment, scorer, net, cell)
        if error is None:
            return
    name = getattr(metric, "__name__", repr(metric))
    rule = f"a scorer for the predictions of {type(net).__name__} and these targets"
    default = "R2" if is_regressor(net) else "accuracy"
    advice = f"It raises {type(error).__name__}: {error}\nChoose another scoring; None stands for the {default}."
    raise ValueError(must_be("scoring", rule, name, advice)) from error


def _deciding(experiment: Experiment) -> Any:
    """Return the scorer whose scores are compared; None if that is not known."""
    parts = scorers_of(experiment.scorer)
    return experiment.scorer if parts is None else parts.get(experiment.metric) if experiment.metric else None


def _error(experiment: Experiment, scorer: Any, net: NetParts, cell: Cell) -> Exception | None:
    """Return the error with which a scorer fails on the test rows of a cell; None if it works, or cannot be tried."""
    with RandomStream(0), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what an untrained net predicts is of no interest
        try:
            data = cell_data(experiment, cell, net, train=False)
            net.predict(data.X_test)
            ideal = _ideal(net, data.y_test)
        except Exception:  # the training will raise it
            return None
        error = _raised(scorer, net, data)
        return None if error is None or _raised(scorer, ideal, data) is None else error


def _raised(scorer: Any, estimator: Any, data: CellData) -> Exception | None:
    try:
        scorer(estimator, data.X_test, data.y_test, **data.score_test)
    except Exception as error:
        return error
    return None


def _ideal(net: NetParts, y: Any) -> Any:
    """Return an estimator of the net's type that predicts `y`: some metrics fail only for bad predictions."""
    return _IdealRegressor(y) if is_regressor(net) else _IdealClassifier(y, np.asarray(net.classes_))


class _IdealRegressor(RegressorMixin, BaseEstimator):
    def __init__(self, y: Any):
        self.y = y

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict(self, X: Any) -> Any:
        return self.y


class _IdealClassifier(ClassifierMixin, BaseEstimator):
    def __init__(self, y: Any, classes: np.ndarray):
        self.y, self.classes_ = y, classes

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict(self, X: Any) -> Any:
        return self.y

    def predict_proba(self, X: Any) -> np.ndarray:
        return (np.asarray(self.y).reshape(-1, 1) == self.classes_).astype(float)
