"""Where on a line to look next: one learning rate, on a logarithmic scale, as positions from 0 to 1.

Pure functions of the positions tried and their scores, for any model of the curve. What makes a learning rate special
is said here: too small is merely slow, too large falls off a cliff, and a score beyond the cliff tells nothing about
the height before it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import ndtr

from sklr.search.proposals.even_cover import keep_apart

GRID = np.linspace(0.0, 1.0, 513)
SHARE = 0.8  # of the largest gain: what another model's proposal must promise to be taken
Prediction = tuple[np.ndarray, np.ndarray]  # mean and standard deviation
Fit = Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray], Prediction]]


def bounded(scores: np.ndarray) -> np.ndarray:
    """Return scores that a model can learn from: finite, and very low ones raised.

    Scores that are none become the worst that is left, and what lies further below the median than twice the way
    from the median to the best is lifted there: a loss of 1e6 next to divergence would flatten all that matters.

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
    """Say which points lie beyond the cliff: above the best, bad, and nothing but bad above them.

    Bad is a score that is none, or one further below the median than the best is above it.

    Parameters
    ----------
    positions, scores : ndarray of shape (n,)
        NaN where there is no score, as after divergence.

    Returns
    -------
    fallen : ndarray of bool, of shape (n,)
        All False where nothing has a score: then there is no best to be above of.

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
    """Return the probability that a training at `at` does not fall off the cliff.

    The cliff's edge is as likely anywhere between the highest point that held and the lowest that fell.

    >>> survival(np.array([0.2, 0.5, 0.6, 0.9]), np.array([0.4, 0.8]), np.array([False, True])).round(2).tolist()
    [1.0, 0.75, 0.5, 0.0]
    """
    if not beyond.any():
        return np.ones(len(at))
    held, fell = positions[~beyond].max(), positions[beyond].min()
    return np.clip((fell - at) / (fell - held), 0.0, 1.0)


def informative(positions: np.ndarray, beyond: np.ndarray) -> np.ndarray:
    """Say which points a model of the curve should see: all but the first beyond the cliff.

    That one would bend a smooth model down before the edge; those further out keep it from rising there.

    >>> informative(np.array([0.2, 0.9, 0.6]), np.array([False, True, True])).tolist()
    [True, True, False]
    """
    return ~beyond | (positions > np.min(positions, where=beyond, initial=np.inf))


def propose(positions: np.ndarray, scores: np.ndarray, n: int, distance: float, fit: Fit) -> list[float]:
    """Return the `n` positions to try next: where a model expects to improve most, and training to survive.

    Parameters
    ----------
    positions, scores : ndarray of shape (n_points,)
        What has been tried; NaN where a training has no score.
    n : int
        How many at a time; each is believed to score what the model expects when the next is sought ("kriging
        believer", Ginsbourger, Le Riche and Carraro 2010, section 4.2).
    distance : float
        How near to each other two positions may be.
    fit : callable
        `fit(positions, scores)` returns a function from positions to mean and standard deviation.

    Notes
    -----
    Expected improvement (Jones, Schonlau and Welch 1998, eq. 15) times the probability to be feasible (Gardner et al.
    2014, eq. 6), on 513 positions. If nothing has a score, the learning rate is too high: half way to the low end.
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
    """Return what a training at each position of `GRID` promises to gain, and what it is expected to score.

    Parameters are those of `propose`. The gain is -1 within `distance` of a point tried.
    """
    heights, beyond = bounded(scores), fallen(positions, scores)
    seen = informative(positions, beyond)
    mean, std = fit(positions[seen], heights[seen])(GRID)
    gain = _expected_improvement(mean, std, heights.max()) * survival(GRID, positions, beyond)
    gain[np.abs(GRID[:, None] - positions).min(axis=1) < distance] = -1.0
    return gain, mean


def settle(position: float, gain: np.ndarray) -> float:
    """Return the position of `GRID` nearest to `position` that promises at least `SHARE` of the largest gain.

    >>> settle(0.5, np.where(GRID > 0.75, 1.0, 0.4)), settle(0.5, np.ones(len(GRID)))
    (0.751953125, 0.5)
    """
    good = GRID[gain >= SHARE * gain.max()]
    return float(good[np.abs(good - position).argmin()])


def retreat(positions: np.ndarray, n: int, distance: float) -> list[float]:
    """Return `n` positions below all of `positions`, each half way from the lowest to the low end.

    >>> retreat(np.array([0.5, 0.9]), 2, 0.01)
    [0.25, 0.125]
    """
    proposed: list[float] = []
    for _ in range(n):
        taken = np.append(positions, proposed)
        proposed.append(keep_apart(float(taken.min() / 2), taken, distance))
    return proposed


def stretch(positions: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """Return the part of the line that may still hold: up to the middle between the last that held and the cliff.

    >>> stretch(np.array([0.2, 0.5, 1.0]), np.array([0.5, 0.6, np.nan]))
    (0.0, 0.75)
    """
    beyond = fallen(positions, scores)
    if not beyond.any():
        return 0.0, 1.0
    return 0.0, float(positions[~beyond].max() + positions[beyond].min()) / 2


def basin(positions: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """Return the part of the line around the best: from its neighbour below to its neighbour above.

    Ends of the line stand for a neighbour that is missing, and the middle for one beyond the cliff.

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
