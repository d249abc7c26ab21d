"""What every schedule is: a pure function of where the training stands. Formulas are in the files beside."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from sklr._utils.validation import must_be

By = Literal["step", "epoch"]


@dataclass(frozen=True)
class Clock:
    """Where a training stands when its schedule is asked.

    Parameters
    ----------
    step : int
        Optimizer steps done since the schedule's start; 0 for its first step.
    total : int
        Steps of the whole schedule, its horizon.
    steps_per_epoch : int
        Optimizer steps in one epoch.
    lr : float, default=1.0
        The peak lr. Only schedules that name absolute learning rates look at it.
    losses : tuple of float, default=()
        The monitored value of each epoch finished since the schedule's start. Only `Plateau` looks at it.
    start : int, default=0
        The training step at which the schedule starts.

    Examples
    --------
    >>> Clock(step=12, total=40, steps_per_epoch=4, losses=(0.9, 0.5, 0.4)).after(8)
    Clock(step=4, total=32, steps_per_epoch=4, lr=1.0, losses=(0.4,), start=8)
    """

    step: int
    total: int
    steps_per_epoch: int
    lr: float = 1.0
    losses: tuple[float, ...] = ()
    start: int = 0

    def after(self, steps: int) -> Clock:
        """Return the same moment as seen by a schedule that starts `steps` later.

        Losses of epochs that ended before that start are dropped, and a horizon that is used up is 0.
        """
        start = self.start + steps
        unheard = start // self.steps_per_epoch - self.start // self.steps_per_epoch
        total = max(self.total - steps, 0)
        return replace(self, step=self.step - steps, total=total, start=start, losses=self.losses[unheard:])


class Schedule(ABC):
    """How the learning rate moves during a training: the lr at a step is the peak lr times the multiplier.

    A schedule is a frozen dataclass: it can be compared, hashed, pickled and searched over like a number, and
    its `repr` is the code that made it. It remembers nothing, so a training that is continued asks it again
    and goes on exactly where it stood.

    For one of your own, subclass this with a formula and, if it should hold still within an epoch,
    `by="epoch"`.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Halving(Schedule):
    ...     by: str = "epoch"
    ...
    ...     def __call__(self, step, total):
    ...         return 0.5**step
    >>> Halving().epoch_multipliers(2, steps_per_epoch=3, n_epochs=4)
    array([0.25, 0.25, 0.25])
    """

    by: By = "step"

    def __post_init__(self) -> None:
        self._require("by", "'step' or 'epoch'", lambda by: by in ("step", "epoch"))

    @abstractmethod
    def __call__(self, step: float, total: float) -> float:
        """Return the multiplier after `step` of `total` steps, both counted in the schedule's unit, `by`."""

    def at(self, clock: Clock) -> float:
        """Return the multiplier of the optimizer step about to be made."""
        if self.by == "step":
            return self(clock.step, clock.total)
        return self(clock.step // clock.steps_per_epoch, clock.total / clock.steps_per_epoch)

    def monitored(self) -> str | None:
        """Return the name of the per-epoch value the schedule reacts to, or None if it reacts to nothing."""
        return None

    def epoch_multipliers(
        self,
        epoch: int,
        steps_per_epoch: int,
        n_epochs: int,
        *,
        lr: float = 1.0,
        losses: Sequence[float] = (),
    ) -> np.ndarray:
        """Return the multipliers of all steps of one epoch.

        Parameters
        ----------
        epoch : int
            The epoch about to be trained, counted from 0 over the whole training.
        steps_per_epoch : int
            Optimizer steps in one epoch.
        n_epochs : int
            Epochs of the whole training, the horizon.
        lr : float, default=1.0
            The peak lr.
        losses : sequence of float, default=()
            The monitored value of each epoch finished so far.

        Returns
        -------
        multipliers : ndarray of shape (steps_per_epoch,)

        Raises
        ------
        ValueError
            If a multiplier is negative or not finite.
        """
        first, total = epoch * steps_per_epoch, n_epochs * steps_per_epoch
        clock = Clock(first, total, steps_per_epoch, float(lr), tuple(losses)[:epoch])
        multipliers = np.array([self.at(replace(clock, step=first + i)) for i in range(steps_per_epoch)], dtype=float)
        bad = ~(np.isfinite(multipliers) & (multipliers >= 0))
        if bad.any():
            raise ValueError(
                f"multipliers of {self!r} must be finite and at least 0, "
                f"got {multipliers[bad][0]} in epoch {epoch}. Check its arguments against the number of epochs trained."
            )
        return multipliers

    def _require(self, field: str, rule: str, holds: Callable[[Any], Any]) -> None:
        value = getattr(self, field)
        try:
            fine = bool(holds(value))
        except (TypeError, ValueError):  # a string or a list where a number is meant
            fine = False
        if not fine:
            raise ValueError(must_be(f"{field} of {type(self).__name__}", rule, value))

    def __repr__(self) -> str:
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        told = [f.name for f in fields if getattr(self, f.name) != f.default]
        return f"{type(self).__name__}({', '.join(f'{name}={code(getattr(self, name))}' for name in told)})"


def code(value: object) -> str:
    """Return `value` as one would write it: functions and classes by name, everything else by `repr`."""
    return getattr(value, "__qualname__", None) or repr(value)


def progress(step: float, total: float) -> float:
    """Return the part of the horizon that is done, between 0 and 1; without any horizon all of it is.

    >>> [progress(step, 4) for step in (0, 1, 4, 9)], progress(0, 0)
    ([0.0, 0.25, 1.0, 1.0], 1.0)
    """
    return min(step / total, 1.0) if total > 0 else 1.0
