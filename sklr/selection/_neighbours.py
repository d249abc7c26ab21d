r"""The top of an LR curve from the best learning rate and its neighbours alone, in many noisy copies of the curve.

On trained nets the curve is asymmetric: losses grow gently on one side of the top and steeply, or over a cliff, on the
other. Points far from the top then say nothing about its position. So in each copy the top is the vertex of a parabola
through the best learning rate and its two neighbours, with two precautions. Let the excess `e` of a neighbour be how
much lower than the best it scores:

- the parabola goes through :math:`\log(1 + e / s)`, which flattens a steep side; `s` is `SCALE` times the smaller `e`
- an excess is capped at that of the *second* neighbour on the other side, which is twice as far away, so that a
  neighbour that diverged or lies beyond a cliff says little more than that the top is not there

Three points do not determine the shape between them, so a normal error of `SHAPE` times the spacing is added to the
vertex.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import stats
from scipy.interpolate import PchipInterpolator

from sklr.selection._luck import luck
from sklr.selection._noise import N_COPIES, Scores

# Chosen by benchmarks/bench_truth.py --constants
SCALE = 1.0
SHAPE = 0.16
CLUSTER = 0.12  # decades; learning rates nearer to each other than this are merged and their scores averaged


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The contiguous learning rates with a score around the best one, and the tops of their noisy copies.

    Parameters
    ----------
    scores : Scores
    walls : tuple of float, (low, high)
        log10 of the learning rates without a score next to them; infinite at the end of the range.
    """

    scores: Scores
    walls: tuple[float, float]

    @cached_property
    def copies(self) -> np.ndarray:
        """Noisy copies of the mean scores, shape (N_COPIES, n_lrs)."""
        return self.scores.mean + self.scores.copies()

    @cached_property
    def tops(self) -> np.ndarray:
        """log10 of the best lr in each copy, shape (N_COPIES,); infinite if it is outside of the range tried."""
        return vertices(self.scores.u, self.copies, self.walls)

    def quantiles(self, levels: np.ndarray) -> np.ndarray:
        """Return quantiles of the tops with the shape error, clipped to the range or a wall."""
        u, (low, high) = self.scores.u, self.walls
        at = np.clip(self.tops, u[0], u[-1])
        gaps = np.diff(u)
        spacing = np.interp(at, (u[1:] + u[:-1]) / 2, gaps)
        moved = self.tops + SHAPE * spacing * _errors()
        limits = (low if np.isfinite(low) else u[0], high if np.isfinite(high) else u[-1])
        return np.clip(np.sort(moved)[np.round(levels * (N_COPIES - 1)).astype(int)], *limits)

    def luck(self) -> float:
        """Return by how much the curve through all means is too high at its top."""
        u = self.scores.u

        def at_the_top(noise: np.ndarray, copies: np.ndarray) -> np.ndarray:
            tops = np.clip(vertices(u, copies, self.walls), u[0], u[-1])
            left = np.clip(np.searchsorted(u, tops) - 1, 0, len(u) - 2)
            share, row = (tops - u[left]) / (u[left + 1] - u[left]), np.arange(len(tops))
            return (1 - share) * noise[row, left] + share * noise[row, left + 1]

        return luck(self.scores, at_the_top)

    def value(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the score and its paired standard error at `at` (n_points,), interpolated between the mean scores."""
        u = self.scores.u
        at = np.clip(at, u[0], u[-1])
        se = PchipInterpolator(u, self.copies, axis=1)(at).std(axis=0)
        return PchipInterpolator(u, self.scores.mean)(at), se


def _errors() -> np.ndarray:
    """Return evenly spaced standard normal quantiles in a fixed random order, independent of the noise."""
    levels = (np.random.default_rng(1).permutation(N_COPIES) + 0.5) / N_COPIES
    return stats.norm.ppf(levels)


def vertices(u: np.ndarray, scores: np.ndarray, walls: tuple[float, float]) -> np.ndarray:
    """Return the top of each copy.

    Parameters
    ----------
    u : ndarray of shape (n_lrs,)
        Ascending.
    scores : ndarray of shape (n_copies, n_lrs)
        Higher is better.
    walls : tuple of float, (low, high)
        As in `Neighbours`.

    Returns
    -------
    tops : ndarray of shape (n_copies,)
        -inf or inf if the best is at an end of the range without a wall.

    Examples
    --------
    >>> u, none = np.array([-3.0, -2.0, -1.0, 0.0]), (-np.inf, np.inf)
    >>> vertices(u, np.array([[0.0, 4.0, 4.0, 0.0], [3.0, 4.0, 3.0, 0.0], [1.0, 2.0, 3.0, 4.0]]), none).tolist()
    [-1.5, -2.0, inf]
    >>> vertices(u, np.array([[1.0, 2.0, 3.0, 4.0]]), (-np.inf, 1.0)).round(3).tolist()  # the next one diverged
    [-0.113]
    """
    best = scores.argmax(axis=1)
    row = np.arange(len(scores))
    excess = np.pad(scores[row, best][:, None] - scores, ((0, 0), (2, 2)), constant_values=np.inf)
    below2, below, above, above2 = (excess[row, best + 2 + k] for k in (-2, -1, 1, 2))
    below, above = np.fmin(below, above2), np.fmin(above, below2)
    unknown = np.isinf(below) | np.isinf(above)
    low, high = (np.where(unknown, 1.0, side) for side in (below, above))
    # the lower bounds avoid a division by 0 if a neighbour, or both, tie with the best
    scale = np.maximum(SCALE * np.minimum(low, high), 1e-9 * np.maximum(np.maximum(low, high), 1e-300))
    low, high = np.log1p(low / scale), np.log1p(high / scale)
    at = np.pad(u, 1, mode="reflect", reflect_type="odd")
    left, right = at[best + 1] - at[best], at[best + 2] - at[best + 1]
    moved = (low * right**2 - high * left**2) / (2 * (low * right + high * left))
    tops = u[best] + np.where(unknown, 0.0, moved)
    tops[(best == 0) & np.isinf(walls[0])] = -np.inf
    tops[(best == len(u) - 1) & np.isinf(walls[1])] = np.inf
    return tops


def pool(u: np.ndarray, cell_scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return learning rates and cell scores with those within `CLUSTER` of each other averaged.

    >>> u, scores = pool(np.array([-2.0, -1.99, -1.0]), np.array([[1.0], [3.0], [5.0]]))
    >>> u.round(3).tolist(), scores.ravel().tolist()
    ([-1.995, -1.0], [2.0, 5.0])
    """
    group, first, groups = 0, u[0], []
    for value in u:
        if value - first >= CLUSTER:
            group, first = group + 1, value
        groups.append(group)
    members = np.equal.outer(np.arange(group + 1), groups)
    share = members / members.sum(axis=1, keepdims=True)
    return share @ u, share @ cell_scores
