"""The optimizer that a net makes, described so that a stack can make it again for many runs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from skorch import NeuralNet
from torch import nn
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from sklr._utils.names import resolve_optimizer
from sklr.engines.stacked.checks.static import Unstackable
from sklr.engines.stacked.optim.known import optimizer_reasons
from sklr.engines.stacked.optim.optimizer import Groups
from sklr.nets._parts import NetParts

_OF_GROUP = ("params", "lr", "lr_multiplier", "initial_lr")  # what a stack sets itself, or need not know


class MadeOptimizer(NamedTuple):
    """An optimizer's class, its arguments but for the learning rate, and its parameter groups.

    `groups` holds the names of the parameters and what a group says beyond `kwargs`; `lrs` each group's learning rate.
    """

    kind: type
    kwargs: dict[str, Any]
    groups: Groups
    lrs: tuple[float, ...]


def made_optimizer(net: NeuralNet, module: nn.Module) -> MadeOptimizer:
    """Have a net make its optimizer for a module's parameters, as `initialize` does, and describe it.

    However the optimizer is given (class, name, partial, function), what counts is what comes out.

    Raises
    ------
    Unstackable
        If a stack could not make it again.
    """
    args, kwargs = net.get_params_for_optimizer("optimizer", list(module.named_parameters()))
    given = [dict(group) for group in args[0]]  # an optimizer fills the others in
    factory = resolve_optimizer(net.optimizer) if isinstance(net, NetParts) else net.optimizer
    optimizer = factory(*args, **kwargs)
    names = {id(p): name for name, p in module.named_parameters() if p.requires_grad}
    trained = [[names[id(p)] for p in group["params"] if id(p) in names] for group in optimizer.param_groups]
    if left_out := sorted(set(names.values()) - {name for group in trained for name in group}):
        raise Unstackable(
            f"the optimizer is not given the parameter {left_out[0]!r}: set its requires_grad to False in the module"
        )
    if not all(trained):
        raise Unstackable("there is nothing to train in some parameter group")
    if _is_hooked(optimizer):
        raise Unstackable(f"{type(optimizer).__name__} has hooks, or a step or zero_grad that is not its class's")
    if reasons := optimizer_reasons(type(optimizer)):
        raise Unstackable(*reasons)
    known = _native_kwargs(optimizer)
    own = [_beyond(known, group, set(g)) for group, g in zip(optimizer.param_groups, given, strict=False)]
    own += [_beyond(known, group, set()) for group in optimizer.param_groups[len(given) :]]
    lrs = tuple(float(group["lr"]) for group in optimizer.param_groups)
    return MadeOptimizer(type(optimizer), known, list(zip(trained, own, strict=True)), lrs)


def _native_kwargs(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    named = inspect.signature(type(optimizer)).parameters
    return {name: value for name, value in optimizer.defaults.items() if name in named and name not in _OF_GROUP}


def _beyond(known: Mapping[str, Any], group: Mapping[str, Any], given: set[str]) -> dict[str, Any]:
    """Return what a group was given, or has otherwise than the optimizer."""
    own = {name: value for name, value in group.items() if name not in _OF_GROUP}
    return {n: v for n, v in own.items() if n in given or n not in known or not _equal(v, known[n])}


def _equal(a: Any, b: Any) -> bool:
    return a is b or (type(a) is type(b) and not isinstance(a, torch.Tensor) and a == b)


def _is_hooked(optimizer: torch.optim.Optimizer) -> bool:
    hooks = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
    everywhere = _global_optimizer_pre_hooks or _global_optimizer_post_hooks
    replaced = {"step", "zero_grad"} & vars(optimizer).keys()
    return any(getattr(optimizer, name, None) for name in hooks) or bool(everywhere) or bool(replaced)
