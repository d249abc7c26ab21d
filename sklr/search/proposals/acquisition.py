"""Acquisition on one axis: which learning rate to try next, as a position from 0 to 1 on a logarithmic scale.

Pure functions of the positions tried and their scores, for any model of the curve. They use what is special about the
learning rate: a value that is too small is merely slow, one that is too large falls off a cliff, and a score beyond the
cliff says nothing about the scores below it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import ndtr

from sklr.search.proposals.even_cover import keep_apart

GRID = np.linspace(0.0, 1.0, 513)
SHARE = 0.8  # minimum expected gain, as a fraction of the largest, at a position that another model proposes
Prediction = tuple[np.ndarray, np.ndarray]  # mean and standard deviation
Fit = Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray], Prediction]]


def bounded(scores: np.ndarray) -> np.ndarray:
    """Return scores that a model can learn from: finite, with a lower bound.

    The bound is the worst finite score, but at most twice as far below the median as the best is above it: otherwise
    a loss of 1e6 next to divergence would flatten the rest of the curve. NaN and infinities become the bound.

    >>> bounded(np.array([0.9, np.nan, 0.1, 0.5])).tolist()
    [0.9, 0.1, 0.1, 0.5]
    >>> bounded(np.array([-1e6, -0.3, -0.4, -0.5, -np.inf])).tolist()
    [-0.75, -0.3, -0.4, -0.5, -0.75]
    >>> bounded(np.array([np.nan, np.nan])).tolist()
    [0.0, 0.0]
    """
    finite = scores[np.isfinite(scores)]
    if len(finite) == 0:
        return np.zeros(len(scores))
    median, best = np.median(finite), finite.max()
    floor = max(finite.min(), median - 2 * (best - median)) if best > median else finite.min()
    return np.maximum(np.where(np.isfinite(scores), scores, floor), floor)


def fallen(positions: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return which points lie beyond the cliff: bad ones above the best, with only bad ones above them.

    Bad means no score, or a score further below the median than the best is above it.

    Parameters
    ----------
    positions, scores : ndarray of shape (n,)
        NaN for a point without a score, such as a diverged one.

    Returns
    -------
    fallen : ndarray of bool, of shape (n,)
        All False if no point has a score, because then there is no best one.

    >>> positions = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
    >>> fallen(positions, np.array([0.7, 0.8, 0.9, 0.1, np.nan])).tolist()
    [False, False, False, True, True]
    >>> fallen(positions, np.array([np.nan, 0.8, np.nan, 0.9, 0.8])).tolist()  # failures in between are no cliff
    [False, False, False, False, False]
    """
    finite = np.isfinite(scores)
    if not finite.any():
        return np.zeros(len(scores), dtype=bool)
    heights = np.where(finite, scores, -np.inf)
    best, median = heights.max(), np.median(scores[finite])
    bad = (heights < 2 * median - best) & (positions > positions[heights.argmax()])
    return bad & (positions > positions[~bad].max())


def survival(at: np.ndarray, positions: np.ndarray, beyond: np.ndarray) -> np.ndarray:
    """Return the probability that a training at `at` stays below the cliff.

    The position of the cliff is uniform between the highest point below it and the lowest beyond it.

    >>> survival(np.array([0.2, 0.5, 0.6, 0.9]), np.array([0.4, 0.8]), np.array([False, True])).round(2).tolist()
    [1.0, 0.75, 0.5, 0.0]
    """
    if not beyond.any():
        return np.ones(len(at))
    held, fell = positions[~beyond].max(), positions[beyond].min()
    return np.clip((fell - at) / (fell - held), 0.0, 1.0)


def informative(positions: np.ndarray, beyond: np.ndarray) -> np.ndarray:
    """Return which points a model of the curve should be fitted to: all but the first beyond the cliff.

    That one would bend a smooth model down before the cliff; those further out keep it from rising there.

    >>> informative(np.array([0.2, 0.9, 0.6]), np.array([False, True, True])).tolist()
    [True, True, False]
    """
    return ~beyond | (positions > np.min(positions, where=beyond, initial=np.inf))


