"""Simplified clones of a net for an experiment: constant learning rate, and optionally no regularization."""

from __future__ import annotations

import inspect
from typing import Any

import skorch.callbacks
from sklearn.base import clone
from torch import nn

from sklr._utils.names import resolve_optimizer
from sklr._utils.validation import must_be
from sklr.callbacks import BatchSizeSchedule, Resume
from sklr.callbacks._kind import callback_class
from sklr.experiment import wrappers
from sklr.nets._parts import NetParts

_CHANGES_TRAINING = (
    skorch.callbacks.EarlyStopping,
    skorch.callbacks.LRScheduler,
    skorch.callbacks.Checkpoint,
    skorch.callbacks.LoadInitState,
    BatchSizeSchedule,
    Resume,
)


def net_of(estimator: Any) -> Any:
    """Return the net inside an estimator, or the estimator itself if it is a net.

    Raises
    ------
    TypeError
        If it is not one of sklr's nets.
    """
    net = wrappers.net_of(estimator)
    if not isinstance(net, NetParts):
        rule = "one of sklr's nets, or a Pipeline or TransformedTargetRegressor around one"
        of_skorch = "skorch's own nets have no warmup and no schedule." if wrappers.is_net(net) else ""
        raise TypeError(must_be("net", rule, type(net).__name__, of_skorch or wrappers.pass_its_net(net)))
    return net


def with_net(estimator: Any, net: Any) -> Any:
    """Return a clone of the estimator with its net replaced."""
    name = wrappers.net_name(estimator)
    return clone(estimator).set_params(**{name: net}) if name else net


def constant_lr(net: Any) -> tuple[Any, list[str]]:
    """Return a clone that trains at a constant lr for all its epochs, and the settings that were disabled for it."""
    net, off = clone(net), []
    for name, plain in (("schedule", None), ("schedule_epochs", None), ("warmup_epochs", 0), ("train_split", None)):
        off += _set(net, name, plain)
    if isinstance(net.callbacks, list | tuple):
        kept = [c for c in net.callbacks if not _changes_training(c)]
        off += [callback_class(c).__name__ for c in net.callbacks if _changes_training(c)]
        net.set_params(callbacks=kept)
    return net, off


def without_regularization(net: Any) -> tuple[Any, list[str]]:
    """Return a clone without weight decay, dropout and label smoothing, and the settings that were disabled.

    Dropout is always listed, since dropout layers are only found when the module is created.
    """
    net, off = clone(net), []
    off += _no_weight_decay(net)
    if net.get_params().get("criterion__label_smoothing"):
        off += _set(net, "criterion__label_smoothing", 0.0)
    if isinstance(net.module, nn.Module):
        without_dropout(net.module)  # the clone's own copy
    else:
        net.set_params(module=NoDropout(net.module))
    return net, [*off, "dropout"]


def _set(net: Any, name: str, value: Any) -> list[str]:
    before = net.get_params().get(name)
    if before == value:
        return []
    net.set_params(**{name: value})
    return [f"{name}={before!r}"]


def _changes_training(callback: Any) -> bool:
    return issubclass(callback_class(callback), _CHANGES_TRAINING)


def _no_weight_decay(net: Any) -> list[str]:
    known = inspect.signature(resolve_optimizer(net.optimizer)).parameters
    if "weight_decay" not in known:
        return []
    params = net.get_params()
    before = params.get("optimizer__weight_decay", known["weight_decay"].default)
    groups = params.get("optimizer__param_groups", [])
    if groups:
        bare = [(pattern, {k: v for k, v in group.items() if k != "weight_decay"}) for pattern, group in groups]
        net.set_params(optimizer__param_groups=bare)
    if not before and not any(group.get("weight_decay") for _, group in groups):
        return []
    net.set_params(optimizer__weight_decay=0.0)
    return [f"weight_decay={before!r}"]


class NoDropout:
    """A module factory with the signature of another one, which disables all dropout in the module."""

    def __init__(self, module: Any):
        self.module = module
        self.__signature__ = inspect.signature(module)

    def __call__(self, *args: Any, **kwargs: Any) -> nn.Module:
        return without_dropout(self.module(*args, **kwargs))


def without_dropout(module: nn.Module) -> nn.Module:
    """Disable the dropout of torch's layers in place, and return the module.

    >>> without_dropout(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)))[1]
    Dropout(p=0.0, inplace=False)
    """
    for layer in module.modules():
        if isinstance(layer, nn.modules.dropout._DropoutNd):
            layer.p = 0.0
        elif isinstance(layer, nn.MultiheadAttention | nn.RNNBase):
            layer.dropout = 0.0
    return module
