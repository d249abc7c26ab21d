"""PyTorch's schedulers as schedules, simulated on an optimizer with a dummy parameter; momentum is not cycled."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, ReduceLROnPlateau

from sklr.schedules._base import By, Clock, Schedule, code
from sklr.schedules._plateau import Plateau


@dataclass(frozen=True, init=False, repr=False)
class TorchSchedule(Schedule):
    """Follow a `torch.optim.lr_scheduler` class.

    The scheduler is simulated on an optimizer with a dummy parameter and the training's peak lr. The multiplier is the
    lr that it sets divided by that peak, so absolute learning rates (`eta_min`, `max_lr`, `base_lr`) have the same
    effect as in torch. The momentum, which `OneCycleLR` and `CyclicLR` would cycle, is not changed. After its
    `total_steps` a `OneCycleLR` keeps its last lr, where torch raises an error; the others continue as in torch.

    Parameters
    ----------
    policy : class, functools.partial or callable
        A scheduler class, or a callable that takes an optimizer and returns a scheduler. `SequentialLR` and
        `ChainedScheduler` take classes and partials as their `schedulers`. Use `Plateau` instead of
        `ReduceLROnPlateau`.
    by : {"epoch", "step"}, default="epoch"
        Whether the scheduler is stepped every epoch or every step.
    **arguments
        The arguments of the class other than the optimizer; lists are stored as tuples.

    Raises
    ------
    ValueError
        If the scheduler cannot be created with these arguments for an optimizer with one parameter group.

    Examples
    --------
    >>> from torch.optim.lr_scheduler import CosineAnnealingLR, StepLR
    >>> steps = TorchSchedule(StepLR, step_size=2, gamma=0.5)
    >>> steps, [steps(epoch, 4) for epoch in (0, 1, 2, 9)]
    (TorchSchedule(StepLR, gamma=0.5, step_size=2), [1.0, 1.0, 0.5, 0.0625])
    >>> floor = TorchSchedule(CosineAnnealingLR, T_max=2, eta_min=0.01)
    >>> [round(float(floor.epoch_multipliers(2, 1, 3, lr=lr)[0]), 6) for lr in (0.1, 0.02)]
    [0.1, 0.5]
    """

    policy: Callable[..., Any]
    arguments: tuple[tuple[str, Any], ...]
    by: By

    def __init__(self, policy: Any, *, by: By = "epoch", **arguments: Any):
        if isinstance(policy, partial) and not policy.args:
            policy, arguments = policy.func, {**policy.keywords, **arguments}
        object.__setattr__(self, "policy", policy)
        object.__setattr__(self, "arguments", tuple(sorted((k, _frozen(v)) for k, v in arguments.items())))
        object.__setattr__(self, "by", by)
        self.__post_init__()

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("policy", "a scheduler class or a callable that takes an optimizer", callable)
        rule = "another scheduler than ReduceLROnPlateau, which needs the losses. Use sklr.schedules.Plateau"
        self._require("policy", rule, lambda policy: not is_plateau_policy(policy))
        self._require("arguments", "hashable", lambda arguments: hash(arguments) is not None)
        self._made_for(_idle_optimizer(1.0))

    def __call__(self, step: float, total: float) -> float:
        return self._multiplier(int(step), 1.0)

    def at(self, clock: Clock) -> float:
        # with lr=0 any finite multiplier is right, as the product is 0
        step = clock.step if self.by == "step" else clock.step // clock.steps_per_epoch
        return self._multiplier(step, clock.lr if clock.lr > 0 else 1.0)

    def _multiplier(self, step: int, lr: float) -> float:
        n_steps = 1 << (step + 1).bit_length()  # a power of 2, so that few simulations are run, and all are cached
        return _simulated_lrs(self, lr, n_steps)[step] / lr

    def _made_for(self, optimizer: torch.optim.Optimizer) -> LRScheduler:
        try:
            scheduler = build_scheduler(self, optimizer)
        except (TypeError, ValueError, IndexError, KeyError) as error:
            raise ValueError(
                f"{self!r} must make a scheduler for an optimizer with one parameter group, "
                f"got {type(error).__name__}: {error}. Check the arguments of {code(self.policy)}."
            ) from error
        if not isinstance(scheduler, LRScheduler) or isinstance(scheduler, ReduceLROnPlateau):
            raise ValueError(f"{self!r} must make a scheduler that steps without losses, got {scheduler!r}.")
        return scheduler

    def __repr__(self) -> str:
        arguments = [f"{name}={_code(value)}" for name, value in self.arguments]
        by = [] if self.by == "epoch" else [f"by={self.by!r}"]
        return f"TorchSchedule({', '.join([code(self.policy), *by, *arguments])})"


def is_torch_policy(value: object) -> bool:
    """Return whether `value` is a subclass of torch's `LRScheduler`, or a partial of one.

    >>> from torch.optim.lr_scheduler import StepLR
    >>> is_torch_policy(StepLR), is_torch_policy(partial(StepLR, step_size=3)), is_torch_policy(abs)
    (True, True, False)
    """
    policy = value.func if isinstance(value, partial) else value
    return isinstance(policy, type) and issubclass(policy, LRScheduler)


def is_plateau_policy(value: object) -> bool:
    """Return whether `value` is `ReduceLROnPlateau` or a partial of it."""
    policy = value.func if isinstance(value, partial) else value
    return isinstance(policy, type) and issubclass(policy, ReduceLROnPlateau)


def from_torch(policy: Callable[..., Any]) -> Schedule:
    """Return the schedule for a torch scheduler class or partial, stepped once per epoch.

    >>> from_torch(partial(ReduceLROnPlateau, patience=3))
    Plateau(patience=3)
    """
    if not is_plateau_policy(policy):
        return TorchSchedule(policy)
    try:
        return Plateau(**(policy.keywords if isinstance(policy, partial) else {}))
    except TypeError as error:
        raise ValueError(
            f"arguments of {policy!r} must be those of ReduceLROnPlateau without the optimizer, got {error}."
        ) from error


def build_scheduler(schedule: TorchSchedule, optimizer: torch.optim.Optimizer) -> Any:
    """Return a new scheduler for `optimizer`; schedulers among its arguments are created for it too."""
    arguments = {name: _built(value, optimizer) for name, value in schedule.arguments}
    if "optimizer" in inspect.signature(schedule.policy).parameters:
        return schedule.policy(optimizer=optimizer, **arguments)  # by name: it is ChainedScheduler's second argument
    return schedule.policy(optimizer, **arguments)


def _built(value: Any, optimizer: torch.optim.Optimizer) -> Any:
    if isinstance(value, TorchSchedule):
        return build_scheduler(value, optimizer)
    return [_built(item, optimizer) for item in value] if isinstance(value, tuple) else value


def _frozen(value: Any) -> Any:
    if is_torch_policy(value) and not is_plateau_policy(value):
        return TorchSchedule(value)
    return tuple(_frozen(item) for item in value) if isinstance(value, list | tuple) else value


def _code(value: Any) -> str:
    return f"[{', '.join(map(_code, value))}]" if isinstance(value, tuple) else code(value)


def _idle_optimizer(lr: float) -> torch.optim.Optimizer:
    # schedulers that cycle the momentum require an optimizer that has one
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, momentum=0.9)


@lru_cache(maxsize=256)
def _simulated_lrs(schedule: TorchSchedule, lr: float, n_steps: int) -> tuple[float, ...]:
    optimizer = _idle_optimizer(lr)
    scheduler = schedule._made_for(optimizer)
    lrs = [float(optimizer.param_groups[0]["lr"])]
    while len(lrs) < n_steps and not _is_over(scheduler):
        optimizer.step()
        scheduler.step()
        lrs.append(float(optimizer.param_groups[0]["lr"]))
    return tuple(lrs + [lrs[-1]] * (n_steps - len(lrs)))


def _is_over(scheduler: LRScheduler) -> bool:
    return isinstance(scheduler, OneCycleLR) and scheduler.last_epoch >= scheduler.total_steps - 1
