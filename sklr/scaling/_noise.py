"""The gradient noise scale, from the lengths of gradients of small and of large batches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from sklr._utils.html import ShownAsText
from sklr._utils.validation import must_be


@dataclass(frozen=True)
class NoiseScale(ShownAsText):
    """The batch size at which a gradient's noise is as long as its mean.

    Parameters
    ----------
    value : float
        In rows; infinite where the mean gradient is lost in the noise.
    interval : tuple of float, (low, high)
        At `confidence`, by the jackknife; its upper end may be infinite.
    squared_gradient : float
        Estimate of the squared length of the true gradient.
    variance : float
        Estimate of the trace of one row's gradient covariance.
    confidence : float
        Of the interval.

    Examples
    --------
    >>> print(NoiseScale(120.0, (95.0, 160.0), 0.5, 60.0, 0.9))
    noise scale 120 rows, between 95 and 160 (90 % confidence)
    """

    value: float
    interval: tuple[float, float]
    squared_gradient: float
    variance: float
    confidence: float

    def __str__(self) -> str:
        low, high = self.interval
        sure = f"({100 * self.confidence:g} % confidence)"
        return f"noise scale {self.value:.3g} rows, between {low:.3g} and {high:.3g} {sure}"


def noise_scale(
    small_squared: np.ndarray, large_squared: np.ndarray, batch_sizes: tuple[int, int], confidence: float = 0.9
) -> NoiseScale:
    r"""Estimate the gradient noise scale from squared gradient lengths at two batch sizes.

    :math:`B_{simple} = S / |G|^2` with the unbiased

    .. math::
        |G|^2 = \frac{b' |G_{b'}|^2 - b |G_b|^2}{b' - b}, \qquad S = \frac{|G_b|^2 - |G_{b'}|^2}{1/b - 1/b'}

    of McCandlish et al. 2018 (arXiv 1812.06162, appendix A.1), each averaged before they are divided: the mean of
    ratios would be biased. It grows during training, by orders of magnitude, so it is that of one moment.

    Parameters
    ----------
    small_squared, large_squared : ndarray of shape (n_repeats,)
        Squared lengths of the gradients of small and large batches; pairs may share rows.
    batch_sizes : tuple of int, (small, large)
        In rows.
    confidence : float, default=0.9
        Of the interval.

    Returns
    -------
    noise_scale : NoiseScale

    Raises
    ------
    ValueError
        If there are fewer than two pairs, or the sizes are not in order.

    Examples
    --------
    One row's noise has variance 12, the true gradient a squared length of 3: a batch of b has 3 + 12 / b.

    >>> noise_scale(np.full(3, 3 + 12 / 2), np.full(3, 3 + 12 / 8), (2, 8)).value
    4.0
    """
    small, large = np.asarray(small_squared, dtype=float), np.asarray(large_squared, dtype=float)
    b, big = batch_sizes
    if not 0 < b < big:
        raise ValueError(must_be("batch_sizes", "(small, large) with 0 < small < large", batch_sizes))
    if small.shape != large.shape or small.ndim != 1 or len(small) < 2:
        raise ValueError(must_be("small_squared and large_squared", "two arrays of one length >= 2", small.shape))
    squared, variance = (big * large - b * small) / (big - b), (small - large) / (1 / b - 1 / big)
    n = len(small)
    # log S - log |G|^2 is nearer to normal than the ratio; where |G|^2 is not above 0 its log is -inf and B infinite
    one_less = [(total - values) / (n - 1) for total, values in ((variance.sum(), variance), (squared.sum(), squared))]
    others = [_log_ratio(*means) for means in zip(*one_less, strict=True)]
    centre = _log_ratio(variance.mean(), squared.mean())
    low, high = _jackknife(centre, np.array(others), confidence)
    return NoiseScale(math.exp(centre), (low, high), float(squared.mean()), float(variance.mean()), confidence)


def _log_ratio(variance: float, squared: float) -> float:
    if squared <= 0:
        return math.inf
    return math.log(variance / squared) if variance > 0 else -math.inf


def _jackknife(centre: float, others: np.ndarray, confidence: float) -> tuple[float, float]:
    n = len(others)
    if not np.isfinite(centre) or not np.isfinite(others).all():
        return (0.0 if centre == -math.inf else math.exp(others.min())), math.inf
    se = math.sqrt((n - 1) / n * float(((others - others.mean()) ** 2).sum()))
    reach = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * se
    return math.exp(centre - reach), math.exp(centre + reach)
