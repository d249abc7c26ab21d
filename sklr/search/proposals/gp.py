"""A Gaussian process over one axis whose hyperparameters are chosen on a grid: fast enough to refit after every score.

It is a scikit-learn regressor with `return_std`, so that `skopt.Optimizer` accepts it as `base_estimator`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular
from sklearn.base import BaseEstimator, RegressorMixin

LENGTHS = np.geomspace(0.03, 1.0, 12)  # length scales, as fractions of the axis
NOISES = np.array([1e-6, 1e-5, 1e-4, 1e-3, 1e-2])  # noise variances, as fractions of the signal variance


class _Posterior(NamedTuple):
    """Result of a fit with one pair of hyperparameters: its log evidence plus log prior, and what `predict` needs."""

    evidence: float
    length: float
    factor: np.ndarray
    weights: np.ndarray
    variance: float


class LineGP(RegressorMixin, BaseEstimator):
    """Gaussian process regression of scores on positions from 0 to 1.

    Parameters
    ----------
    typical_length : float
        Median of the prior of the length scale, as a fraction of the axis. Curves over the learning rate have basins of
        one to two decades, 0.2 of the usual range.
    spread : float
        Standard deviation of that prior, in the natural logarithm of the length scale.

    Notes
    -----
    Matern 5/2 kernel. Length scale and noise maximize evidence times prior on a grid of 12 x 5, the signal variance is
    in closed form (Rasmussen and Williams 2006, eq. 5.8 and section 5.4.1). The prior of the noise variance is
    log-normal too, around 1e-4 with a standard deviation of two decades. The model assumes a smooth curve: leave out
    points beyond a jump.

    >>> model = LineGP().fit([[0.0], [0.5], [1.0]], [0.1, 0.9, 0.1])
    >>> mean, std = model.predict([[0.5], [0.45], [0.25]], return_std=True)
    >>> mean.round(2).tolist()[0], bool(std[0] < std[1] < std[2])
    (0.9, True)
    """

    def __init__(self, typical_length: float = 0.2, spread: float = 0.6):
        self.typical_length = typical_length
        self.spread = spread

    def fit(self, X: Any, y: Any) -> LineGP:
        """Fit to positions `X` of shape (n, 1) and scores `y` of shape (n,)."""
        self.positions_ = np.asarray(X, dtype=float)[:, 0]
        y = np.asarray(y, dtype=float)
        self.mean_, self.scale_ = y.mean(), y.std() or 1.0
        settings = [(length, noise) for length in LENGTHS for noise in NOISES]
        fits = [self._posterior((y - self.mean_) / self.scale_, *setting) for setting in settings]
        self.posterior_ = max(fits, key=lambda posterior: posterior.evidence)
        return self

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Return the mean of the curve at `X` of shape (n, 1), and with `return_std` its standard deviation."""
        _, length, factor, weights, variance = self.posterior_
        cross = matern(np.asarray(X, dtype=float)[:, 0], self.positions_, length)
        mean = self.mean_ + self.scale_ * (cross @ weights)
        if not return_std:
            return mean
        explained = (solve_triangular(factor, cross.T, lower=True) ** 2).sum(axis=0)
        return mean, self.scale_ * np.sqrt(variance * np.maximum(1 - explained, 1e-12))

    def _posterior(self, z: np.ndarray, length: float, noise: float) -> _Posterior:
        n = len(z)
        factor = cholesky(matern(self.positions_, self.positions_, length) + noise * np.eye(n), lower=True)
        weights = cho_solve((factor, True), z)
        variance = max(float(z @ weights) / n, 1e-6)
        evidence = -0.5 * n * np.log(variance) - np.log(factor.diagonal()).sum()
        prior = -0.5 * (np.log(length / self.typical_length) / self.spread) ** 2 - 0.125 * np.log10(noise / 1e-4) ** 2
        return _Posterior(evidence + prior, length, factor, weights, variance)


def fit_line(positions: np.ndarray, scores: np.ndarray) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Fit a `LineGP` and return its prediction, a function from positions to mean and standard deviation.

    >>> mean, std = fit_line(np.array([0.2, 0.8]), np.array([0.5, 0.5]))(np.array([0.2]))
    >>> mean.round(2).tolist()
    [0.5]
    """
    model = LineGP().fit(positions[:, None], scores)
    return lambda at: model.predict(at[:, None], return_std=True)


def matern(a: np.ndarray, b: np.ndarray, length: float) -> np.ndarray:
    """Return the Matern 5/2 correlations of positions of shapes (n,) and (m,), shape (n, m).

    >>> matern(np.array([0.0]), np.array([0.0, 0.5, 5.0]), 0.5).round(3).tolist()
    [[1.0, 0.524, 0.0]]
    """
    r = np.sqrt(5) * np.abs(a[:, None] - b) / length
    return (1 + r + r**2 / 3) * np.exp(-r)
