"""Conversion of a user's argument (a name, a function, a torch scheduler class) to a schedule."""

from __future__ import annotations

from typing import Any

from torch.optim.lr_scheduler import LRScheduler

from sklr._utils.validation import must_be, unknown_name
from sklr.schedules._base import Schedule
from sklr.schedules._compose import Warmup
from sklr.schedules._formulas import (
    WSD,
    Constant,
    Cosine,
    Exponential,
    InverseSqrt,
    LambdaSchedule,
    Linear,
    OneCycle,
)
from sklr.schedules._plateau import Plateau
from sklr.schedules._steps import Steps
from sklr.schedules._torch import from_torch, is_torch_policy

SCHEDULES: dict[str, type[Schedule]] = {
    "constant": Constant,
    "linear": Linear,
    "cosine": Cosine,
    "exponential": Exponential,
    "step": Steps,
    "onecycle": OneCycle,
    "wsd": WSD,
    "inverse_sqrt": InverseSqrt,
    "plateau": Plateau,
}


def resolve_schedule(value: Any, warmup_epochs: float = 0) -> Schedule:
    """Return the schedule for a name, a function of the epoch or a torch scheduler class.

    Parameters
    ----------
    value : None, str, Schedule, torch.optim.lr_scheduler class or functools.partial of one, or callable
        None is a constant lr. A name is that of a schedule in `SCHEDULES`, with its defaults. Any other callable is a
        function of the epoch that returns the multiplier, as for `LambdaLR`.
    warmup_epochs : float, default=0
        If above 0, the schedule is preceded by a `Warmup` of that many epochs.

    Returns
    -------
    schedule : Schedule

    Raises
    ------
    ValueError
        If a name or an argument of a scheduler class is unknown or invalid.
    TypeError
        If `value` is of another type.

    Examples
    --------
    >>> resolve_schedule(None), resolve_schedule("cosine"), resolve_schedule("cosine", warmup_epochs=1.5)
    (Constant(), Cosine(), Warmup(epochs=1.5, then=Cosine()))
    >>> resolve_schedule("cosin")
    Traceback (most recent call last):
    ...
    ValueError: schedule must be one of 'constant', 'linear', 'cosine', 'exponential', 'step', 'onecycle',
    'wsd', 'inverse_sqrt', 'plateau', got 'cosin'. Did you mean 'cosine'?
    """
    schedule = _resolved(value)
    return schedule if warmup_epochs == 0 else Warmup(warmup_epochs, then=schedule)


def _resolved(value: Any) -> Schedule:
    if value is None:
        return Constant()
    if isinstance(value, str):
        return _named(value)
    if isinstance(value, Schedule):
        return value
    if is_torch_policy(value):
        return from_torch(value)
    if callable(value) and not isinstance(value, type):
        return LambdaSchedule(value)
    rule = "None, a name, a schedule, a torch scheduler class or partial, or a callable of the epoch"
    raise TypeError(must_be("schedule", rule, value, _advice(value)))


def _named(name: str) -> Schedule:
    if name not in SCHEDULES:
        raise unknown_name("schedule", name, SCHEDULES)
    return SCHEDULES[name]()


def _advice(value: Any) -> str:
    if isinstance(value, LRScheduler):
        return "Pass its class, or functools.partial of it: each training creates its own."
    if isinstance(value, type) and issubclass(value, Schedule):
        return f"Pass {value.__name__}(...), not the class."
    return ""
