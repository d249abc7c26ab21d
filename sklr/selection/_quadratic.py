r"""A quadratic through a stretch of the LR curve, and Fieller's interval for its top.

In :math:`u = \log_{10} lr`: score :math:`= a + bt + ct^2` with `t` from the middle of the stretch, by least squares.
All scores have the same weight, because few cells estimate their variances too poorly. The top is :math:`-b / (2c)`.
Its interval (Fieller 1954) contains all `t` at which the slope :math:`b + 2ct` might be 0, that is
:math:`(b + 2ct)^2 \le q^2 (V_{bb} + 4t V_{bc} + 4t^2 V_{cc})` with `V` the covariance of the coefficients and `q` a
quantile of Student's t.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from sklr.selection._luck import luck
from sklr.selection._noise import Scores

SIGNIFICANT = 0.05  # level of the tests of a cubic term and of the misfit, which reject a quadratic


@dataclass(frozen=True, eq=False)
class Quadratic:
    """The coefficients `(a, b, c)` around `middle`, and their covariance."""

    scores: Scores
    middle: float
    coefficients: np.ndarray
    covariance: np.ndarray

    @property
    def top(self) -> float:
        """log10 of the lr where the slope is 0: the maximum or the minimum."""
        _, b, c = self.coefficients
        return self.middle - float(b / (2 * c))

    @property
    def curves_down(self) -> bool:
        """Whether its extremum is a maximum."""
        return bool(self.coefficients[2] < 0)

    def interval(self, confidence: float) -> tuple[float, float] | None:
        """Return Fieller's interval for the top; None if it is unbounded."""
        _, b, c = self.coefficients
        v, q2 = self.covariance, stats.t.ppf((1 + confidence) / 2, self.scores.dof) ** 2
        square, linear, rest = c**2 - q2 * v[2, 2], b * c - q2 * v[1, 2], b**2 - q2 * v[1, 1]
        inside = linear**2 - square * rest
        if square <= 0 or inside < 0:
            return None
        half = float(np.sqrt(inside) / (2 * square))
        centre = self.middle - float(linear / (2 * square))
        return centre - half, centre + half

    def doubt(self) -> float:
        """Return how far a cubic term might move the top, in decades: the root sum of squares of estimate and error.

        Infinite if that term or the residuals of the quadratic are significantly more than noise.
        """
        t, at = self.scores.u - self.middle, self.top - self.middle
        slope = np.array([0.0, 1.0, 2 * at, 3 * at**2]) @ _solver(t, 3)  # slope of the cubic at the top
        moved, se = abs(float(slope @ self.scores.mean)), float(np.sqrt(slope @ self.scores.covariance @ slope))
        left = (self.scores.mean - self.value(self.scores.u)[0]) ** 2 / self.scores.variance
        likely = float(stats.f.sf(left.sum() / (len(t) - 3), len(t) - 3, self.scores.dof))
        if likely < SIGNIFICANT or moved > stats.norm.isf(SIGNIFICANT / 2) * se:
            return np.inf
        return float(np.hypot(moved, se) / abs(2 * self.coefficients[2]))

    def luck(self) -> float:
        """Return by how much the quadratic is too high at its top."""
        t = self.scores.u - self.middle

        def at_the_top(noise: np.ndarray, copies: np.ndarray) -> np.ndarray:
            rows = _solver(t, 2).T
            _, b, c = (copies @ rows).T
            tops = np.clip(-b / (2 * c), t[0], t[-1])
            return ((noise @ rows) * np.vander(tops, 3, increasing=True)).sum(axis=1)

        return luck(self.scores, at_the_top)

    def value(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the score and its paired standard error at `at` (n_points,)."""
        basis = np.vander(at - self.middle, 3, increasing=True)
        return basis @ self.coefficients, np.sqrt(((basis @ self.covariance) * basis).sum(axis=1))


def fit_quadratic(scores: Scores) -> Quadratic:
    """Fit the scores of at least four learning rates."""
    middle = float(scores.u.mean())
    rows = _solver(scores.u - middle, 2)
    return Quadratic(scores, middle, rows @ scores.mean, rows @ scores.covariance @ rows.T)


def _solver(t: np.ndarray, degree: int) -> np.ndarray:
    """Return the least-squares operator from mean scores to polynomial coefficients, shape (degree + 1, n_lrs)."""
    return np.linalg.pinv(np.vander(t, degree + 1, increasing=True))
