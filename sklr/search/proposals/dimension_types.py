"""The three kinds of search dimensions: `Choices`, `Range` and `Quantiles`.

A dimension has *positions* from 0 to 1, *raw* values, which scikit-optimize and Optuna handle, and the *values* that an
estimator gets.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from numbers import Number
from typing import Any

import numpy as np
import optuna.distributions as od
import skopt.space as sk

from sklr._utils.module_name import without_main
from sklr.experiment.lr_param import is_number, log_grid

PRIORS = ("uniform", "log-uniform")
TAIL = 1e-6  # quantiles are cut off this close to 0 and 1, where a distribution may be infinite


class Dimension(ABC):
    """The possible values of one parameter."""

    @property
    def size(self) -> float:
        """Number of different values, possibly infinite."""
        return math.inf

    @abstractmethod
    def at(self, position: float) -> Any:
        """Return the raw value at a position from 0 to 1."""

    @abstractmethod
    def grid(self, n: int) -> list[Any]:
        """Return all choices, or about `n` values spread evenly over a range."""

    @abstractmethod
    def skopt(self, name: str) -> sk.Dimension:
        """Return the scikit-optimize dimension of the raw values."""

    @abstractmethod
    def optuna(self) -> od.BaseDistribution:
        """Return the Optuna distribution of the raw values."""

    @abstractmethod
    def decode(self, raw: Any) -> Any:
        """Return the estimator's value for a raw value."""

    @abstractmethod
    def encode(self, value: Any) -> Any:
        """Return the raw value for an estimator's value; None if the dimension does not contain it."""


@dataclass(frozen=True)
class Choices(Dimension):
    """One of several values of any type.

    scikit-optimize and Optuna take only strings and numbers, all of one type. Other values are passed to them as
    labels: their reprs if these are distinct, short and without memory addresses, otherwise their indices.

    Parameters
    ----------
    values : tuple
        At least one, of any type.
    weights : tuple of float, optional
        The probability of each value in scikit-optimize's random draws.
    verbatim : bool
        Whether to pass the values on as they are, without labels.

    >>> Choices((16, 32)).labels, Choices((None, "balanced")).labels, Choices(((64,), (64, 32))).labels
    ((16, 32), ('None', "'balanced'"), ('(64,)', '(64, 32)'))
    >>> Choices((object(), object())).labels
    (0, 1)
    >>> Choices(((64,), (64, 32))).decode('(64, 32)')
    (64, 32)
    """

    values: tuple[Any, ...]
    weights: tuple[float, ...] | None = None
    verbatim: bool = False

    @property
    def size(self) -> float:
        return len(self.values)

    @cached_property
    def labels(self) -> tuple[Any, ...]:
        kinds = {type(value) for value in self.values}
        if self.verbatim:
            return self.values
        if len(kinds) == 1 and kinds <= {str, int, float, bool} and len(set(self.values)) == len(self.values):
            return self.values
        # without "__main__.": the same label whether the user's script is run or imported
        reprs = tuple(without_main(repr(value)) for value in self.values)
        readable = len(set(reprs)) == len(reprs) and all(len(r) <= 60 and " at 0x" not in r for r in reprs)
        return reprs if readable else tuple(range(len(self.values)))

    def at(self, position: float) -> Any:
        return self.labels[min(int(position * len(self.labels)), len(self.labels) - 1)]

    def grid(self, n: int) -> list[Any]:
        return list(self.values)

    def skopt(self, name: str) -> sk.Dimension:
        return sk.Categorical(list(self.labels), prior=self.weights, name=name)

    def optuna(self) -> od.BaseDistribution:
        return od.CategoricalDistribution(self.labels)

    def decode(self, raw: Any) -> Any:
        return self.values[self.labels.index(raw)]

    def encode(self, value: Any) -> Any:
        return next((label for label, own in zip(self.labels, self.values, strict=True) if is_same(own, value)), None)


