"""The LR curve, on which a search decides, and what can be read off it without a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

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
        Mean test score over the cells; NaN if the candidate diverged, failed or was stopped.
    se : ndarray of shape (n_lrs,)
        Paired standard error of the mean, see `paired_standard_error`.
    status : tuple of str, of length n_lrs
        ``"ok"``, or what happened.
    cell_scores : ndarray of shape (n_lrs, n_cells)
        The scores from which `mean` and `se` are computed; ignore rows whose status is not ``"ok"``.
    candidate : ndarray of int of shape (n_lrs,)
        Index of the candidate in the search at each learning rate.
    n_seeds : int, default=1
        Cells per fold, side by side in `cell_scores`.
    joined : bool, default=True
        Whether the points differ in their learning rate alone. If not, each point is the best candidate with that
        learning rate, whatever its other parameters, and the curve allows no conclusion about the learning rate by
        itself.

    Examples
    --------
    >>> curve = lr_curve([0.01, 0.1, 1.0], np.array([[0.5, 0.6], [0.8, 0.9], [np.nan, 0.1]]), ["ok", "ok", "diverged"])
    >>> curve
    <LRCurve: 3 learning rates from 0.01 to 1, 2 cells, best 0.1, 1 diverged>
    >>> print(curve)
            lr    score      se  status
          0.01   0.5500  0.0000  ok
           0.1   0.8500  0.0000  ok  <- best
             1      nan     nan  diverged
    """

    lr: np.ndarray
    mean: np.ndarray
    se: np.ndarray
    status: tuple[str, ...]
    cell_scores: np.ndarray
    candidate: np.ndarray
    n_seeds: int = 1
    joined: bool = True

    @property
    def n_folds(self) -> int:
        """Number of folds."""
        return self.cell_scores.shape[1] // self.n_seeds

    @property
    def cells(self) -> str:
        """The number of folds and seeds as text, such as ``"3 folds x 2 seeds"``."""
        if self.n_folds == 1:
            return "one fold with one seed" if self.n_seeds == 1 else f"{self.n_seeds} seeds of one fold"
        return f"{self.n_folds} folds {'with one seed each' if self.n_seeds == 1 else f'x {self.n_seeds} seeds'}"

    @property
    def has_noise(self) -> bool:
        """Whether the noise of the scores can be estimated, which needs at least two cells."""
        return self.cell_scores.shape[1] > 1

    @property
    def all_equal(self) -> bool:
        """Whether several learning rates score the same in every cell, up to rounding in float32."""
        scores = self.cell_scores[self.usable]
        return len(scores) > 1 and bool((np.ptp(scores, axis=0) <= 1e-6 * np.abs(scores).max(axis=0)).all())

    @property
    def diverged(self) -> np.ndarray:
        """Mask of the learning rates that diverged, shape (n_lrs,)."""
        return np.array([status.startswith("diverged") for status in self.status], dtype=bool)

    @property
    def usable(self) -> np.ndarray:
        """Mask of the learning rates that have a mean score, shape (n_lrs,)."""
        return np.isfinite(self.mean)

    @property
    def best(self) -> int:
        """Position of the highest mean score, at the lowest lr among ties; -1 if no learning rate has a score."""
        return int(self.ties[0]) if self.usable.any() else -1

    @property
    def ties(self) -> np.ndarray:
        """Positions of all learning rates with the highest mean score, ascending."""
        return best_positions(self.mean)

    def __len__(self) -> int:
        return len(self.lr)

    def __repr__(self) -> str:
        if not len(self):
            return "<LRCurve: empty>"
        best = f"best {self.lr[self.best]:.3g}" if self.best >= 0 else "no score"
        return (
            f"<LRCurve: {len(self)} learning rates from {self.lr[0]:.3g} to {self.lr[-1]:.3g}, "
            f"{self.cell_scores.shape[1]} cells, {best}, {self.diverged.sum()} diverged>"
        )

    def __str__(self) -> str:
        rows = [("lr", "score", "se", "status"), *self._rows()]
        widths = [max(least, *(len(row[column]) for row in rows)) for column, least in enumerate((10, 8, 7))]
        lines = [" ".join(f"{row[column]:>{width}}" for column, width in enumerate(widths)) for row in rows]
        marks = ["", *("  <- best" if i == self.best else "" for i in range(len(self)))]
        return "\n".join(f"{line}  {row[3]}{mark}" for line, row, mark in zip(lines, rows, marks, strict=True))

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in ("lr", "score", "se", "status"))
        body = [
            ("<tr style='font-weight: bold'>" if i == self.best else "<tr>")
            + "".join(f"<td>{escape(text)}</td>" for text in row)
            + "</tr>"
            for i, row in enumerate(self._rows())
        ]
        return f"<table><caption>{escape(repr(self)[1:-1])}</caption><tr>{head}</tr>{''.join(body)}</table>"

    def _rows(self) -> list[tuple[str, str, str, str]]:
        columns = zip(self.lr, self.mean, self.se, self.status, strict=True)
        return [(f"{lr:.3g}", f"{mean:.4f}", f"{se:.4f}", status) for lr, mean, se, status in columns]


