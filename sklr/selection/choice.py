"""Which learning rate to take, and between which two the best one lies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from sklr._shown import ShownAsText
from sklr._validation import must_be, unknown_name
from sklr.selection._fit import Top, find_top
from sklr.selection.curve import LRCurve


@dataclass(frozen=True)
class Choice(ShownAsText):
    """The learning rate chosen on an LR curve, and how sure that is.

    Parameters
    ----------
    lr : float
        Peak learning rate to train with.
    interval : tuple of float, (low, high)
        Learning rates between which the best one lies, at `confidence`.
    select : str
        What was asked for: ``"best"``, ``"one_se"`` or ``"fit"``.
    method : str
        What `lr` comes from: ``"best"``, ``"one_se"``, ``"quadratic"`` or ``"gaussian_process"``.
    refused : str
        Why there is no fit though one was asked for; empty otherwise.
    score : float
        Estimated mean score at `lr`. For ``"best"`` it is the luckiest of many, see `corrected_score`.
    se : float
        Its paired standard error; NaN where one cell cannot tell.
    candidate : int or None
        The candidate of the search that has this lr; None where it was never tried.
    confidence : float
        Of the interval.

    Examples
    --------
    >>> choice = Choice(0.03, (0.02, 0.05), "fit", "quadratic", "", 0.97, 0.001, None, 0.9)
    >>> print(choice)
    lr 0.03, by a quadratic fit; the best lies between 0.02 and 0.05 (90 % confidence); score 0.9700 +- 0.0010
    """

    lr: float
    interval: tuple[float, float]
    select: str
    method: str
    refused: str
    score: float
    se: float
    candidate: int | None
    confidence: float

    def __str__(self) -> str:
        by = {"best": "the highest mean score", "one_se": "the one-standard-error rule", "quadratic": "a quadratic fit"}
        how = by.get(self.method, "a Gaussian process")
        low, high = self.interval
        noise = f" +- {self.se:.4f}" if np.isfinite(self.se) else ""
        refused = f"; no fit: {self.refused}" if self.refused else ""
        return (
            f"lr {self.lr:.3g}, by {how}; the best lies between {low:.3g} and {high:.3g} "
            f"({100 * self.confidence:g} % confidence); score {self.score:.4f}{noise}{refused}"
        )


def choose(curve: LRCurve, select: str = "best", confidence: float = 0.9) -> Choice:
    """Choose a learning rate on an LR curve.

    Parameters
    ----------
    curve : LRCurve
    select : {"best", "one_se", "fit"}, default="best"
        - ``"best"``: the highest mean score, as scikit-learn chooses.
        - ``"one_se"``: the geometric centre of the contiguous stretch whose scores are within one standard error (of
          the paired difference) of the best (Breiman et al. 1984, section 3.4.3); steadier than the best, and away
          from the cliff.
        - ``"fit"``: the top of a smooth curve through the basin, see `sklr.selection._smooth`; usually an lr that was
          never tried. Where the scores do not support a fit it is refused, `Choice.refused` says why, and the tried lr
          nearest the centre of the ``"one_se"`` stretch is taken.
    confidence : float, default=0.9
        Of the interval. With ``"fit"`` it comes from the curve; otherwise, and where the fit is refused, it is
        `indistinguishable`.

    Returns
    -------
    choice : Choice

    Raises
    ------
    ValueError
        If no learning rate has a score, or `select` or `confidence` is not what it must be.

    Notes
    -----
    benchmarks/bench_selection.py simulates searches of a basin with a cliff, on grids of a quarter and half a decade,
    with 5 and 15 cells, over a wide range of noise. The 90 % interval of ``"fit"`` holds the best lr in about 92 of
    100 if the basin is quadratic, in 80 to 100 if it is lopsided, and in far fewer if the curve has a kink at its top
    and noise hides it: no smooth curve is right there. Cells count as independent; seeds of one fold are not entirely,
    so with several seeds per fold the interval is somewhat short.

    Examples
    --------
    >>> from sklr.selection import lr_curve
    >>> lr, noise = 10.0 ** np.arange(-4, 0.1, 0.5), np.random.default_rng(0).normal(0, 0.002, (9, 5))
    >>> scores = 0.9 - 0.1 * (np.log10(lr) + 1.8)[:, None] ** 2 + noise
    >>> curve = lr_curve(lr, scores, ["ok"] * 9)
    >>> fit = choose(curve, "fit")
    >>> f"{fit.lr:.2g}", fit.method, fit.candidate is None
    ('0.016', 'quadratic', True)
    >>> choose(curve, "best").candidate, choose(curve, "one_se").candidate
    (4, 4)
    >>> choose(lr_curve(lr[:5], scores[:5], ["ok"] * 5), "fit").refused
    'the optimum is outside the learning rates that were trained, above them'
    """
    if select not in _RULES:
        raise unknown_name("select", select, _RULES)
    if not 0 < confidence < 1:
        raise ValueError(must_be("confidence", "between 0 and 1", confidence))
    if curve.best < 0:
        raise ValueError(must_be("curve", "one with a score", repr(curve), "Look at its status for what went wrong."))
    return _RULES[select](curve, confidence)


def _choose_best(curve: LRCurve, confidence: float) -> Choice:
    return _at(curve, curve.best, "best", "best", "", confidence)


def _choose_one_se(curve: LRCurve, confidence: float) -> Choice:
    u, inside = np.log10(curve.lr), within_one_se(curve)
    centre = (u[inside[0]] + u[inside[-1]]) / 2
    tried = inside[np.isclose(u[inside], centre, rtol=0, atol=1e-6)]
    if len(tried):
        return _at(curve, int(tried[0]), "one_se", "one_se", "", confidence)
    score, se = (float(np.interp(centre, u[inside], y[inside])) for y in (curve.mean, curve.se))
    interval = indistinguishable(curve, confidence)
    return Choice(float(10**centre), interval, "one_se", "one_se", "", score, se, None, confidence)


def _choose_fit(curve: LRCurve, confidence: float) -> Choice:
    top = find_top(curve, confidence)
    if isinstance(top, str):
        u, inside = np.log10(curve.lr), within_one_se(curve)
        nearest = inside[np.argmin(np.abs(u[inside] - (u[inside[0]] + u[inside[-1]]) / 2))]
        return _at(curve, int(nearest), "fit", "one_se", top, confidence)
    return _of_top(curve, top, confidence)


_RULES: dict[str, Callable[[LRCurve, float], Choice]] = {
    "best": _choose_best,
    "one_se": _choose_one_se,
    "fit": _choose_fit,
}


def _of_top(curve: LRCurve, top: Top, confidence: float) -> Choice:
    tried = np.flatnonzero(curve.usable & np.isclose(np.log10(curve.lr), top.u, rtol=0, atol=1e-6))
    lr, candidate = (float(curve.lr[tried[0]]), int(curve.candidate[tried[0]])) if len(tried) else (10**top.u, None)
    method = "quadratic" if top.is_quadratic else "gaussian_process"
    interval = (10**top.low, 10**top.high)
    return Choice(lr, interval, "fit", method, "", top.score, top.se, candidate, confidence)


def _at(curve: LRCurve, i: int, select: str, method: str, refused: str, confidence: float) -> Choice:
    """Return the choice of a learning rate that was tried."""
    lr, score, se = float(curve.lr[i]), float(curve.mean[i]), float(curve.se[i])
    interval = indistinguishable(curve, confidence)
    return Choice(lr, interval, select, method, refused, score, se, int(curve.candidate[i]), confidence)


def within_one_se(curve: LRCurve) -> np.ndarray:
    """Return the positions around the best whose mean is within one standard error of it, consecutive.

    The standard error is that of the paired difference from the best. One cell tells no standard error; then the best
    stands alone.
    """
    loss, se = _loss_to_best(curve)
    return _around_best(curve, loss <= se)


def indistinguishable(curve: LRCurve, confidence: float = 0.9) -> tuple[float, float]:
    """Return the learning rates between which the best one lies, by comparing each to the best, pair by pair.

    Those around the best that a paired t test does not tell from it belong to the set; its ends reach half way (in log
    lr) to the neighbours that were tried and do not belong, because the grid cannot say more.

    Parameters
    ----------
    curve : LRCurve
    confidence : float, default=0.9
        Of each comparison, one-sided.

    Returns
    -------
    low, high : float

    Examples
    --------
    >>> from sklr.selection import lr_curve
    >>> clear = lr_curve([0.01, 0.1, 1.0], np.array([[0.1, 0.2], [0.8, 0.9], [0.1, 0.2]]), ["ok"] * 3)
    >>> [round(end, 3) for end in indistinguishable(clear)]
    [0.032, 0.316]
    """
    loss, se = _loss_to_best(curve)
    n_cells = curve.cell_scores.shape[1]
    inside = _around_best(curve, loss <= se * (stats.t.ppf(confidence, n_cells - 1) if n_cells > 1 else 0))
    u = np.log10(curve.lr)
    low, high = (u[inside[0]] + u[max(inside[0] - 1, 0)]) / 2, (u[inside[-1]] + u[min(inside[-1] + 1, len(u) - 1)]) / 2
    return float(10**low), float(10**high)


def _loss_to_best(curve: LRCurve) -> tuple[np.ndarray, np.ndarray]:
    """Return how much lower than the best each mean is, and its paired standard error; shapes (n_lrs,)."""
    difference = curve.cell_scores[curve.best] - curve.cell_scores
    n_cells = difference.shape[1]
    se = difference.std(axis=1, ddof=1) / np.sqrt(n_cells) if n_cells > 1 else np.zeros(len(curve))
    return curve.mean[curve.best] - curve.mean, se


def _around_best(curve: LRCurve, inside: np.ndarray) -> np.ndarray:
    """Return the consecutive positions around the best where `inside` holds; NaN compares as outside."""
    gaps = np.flatnonzero(~(inside & curve.usable))
    first = np.max(gaps[gaps < curve.best], initial=-1) + 1
    return np.arange(first, np.min(gaps[gaps > curve.best], initial=len(curve)))
