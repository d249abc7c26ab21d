"""How much of the best of many noisy scores is luck: the winner's curse, from noisy copies of the scores."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sklr.selection._noise import SIZE, Scores, summarize
from sklr.selection.curve import best_positions


def luck(scores: Scores, own_noise: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> float:
    """Return by how much the score of what is chosen is too high, on average over noisy copies.

    All scores are given independent noise of the best one's own size: it is the noise of the best, and of what competes
    with it, that decides, and near a cliff noise is many times larger. In a copy it is known what noise was added, so
    the noise at what is chosen on the copy is the luck.

    Parameters
    ----------
    scores : Scores
    own_noise : callable
        From noise (n_copies, n_lrs) and copies, which are the means with that noise, to the noise at what is chosen on
        each copy, shape (n_copies,).

    Returns
    -------
    luck : float
        0 or more.
    """
    size = SIZE * np.sqrt(scores.own[best_positions(scores.mean)].max())
    noise = size * scores.draws()
    return max(float(own_noise(noise, scores.mean + noise).mean()), 0.0)


def luck_of_best(cell_scores: np.ndarray) -> float:
    """Return by how much the highest mean score is expected to be above its candidate's worth.

    Parameters
    ----------
    cell_scores : ndarray of shape (n_candidates, n_cells)
        Finite; higher is better.

    Returns
    -------
    luck : float
        0 or more; NaN for several candidates in one cell, 0 for one candidate.

    Examples
    --------
    >>> noise = np.random.default_rng(0).normal(0.9, 0.01, (50, 10))  # fifty candidates, all worth 0.9
    >>> f"{noise.mean(axis=1).max() - 0.9:.3f} {luck_of_best(noise):.3f}"
    '0.009 0.004'
    """
    m, n = cell_scores.shape
    if m == 1:
        return 0.0
    if n == 1:
        return float("nan")
    order = cell_scores.mean(axis=1).argsort()  # the noise goes by position: the order must not matter
    return luck(summarize(np.arange(m), cell_scores[order]), _at_the_best)


def _at_the_best(noise: np.ndarray, copies: np.ndarray) -> np.ndarray:
    return noise[np.arange(len(noise)), copies.argmax(axis=1)]
