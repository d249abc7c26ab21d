"""Schedules that are a formula of the step: decays and one cycle. The warmup is in `Warmup`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from sklr.schedules._base import By, Schedule, progress

Shape = Literal["linear", "cosine", "sqrt"]

# shapes of the fall of a multiplier from 1 to 0 as progress goes from 0 to 1, exact at both ends
_FALL: dict[str, Callable[[float], float]] = {
    "linear": lambda done: 1 - done,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "sqrt": lambda done: 1 - math.sqrt(done),
}


def _between(start: float, end: float, done: float, shape: str) -> float:
    weight = _FALL[shape](done)
    return start * weight + end * (1 - weight)


def _is_fraction(value: float) -> bool:
    return 0 <= value <= 1


def _is_positive(value: float) -> bool:
    return 0 < value < math.inf


@dataclass(frozen=True, repr=False)
class Constant(Schedule):
    """Keep the lr at its peak at all steps.

    >>> Constant()(0, 10), Constant()(99, 10)
    (1.0, 1.0)
    """

    def __call__(self, step: float, total: float) -> float:
        return 1.0


@dataclass(frozen=True, repr=False)
class Linear(Schedule):
    r"""Decay linearly from 1 to `end`: :math:`m(s) = 1 - (1 - e) s / S`.

    `s` counts steps from 0 and `S` is the horizon, so the last of `S` steps is still one step above `end`; for `s
    >= S` the multiplier stays at `end`. It is equal to torch's `LinearLR(start_factor=1, end_factor=end,
    total_iters=S)`. A strong default if the number of steps is known (Defazio et al. 2023, arXiv:2310.07831); a
    training that stops early never reaches the low learning rates.

    Parameters
    ----------
    end : float, default=0.0
        The multiplier at the horizon, between 0 and 1.
    by : {"step", "epoch"}, default="step"
        Whether the multiplier changes at every step, or only at the start of each epoch.

    Examples
    --------
    >>> [Linear()(step, 4) for step in (0, 1, 4, 9)]
    [1.0, 0.75, 0.0, 0.0]
    >>> Linear(end=0.1)(4, 4)
    0.1
    """

    end: float = 0.0
    by: By = "step"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("end", "between 0 and 1", _is_fraction)

    def __call__(self, step: float, total: float) -> float:
        return _between(1.0, self.end, progress(step, total), "linear")


@dataclass(frozen=True, repr=False)
class Cosine(Schedule):
    r"""Decay along half a cosine from 1 to `end`: :math:`m(s) = e + (1 - e)(1 + \cos(\pi s / S)) / 2`.

    `s` counts steps from 0 and `S` is the horizon. For `s >= S` the multiplier stays at `end`; torch's
    `CosineAnnealingLR(T_max=S)` is equal up to there, but rises again after it. Loshchilov and Hutter 2017,
    arXiv:1608.03983, eq. 5, without restarts.

    Parameters
    ----------
    end : float, default=0.0
        The multiplier at the horizon, between 0 and 1.
    by : {"step", "epoch"}, default="step"
        Whether the multiplier changes at every step, or only at the start of each epoch.

    Examples
    --------
    >>> [round(Cosine()(step, 4), 3) for step in (0, 2, 4, 9)]
    [1.0, 0.5, 0.0, 0.0]
    """

    end: float = 0.0
    by: By = "step"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("end", "between 0 and 1", _is_fraction)

    def __call__(self, step: float, total: float) -> float:
        return _between(1.0, self.end, progress(step, total), "cosine")


@dataclass(frozen=True, repr=False)
class Exponential(Schedule):
    r"""Decay by a constant factor every epoch: :math:`m(s) = \gamma^s`.

    It has no horizon: the decay continues after the planned end. It is equal to torch's `ExponentialLR`.

    Parameters
    ----------
    gamma : float, default=0.95
        The factor, above 0 and at most 1.
    by : {"epoch", "step"}, default="epoch"
        The unit of `s`.

    Examples
    --------
    >>> [Exponential(0.5)(epoch, 3) for epoch in (0, 1, 3, 4)]
    [1.0, 0.5, 0.125, 0.0625]
    """

    gamma: float = 0.95
    by: By = "epoch"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("gamma", "above 0 and at most 1", lambda gamma: 0 < gamma <= 1)

    def __call__(self, step: float, total: float) -> float:
        return self.gamma**step


@dataclass(frozen=True, repr=False)
class OneCycle(Schedule):
    r"""Rise from `1 / div_factor` to 1, then fall to `1 / (div_factor * final_div_factor)`: the one-cycle policy.

    With :math:`p = \text{pct\_start} \cdot S - 1` the multiplier rises from step 0 to step `p` and falls from step `p`
    to step `S - 1`, each along half a cosine or a straight line; after step `S - 1` it keeps its last value. It is
    equal to torch's `OneCycleLR(max_lr=lr, total_steps=S)`, except that torch also cycles the momentum, inversely, and
    this schedule does not. Smith and Topin 2017, arXiv:1708.07120, in the two phases of fastai. The rise is a warmup,
    so do not combine it with another one.

    Parameters
    ----------
    pct_start : float, default=0.3
        The fraction of the horizon during which the multiplier rises, between 0 and 1.
    div_factor : float, default=25.0
        Ratio of the peak lr to the first lr, at least 1.
    final_div_factor : float, default=1e4
        Ratio of the first lr to the last lr, at least 1.
    shape : {"cosine", "linear"}, default="cosine"
        The shape of the rise and of the fall.
    by : {"step", "epoch"}, default="step"
        Whether the multiplier changes at every step, or only at the start of each epoch.

    Examples
    --------
    >>> cycle = OneCycle(pct_start=0.5, div_factor=10, final_div_factor=100, shape="linear")
    >>> [round(cycle(step, 10), 4) for step in (0, 2, 4, 9, 99)]
    [0.1, 0.55, 1.0, 0.001, 0.001]
    """

    pct_start: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    shape: Literal["cosine", "linear"] = "cosine"
    by: By = "step"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("pct_start", "between 0 and 1", _is_fraction)
        for factor in ("div_factor", "final_div_factor"):
            self._require(factor, "a finite number of at least 1", lambda value: 1 <= value < math.inf)
        self._require("shape", "'cosine' or 'linear'", lambda shape: shape in ("cosine", "linear"))

    def __call__(self, step: float, total: float) -> float:
        total = max(total, 1)
        peak, last = self.pct_start * total - 1, total - 1
        step = min(step, last)
        if step <= peak:
            return _between(1 / self.div_factor, 1.0, progress(step, peak), self.shape)
        lowest = 1 / (self.div_factor * self.final_div_factor)
        return _between(1.0, lowest, progress(step - peak, last - peak), self.shape)


@dataclass(frozen=True, repr=False)
class WSD(Schedule):
    r"""Keep the peak lr, then decay it in the last part of the training: warmup-stable-decay.

    With :math:`D = \text{decay} \cdot S` the multiplier is 1 for :math:`s \le S - D`, falls to `end` at `s
    = S`, and stays there. Add the warmup with `Warmup` or the net's `warmup_epochs`. Hu et al. 2024,
    arXiv:2404.06395, section 4; the "sqrt" shape :math:`1 - \sqrt{(s - (S - D)) / D}` is from Hägele et al.
    2024, arXiv:2405.18392.

    Parameters
    ----------
    decay : float, default=0.2
        The fraction of the horizon in which the lr decays, between 0 and 1. Hägele et al. find 10 to 20 percent enough.
    shape : {"linear", "cosine", "sqrt"}, default="linear"
        The shape of the decay.
    end : float, default=0.0
        The multiplier at the horizon, between 0 and 1.
    by : {"step", "epoch"}, default="step"
        Whether the multiplier changes at every step, or only at the start of each epoch.

    Examples
    --------
    >>> [round(WSD(decay=0.4)(step, 10), 2) for step in (0, 6, 7, 9, 10, 99)]
    [1.0, 1.0, 0.75, 0.25, 0.0, 0.0]
    """

    decay: float = 0.2
    shape: Shape = "linear"
    end: float = 0.0
    by: By = "step"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("decay", "between 0 and 1", _is_fraction)
        self._require("shape", "'linear', 'cosine' or 'sqrt'", lambda shape: shape in _FALL)
        self._require("end", "between 0 and 1", _is_fraction)

    def __call__(self, step: float, total: float) -> float:
        stable = (1 - self.decay) * total
        done = 0.0 if step <= stable and step < total else progress(step - stable, total - stable)
        return _between(1.0, self.end, done, self.shape)


@dataclass(frozen=True, repr=False)
class InverseSqrt(Schedule):
    r"""Decay with the inverse square root of time: :math:`m(s) = \sqrt{T / (T + s)}`.

    It has no horizon, so a training can be extended by any number of epochs. Zhai et al. 2022, arXiv:2106.04560, use
    it with `by="step"` and a timescale of thousands of steps; the default suits trainings of a few epochs. The inverse
    square root of Vaswani et al. 2017 (arXiv:1706.03762, eq. 3) is this schedule after a warmup of `T` steps.

    Parameters
    ----------
    timescale : float, default=1.0
        `T`, the time after which the lr is 0.71 of its peak; above 0.
    by : {"epoch", "step"}, default="epoch"
        The unit of `s` and `timescale`.

    Examples
    --------
    >>> [round(InverseSqrt(3)(epoch, 5), 3) for epoch in (0, 1, 9, 24)]
    [1.0, 0.866, 0.5, 0.333]
    """

    timescale: float = 1.0
    by: By = "epoch"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("timescale", "a finite number above 0", _is_positive)

    def __call__(self, step: float, total: float) -> float:
        return math.sqrt(self.timescale / (self.timescale + step))


@dataclass(frozen=True, repr=False)
class LambdaSchedule(Schedule):
    """Compute the multiplier with a function of the epoch, as torch's `LambdaLR` does.

    The function does not get the horizon. It must return finite values of at least 0. Two such schedules are equal if
    they have the same function, and can be pickled if it can.

    Parameters
    ----------
    function : callable
        Takes the epoch, counted from 0, and returns the multiplier.
    by : {"epoch", "step"}, default="epoch"
        Whether the function is called with the epoch or with the step.

    Examples
    --------
    >>> LambdaSchedule(lambda epoch: 0.95**epoch)(2, 10)
    0.9025
    >>> LambdaSchedule(abs)
    LambdaSchedule(function=abs)
    """

    function: Callable[[int], float]
    by: By = "epoch"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("function", "a callable of the epoch", callable)

    def __call__(self, step: float, total: float) -> float:
        return float(self.function(int(step)))
