"""Whether many learning rates can share one optimizer, found out by stepping two runs together and one by one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from joblib import hash as joblib_hash
from torch import Tensor

from sklr.engines.stacked.optim.optimizer import DECAYS, Groups, StackedOptimizer
from sklr.engines.stacked.replay.recorder import Recorder
from sklr.exceptions import EngineError


class OptimizerTraits(NamedTuple):
    """What was found out about an optimizer: where weight decay enters, and whether all its steps are the same."""

    decay: str
    steady: bool


_KNOWN: WeakKeyDictionary[type, dict[str, OptimizerTraits]] = WeakKeyDictionary()  # by class, then by its arguments

_MULTIPLIERS = (0.5, 1.0, 0.25, 0.0, 1.5, 1.0)  # of the learning rates, from step to step

Shapes = Mapping[str, Sequence[int]]


def is_native(optimizer: type) -> bool:
    """Say whether an optimizer is PyTorch's own: it does the same for every shape, in every step."""
    return f"{optimizer.__module__}.".startswith("torch.optim.")


def optimizer_reasons(optimizer: type, kwargs: Mapping[str, Any], groups: Groups | None = None) -> list[str]:
    """Say why runs cannot share this optimizer; empty means that they can.

    Two runs of different learning rates, both changing from step to step, are stepped together and one by one
    on two small parameters in float64; eligible optimizers agree to rounding.

    >>> optimizer_reasons(torch.optim.AdamW, {"weight_decay": 0.1})
    []
    >>> optimizer_reasons(torch.optim.Rprop, {})
    ['optimizer Rprop: its step is not elementwise and proportional to lr, so runs of several lrs cannot share it']
    """
    try:
        decay_form(optimizer, kwargs, groups)
    except EngineError as error:
        return [str(error)]
    return []


def decay_form(optimizer: type, kwargs: Mapping[str, Any], groups: Groups | None = None) -> str:
    """Find out how weight decay enters the step: "coupled", "opposed" (coupled, gradient negated) or "decoupled".

    Raises
    ------
    EngineError
        If the optimizer cannot step several learning rates at once.
    """
    return _traits(optimizer, kwargs, groups).decay


def is_steady(optimizer: type, kwargs: Mapping[str, Any], groups: Groups | None = None) -> bool:
    """Say whether every step is the same operations with the same numbers, so that one can be recorded for all.

    >>> is_steady(torch.optim.Adam, {}), is_steady(torch.optim.NAdam, {})
    (True, False)
    """
    return _traits(optimizer, kwargs, groups).steady


def _traits(optimizer: type, kwargs: Mapping[str, Any], groups: Groups | None) -> OptimizerTraits:
    """Find out, and remember the answer for equal arguments."""
    overrides = [override for _, override in groups] if groups else [{}]
    try:
        known, key = _KNOWN.setdefault(optimizer, {}), joblib_hash((dict(kwargs), overrides))
    except Exception:  # no class, or arguments that cannot be compared
        return _found_traits(optimizer, kwargs, overrides)
    if key not in known:
        known[key] = _found_traits(optimizer, kwargs, overrides)
    return known[key]


def _found_traits(
    optimizer: type, kwargs: Mapping[str, Any], overrides: Sequence[Mapping[str, Any]]
) -> OptimizerTraits:
    kwargs, *overrides = (_on_cpu(own) for own in (kwargs, *overrides))
    groups = [([f"w{g}", f"b{g}"], override) for g, override in enumerate(overrides)]
    shapes = {name: shape for (w, b), _ in groups for name, shape in ((w, (3, 4)), (b, (5,)))}
    for form in DECAYS:
        error, steady = _tried(optimizer, kwargs, groups, form, shapes)
        if error < 1e-9:
            return OptimizerTraits(form, steady)
    raise EngineError(
        f"optimizer {_name(optimizer)}: its step is not elementwise and proportional to lr, so runs of several lrs "
        "cannot share it"
    )


def _tried(optimizer: type, *given: Any) -> tuple[float, bool]:
    try:
        return _trial(optimizer, *given)
    except Exception as problem:  # LBFGS wants a closure, SparseAdam other gradients; arguments may be wrong
        name = _name(optimizer)
        raise EngineError(f"optimizer {name}: a trial of its step failed ({_first_line(problem)})") from problem


def _name(optimizer: Any) -> str:
    return getattr(optimizer, "__name__", repr(optimizer))


def _trial(optimizer: type, kwargs: Mapping[str, Any], groups: Groups, form: str, shapes: Shapes) -> tuple[float, bool]:
    """Largest relative difference between two runs stepped together and one by one, and whether steps were the same."""
    draw = torch.Generator().manual_seed(0)
    start = {n: torch.randn(tuple(s), generator=draw, dtype=torch.float64) for n, s in shapes.items()}
    stacked = {n: torch.stack([p, p]).unsqueeze(0) for n, p in start.items()}
    together = StackedOptimizer(stacked, optimizer, [kwargs] * 2, [form] * 2, groups)
    lrs = torch.tensor([0.3, 0.002], dtype=torch.float64)
    alone = [{n: p.clone().requires_grad_() for n, p in start.items()} for _ in lrs]
    optimizers = [_alone(optimizer, kwargs, groups, run) for run in alone]
    recorders: list[Recorder] = []
    for multiplier in _MULTIPLIERS:
        for n, p in start.items():
            grad = torch.randn(p.shape, generator=draw, dtype=torch.float64)
            together.grads[n].copy_(grad)
            for run in alone:
                run[n].grad = grad.clone()
        lr = (lrs * multiplier).expand(len(groups), 1, 2)
        with Recorder([lr]) as recorder:
            together.step(lr)
        recorders = [*recorders[-1:], recorder]
        for one, own_lr in zip(optimizers, lrs, strict=True):
            for group in one.param_groups:
                group["lr"] = float(own_lr) * multiplier
            one.step()
    error = max(_relative(stacked[n][0, r], run[n].detach()) for r, run in enumerate(alone) for n in start)
    return error, recorders[0].equals(recorders[-1])


def _on_cpu(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments without `capturable`, which says where steps are counted, and is refused on the CPU."""
    return {name: value for name, value in kwargs.items() if name != "capturable"}


def _alone(
    optimizer: type, kwargs: Mapping[str, Any], groups: Groups, run: Mapping[str, Tensor]
) -> torch.optim.Optimizer:
    described = [{**override, "params": [run[n] for n in names]} for names, override in groups]
    return optimizer(described, lr=0.1, **{k: v for k, v in kwargs.items() if k != "lr"})


def _relative(value: Tensor, reference: Tensor) -> float:
    error = float((value - reference).abs().max() / reference.abs().max())
    return error if math.isfinite(error) else math.inf


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
