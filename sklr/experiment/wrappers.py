"""Finding the net inside an estimator, and the wrappers around it: pipelines, target transformers, thresholds."""

from __future__ import annotations

import copy
from typing import Any

from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.model_selection import FixedThresholdClassifier
from sklearn.pipeline import Pipeline
from skorch import NeuralNet

from sklr._utils.names import resolve_criterion

# these fit a clone of their estimator once, on all rows (unlike CalibratedClassifierCV, which fits it on folds)
_AROUND_A_CLONE = {TransformedTargetRegressor: "regressor", FixedThresholdClassifier: "estimator"}


A_NET = "a skorch net, or a Pipeline or TransformedTargetRegressor around one"  # in messages


def pass_its_net(given: Any) -> str:
    """Return the advice if a search, or another estimator around one, was given in place of a net; "" otherwise."""
    return "Pass the estimator inside, its parameter estimator." if hasattr(given, "estimator") else ""


def is_net(estimator: Any) -> bool:
    """Whether `estimator` is a skorch net, which can be trained epoch by epoch."""
    return isinstance(estimator, NeuralNet)


def _within(estimator: Any) -> tuple[str, Any] | None:
    """Return the parameter name and the inner estimator of a known wrapper; None for anything else.

    Subclasses of the known wrappers are not accepted, as they may override anything.
    """
    if type(estimator) is Pipeline:
        return estimator.steps[-1] if estimator.steps and estimator.transform_input is None else None
    name = _AROUND_A_CLONE.get(type(estimator))
    return None if name is None else (name, getattr(estimator, name))


def _fitted_within(fitted: Any) -> Any:
    """Return the fitted inner estimator of a fitted wrapper."""
    name, inner = _within(fitted) or ("", None)
    return inner if type(fitted) is Pipeline else getattr(fitted, f"{name}_")


def net_name(estimator: Any) -> str | None:
    """Return the parameter name of the net inside an estimator, "" for a net itself, None if there is no net.

    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> pipeline = make_pipeline(StandardScaler(), NeuralNet(None, None))
    >>> net_name(TransformedTargetRegressor(pipeline)), net_name(StandardScaler())
    ('regressor__neuralnet', None)
    """
    if is_net(estimator):
        return ""
    name, inner = _within(estimator) or ("", None)
    behind = net_name(inner) if name else None
    return None if behind is None else f"{name}__{behind}".removesuffix("__")


def trains_nets(estimator: Any) -> bool:
    """Whether an estimator is a skorch net or a known wrapper around one, which the engines can train."""
    return net_name(estimator) is not None


def is_wrapped(estimator: Any) -> bool:
    """Whether an estimator is a known wrapper around a net, and not a net itself."""
    return bool(net_name(estimator))


def net_of(estimator: Any) -> Any:
    """Return the net inside an unfitted estimator; the estimator itself if there is none."""
    inner = estimator
    while (within := _within(inner)) is not None:
        inner = within[1]
    return inner if is_net(inner) else estimator


def net_in_place(estimator: Any) -> Any:
    """Return the net that the estimator's `fit` trains in place; the estimator itself if `fit` trains a clone."""
    return estimator if changes_predictions(estimator) else net_of(estimator)


def net_to_fit(estimator: Any) -> Any:
    """Return the net that the estimator's `fit` would train: its own, or a clone if a wrapper clones it."""
    return clone(net_of(estimator)) if changes_predictions(estimator) else net_of(estimator)


def changes_predictions(estimator: Any) -> bool:
    """Whether the predictions of an estimator differ from those of the net inside, on the same transformed rows."""
    inner = _within(estimator)
    return inner is not None and (type(estimator) is not Pipeline or changes_predictions(inner[1]))


def changes_rows(estimator: Any) -> bool:
    """Whether the net inside an estimator receives transformed rows."""
    inner = _within(estimator)
    return inner is not None and ((type(estimator) is Pipeline and len(estimator.steps) > 1) or changes_rows(inner[1]))


def around_net(estimator: Any) -> list[Any]:
    """Return the settings of everything around a net; if they are equal, the same transformations are fitted."""
    if (inner := _within(estimator)) is None:
        return []
    name, behind = inner
    if type(estimator) is Pipeline:
        return [estimator.steps[:-1], *around_net(behind)]
    own = {key: value for key, value in estimator.get_params(deep=False).items() if key != name}
    return [type(estimator), own, *around_net(behind)]


def fitted_net(fitted: Any) -> Any:
    """Return the net inside an estimator whose wrappers are fitted."""
    while _within(fitted) is not None:
        fitted = _fitted_within(fitted)
    return fitted


def rows_for_net(fitted: Any, X: Any) -> Any:
    """Transform rows by the fitted pipeline steps before a net."""
    while _within(fitted) is not None:
        for _, step in fitted.steps[:-1] if type(fitted) is Pipeline else ():
            if step is not None and step != "passthrough":
                X = step.transform(X)
        fitted = _fitted_within(fitted)
    return X


def fitted_around(estimator: Any, fitted: Any, net: Any) -> Any:
    """Return `estimator` as its `fit` would leave it: the wrappers fitted as in `fitted`, around this net."""
    if (inner := _within(estimator)) is None:
        return net
    (name, own), whole = inner, copy.copy(fitted)
    behind = fitted_around(own, _fitted_within(fitted), net)
    if type(whole) is Pipeline:
        whole.steps = [*fitted.steps[:-1], (name, behind)]
    else:
        vars(whole).update({name: own, f"{name}_": behind})
    return whole


def without_pipelines(fitted: Any) -> Any:
    """Return a fitted estimator without its pipeline steps: it predicts the same, but from transformed rows."""
    if (inner := _within(fitted)) is None:
        return fitted
    behind = without_pipelines(_fitted_within(fitted))
    if type(fitted) is Pipeline:
        return behind
    whole = copy.copy(fitted)
    setattr(whole, f"{inner[0]}_", behind)
    return whole


def criterion_of(estimator: Any) -> str:
    """Return the name of the class of a net's loss, also of a net inside an estimator; "" for other estimators.

    >>> from torch import nn
    >>> criterion_of(NeuralNet(None, "mse")), criterion_of(NeuralNet(None, nn.NLLLoss)), criterion_of(None)
    ('MSELoss', 'NLLLoss', '')
    """
    if not trains_nets(estimator):
        return ""
    try:
        criterion = resolve_criterion(net_of(estimator).criterion)
    except ValueError:  # the fits will raise it
        return ""
    return criterion.__name__ if isinstance(criterion, type) else type(criterion).__name__
