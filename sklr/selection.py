"""The LR curve, the one object a search's decision is made of: pure functions of arrays, no estimator in sight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sklr.results import OK


@dataclass(frozen=True, eq=False)
class LRCurve:
    """Score against learning rate, with its noise.

    Parameters
    ----------
    lr : ndarray of shape (n_lrs,)
        Peak learning rates, ascending.
    mean : ndarray of shape (n_lrs,)
        Mean test score over the cells; NaN where the candidate diverged or failed.
    se : ndarray of shape (n_lrs,)
        Paired standard error of the mean, see `paired_standard_error`.
    status : tuple of str, of length n_lrs
        ``"ok"``, or what happened.
    """

    lr: np.ndarray
    mean: np.ndarray
    se: np.ndarray
    status: tuple[str, ...]

    @property
    def diverged(self) -> np.ndarray:
        """Which of the learning rates diverged; a boolean array of shape (n_lrs,)."""
        return np.array([status.startswith("diverged") for status in self.status], dtype=bool)

    def __len__(self) -> int:
        return len(self.lr)

    def __str__(self) -> str:
        lines = [f"{'lr':>10} {'score':>8} {'se':>7}  status"]
        best = np.nanargmax(self.mean) if np.isfinite(self.mean).any() else -1
        for i, (lr, mean, se, status) in enumerate(zip(self.lr, self.mean, self.se, self.status, strict=True)):
            lines.append(f"{lr:10.3g} {mean:8.4f} {se:7.4f}  {status}{'  <- best' if i == best else ''}")
        return "\n".join(lines)


def paired_standard_error(cell_scores: np.ndarray) -> np.ndarray:
    """Return the standard error of each candidate's mean score, what all candidates share in a cell taken out.

    Candidates meet the same cells, so an easy fold lifts them all and says nothing about which is better. Each
    cell's mean over the candidates is subtracted first, and the variance scaled by ``n / (n - 1)`` for the mean
    so lost (Morey 2008, Tutorials in Quantitative Methods for Psychology 4(2), eq. 2).

    Parameters
    ----------
    cell_scores : ndarray of shape (n_candidates, n_cells)
        Rows with a NaN have no standard error and shift nobody else's.

    Returns
    -------
    se : ndarray of shape (n_candidates,)
        NaN where there are fewer than two cells.

    >>> paired_standard_error(np.array([[0.5, 0.9], [0.6, 1.0]])).round(12).tolist()  # the folds differ, nothing else
    [0.0, 0.0]
    """
    n_candidates, n_cells = cell_scores.shape
    se = np.full(n_candidates, np.nan)
    whole = np.isfinite(cell_scores).all(axis=1)
    if n_cells < 2 or not whole.any():
        return se
    scores = cell_scores[whole]
    n = len(scores)
    if n > 1:
        scores = (scores - scores.mean(axis=0)) * np.sqrt(n / (n - 1))
    se[whole] = scores.std(axis=1, ddof=1) / np.sqrt(n_cells)
    return se


def lr_curve(lr: Sequence[float], cell_scores: np.ndarray, status: Sequence[str]) -> LRCurve:
    """Make the curve of a search; where several candidates share an lr, the best of them stands for it.

    Parameters
    ----------
    lr : sequence of shape (n_candidates,)
    cell_scores : ndarray of shape (n_candidates, n_cells)
    status : sequence of str, of length n_candidates

    >>> curve = lr_curve([0.1, 0.01, 0.1], np.array([[0.7, 0.8], [0.5, 0.6], [0.8, 0.9]]), ["ok"] * 3)
    >>> curve.lr.tolist(), curve.mean.round(2).tolist()
    ([0.01, 0.1], [0.55, 0.85])
    """
    lrs = np.asarray(lr, dtype=float)
    mean = np.where(np.array([s == OK for s in status]), cell_scores.mean(axis=1), np.nan)
    se = paired_standard_error(np.where(np.isnan(mean)[:, None], np.nan, cell_scores))
    by_lr = [np.flatnonzero(lrs == value) for value in np.unique(lrs)]
    best = [same[np.argmax(np.nan_to_num(mean[same], nan=-np.inf))] for same in by_lr]
    return LRCurve(lrs[best], mean[best], se[best], tuple(status[i] for i in best))