@dataclass(frozen=True)
class Range(Dimension):
    """The numbers from `low` to `high`, both included, on a linear or a logarithmic scale.

    Parameters
    ----------
    low, high : float
        Finite, `low < high`; above 0 if `log`.
    log, integer : bool
        Whether the scale is logarithmic; whether only integers are values.
    step : float, optional
        If given, only `low`, `low + step`, `low + 2 * step` ... are values.

    >>> lr = Range(1e-4, 1.0, log=True)
    >>> lr.at(0.5), lr.grid(3)
    (0.01, [0.0001, 0.01, 1.0])
    >>> Range(1, 8, integer=True).grid(20), Range(0.0, 1.0, step=0.25).decode(0.7)
    ([1, 2, 3, 4, 5, 6, 7, 8], 0.75)
    """

    low: float
    high: float
    log: bool = False
    integer: bool = False
    step: float | None = None

    @property
    def size(self) -> float:
        step = self.step or (1 if self.integer else None)
        return math.inf if step is None else 1 + math.floor((self.high - self.low) / step + 1e-9)  # 1e-9: rounding

    @property
    def resolution(self) -> float:
        """Smallest distance of two positions worth trying: 0.02 decades on a log scale, else 0.002 of the range."""
        return 0.02 / math.log10(self.high / self.low) if self.log else 0.002

    def at(self, position: float) -> Any:
        if self.log:
            return self.decode(self.low * (self.high / self.low) ** position)
        if self.integer or self.step:
            index = min(int(position * self.size), int(self.size) - 1)
            return self.decode(self.low + index * (self.step or 1))
        return self.decode(self.low + position * (self.high - self.low))

    def position(self, raw: float) -> float:
        """Return the position of a raw value in the range, from 0 to 1."""
        if self.log:
            return math.log(raw / self.low) / math.log(self.high / self.low)
        return (raw - self.low) / (self.high - self.low)

    def grid(self, n: int) -> list[Any]:
        spaced = log_grid(self.low, self.high, n) if self.log else np.linspace(self.low, self.high, n).tolist()
        return sorted({self.decode(value) for value in spaced})

    def skopt(self, name: str) -> sk.Dimension:
        kind, prior = (sk.Integer if self.integer else sk.Real), PRIORS[self.log]
        return kind(self.low, self.high, prior=prior, name=name)

    def optuna(self) -> od.BaseDistribution:
        if self.integer:
            return od.IntDistribution(int(self.low), int(self.high), log=self.log, step=int(self.step or 1))
        return od.FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def decode(self, raw: Any) -> Any:
        value = min(max(float(raw), float(self.low)), float(self.high))
        if self.step:
            index = min(round((value - self.low) / self.step), int(self.size) - 1)
            value = self.low + index * self.step
        return round(value) if self.integer else float(value)

    def encode(self, value: Any) -> Any:
        inside = is_number(value) and self.low <= value <= self.high
        return self.decode(value) if inside and math.isclose(self.decode(value), value) else None


@dataclass(frozen=True)
class Quantiles(Dimension):
    """A frozen scipy distribution, searched over its quantiles: the raw value 0.5 is the median.

    The tails, which may be infinite, are cut off at the quantiles 1e-6 and 1 - 1e-6.

    >>> from scipy.stats import expon, poisson
    >>> round(Quantiles(expon(scale=10)).at(0.5), 2), Quantiles(poisson(4), integer=True).grid(3)
    (0.5, [2, 4, 6])
    """

    distribution: Any
    integer: bool = False

    def at(self, position: float) -> float:
        return float(min(max(position, TAIL), 1 - TAIL))

    def grid(self, n: int) -> list[Any]:
        return sorted({self.decode((i + 0.5) / n) for i in range(n)})

    def skopt(self, name: str) -> sk.Dimension:
        return sk.Real(TAIL, 1 - TAIL, name=name)

    def optuna(self) -> od.BaseDistribution:
        return od.FloatDistribution(TAIL, 1 - TAIL)

    def decode(self, raw: Any) -> Any:
        value = self.distribution.ppf(float(raw))
        return int(value) if self.integer else float(value)

    def encode(self, value: Any) -> Any:
        share = float(self.distribution.cdf(value)) if is_number(value) else -1.0
        return share if TAIL <= share <= 1 - TAIL else None


def is_same(one: Any, other: Any) -> bool:
    """Return whether two values are equal; those that are no numbers, strings or tuples must be the same object."""
    return one is other or (type(one) is type(other) and isinstance(one, (Number, str, tuple)) and one == other)