def propose(positions: np.ndarray, scores: np.ndarray, n: int, distance: float, fit: Fit) -> list[float]:
    """Return the `n` positions to try next, by constrained expected improvement.

    Parameters
    ----------
    positions, scores : ndarray of shape (n_points,)
        The points tried; NaN for a training without a score.
    n : int
        How many positions to propose. Each is assumed to score what the model predicts when the next one is chosen
        ("kriging believer", Ginsbourger, Le Riche and Carraro 2010, section 4.2).
    distance : float
        Minimum distance between two positions.
    fit : callable
        `fit(positions, scores)` returns a function from positions to mean and standard deviation.

    Notes
    -----
    Expected improvement (Jones, Schonlau and Welch 1998, eq. 15) times the probability of feasibility (Gardner et al.
    2014, eq. 6), on 513 positions. If no point has a score, the learning rates were too high: then it proposes half way
    from the lowest one to the low end, see `retreat`.
    """
    if not np.isfinite(scores).any():
        return retreat(positions, n, distance)
    proposed: list[float] = []
    for _ in range(n):
        gain, mean = promise(positions, scores, distance, fit)
        best = int(gain.argmax())
        proposed.append(keep_apart(float(GRID[best]), positions, distance))
        positions, scores = np.append(positions, proposed[-1]), np.append(scores, mean[best])
    return proposed


def promise(positions: np.ndarray, scores: np.ndarray, distance: float, fit: Fit) -> tuple[np.ndarray, np.ndarray]:
    """Return the acquisition (expected gain) and the predicted score at each position of `GRID`.

    The parameters are those of `propose`. The gain is -1 within `distance` of a point that was tried.
    """
    heights, beyond = bounded(scores), fallen(positions, scores)
    seen = informative(positions, beyond)
    mean, std = fit(positions[seen], heights[seen])(GRID)
    gain = _expected_improvement(mean, std, heights.max()) * survival(GRID, positions, beyond)
    gain[np.abs(GRID[:, None] - positions).min(axis=1) < distance] = -1.0
    return gain, mean


def settle(position: float, gain: np.ndarray) -> float:
    """Return the position of `GRID` nearest to `position` whose expected gain is at least `SHARE` of the largest.

    >>> settle(0.5, np.where(GRID > 0.75, 1.0, 0.4)), settle(0.5, np.ones(len(GRID)))
    (0.751953125, 0.5)
    """
    good = GRID[gain >= SHARE * gain.max()]
    return float(good[np.abs(good - position).argmin()])


def retreat(positions: np.ndarray, n: int, distance: float) -> list[float]:
    """Return `n` positions below all of `positions`, each half way from the lowest so far to the low end.

    >>> retreat(np.array([0.5, 0.9]), 2, 0.01)
    [0.25, 0.125]
    """
    proposed: list[float] = []
    for _ in range(n):
        taken = np.append(positions, proposed)
        proposed.append(keep_apart(float(taken.min() / 2), taken, distance))
    return proposed


def stretch(positions: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """Return the part of the axis below the cliff: up to the middle between its two bounds, see `survival`.

    >>> stretch(np.array([0.2, 0.5, 1.0]), np.array([0.5, 0.6, np.nan]))
    (0.0, 0.75)
    """
    beyond = fallen(positions, scores)
    if not beyond.any():
        return 0.0, 1.0
    return 0.0, float(positions[~beyond].max() + positions[beyond].min()) / 2


def basin(positions: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """Return the part of the axis around the best point: from its neighbour below to its neighbour above.

    The end of the axis replaces a missing neighbour; the upper end is cut off at that of `stretch`.

    >>> basin(np.array([0.1, 0.3, 0.5, 0.9]), np.array([0.5, 0.6, 0.55, np.nan]))
    (0.1, 0.5)
    >>> basin(np.array([0.2, 0.6, 0.8]), np.array([0.5, 0.6, np.nan])), basin(np.array([0.5]), np.array([1.0]))
    ((0.2, 0.7), (0.0, 1.0))
    """
    best = positions[np.where(np.isfinite(scores), scores, -np.inf).argmax()]
    low = positions[positions < best].max(initial=0.0)
    high = positions[positions > best].min(initial=1.0)
    return float(low), min(float(high), stretch(positions, scores)[1])


def _expected_improvement(mean: np.ndarray, std: np.ndarray, best: float) -> np.ndarray:
    z = (mean - best) / std
    return std * (z * ndtr(z) + np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi))
