"""The noise of an LR curve: the covariance of its mean scores, and copies of the curve with new noise.

All candidates are trained in the same cells, so the effect that a cell has on all of them is not noise in the shape of
the curve, and is removed first. It is estimated by the median over the learning rates, because near a cliff some runs
collapse, which is not an effect of their cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import stats

N_COPIES = 400  # 20 of them are in each tail of a 90 % interval
# The covariance estimated from few cells is shrunk towards "equal for all learning rates, and independent". That prior
# counts as so many degrees of freedom: with 5 cells it is a third. See benchmarks/bench_truth.py --constants.
PRIOR_DOF = 2
# Factor of the noise added in a copy. In cross-validation each row is tested once, so that differences in difficulty
# between folds are in the spread of the folds but partly cancel in their mean.
SIZE = 0.95


@dataclass(frozen=True, eq=False)
class Scores:
    """Mean scores of a stretch of the curve and the estimate of their noise.

    Parameters
    ----------
    u : ndarray of shape (n_lrs,)
        log10 of the learning rates.
    mean : ndarray of shape (n_lrs,)
    variance : ndarray of shape (n_lrs,)
        Variance of each mean, shrunk towards their median.
    own : ndarray of shape (n_lrs,)
        Variance of each mean without shrinkage.
    covariance : ndarray of shape (n_lrs, n_lrs)
        Covariance of the means.
    dof : int
        Degrees of freedom of the covariance.
    """

    u: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    own: np.ndarray
    covariance: np.ndarray
    dof: int

    def copies(self) -> np.ndarray:
        """Return noise to add to `mean`, shape (N_COPIES, n_lrs), the same in every call."""
        return SIZE * self.draws() @ np.linalg.cholesky(self.covariance).T

    def draws(self) -> np.ndarray:
        """Return independent standard normal noise, shape (N_COPIES, n_lrs), in antithetic pairs."""
        return _draws(len(self.u))


@lru_cache(maxsize=64)
def _draws(m: int) -> np.ndarray:
    half = np.random.default_rng(0).standard_normal((N_COPIES // 2, m))
    return np.concatenate([half, -half])


def summarize(u: np.ndarray, cell_scores: np.ndarray) -> Scores:
    """Return the means of a stretch of the curve and their noise.

    With a single cell, the residuals of a polynomial fit stand for the noise.

    Parameters
    ----------
    u : ndarray of shape (n_lrs,)
        Ascending; at least four.
    cell_scores : ndarray of shape (n_lrs, n_cells)
    """
    m, n = cell_scores.shape
    mean = cell_scores.mean(axis=1)
    # a lower bound of the noise, because scores without noise (from a table) would make the covariance singular
    least = (1e-4 * max(float(np.ptp(mean)), 1e-9 * float(np.abs(mean).max()), 1e-12)) ** 2
    if n == 1:
        variance, dof = _of_one_cell(u, mean)
        alike = np.full(m, max(variance, least))
        return Scores(u, mean, alike, alike, np.diag(alike), dof)
    residuals = _residuals(cell_scores)
    own = (residuals**2).sum(axis=1) / (n - 1)
    dof = n - 1 + PRIOR_DOF
    variance = np.maximum(((n - 1) * own + PRIOR_DOF * np.median(own)) / dof, least) / n
    covariance = (residuals @ residuals.T / n + PRIOR_DOF * np.diag(variance)) / dof + np.diag(np.full(m, least / n))
    return Scores(u, mean, variance, own / n, covariance, dof)


def _of_one_cell(u: np.ndarray, mean: np.ndarray) -> tuple[float, int]:
    """Return the residual variance and its degrees of freedom, of a polynomial of degree 2 to 4 fitted to the means."""
    m = len(u)
    degree = min(4, 2 + max(0, m - 5) // 2)
    left = mean - np.polyval(np.polyfit(u - u.mean(), mean, degree), u - u.mean())
    dof = m - 1 - degree
    return float(left @ left) / dof, dof


def _residuals(cell_scores: np.ndarray) -> np.ndarray:
    """Return the deviations of each learning rate's scores from their mean, without the effect of each cell."""
    own = cell_scores - cell_scores.mean(axis=1, keepdims=True)
    own = own - np.median(own, axis=0)
    return own - own.mean(axis=1, keepdims=True)


def flatness(cell_scores: np.ndarray, scores: Scores) -> float:
    """Return the p-value of the hypothesis that all learning rates score the same.

    It is twice the smaller p-value of two tests of the two-way layout learning rates x cells: the F test, and
    Friedman's rank test with the correction of Iman and Davenport (1980). Runs at large learning rates often scatter
    many times as much as the others: then the F test takes a clear curve for noise, while ranks still tell. With a
    single cell there is only an F test, against the residuals of a smooth curve.
    """
    m, n = cell_scores.shape
    if n == 1:
        return float(stats.f.sf(np.var(scores.mean, ddof=1) / float(scores.variance.mean()), m - 1, scores.dof))
    ranks = stats.rankdata(cell_scores, axis=0)
    return min(1.0, 2 * min(_two_way(cell_scores, 1e-6 * float(scores.variance.min())), _two_way(ranks, 1e-9)))


def _two_way(values: np.ndarray, least: float) -> float:
    """Return the p-value of the F test for equal rows of `values` (m, n), with column effects.

    Applied to ranks it is the test of Iman and Davenport.
    """
    m, n = values.shape
    mean, dof = values.mean(axis=1), (m - 1) * (n - 1)
    rest = values - values.mean(axis=0) - (mean - mean.mean())[:, None]
    within = max(float((rest**2).sum()) / dof / n, least)
    return float(stats.f.sf(np.var(mean, ddof=1) / within, m - 1, dof))
