"""The gradient noise scale, estimated from the gradient norms of small and of large batches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from sklr._utils.html import ShownAsText
from sklr._utils.validation import must_be


@dataclass(frozen=True)
class NoiseScale(ShownAsText):
    """The batch size at which the noise of the gradient is as large as its mean.

    Parameters
    ----------
    value : float
        In rows; infinite if the mean gradient cannot be distinguished from noise.
    interval : tuple of float, (low, high)
        Jackknife interval at `confidence`; its upper end may be infinite.
    squared_gradient : float
        Estimate of the squared norm of the true gradient.
    variance : float
        Estimate of the trace of the covariance of a single row's gradient.
    confidence : float
        Confidence level of the interval.

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
    r"""Estimate the gradient noise scale from squared gradient norms at two batch sizes.

    It is :math:`B_{simple} = S / |G|^2`, with the unbiased estimates

    .. math::
        |G|^2 = \frac{b' |G_{b'}|^2 - b |G_b|^2}{b' - b}, \qquad S = \frac{|G_b|^2 - |G_{b'}|^2}{1/b - 1/b'}

    of McCandlish et al. 2018 (arXiv 1812.06162, appendix A.1). Both are averaged before they are divided, as a mean of
    ratios would be biased. The noise scale increases during training by orders of magnitude, so an estimate is only
    valid for the weights at which it was measured.

    Parameters
    ----------
    small_squared, large_squared : ndarray of shape (n_repeats,)
        Squared norms of the gradients of small and large batches; the two batches of a pair may share rows.
    batch_sizes : tuple of int, (small, large)
        In rows.
    confidence : float, default=0.9
        Confidence level of the interval.

    Returns
    -------
    noise_scale : NoiseScale

    Raises
    ------
    ValueError
        If there are fewer than two pairs, or the batch sizes are not ascending.

    Examples
    --------
    If a row's noise has variance 12 and the true gradient a squared norm of 3, a batch of b rows has 3 + 12 / b:

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
    # log S - log |G|^2 is closer to normal than the ratio; if the estimate of |G|^2 is not above 0, B is infinite
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