def best_positions(mean: np.ndarray) -> np.ndarray:
    """Return the positions of the highest mean score, ties included up to rounding (sums of the same scores differ).

    >>> best_positions(np.array([0.3, 0.1 + 0.2, np.nan, 0.2])).tolist(), best_positions(np.array([np.nan])).tolist()
    ([0, 1], [])
    """
    finite = np.isfinite(mean)
    highest = np.max(mean[finite], initial=-np.inf)
    return np.flatnonzero(finite & (mean >= highest - 1e-12 * abs(highest)))


def paired_standard_error(cell_scores: np.ndarray) -> np.ndarray:
    """Return the standard error of each candidate's mean score, without the effects that all candidates share.

    All candidates are trained in the same cells, so an easy fold raises all their scores and says nothing about which
    one is better. The mean effect of each cell is therefore subtracted first, and the variance is scaled by
    ``n / (n - 1)`` for the degree of freedom lost (Morey 2008, Tutorials in Quantitative Methods for Psychology 4(2),
    eq. 2). Candidates that vary more than three times as much as the median one are left out of that mean: near the
    cliff some runs collapse, which is not an effect of their cells and would add noise to every candidate.

    Parameters
    ----------
    cell_scores : ndarray of shape (n_candidates, n_cells)
        Rows with a NaN get no standard error and do not affect the others.

    Returns
    -------
    se : ndarray of shape (n_candidates,)
        NaN with fewer than two cells.

    Examples
    --------
    >>> paired_standard_error(np.array([[0.5, 0.9], [0.6, 1.0]])).round(12).tolist()  # only the folds differ
    [0.0, 0.0]
    """
    n_candidates, n_cells = cell_scores.shape
    se = np.full(n_candidates, np.nan)
    whole = np.isfinite(cell_scores).all(axis=1)
    if n_cells < 2 or not whole.any():
        return se
    scores = cell_scores[whole]
    centred = scores - scores.mean(axis=1, keepdims=True)
    spread = (centred - np.median(centred, axis=0)).std(axis=1)
    steady = spread <= 3 * np.median(spread)
    n = int(steady.sum())
    if n > 1:
        centred = centred - centred[steady].mean(axis=0)
        centred[steady] *= np.sqrt(n / (n - 1))
    se[whole] = centred.std(axis=1, ddof=1) / np.sqrt(n_cells)
    return se


