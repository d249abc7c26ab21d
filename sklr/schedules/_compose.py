"""Schedules that combine others: a warmup before a schedule, and a sequence of schedules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sklr.schedules._base import Clock, Schedule
from sklr.schedules._formulas import Constant


@dataclass(frozen=True, repr=False)
class Warmup(Schedule):
    r"""Increase the lr linearly, step by step, to exactly its peak, then follow another schedule.

    The warmup takes `W = round(epochs * steps_per_epoch)` steps, at least one if `epochs` is above 0:

    - for `s < W`: linear from `start` at `s = 0` to exactly 1 at `s = W - 1`; by default `(s + 1) / W`
    - for `s >= W`: `then`, whose steps, epochs and horizon are counted from the end of the warmup.

    If `W` is not a whole number of epochs and `then` counts epochs, its epochs start within epochs of the training.
    Goyal et al. 2017, arXiv:1706.02677, section 2.2.

    Parameters
    ----------
    epochs : float
        The length of the warmup in epochs, at least 0.
    then : Schedule, default=Constant()
        The schedule after the warmup.
    start : float, optional
        The first multiplier, between 0 and 1. By default 1 / W, so that the lr rises by 1 / W in each step.

    Examples
    --------
    >>> Warmup(1.0).epoch_multipliers(0, steps_per_epoch=4, n_epochs=2)
    array([0.25, 0.5 , 0.75, 1.  ])
    >>> Warmup(1.0, start=0.7).epoch_multipliers(0, steps_per_epoch=4, n_epochs=2)
    array([0.7, 0.8, 0.9, 1. ])
    >>> from sklr.schedules import Linear
    >>> Warmup(1.0, then=Linear()).epoch_multipliers(1, steps_per_epoch=4, n_epochs=2)
    array([1.  , 0.75, 0.5 , 0.25])

    If it is called directly, one step is one epoch:

    >>> [Warmup(2)(epoch, 4) for epoch in (0, 1, 2, 9)]
    [0.5, 1.0, 1.0, 1.0]
    """

    epochs: float
    then: Schedule = Constant()  # noqa: RUF009 - a frozen value, so it may be shared
    start: float | None = None

    def __post_init__(self) -> None:
        self._require("epochs", "a finite number of at least 0", lambda epochs: 0 <= epochs < math.inf)
        self._require("then", "a schedule", lambda then: isinstance(then, Schedule))
        self._require("start", "between 0 and 1, or None", lambda start: start is None or 0 <= start <= 1)

    def n_steps(self, steps_per_epoch: int) -> int:
        """Return `W`, the number of steps of the warmup.

        >>> [Warmup(epochs).n_steps(10) for epochs in (0, 0.01, 1.5)]
        [0, 1, 15]
        """
        return max(round(self.epochs * steps_per_epoch), 1 if self.epochs > 0 else 0)

    def __call__(self, step: float, total: float) -> float:
        return self.at(Clock(int(step), int(total), steps_per_epoch=1))

    def at(self, clock: Clock) -> float:
        n = self.n_steps(clock.steps_per_epoch)
        return self._ramp(clock.step, n) if clock.step < n else self.then.at(clock.after(n))

    def monitored(self) -> str | None:
        return self.then.monitored()

    def _ramp(self, step: int, n: int) -> float:
        if self.start is None or n == 1:
            return (step + 1) / n
        # computed from the end, so that the last multiplier is exactly 1
        return 1 - (1 - self.start) * (n - 1 - step) / (n - 1)


@dataclass(frozen=True, repr=False)
class Join(Schedule):
    """Follow several schedules one after another, each with its own step count and horizon.

    A schedule starts at its boundary as if the training started there. Its horizon is the next boundary, that of the
    last schedule the end of the training. Multipliers are not rescaled to be continuous at the boundaries.

    Parameters
    ----------
    schedules : sequence of Schedule
        At least one; stored as a tuple.
    boundaries : sequence of float
        The epochs at which the second and later schedules start: increasing, above 0, one fewer than schedules.

    Examples
    --------
    >>> from sklr.schedules import Constant, Linear
    >>> hold_then_fall = Join([Constant(), Linear()], boundaries=[2])
    >>> [hold_then_fall(epoch, 6) for epoch in (0, 1, 2, 3, 5, 6, 9)]
    [1.0, 1.0, 1.0, 0.75, 0.25, 0.0, 0.0]
    """

    schedules: Sequence[Schedule]
    boundaries: Sequence[float] = ()

    def __post_init__(self) -> None:
        self._require("schedules", "a non-empty sequence of schedules", _are_schedules)
        rule = f"{len(self.schedules) - 1} increasing epochs above 0, one fewer than schedules"
        self._require("boundaries", rule, lambda given: _are_boundaries(given, len(self.schedules) - 1))
        monitored = sorted({s.monitored() for s in self.schedules} - {None}, key=str)
        rule = f"schedules that monitor one value, not {' and '.join(map(str, monitored))}"
        self._require("schedules", rule, lambda _: len(monitored) < 2)
        for field in ("schedules", "boundaries"):
            object.__setattr__(self, field, tuple(getattr(self, field)))

    def __call__(self, step: float, total: float) -> float:
        return self.at(Clock(int(step), int(total), steps_per_epoch=1))

    def at(self, clock: Clock) -> float:
        starts = [0, *(round(epoch * clock.steps_per_epoch) for epoch in self.boundaries)]
        part = max(i for i, start in enumerate(starts) if start <= clock.step)
        ends = [*starts[1:], max(clock.total, starts[-1])]
        return self.schedules[part].at(replace(clock, total=ends[part]).after(starts[part]))

    def monitored(self) -> str | None:
        return next((s.monitored() for s in self.schedules if s.monitored()), None)


def _are_schedules(given: Any) -> bool:
    return len(given) > 0 and all(isinstance(schedule, Schedule) for schedule in given)


def _are_boundaries(given: Any, n: int) -> bool:
    ordered = all(a < b for a, b in zip([0, *given], given, strict=False))
    return len(given) == n and ordered and all(epoch < math.inf for epoch in given)
