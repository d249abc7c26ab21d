"""Where the net is in an estimator, and what is around it: pipelines, transformed targets, a decision threshold."""

from __future__ import annotations

import copy
from typing import Any

from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.model_selection import FixedThresholdClassifier
from sklearn.pipeline import Pipeline
from skorch import NeuralNet

# fit a clone of what they hold once, on all rows; CalibratedClassifierCV, which fits it on folds, is none of these
_AROUND_A_CLONE = {TransformedTargetRegressor: "regressor", FixedThresholdClassifier: "estimator"}


A_NET = "a skorch net, or a Pipeline or TransformedTargetRegressor around one"  # in messages


def is_net(estimator: Any) -> bool:
    """Say whether `estimator` is a skorch net, which can be trained an epoch at a time."""
    return isinstance(estimator, NeuralNet)


def _within(estimator: Any) -> tuple[str, Any] | None:
    """Return the name and the estimator that a wrapper holds; None for what is no wrapper, or one that we do not know.

    A subclass may do anything.
    """
    if type(estimator) is Pipeline:
        return estimator.steps[-1] if estimator.steps and estimator.transform_input is None else None
    name = _AROUND_A_CLONE.get(type(estimator))
    return None if name is None else (name, getattr(estimator, name))


def _fitted_within(fitted: Any) -> Any:
    """Return the fitted estimator that a fitted wrapper holds."""
    name, inner = _within(fitted) or ("", None)
    return inner if type(fitted) is Pipeline else getattr(fitted, f"{name}_")


def net_name(estimator: Any) -> str | None:
    """Return the name of the parameter that the net is, "" for a net itself, None where there is no net.

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
    """Say whether an estimator is a skorch net or a known wrapper around one, so that there is an engine to choose."""
    return net_name(estimator) is not None


def is_wrapped(estimator: Any) -> bool:
    """Say whether there is a net in an estimator that is none itself."""
    return bool(net_name(estimator))


def net_of(estimator: Any) -> Any:
    """Return the net in an estimator, as it was given; the estimator itself if there is none."""
    inner = estimator
    while (within := _within(inner)) is not None:
        inner = within[1]
    return inner if is_net(inner) else estimator


def net_in_place(estimator: Any) -> Any:
    """Return the net in an estimator that its `fit` trains itself, not a clone; the estimator if there is none."""
    return estimator if changes_predictions(estimator) else net_of(estimator)


def net_to_fit(estimator: Any) -> Any:
    """Return the net that a fit of the estimator would train: its own, or a clone where a wrapper makes one."""
    return clone(net_of(estimator)) if changes_predictions(estimator) else net_of(estimator)


def changes_predictions(estimator: Any) -> bool:
    """Say whether what an estimator predicts is something else than what the net in it does, on the same rows."""
    inner = _within(estimator)
    return inner is not None and (type(estimator) is not Pipeline or changes_predictions(inner[1]))


def changes_rows(estimator: Any) -> bool:
    """Say whether the net in an estimator is given other rows than the estimator."""
    inner = _within(estimator)
    return inner is not None and ((type(estimator) is Pipeline and len(estimator.steps) > 1) or changes_rows(inner[1]))


def around_net(estimator: Any) -> list[Any]:
    """Return the settings of all that is around a net: where they are equal, the same is fitted."""
    if (inner := _within(estimator)) is None:
        return []
    name, behind = inner
    if type(estimator) is Pipeline:
        return [estimator.steps[:-1], *around_net(behind)]
    own = {key: value for key, value in estimator.get_params(deep=False).items() if key != name}
    return [type(estimator), own, *around_net(behind)]


def fitted_net(fitted: Any) -> Any:
    """Return the net in an estimator whose wrappers are fitted."""
    while _within(fitted) is not None:
        fitted = _fitted_within(fitted)
    return fitted


def rows_for_net(fitted: Any, X: Any) -> Any:
    """Pass rows through the fitted pipelines that are before a net."""
    while _within(fitted) is not None:
        for _, step in fitted.steps[:-1] if type(fitted) is Pipeline else ():
            if step is not None and step != "passthrough":
                X = step.transform(X)
        fitted = _fitted_within(fitted)
    return X


def fitted_around(estimator: Any, fitted: Any, net: Any) -> Any:
    """Return an estimator as its `fit` would leave it, with what is fitted in an equal one, around this net."""
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
    """Return what predicts, from rows that have passed the pipelines, what a fitted estimator predicts from others."""
    if (inner := _within(fitted)) is None:
        return fitted
    behind = without_pipelines(_fitted_within(fitted))
    if type(fitted) is Pipeline:
        return behind
    whole = copy.copy(fitted)
    setattr(whole, f"{inner[0]}_", behind)
    return whole
