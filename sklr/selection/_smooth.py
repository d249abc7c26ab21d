r"""A smooth curve through a few noisy scores, and where its top is: a quadratic, with a Gaussian process for the rest.

The model is universal kriging in :math:`u = \log_{10} lr`: score :math:`= a + bu + cu^2 + Z(u)`, the coefficients
free, `Z` a Gaussian process with a Matern 5/2 kernel (Rasmussen and Williams 2006, eq. 4.17 and section 2.7), its
amplitude and length each one of `DEVIATIONS`. Amplitude 0 is the plain quadratic. The models are weighed by how well
they predict what the quadratic leaves over (restricted marginal likelihood, in the Student t form because the noise
is estimated too), so a curve that is lopsided next to a cliff moves the weight from the quadratic to the process.

The top is where the slope goes from up to down. At each `u` every model says how sure it is that the slope there is
negative already, which is how sure it is that the top lies below. For the quadratic alone the set that this leaves
undecided at a confidence is Fieller's interval (Fieller 1954) for the vertex :math:`-b / (2c)`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import fdtrc, stdtr

# (amplitude as a part of the scores' range, length in decades): lopsided quadratics vary over decades, kinks do not.
DEVIATIONS = ((0.3, 3.0), (1.0, 3.0), (3.0, 3.0), (0.1, 0.5), (0.3, 0.5))
# How probable the plain quadratic is before the scores are seen. Together with DEVIATIONS tuned on simulated curves
# (benchmarks/bench_selection.py): much higher, and lopsided curves are missed; lower, and intervals grow needlessly.
PLAIN = 0.75
# The variance of each model's slope is a mean of what the cells say (n - 1 degrees of freedom, true whatever cells do)
# and of what noise that is independent between lrs would give, which counts for this many more.
PRIOR_DOF = 3


@dataclass(frozen=True, eq=False)
class Scores:
    """What is known of a stretch of the curve, what the learning rates share in a cell taken out.

    Parameters
    ----------
    u : ndarray of shape (n_lrs,)
        log10 of the learning rates.
    mean : ndarray of shape (n_lrs,)
    residuals : ndarray of shape (n_lrs, n_cells)
        Cell scores minus the cell's mean and minus the learning rate's mean.
    variance : ndarray of shape (n_lrs,)
        Of one cell's score.
    dof : int
        Degrees of freedom of the noise, all learning rates together.
    """

    u: np.ndarray
    mean: np.ndarray
    residuals: np.ndarray
    variance: np.ndarray
    dof: int

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return self.residuals.shape[1]

    @property
    def flatness(self) -> float:
        """Return the p-value of "all these learning rates score the same" (F test of the two-way layout)."""
        m = len(self.u)
        between, within = self.n_cells * np.var(self.mean) * m / (m - 1), float(self.variance.mean())
        return float(fdtrc(m - 1, self.dof, between / within))


def summarize(u: np.ndarray, cell_scores: np.ndarray) -> Scores:
    """Split cell scores into means and noise; the noise of each lr is drawn towards that of all.

    One cell cannot tell the noise: what a polynomial leaves over stands for it then.

    Parameters
    ----------
    u : ndarray of shape (n_lrs,)
        At least four.
    cell_scores : ndarray of shape (n_lrs, n_cells)
    """
    m, n = cell_scores.shape
    mean = cell_scores.mean(axis=1)
    # Noise is at least this, or scores without any (looked up in a table) would make the equations singular.
    least = (1e-4 * max(float(np.ptp(mean)), 1e-9 * float(np.abs(mean).max()), 1e-12)) ** 2
    if n == 1:
        degree = min(4, 2 + max(0, m - 5) // 2)
        left = mean - np.polyval(np.polyfit(u - u.mean(), mean, degree), u - u.mean())
        dof = m - 1 - degree
        return Scores(u, mean, np.zeros((m, 1)), np.full(m, max(float(left @ left) / dof, least)), dof)
    residuals = cell_scores - cell_scores.mean(axis=0) - (mean - mean.mean())[:, None]
    own = (residuals**2).sum(axis=1) / (n - 1) * m / (m - 1)
    variance = ((n - 1) * own + (PRIOR_DOF + 1) * own.mean()) / (n + PRIOR_DOF)
    return Scores(u, mean, residuals, np.maximum(variance, least), (m - 1) * (n - 1))


@dataclass(frozen=True, eq=False)
class Model:
    """One of the curves that are averaged: a quadratic and a deviation of this amplitude and length.

    `trend` (3, n_lrs) and `rest` (n_lrs, n_lrs) turn mean scores into coefficients and into the weights of the
    kernel; `weight` is the model's share of the average.
    """

    scores: Scores
    amplitude: float
    length: float
    trend: np.ndarray
    rest: np.ndarray
    weight: float

    def slope(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the slope, in score per decade, and its standard error at `at` (n_points,)."""
        flat, one = np.zeros_like(at), np.ones_like(at)
        _, cross = _matern(at[:, None] - self.scores.u, self.length)
        basis = np.stack([flat, one, 2 * (at - self.scores.u.mean())], axis=1)
        return self._predict(basis, self.amplitude**2 * cross, self.amplitude**2 * 5 / (3 * self.length**2))

    def value(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the score and its paired standard error at `at` (n_points,)."""
        t = at - self.scores.u.mean()
        kernel, _ = _matern(at[:, None] - self.scores.u, self.length)
        basis = np.stack([np.ones_like(t), t, t**2], axis=1)
        return self._predict(basis, self.amplitude**2 * kernel, self.amplitude**2)

    def _predict(self, basis: np.ndarray, cross: np.ndarray, prior: float) -> tuple[np.ndarray, np.ndarray]:
        s = self.scores
        rows = basis @ self.trend + cross @ self.rest  # the prediction is rows @ mean: linear in the scores
        kernel, _ = _matern(s.u[:, None] - s.u, self.length)
        unknown = prior - 2 * (rows * cross).sum(axis=1) + self.amplitude**2 * ((rows @ kernel) * rows).sum(axis=1)
        noise = ((rows @ s.residuals) ** 2).sum(axis=1) + PRIOR_DOF * rows**2 @ s.variance
        noise = noise / (s.n_cells - 1 + PRIOR_DOF) / s.n_cells
        return rows @ s.mean, np.sqrt(noise + np.maximum(unknown, 0))


def _matern(distance: np.ndarray, length: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the Matern 5/2 kernel of unit amplitude and its derivative by the (signed) distance."""
    r = np.sqrt(5) * np.abs(distance) / length
    decay = np.exp(-r)
    return (1 + r + r**2 / 3) * decay, -5 / (3 * length**2) * distance * (1 + r) * decay


@dataclass(frozen=True, eq=False)
class SmoothCurve:
    """The average of all models, see the top of this file."""

    models: tuple[Model, ...]

    @property
    def is_quadratic(self) -> bool:
        """Whether the plain quadratic has most of the weight."""
        return self.models[0].weight > 0.5

    def top_below(self, at: np.ndarray) -> np.ndarray:
        """Return how sure it is that the top lies below each `at`, shape (n_points,), from 0 to 1."""
        s = self.models[0].scores
        dof = s.n_cells - 1 + min(PRIOR_DOF, s.dof)
        slopes = [(model.weight, *model.slope(at)) for model in self.models]
        return np.sum([weight * stdtr(dof, -slope / se) for weight, slope, se in slopes], axis=0)

    def value(self, at: float) -> tuple[float, float]:
        """Return the score and its paired standard error at `at`; models that differ add to it."""
        parts = [model.value(np.array([at])) for model in self.models]
        weights = np.array([model.weight for model in self.models])
        means, ses = (np.array([part[i][0] for part in parts]) for i in (0, 1))
        mean = float(weights @ means)
        return mean, float(np.sqrt(weights @ (ses**2 + (means - mean) ** 2)))


def smooth(scores: Scores) -> SmoothCurve:
    """Fit all models and weigh them.

    Parameters
    ----------
    scores : Scores
        Of at least four learning rates.
    """
    spread = max(float(np.ptp(scores.mean)), float(np.sqrt(scores.variance.mean())))
    fits = [_fit(scores, 0.0, 1.0), *(_fit(scores, a * spread, length) for a, length in DEVIATIONS)]
    prior = np.array([PLAIN, *[(1 - PLAIN) / len(DEVIATIONS)] * len(DEVIATIONS)])
    evidence = np.array([log for _, log in fits])
    weights = prior * np.exp(evidence - evidence.max())
    weights /= weights.sum()
    return SmoothCurve(tuple(replace(fit, weight=float(w)) for (fit, _), w in zip(fits, weights, strict=True)))


def _fit(scores: Scores, amplitude: float, length: float) -> tuple[Model, float]:
    """Return a model and the log of its restricted marginal likelihood."""
    t = scores.u - scores.u.mean()
    basis = np.stack([np.ones_like(t), t, t**2], axis=1)
    kernel, _ = _matern(t[:, None] - t, length)
    covariance = amplitude**2 * kernel + np.diag(scores.variance / scores.n_cells)
    inverse = np.linalg.inv(covariance)
    information = basis.T @ inverse @ basis
    trend = np.linalg.solve(information, basis.T @ inverse)
    rest = inverse @ (np.eye(len(t)) - basis @ trend)
    misfit = max(float(scores.mean @ rest @ scores.mean), 0.0)
    log_det = np.linalg.slogdet(covariance)[1] + np.linalg.slogdet(information)[1]
    evidence = -0.5 * log_det - 0.5 * (scores.dof + len(t) - 3) * np.log1p(misfit / scores.dof)
    return Model(scores, amplitude, length, trend, rest, 1.0), evidence
