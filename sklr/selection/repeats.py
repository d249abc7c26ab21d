"""The variance of the search itself: what it would have chosen with other seeds and folds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.interpolate import PchipInterpolator

from sklr._utils.html import ShownAsText
from sklr.selection._fit import Top, find_top
from sklr.selection._neighbours import Neighbours
from sklr.selection._noise import N_COPIES, summarize
from sklr.selection.choice import why_no_interval
from sklr.selection.curve import LRCurve, stretch_around

CONFIDENCE = 0.9


@dataclass(frozen=True)
class SearchVariance(ShownAsText):
    """How much the chosen learning rate varies when a search is repeated with other seeds and folds, and the cost.

    Parameters
    ----------
    decades : float
        Standard deviation of log10 of the chosen learning rate.
    lr_range : tuple of float, (low, high)
        Range of the learning rates that nine of ten repeated searches choose.
    cost : float
        How much lower than the best one the chosen learning rate scores, on average.

    Notes
    -----
    All are NaN if the scores cannot determine them, as with one fold and one seed.

    Examples
    --------
    >>> print(SearchVariance(0.12, (0.02, 0.05), 0.0013))
    with other seeds and folds the search would choose an lr from 0.02 to 0.05 (9 of 10 times), which costs 0.0013 of
    the score on average
    >>> print(SearchVariance(0.01, (0.1, 0.1), 0.0013))
    with other seeds and folds the search would choose lr 0.1 (9 of 10 times), which costs 0.0013 of
    the score on average
    """

    decades: float
    lr_range: tuple[float, float]
    cost: float

    def __str__(self) -> str:
        low, high = self.lr_range
        if not np.isfinite(self.decades):
            return "the scores do not tell what the search would choose with other seeds and folds"
        if self.decades == 0:
            return f"with other seeds and folds the search would choose the same lr, {low:.3g}"
        same = f"{low:.3g}" == f"{high:.3g}"
        chosen = f"lr {low:.3g}" if same else f"an lr from {low:.3g} to {high:.3g}"
        return (
            f"with other seeds and folds the search would choose {chosen} (9 of 10 times),\n"
            f"which costs {self.cost:.2g} of the score on average"
        )


def search_variance(curve: LRCurve, select: str = "best") -> SearchVariance:
    """Estimate what the same search would have chosen with other seeds and folds.

    Nothing is trained: the choice is repeated on noisy copies of the curve, made from the variation between its cells
    as for ``select="fit"``. All copies have the same learning rates; a strategy that learns from scores would propose
    others, and vary a little more.

    Parameters
    ----------
    curve : LRCurve
    select : {"best", "one_se", "fit"}, default="best"
        The rule by which the search chooses.

    Returns
    -------
    variance : SearchVariance

    Examples
    --------
    >>> from sklr.selection import lr_curve
    >>> lr, noise = 10.0 ** np.arange(-4, 0.1, 0.5), np.random.default_rng(1).normal(0, 0.02, (9, 5))
    >>> scores = 0.9 - 0.1 * (np.log10(lr) + 1.8)[:, None] ** 2
    >>> print(search_variance(lr_curve(lr, scores + noise, ["ok"] * 9)))
    with other seeds and folds the search would choose an lr from 0.01 to 0.0316 (9 of 10 times),
    which costs 0.0031 of the score on average
    >>> print(search_variance(lr_curve(lr, scores + np.zeros(5), ["ok"] * 9)))
    with other seeds and folds the search would choose the same lr, 0.01
    """
    if why_no_interval(curve):
        return SearchVariance(np.nan, (np.nan, np.nan), np.nan)
    usable = np.flatnonzero(curve.usable)
    u, mean = np.log10(curve.lr[usable]), curve.mean[usable]
    chosen = _chosen(curve, usable, select)
    value = PchipInterpolator(u, mean)(chosen)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.sort(chosen)[np.round(np.array([tail, 1 - tail]) * (len(chosen) - 1)).astype(int)]
    cost = max(float(value.max()), float(mean.max())) - float(value.mean())
    decades = float(np.ptp(chosen) and chosen.std())  # exactly 0 if all are equal, without rounding
    return SearchVariance(decades, (float(10**low), float(10**high)), cost)


def _chosen(curve: LRCurve, usable: np.ndarray, select: str) -> np.ndarray:
    """Return log10 of the lr chosen on each copy, shape (n_copies,)."""
    u, cell_scores = np.log10(curve.lr[usable]), curve.cell_scores[usable]
    top = find_top(curve, CONFIDENCE) if select == "fit" else ""
    if isinstance(top, Top):
        return np.clip(_tops(top), u[0], u[-1])
    copies = curve.mean[usable] + summarize(u, cell_scores).copies()
    best = copies.argmax(axis=1)
    if select == "best":
        return u[best]
    difference = cell_scores[:, None] - cell_scores
    se = difference.std(axis=2, ddof=1) / np.sqrt(cell_scores.shape[1])
    ends = [stretch_around(copy[i] - copy <= se[i], i)[[0, -1]] for copy, i in zip(copies, best, strict=True)]
    return u[np.array(ends)].mean(axis=1)


def _tops(top: Top) -> np.ndarray:
    if isinstance(top.model, Neighbours):
        return top.model.tops
    sd = (top.high - top.low) / 2 / stats.norm.ppf((1 + CONFIDENCE) / 2)
    return top.u + sd * stats.norm.ppf((np.arange(N_COPIES) + 0.5) / N_COPIES)
