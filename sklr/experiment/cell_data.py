"""The rows a run is trained and scored on: those of a fold, as they are or transformed by the steps before the net."""

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
    """Training and test rows of one cell, with the matching rows of the parameters of `fit` and of the scorer."""

    X_train: Any
    y_train: Any
    X_test: Any
    y_test: Any
    fit_params: Mapping[str, Any]
    score_train: Mapping[str, Any]
    score_test: Mapping[str, Any]


def cell_data(experiment: Experiment, cell: Cell, estimator: Any, *, train: bool = True, test: bool = True) -> CellData:
    """Select a cell's rows of the experiment's X, y and parameters, in the form that `estimator` takes.

    With ``train=False`` X_train is None, and with ``test=False`` X_test, which saves a copy that may be large.
    """
    X, y = experiment.X, experiment.y
    if train:
        X_train, y_train = safe_split(estimator, X, y, cell.train)
    else:
        X_train, y_train = None, None if y is None else take_rows(y, cell.train)
    if test:
        evaluated = X.evaluated() if isinstance(X, DatasetRows) else X
        # the training rows are the columns of a precomputed kernel
        X_test, y_test = safe_split(estimator, evaluated, y, cell.test, cell.train)
    else:
        X_test, y_test = None, None if y is None else take_rows(y, cell.test)
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
    """Clone the estimator and set the candidate's parameters and the cell's seed.

    The seed is set on every parameter named ``random_state`` that is None. With several seeds per fold, all but the
    first also replace an integer set by the user, since the runs of a fold would otherwise be identical.
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
    """The estimator around a net (pipeline steps, target transformer), fitted on the training rows of a cell.

    Attributes
    ----------
    fitted : estimator
        The fitted estimator, with a placeholder instead of the net.
    data : CellData
        The rows as the net receives them.
    scored : CellData
        The same rows with the untransformed targets, to which predictions are compared.
    seconds : float
        The time that fitting and transforming took.
    """

    fitted: Any
    data: CellData
    scored: CellData
    seconds: float


class _StandIn(BaseEstimator):
    """A placeholder for the net, which records what its `fit` receives while scikit-learn fits the rest."""

    def __init__(self, net: Any = None):
        self.net = net

    def fit(self, X: Any, y: Any = None, **fit_params: Any) -> _StandIn:
        self.given_ = X, y, fit_params
        return self

    def predict(self, X: Any) -> Any:
        raise NotImplementedError  # never called, but wrappers check that their estimator has the method

    predict_proba = predict

    def get_metadata_routing(self) -> Any:
        return self.net.get_metadata_routing()

    def __sklearn_tags__(self) -> Any:
        return get_tags(self.net)


def fit_head(estimator: Any, data: CellData) -> Head:
    """Fit the steps and wrappers around a net on the training rows only, and transform training and test rows."""
    start = time.time()
    fitted = clone(estimator).set_params(**{str(net_name(estimator)): _StandIn(net_of(estimator))})
    targets = () if data.y_train is None else (data.y_train,)
    fitted.fit(data.X_train, *targets, **data.fit_params)
    X, y, fit_params = vars(fitted_net(fitted)).pop("given_")
    scored = data._replace(X_train=X, X_test=rows_for_net(fitted, data.X_test), fit_params=fit_params)
    return Head(fitted, scored._replace(y_train=y), scored, time.time() - start)


RESPONSES = ("predict", "predict_proba", "predict_log_proba", "decision_function")
LIBRARIES = ("skorch", "sklr", "sklearn", "abc", "builtins")
IGNORED = ("__init__", "__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__annotations__")
# attributes that Python, `abc` and scikit-learn add to a class themselves
GENERATED = re.compile(
    r"__(static_attributes|firstlineno|annotate_func|annotate|annotations_cache|abstractmethods)__$|_abc_|_sklearn_|set_\w+_request$"
)


def looks_only_at_predictions(scorer: Any) -> bool:
    """Whether a scorer uses only an estimator's predictions or its `score` method.

    Such a scorer returns the same score for a net on transformed rows as for the whole pipeline on the raw rows, so
    the transformers need not run again. A custom scorer may look at the pipeline's steps, at raw columns, or at the
    net's parameters or history; scikit-learn's scorers and sklr's own do not.
    """
    module = getattr(scorer, "__module__", None) or ""
    if module != "sklearn.metrics._scorer":
        return module.startswith("sklr.")
    if (parts := scorers_of(scorer)) is not None:
        return all(looks_only_at_predictions(part) for part in parts.values())
    response = getattr(scorer, "_response_method", "predict")
    return set([response] if isinstance(response, str) else response) <= set(RESPONSES)


def scorers_of(scorer: Any) -> Mapping[str, Any] | None:
    """Return the scorers of a multimetric scorer by name; None for any other scorer."""
    return scorer._scorers if type(scorer).__name__ == "_MultimetricScorer" else None


def predicts_as_its_library(net: NeuralNet) -> bool:
    """Whether a net's predictions and `score` are those of skorch or sklr, which depend only on its outputs.

    A custom subclass that defines more than `__init__` may use other attributes to predict, such as its lr.
    """
    kinds = [kind for kind in type(net).__mro__ if kind.__module__.partition(".")[0] not in LIBRARIES]
    return all(name in IGNORED or GENERATED.match(name) for kind in kinds for name in vars(kind))


def check_rows(X: Any) -> None:
    """Raise a TypeError if `X` is a dict, whose rows cannot be selected by index.

    >>> check_rows({"a": [0.0]})
    Traceback (most recent call last):
    TypeError: X must be indexable by rows, got a dict. Pass skorch.helper.SliceDict(**X).
    """
    if type(X) is dict:
        raise TypeError("X must be indexable by rows, got a dict. Pass skorch.helper.SliceDict(**X).")
