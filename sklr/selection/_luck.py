"""The winner's curse: how much the best of many noisy scores is too high, estimated on noisy copies of the scores."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sklr.selection._noise import SIZE, Scores, summarize
from sklr.selection.curve import best_positions


def luck(scores: Scores, own_noise: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> float:
    """Return by how much the score of the chosen one is too high, on average over noisy copies.

    All scores get independent noise of the best one's size: the noise of the best and its competitors decides, and near
    a cliff the noise is many times larger. In a copy the added noise is known, so the luck is the noise at the one that
    is chosen on the copy.

    Parameters
    ----------
    scores : Scores
    own_noise : callable
        Maps the noise (n_copies, n_lrs) and the copies, which are the means plus that noise, to the noise at the one
        chosen on each copy, shape (n_copies,).

    Returns
    -------
    luck : float
        0 or more.
    """
    size = SIZE * np.sqrt(scores.own[best_positions(scores.mean)].max())
    noise = size * scores.draws()
    return max(float(own_noise(noise, scores.mean + noise).mean()), 0.0)


def luck_of_best(cell_scores: np.ndarray) -> float:
    """Return by how much the highest mean score is expected to exceed its candidate's expected score.

    Parameters
    ----------
    cell_scores : ndarray of shape (n_candidates, n_cells)
        Finite; higher is better.

    Returns
    -------
    luck : float
        0 or more; NaN for several candidates in a single cell, 0 for one candidate.

    Examples
    --------
    >>> noise = np.random.default_rng(0).normal(0.9, 0.01, (50, 10))  # fifty candidates with expected score 0.9
    >>> f"{noise.mean(axis=1).max() - 0.9:.3f} {luck_of_best(noise):.3f}"
    '0.009 0.004'
    """
    m, n = cell_scores.shape
    if m == 1:
        return 0.0
    if n == 1:
        return float("nan")
    order = cell_scores.mean(axis=1).argsort()  # noise is drawn by position; sorted, the given order does not matter
    return luck(summarize(np.arange(m), cell_scores[order]), _at_the_best)


def _at_the_best(noise: np.ndarray, copies: np.ndarray) -> np.ndarray:
    return noise[np.arange(len(noise)), copies.argmax(axis=1)]
