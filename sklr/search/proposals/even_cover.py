"""The initial design (an even cover), batch sizes, and the distance between points; positions are from 0 to 1."""

from __future__ import annotations

import math

import numpy as np


def even_cover(n: int, n_dims: int, random_state: np.random.RandomState) -> np.ndarray:
    """Spread `n` points evenly over every axis, each axis divided into `n` equal parts with one point in each.

    Parameters
    ----------
    n, n_dims : int
        Number of points, and of axes.
    random_state : numpy.random.RandomState
        Shifts each axis by up to a quarter of a part, and permutes all but the first (a Latin hypercube).

    Returns
    -------
    positions : ndarray of shape (n, n_dims)
        Ordered so that the first few points already spread along the first axis (van der Corput sequence).

    Notes
    -----
    In one dimension random points miss a narrow basin far more often than evenly spaced ones: the widest gap is about
    1/n here, against log(n)/n.

    >>> points = even_cover(4, 1, np.random.RandomState(0)).ravel()
    >>> (points * 4).astype(int).tolist()
    [0, 2, 1, 3]
    """
    shifts = 0.5 + random_state.uniform(-0.25, 0.25, n_dims)
    orders = [_spread_order(n), *(random_state.permutation(n) for _ in range(n_dims - 1))]
    return (np.stack(orders[:n_dims], axis=1) + shifts) / n


def start_size(n_points: int, batch: int) -> int:
    """Return how many of `n_points` points to use for the even cover: half, between 4 and 10, in whole batches.

    From fewer than four points over several decades a model learns no more than which of them is the best: with a
    budget of four, a start of two missed the basin and lost to a grid, four did not (benchmarks/bench_strategies.py).

    >>> start_size(16, 4), start_size(9, 2), start_size(100, 4), start_size(5, 1), start_size(3, 4)
    (8, 6, 12, 4, 3)
    """
    return min(n_points, batch * math.ceil(min(max(n_points / 2, 4), 10) / batch))


def batch_size(n_done: int, n_start: int, left: float) -> int:
    """Return how many points to try at a time: the initial cover together, then an eighth of the rest.

    A small budget is best spent one by one, each proposal using all earlier scores; a large one can be batched.

    >>> batch_size(0, 8, 16), batch_size(8, 8, 8), batch_size(10, 10, 90)
    (8, 1, 11)
    """
    return n_start - n_done if n_done < n_start else max(1, int(left) // 8)


def _spread_order(n: int) -> np.ndarray:
    mirrored = [int(f"{i:b}"[::-1], 2) / 2 ** len(f"{i:b}") for i in range(n)]
    return np.argsort(np.argsort(mirrored))


def keep_apart(position: float, taken: np.ndarray, distance: float) -> float:
    """Return `position`, or the middle of the widest gap if it lies within `distance` of a point already taken.

    In one dimension a surrogate proposes its optimum again and again, where another training tells nothing new.

    >>> taken = np.array([0.1, 0.5, 0.6])
    >>> keep_apart(0.3, taken, 0.01), keep_apart(0.501, taken, 0.01)
    (0.3, 1.0)
    >>> keep_apart(0.0, np.array([0.0]), 0.01)
    1.0
    """
    if len(taken) == 0 or np.abs(taken - position).min() >= distance:
        return position
    points = np.unique(taken)
    gaps = np.diff(points, prepend=-points[0], append=2 - points[-1])  # gaps at the ends count double (mirrored)
    widest = int(gaps.argmax())
    if widest == 0:
        return 0.0
    if widest == len(points):
        return 1.0
    return float(points[widest - 1] + gaps[widest] / 2)
