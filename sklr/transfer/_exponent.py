"""The exponent of the best learning rate as a power of a size, with a confidence interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from sklr._utils.html import ShownAsText
from sklr._utils.validation import must_be


@dataclass(frozen=True)
class Exponent(ShownAsText):
    """The exponent of the best learning rate as a power of a size.

    Parameters
    ----------
    value : float
        The exponent: decades of lr per decade of size.
    interval : tuple of float, (low, high)
        Confidence interval.
    confidence : float
        Confidence level of the interval.

    Examples
    --------
    >>> print(Exponent(0.97, (0.9, 1.05), 0.9))
    lr ~ size^0.97, between 0.90 and 1.05 (90 % confidence)
    """

    value: float
    interval: tuple[float, float]
    confidence: float

    def __str__(self) -> str:
        low, high = self.interval
        return f"lr ~ size^{self.value:.2f}, between {low:.2f} and {high:.2f} ({100 * self.confidence:g} % confidence)"


def lr_exponent(
    sizes: Sequence[float],
    lrs: Sequence[float],
    intervals: Sequence[tuple[float, float]],
    confidence: float = 0.9,
) -> Exponent:
    """Fit a power law to the best learning rates of several sizes.

    A weighted linear regression of log lr on log size, with weights from the intervals. If the points scatter around
    the line more than their intervals explain, the interval of the exponent is widened accordingly (Birge's ratio,
    Phys. Rev. 40, 207).

    Parameters
    ----------
    sizes : sequence of float, of length n_sizes
        Sizes, such as batch sizes or widths.
    lrs : sequence of float, of length n_sizes
        The best learning rate of each size.
    intervals : sequence of (low, high), of length n_sizes
        Their confidence intervals. A size with an open interval (low 0, or high infinite) is not used.
    confidence : float, default=0.9
        Confidence level of `intervals`, and of the result's interval.

    Returns
    -------
    exponent : Exponent
        NaN with an interval open on both sides, if fewer than two sizes can be used.

    Raises
    ------
    ValueError
        If there are fewer than two different sizes.

    Examples
    --------
    >>> tight = [(0.9 * lr, 1.1 * lr) for lr in (0.1, 0.2, 0.4)]
    >>> print(lr_exponent([8, 16, 32], [0.1, 0.2, 0.4], tight))
    lr ~ size^1.00, between 0.90 and 1.10 (90 % confidence)
    """
    x, u = np.log10(np.asarray(sizes, dtype=float)), np.log10(np.asarray(lrs, dtype=float))
    if len(np.unique(x)) < 2:
        raise ValueError(must_be("sizes", "at least two different ones", list(sizes)))
    quantile = float(stats.norm.ppf((1 + confidence) / 2))
    ends = np.asarray(intervals, dtype=float)
    known = (ends[:, 0] > 0) & np.isfinite(ends[:, 1])
    if len(np.unique(x[known])) < 2:
        return Exponent(math.nan, (-math.inf, math.inf), confidence)
    x, u = x[known], u[known]
    # standard errors below 0.01 decade are not credible, and would let a single size determine the fit
    weight = 1 / np.maximum(np.diff(np.log10(ends[known]), axis=1)[:, 0] / (2 * quantile), 0.01) ** 2
    centre = np.average(x, weights=weight)
    spread = float((weight * (x - centre) ** 2).sum())
    slope = float((weight * (x - centre) * u).sum()) / spread
    left = u - np.average(u, weights=weight) - slope * (x - centre)
    birge = float((weight * left**2).sum()) / (len(x) - 2) if len(x) > 2 else 1.0
    reach = quantile * math.sqrt(max(birge, 1.0) / spread)
    return Exponent(slope, (slope - reach, slope + reach), confidence)
