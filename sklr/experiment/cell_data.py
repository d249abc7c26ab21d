"""The rows a run trains and is scored on: a plain fold, or a fold behind the fitted head of a pipeline."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from sklearn.base import clone
from sklearn.pipeline import Pipeline
from skorch import NeuralNet

from sklr._utils.sklearn import safe_split, take_params, take_rows
from sklr.experiment.datasets import DatasetRows
from sklr.experiment.experiment import Cell, Experiment


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


def is_net(estimator: Any) -> bool:
    """Say whether `estimator` is a skorch net, which can be trained an epoch at a time."""
    return isinstance(estimator, NeuralNet)


def has_head(estimator: Any) -> bool:
    """Say whether `estimator` is a plain pipeline ending in a net, whose other steps can be fitted once per fold."""
    return (
        type(estimator) is Pipeline
        and len(estimator.steps) > 1
        and is_net(estimator.steps[-1][1])
        and estimator.transform_input is None
    )


def trains_nets(estimator: Any) -> bool:
    """Say whether an estimator is a skorch net or a pipeline that ends in one, so that there is an engine to choose."""
    return is_net(estimator) or has_head(estimator)


def last_step(estimator: Any) -> Any:
    """Return the net of a pipeline, or the estimator itself."""
    return estimator.steps[-1][1] if has_head(estimator) else estimator


class Head(NamedTuple):
    """The fitted steps before a pipeline's net and a fold's rows after them."""

    steps: list[tuple[str, Any]]
    data: CellData
    seconds: float


def fit_head(pipeline: Pipeline, data: CellData) -> Head:
    """Fit the steps before the net on the training rows alone, and pass both sets of rows through them."""
    start = time.time()
    routed = pipeline._check_method_params(method="fit", props=data.fit_params)
    X_train, X_test, steps = data.X_train, data.X_test, []
    for name, step in pipeline.steps[:-1]:
        if step is not None and step != "passthrough":
            X_train = _fit_transform(step, X_train, data.y_train, routed[name])
            X_test = step.transform(X_test, **routed[name].get("transform", {}))
        steps.append((name, step))
    tail_params = routed[pipeline.steps[-1][0]].get("fit", {})
    data = data._replace(X_train=X_train, X_test=X_test, fit_params=tail_params)
    return Head(steps, data, time.time() - start)


def _fit_transform(step: Any, X: Any, y: Any, params: Mapping[str, Any]) -> Any:
    if hasattr(step, "fit_transform"):
        return step.fit_transform(X, y, **params.get("fit_transform", {}))
    return step.fit(X, y, **params.get("fit", {})).transform(X, **params.get("transform", {}))


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