def distinct_seeds(cell_scores: np.ndarray, n_seeds: int) -> tuple[np.ndarray, int]:
    """Return the scores and the number of seeds per fold; seeds that never differ are merged into one.

    Seeds that change no score of any candidate repeat the same run, and say nothing about noise.

    Parameters
    ----------
    cell_scores : ndarray of shape (n_candidates, n_cells)
        Cells are ordered fold by fold, the seeds of a fold side by side.
    n_seeds : int
        Cells per fold.

    Examples
    --------
    >>> distinct_seeds(np.array([[0.5, 0.5, 0.7, 0.7]]), n_seeds=2)
    (array([[0.5, 0.7]]), 1)
    >>> distinct_seeds(np.array([[0.5, 0.6, 0.7, 0.7]]), n_seeds=2)[1]
    2
    """
    n_candidates, n_cells = cell_scores.shape
    by_fold = cell_scores.reshape(n_candidates, n_cells // n_seeds, n_seeds)
    first = by_fold[..., :1]
    same = np.array_equal(by_fold, np.broadcast_to(first, by_fold.shape), equal_nan=True)
    return (first[..., 0], 1) if n_seeds > 1 and same else (cell_scores, n_seeds)


def lr_curve(
    lr: Sequence[float], cell_scores: np.ndarray, status: Sequence[str], *, n_seeds: int = 1, joined: bool = True
) -> LRCurve:
    """Make the LR curve of a search; among candidates with the same lr it takes the best one.

    Parameters
    ----------
    lr : sequence of shape (n_candidates,)
    cell_scores : ndarray of shape (n_candidates, n_cells)
        Cells are ordered fold by fold, the seeds of a fold side by side.
    status : sequence of str, of length n_candidates
    n_seeds : int, default=1
        Cells per fold. Seeds that never differ count as one, see `distinct_seeds`.
    joined : bool, default=True
        Whether the candidates differ in their learning rate alone.

    Returns
    -------
    curve : LRCurve

    Examples
    --------
    >>> curve = lr_curve([0.1, 0.01, 0.1], np.array([[0.7, 0.8], [0.5, 0.6], [0.8, 0.9]]), ["ok"] * 3)
    >>> curve.lr.tolist(), curve.mean.round(2).tolist(), curve.candidate.tolist()
    ([0.01, 0.1], [0.55, 0.85], [1, 2])
    """
    lrs = np.asarray(lr, dtype=float)
    cell_scores, n_seeds = distinct_seeds(cell_scores, n_seeds)
    mean = cell_scores.mean(axis=1)
    mean = np.where(np.array([s == OK for s in status], dtype=bool) & np.isfinite(mean), mean, np.nan)
    se = paired_standard_error(np.where(np.isnan(mean)[:, None], np.nan, cell_scores))
    by_lr = [np.flatnonzero(lrs == value) for value in np.unique(lrs)]
    best = [same[np.argmax(np.nan_to_num(mean[same], nan=-np.inf))] for same in by_lr]
    words = tuple(str(status[i]) for i in best)
    where = np.array(best, dtype=int)
    return LRCurve(lrs[best], mean[best], se[best], words, cell_scores[best], where, n_seeds, joined)


def edge(curve: LRCurve) -> str | None:
    """Return the end of the searched range at which the best learning rate lies, or None.

    The best is at the low end if everything below it diverged or nothing was tried there. It is at the high end only if
    nothing was tried above it: if the next larger ones diverged, a wider range would not help, see `max_stable_lr`. If
    several learning rates share the highest score, one of them at an end is enough, because a better one may lie beyond
    it. If all learning rates score the same, there is no best one, and no edge.

    Returns
    -------
    side : {"low", "high", "both"} or None
        None also if fewer than two learning rates were tried.

    Examples
    --------
    >>> rising = np.array([[0.5, 0.5], [0.6, 0.6], [0.7, 0.7]])
    >>> edge(lr_curve([0.01, 0.1, 1.0], rising, ["ok"] * 3)), edge(lr_curve([0.01, 0.1, 1.0], -rising, ["ok"] * 3))
    ('high', 'low')
    >>> edge(lr_curve([0.01, 0.1, 1.0], rising, ["ok", "ok", "diverged"])) is None
    True
    >>> edge(lr_curve([0.01, 0.1, 1.0], np.ones((3, 2)), ["ok"] * 3)) is None
    True
    >>> edge(lr_curve([0.01, 0.1, 1.0], np.array([[0.5], [0.4], [0.5]]), ["ok"] * 3))
    'both'
    """
    sides = edges(curve)
    return "both" if len(sides) == 2 else next(iter(sides), None)


def edges(curve: LRCurve) -> dict[str, int]:
    """Return the ends of the range at which a best learning rate lies, each with the position of that learning rate.

    >>> edges(lr_curve([0.01, 0.1, 1.0], np.array([[0.5], [0.4], [0.5]]), ["ok"] * 3))
    {'low': 0, 'high': 2}
    """
    if curve.best < 0 or len(curve) < 2 or curve.all_equal:
        return {}
    lowest, highest = int(curve.ties[0]), int(curve.ties[-1])
    reached = {"low": curve.diverged[:lowest].all(), "high": highest == len(curve) - 1}
    return {side: at for side, at in {"low": lowest, "high": highest}.items() if reached[side]}


def max_stable_lr(curve: LRCurve) -> float | None:
    """Return the largest learning rate tried up to which none diverged; None if the lowest one diverged.

    Examples
    --------
    >>> scores = np.array([[0.5], [np.nan], [0.9], [np.nan]])
    >>> max_stable_lr(lr_curve([0.01, 0.1, 1.0, 10.0], scores, ["ok", "diverged", "ok", "diverged"]))
    0.01
    >>> max_stable_lr(lr_curve([0.01, 0.1], scores[[0, 2]], ["ok", "ok"]))
    0.1
    >>> max_stable_lr(lr_curve([0.1], scores[[1]], ["diverged"])) is None
    True
    """
    n_stable = int(np.argmax(np.append(curve.diverged, True)))
    return float(curve.lr[n_stable - 1]) if n_stable else None


def stretch_around(inside: np.ndarray, position: int) -> np.ndarray:
    """Return the contiguous positions around `position` where `inside` is True.

    >>> stretch_around(np.array([True, False, True, True]), 2).tolist()
    [2, 3]
    """
    gaps = np.flatnonzero(~inside)
    first = np.max(gaps[gaps < position], initial=-1) + 1
    return np.arange(first, np.min(gaps[gaps > position], initial=len(inside)))
