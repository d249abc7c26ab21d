"""The base class of schedules: pure functions of the position in a training. The formulas are in the other files."""

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
    """The position in a training for which a schedule is evaluated.

    Parameters
    ----------
    step : int
        Number of optimizer steps since the schedule's start; 0 for its first step.
    total : int
        Number of steps of the whole schedule, its horizon.
    steps_per_epoch : int
        Number of optimizer steps in one epoch.
    lr : float, default=1.0
        The peak lr. Only schedules with absolute learning rates use it.
    losses : tuple of float, default=()
        The monitored value of each epoch finished since the schedule's start. Only `Plateau` uses it.
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
        """Return the same position relative to a schedule that starts `steps` later.

        Losses of epochs that ended before that start are dropped. The horizon is at least 0.
        """
        start = self.start + steps
        n_dropped = start // self.steps_per_epoch - self.start // self.steps_per_epoch
        total = max(self.total - steps, 0)
        return replace(self, step=self.step - steps, total=total, start=start, losses=self.losses[n_dropped:])


class Schedule(ABC):
    """Base class of learning-rate schedules: the lr at a step is the peak lr times the schedule's multiplier.

    A schedule is a frozen dataclass: it can be compared, hashed, pickled and searched over like a number, and
    its `repr` is the code that creates it. It has no state, so a training that is continued gets the same multipliers
    as one that was not interrupted.

    To define your own schedule, subclass this and implement the formula; set `by="epoch"` if the multiplier should be
    constant within an epoch.

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
        """Return the multiplier of the next optimizer step."""
        if self.by == "step":
            return self(clock.step, clock.total)
        return self(clock.step // clock.steps_per_epoch, clock.total / clock.steps_per_epoch)

    def monitored(self) -> str | None:
        """Return the name of the per-epoch value that the schedule depends on, or None."""
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
            The epoch, counted from 0 over the whole training.
        steps_per_epoch : int
            Number of optimizer steps in one epoch.
        n_epochs : int
            Number of epochs of the whole training, the horizon.
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
        except (TypeError, ValueError):  # a string or a list where a number is expected
            fine = False
        if not fine:
            raise ValueError(must_be(f"{field} of {type(self).__name__}", rule, value))

    def __repr__(self) -> str:
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        changed = [f.name for f in fields if getattr(self, f.name) != f.default]
        return f"{type(self).__name__}({', '.join(f'{name}={code(getattr(self, name))}' for name in changed)})"


def code(value: object) -> str:
    """Return `value` as source code: functions and classes by name, everything else by `repr`."""
    return getattr(value, "__qualname__", None) or repr(value)


def progress(step: float, total: float) -> float:
    """Return the fraction of the horizon that has passed, between 0 and 1; it is 1 if the horizon is 0.

    >>> [progress(step, 4) for step in (0, 1, 4, 9)], progress(0, 0)
    ([0.0, 0.25, 1.0, 1.0], 1.0)
    """
    return min(step / total, 1.0) if total > 0 else 1.0
