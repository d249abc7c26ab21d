"""The noise of an LR curve: how its mean scores scatter together, and copies of it with other noise.

All candidates meet the same cells, so what a cell does to all of them is no noise of the curve's shape and is taken out
first: the median over the learning rates, because near a cliff some runs collapse, which is no property of their cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import stats

N_COPIES = 400  # 20 of them make each tail of a 90 % interval
# What few cells say of the noise is drawn towards "equal for all learning rates, and independent", which counts as so
# many degrees of freedom: with 5 cells that is a third. See benchmarks/bench_truth.py --constants.
PRIOR_DOF = 2
# Of the noise added in a copy. The folds of a cross-validation test each row once: what makes one harder than the other
# is in their spread, but cancels in part in their mean.
SIZE = 0.95


@dataclass(frozen=True, eq=False)
class Scores:
    """Mean scores of a stretch of the curve and what is known of their noise.

    Parameters
    ----------
    u : ndarray of shape (n_lrs,)
        log10 of the learning rates.
    mean : ndarray of shape (n_lrs,)
    variance : ndarray of shape (n_lrs,)
        Of each mean by itself.
        Drawn towards that of all.
    own : ndarray of shape (n_lrs,)
        The same as the cells have it.
    covariance : ndarray of shape (n_lrs, n_lrs)
        Of the means.
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
        """Return independent standard normal noise, shape (N_COPIES, n_lrs), each with its opposite."""
        return _draws(len(self.u))


@lru_cache(maxsize=64)
def _draws(m: int) -> np.ndarray:
    half = np.random.default_rng(0).standard_normal((N_COPIES // 2, m))
    return np.concatenate([half, -half])


def summarize(u: np.ndarray, cell_scores: np.ndarray) -> Scores:
    """Return the means of a stretch of the curve and their noise.

    One cell cannot tell the noise: what a polynomial leaves over stands for it then.

    Parameters
    ----------
    u : ndarray of shape (n_lrs,)
        Ascending; at least four.
    cell_scores : ndarray of shape (n_lrs, n_cells)
    """
    m, n = cell_scores.shape
    mean = cell_scores.mean(axis=1)
    # Noise is at least this, or scores without any (looked up in a table) would make the equations singular.
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
    m = len(u)
    degree = min(4, 2 + max(0, m - 5) // 2)
    left = mean - np.polyval(np.polyfit(u - u.mean(), mean, degree), u - u.mean())
    dof = m - 1 - degree
    return float(left @ left) / dof, dof


def _residuals(cell_scores: np.ndarray) -> np.ndarray:
    own = cell_scores - cell_scores.mean(axis=1, keepdims=True)
    own = own - np.median(own, axis=0)
    return own - own.mean(axis=1, keepdims=True)


def flatness(cell_scores: np.ndarray, scores: Scores) -> float:
    """Return the p-value of "all these learning rates score the same".

    Two tests of the two-way layout, learning rates x cells, of which the clearer one counts, twice its p-value: the F
    test, and that of Friedman with the correction of Iman and Davenport (1980), which compares ranks. Runs at large
    learning rates often scatter many times as much as the others: then the F test takes a clear curve for noise, while
    ranks still tell. In one cell the noise is what a smooth curve leaves over, and there are no ranks.
    """
    m, n = cell_scores.shape
    if n == 1:
        return float(stats.f.sf(np.var(scores.mean, ddof=1) / float(scores.variance.mean()), m - 1, scores.dof))
    ranks = stats.rankdata(cell_scores, axis=0)
    return min(1.0, 2 * min(_two_way(cell_scores, 1e-6 * float(scores.variance.min())), _two_way(ranks, 1e-9)))


def _two_way(values: np.ndarray, least: float) -> float:
    """Return the p-value of the F test for equal rows, (m, n), each column having a level of its own.

    Of ranks, this is Iman and Davenport's.
    """
    m, n = values.shape
    mean, dof = values.mean(axis=1), (m - 1) * (n - 1)
    rest = values - values.mean(axis=0) - (mean - mean.mean())[:, None]
    within = max(float((rest**2).sum()) / dof / n, least)
    return float(stats.f.sf(np.var(mean, ddof=1) / within, m - 1, dof))
