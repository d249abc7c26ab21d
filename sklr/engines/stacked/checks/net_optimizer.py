"""The optimizer that a net creates, described so that a stack can create it again for many runs."""

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

_OF_GROUP = ("params", "lr", "lr_multiplier", "initial_lr")  # options that a stack sets itself or does not use


class MadeOptimizer(NamedTuple):
    """An optimizer's class, its arguments without the learning rate, and its parameter groups.

    `groups` holds, for each group, the names of its parameters and the options that differ from `kwargs`; `lrs` holds
    each group's learning rate.
    """

    kind: type
    kwargs: dict[str, Any]
    groups: Groups
    lrs: tuple[float, ...]


def made_optimizer(net: NeuralNet, module: nn.Module) -> MadeOptimizer:
    """Have a net create its optimizer for a module's parameters, as `initialize` does, and describe it.

    The optimizer may be given as a class, a name, a partial or a function: the object that results is described.

    Raises
    ------
    Unstackable
        If a stack could not create it again.
    """
    args, kwargs = net.get_params_for_optimizer("optimizer", list(module.named_parameters()))
    given = [dict(group) for group in args[0]]  # copied first: an optimizer adds its defaults to each
    factory = resolve_optimizer(net.optimizer) if isinstance(net, NetParts) else net.optimizer
    optimizer = factory(*args, **kwargs)
    names = {id(p): name for name, p in module.named_parameters() if p.requires_grad}
    trained = [[names[id(p)] for p in group["params"] if id(p) in names] for group in optimizer.param_groups]
    if left_out := sorted(set(names.values()) - {name for group in trained for name in group}):
        raise Unstackable(
            f"the optimizer is not given the parameter {left_out[0]!r}, and a stack trains every parameter with "
            "requires_grad=True: set it to False for this one, in the module"
        )
    if not all(trained):
        raise Unstackable("a parameter group of the optimizer has no trainable parameter: leave that group out")
    if _is_hooked(optimizer):
        raise Unstackable(
            f"{type(optimizer).__name__} has step hooks, or a step or zero_grad that is not its class's, and a stack "
            "calls the class's own for all runs at once: leave them out"
        )
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
    """Return a group's options that were given to it, or that differ from the optimizer's."""
    own = {name: value for name, value in group.items() if name not in _OF_GROUP}
    return {n: v for n, v in own.items() if n in given or n not in known or not _equal(v, known[n])}


def _equal(a: Any, b: Any) -> bool:
    return a is b or (type(a) is type(b) and not isinstance(a, torch.Tensor) and a == b)


def _is_hooked(optimizer: torch.optim.Optimizer) -> bool:
    hooks = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
    everywhere = _global_optimizer_pre_hooks or _global_optimizer_post_hooks
    replaced = {"step", "zero_grad"} & vars(optimizer).keys()
    return any(getattr(optimizer, name, None) for name in hooks) or bool(everywhere) or bool(replaced)
