"""The rows a run trains and is scored on: a plain fold, or a fold behind what is fitted around the net."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from sklearn.base import BaseEstimator, clone
from sklearn.utils import get_tags
from skorch import NeuralNet

from sklr._utils.sklearn import safe_split, take_params, take_rows
from sklr.experiment.datasets import DatasetRows
from sklr.experiment.experiment import Cell, Experiment
from sklr.experiment.wrappers import fitted_net, net_name, net_of, rows_for_net


class CellData(NamedTuple):
    """Training and validation rows of one cell, with the parameters of `fit` and of the scorer that go with them."""

    X_train: Any
    y_train: Any
    X_test: Any
    y_test: Any
    fit_params: Mapping[str, Any]
    score_train: Mapping[str, Any]
    score_test: Mapping[str, Any]


def cell_data(experiment: Experiment, cell: Cell, estimator: Any, *, train: bool = True) -> CellData:
    """Take a cell's rows out of the experiment's X, y and parameters, as `estimator` wants them.

    Without `train` there is no X_train, which may be large.
    """
    X, y = experiment.X, experiment.y
    if train:
        X_train, y_train = safe_split(estimator, X, y, cell.train)
    else:
        X_train, y_train = None, None if y is None else take_rows(y, cell.train)
    X_test, y_test = safe_split(estimator, X.evaluated() if isinstance(X, DatasetRows) else X, y, cell.test, cell.train)
    return CellData(
        X_train,
        y_train,
        X_test,
        y_test,
        take_params(X, params=experiment.fit_params, indices=cell.train),
        take_params(X, params=experiment.score_params, indices=cell.train),
        take_params(X, params=experiment.score_params, indices=cell.test),
    )


def seeded_clone(experiment: Experiment, candidate: dict, cell: Cell) -> Any:
    """Clone the estimator, give it the candidate's parameters and the cell's seed.

    The seed goes to every parameter named ``random_state`` that is None; with several seeds per fold, the second
    and later ones also replace an integer the user has set, or they would all be the same training.
    """
    estimator = clone(experiment.estimator).set_params(**clone(candidate, safe=False))
    for name, value in estimator.get_params().items():
        if (
            name.rpartition("__")[2] == "random_state"
            and name not in candidate
            and (value is None or cell.seed_index > 0)
        ):
            estimator.set_params(**{name: cell.seed})
    return estimator


class Head(NamedTuple):
    """What is around the net of an estimator, fitted on the training rows of a cell.

    Attributes
    ----------
    fitted : estimator
        With a stand-in for the net.
    data : CellData
        As the net takes it.
    scored : CellData
        The same rows with the targets that predictions are compared with.
    seconds : float
    """

    fitted: Any
    data: CellData
    scored: CellData
    seconds: float


class _StandIn(BaseEstimator):
    """Stands where a net will be while scikit-learn fits what is around it, and notes what the net would be given."""

    def __init__(self, net: Any = None):
        self.net = net

    def fit(self, X: Any, y: Any = None, **fit_params: Any) -> _StandIn:
        self.given_ = X, y, fit_params
        return self

    def predict(self, X: Any) -> Any:
        raise NotImplementedError  # nobody predicts yet, but wrappers check that what is in them could

    predict_proba = predict

    def get_metadata_routing(self) -> Any:
        return self.net.get_metadata_routing()

    def __sklearn_tags__(self) -> Any:
        return get_tags(self.net)


def fit_head(estimator: Any, data: CellData) -> Head:
    """Fit what is around a net on the training rows alone, and pass both sets of rows through it."""
    start = time.time()
    fitted = clone(estimator).set_params(**{str(net_name(estimator)): _StandIn(net_of(estimator))})
    targets = () if data.y_train is None else (data.y_train,)
    fitted.fit(data.X_train, *targets, **data.fit_params)
    X, y, fit_params = vars(fitted_net(fitted)).pop("given_")
    scored = data._replace(X_train=X, X_test=rows_for_net(fitted, data.X_test), fit_params=fit_params)
    return Head(fitted, scored._replace(y_train=y), scored, time.time() - start)


RESPONSES = ("predict", "predict_proba", "predict_log_proba", "decision_function")
LIBRARIES = ("skorch", "sklr", "sklearn", "abc", "builtins")
NOT_SEEN = ("__init__", "__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__annotations__")
MADE = re.compile(
    r"__(static_attributes|firstlineno|annotate_func|annotate|annotations_cache|abstractmethods)__$|_abc_|_sklearn_|set_\w+_request$"
)


def looks_only_at_predictions(scorer: Any) -> bool:
    """Say whether a scorer sees of an estimator only its predictions or its own `score`.

    Such a scorer gives a net on transformed rows the score it gives the whole pipeline on the raw ones, so the
    transformers need not run again. A function of the user's may look at the pipeline's steps, at raw columns, at the
    net's parameters or its history: of scikit-learn's scorers and our own it is known that they do not.
    """
    module = getattr(scorer, "__module__", None) or ""
    if module != "sklearn.metrics._scorer":
        return module.startswith("sklr.")
    if (parts := scorers_of(scorer)) is not None:
        return all(looks_only_at_predictions(part) for part in parts.values())
    response = getattr(scorer, "_response_method", "predict")
    return set([response] if isinstance(response, str) else response) <= set(RESPONSES)


def scorers_of(scorer: Any) -> Mapping[str, Any] | None:
    """Return the scorers that a multimetric one is made of, None for any other."""
    return scorer._scorers if type(scorer).__name__ == "_MultimetricScorer" else None


def predicts_as_its_library(net: NeuralNet) -> bool:
    """Say whether a net's predictions and `score` are those of skorch or sklr, which depend on its outputs alone.

    A class of the user's that defines anything beyond `__init__` may look at more on the way, such as its lr.
    """
    kinds = [kind for kind in type(net).__mro__ if kind.__module__.partition(".")[0] not in LIBRARIES]
    return all(name in NOT_SEEN or MADE.match(name) for kind in kinds for name in vars(kind))


def check_rows(X: Any) -> None:
    """Raise a TypeError if rows cannot be taken out of `X` by their numbers, and say what can be given instead.

    >>> check_rows({"a": [0.0]})
    Traceback (most recent call last):
    TypeError: X must be rows that can be taken by number, got a dict. Give skorch.helper.SliceDict(**X).
    """
    if type(X) is dict:
        rule = "rows that can be taken by number, got a dict. Give skorch.helper.SliceDict(**X)."
        raise TypeError(f"X must be {rule}")
