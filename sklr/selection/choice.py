"""The choice of a learning rate on an LR curve, with a confidence interval of the best one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from sklr._utils.html import ShownAsText
from sklr._utils.validation import must_be, unknown_name
from sklr.selection._fit import Top, find_top
from sklr.selection._luck import luck_of_best
from sklr.selection.curve import LRCurve, stretch_around

MIXED = "too few learning rates were tried with the chosen values of the other parameters"
ALL_EQUAL = "all learning rates score exactly the same"
ONE_SCORE = "a single learning rate has a score, there is none to compare it with"


@dataclass(frozen=True)
class Choice(ShownAsText):
    """The learning rate chosen on an LR curve, and how certain that choice is.

    Parameters
    ----------
    lr : float
        Peak learning rate to train with.
    interval : tuple of float, (low, high)
        Confidence interval of the best learning rate; both NaN if the scores cannot determine it, see `unknown`.
    select : str
        The requested rule: ``"best"``, ``"one_se"`` or ``"fit"``.
    method : str
        The rule that gave `lr`: ``"best"``, ``"one_se"``, ``"quadratic"`` or ``"neighbours"``; ``"refit"`` if the
        search has a callable `refit`, which chose.
    refused : str
        Why `select` could not be applied; empty if it was.
    score : float
        Estimated mean score at `lr`, not corrected for the luck of being chosen, see `corrected`.
    se : float
        Its paired standard error; NaN with a single cell.
    candidate : int or None
        Index of the candidate in the search that has this lr; None if it was never tried.
    confidence : float
        Confidence level of the interval.
    unknown : str
        Why there is no interval; empty if there is one.
    luck : float
        How much too high `score` is, on average, because it was chosen (winner's curse); NaN with a single cell.

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
    unknown: str = ""
    luck: float = np.nan

    @property
    def corrected(self) -> float:
        """The score minus `luck`: corrected for the winner's curse."""
        return self.score - self.luck

    @property
    def rule(self) -> str:
        """The rule that gave `lr`, as text."""
        return _WORDS[self.method]

    @property
    def doubt(self) -> str:
        """Why there is no interval, or why `select` could not be applied, as text; empty if neither is the case."""
        no_choice = f"no {'fit' if self.select == 'fit' else 'one-standard-error rule'}"
        if self.unknown == self.refused:
            return f"no interval and {no_choice}: {self.unknown}" if self.unknown else ""
        found = {"no interval": self.unknown, no_choice: self.refused}
        return "; ".join(f"{what}: {why}" for what, why in found.items() if why)

    def __str__(self) -> str:
        low, high = self.interval
        between = f"; the best lies between {low:.3g} and {high:.3g} ({100 * self.confidence:g} % confidence)"
        noise = f" +- {self.se:.4f}" if np.isfinite(self.se) else ""
        doubt = f"; {self.doubt}" if self.doubt else ""
        return (
            f"lr {self.lr:.3g}, by {self.rule}{'' if self.unknown else between}; score {self.score:.4f}{noise}{doubt}"
        )


_WORDS = {
    "best": "the highest mean score",
    "one_se": "the one-standard-error rule",
    "quadratic": "a quadratic fit",
    "neighbours": "a fit of the best and its neighbours",
    "refit": "the function given as refit",
}


def choose(curve: LRCurve, select: str = "best", confidence: float = 0.9) -> Choice:
    """Choose a learning rate on an LR curve.

    Parameters
    ----------
    curve : LRCurve
    select : {"best", "one_se", "fit"}, default="best"
        - ``"best"``: the highest mean score, as in scikit-learn.
        - ``"one_se"``: the geometric centre of the contiguous learning rates whose scores are within one standard error
          (of the paired difference) of the best (Breiman et al. 1984, section 3.4.3). It varies less than the best one,
          and keeps away from the cliff.
        - ``"fit"``: the top of the curve, usually an lr that was never tried. If the scores show that the curve is a
          quadratic, it is the top of that; otherwise the median, over noisy copies of the curve, of the vertex of a
          parabola through the best lr and its two neighbours, see `sklr.selection._neighbours`. If the scores do not
          determine the top, `Choice.refused` says why, and the lr tried nearest to the centre of ``"one_se"`` is taken.
    confidence : float, default=0.9
        Confidence level of the interval. For every `select` it is the interval that ``"fit"`` finds. If that finds
        none, or one without the chosen lr, the interval is extended to contain `indistinguishable` and the chosen lr.
        There is no interval if `indistinguishable` is NaN.

    Returns
    -------
    choice : Choice

    Raises
    ------
    ValueError
        If no learning rate has a score, or if `select` or `confidence` is invalid.

    Notes
    -----
    benchmarks/bench_truth.py simulates all searches of ten to thirteen learning rates in five folds on tables of real
    trainings: the 90 % interval contains the best lr in 86 to 100 of 100 searches, depending on the task, 95 on
    average. On the artificial curves of benchmarks/bench_selection.py it is about 90 of 100 if the basin is quadratic.
    Cells are treated as independent; the seeds of a fold are not entirely, so with several seeds per fold the interval
    is somewhat too short.

    Examples
    --------
    >>> from sklr.selection import lr_curve
    >>> lr, noise = 10.0 ** np.arange(-4, 0.1, 0.5), np.random.default_rng(1).normal(0, 0.002, (9, 5))
    >>> scores = 0.9 - 0.1 * (np.log10(lr) + 1.8)[:, None] ** 2 + noise
    >>> curve = lr_curve(lr, scores, ["ok"] * 9)
    >>> fit = choose(curve, "fit")
    >>> f"{fit.lr:.2g}", fit.method, fit.candidate is None
    ('0.016', 'quadratic', True)
    >>> choose(curve, "best").candidate, choose(curve, "one_se").candidate
    (4, 4)
    >>> choose(lr_curve(lr[:5], scores[:5], ["ok"] * 5), "fit").refused
    'the optimum is outside the learning rates that were trained, above them'
    >>> choose(lr_curve(lr, scores[:, :1], ["ok"] * 9)).unknown
    'one fold with one seed does not tell how noisy the scores are'
    """
    if select not in _RULES:
        raise unknown_name("select", select, _RULES)
    if not 0 < confidence < 1:
        raise ValueError(must_be("confidence", "between 0 and 1", confidence))
    if curve.best < 0:
        raise ValueError(must_be("curve", "one with a score", repr(curve), "Look at its status for what went wrong."))
    top = _top(curve, confidence)
    choice = _RULES[select](curve, top)
    interval = _interval(curve, top, choice.lr, confidence)
    return replace(choice, interval=interval, select=select, confidence=confidence)


def _top(curve: LRCurve, confidence: float) -> Top | str:
    if not curve.joined:
        return MIXED
    return ALL_EQUAL if curve.all_equal else find_top(curve, confidence)


def _interval(curve: LRCurve, top: Top | str, lr: float, confidence: float) -> tuple[float, float]:
    """Return the top's interval; without a top, or with the lr outside, extended by `indistinguishable` and the lr."""
    if why_no_interval(curve):
        return NOWHERE
    if isinstance(top, Top) and 10**top.low <= lr <= 10**top.high:
        return 10**top.low, 10**top.high
    found = [lr, *indistinguishable(curve, confidence), *([] if isinstance(top, str) else [10**top.low, 10**top.high])]
    return min(found), max(found)


def _choose_best(curve: LRCurve, top: Top | str) -> Choice:
    return _at(curve, curve.best, "best")


def _choose_one_se(curve: LRCurve, top: Top | str) -> Choice:
    if not curve.joined or not curve.has_noise:
        return _at(curve, curve.best, "best", why_no_interval(curve))
    u, inside = np.log10(curve.lr), within_one_se(curve)
    centre = (u[inside[0]] + u[inside[-1]]) / 2
    tried = inside[np.isclose(u[inside], centre, rtol=0, atol=1e-6)]
    if len(tried):
        return _at(curve, int(tried[0]), "one_se")
    score, se = (float(np.interp(centre, u[inside], y[inside])) for y in (curve.mean, curve.se))
    unknown, luck = why_no_interval(curve), luck_of_best(curve.cell_scores[curve.usable])
    return Choice(float(10**centre), NOWHERE, "", "one_se", "", score, se, None, 0.0, unknown, luck)


def _choose_fit(curve: LRCurve, top: Top | str) -> Choice:
    if isinstance(top, Top):
        return _of_top(curve, top)
    if not curve.joined:
        return _at(curve, curve.best, "best", top)
    u, inside = np.log10(curve.lr), within_one_se(curve)
    nearest = inside[np.argmin(np.abs(u[inside] - (u[inside[0]] + u[inside[-1]]) / 2))]
    return _at(curve, int(nearest), "one_se" if curve.has_noise else "best", top)


NOWHERE = (np.nan, np.nan)
_RULES: dict[str, Callable[[LRCurve, Top | str], Choice]] = {
    "best": _choose_best,
    "one_se": _choose_one_se,
    "fit": _choose_fit,
}


def _of_top(curve: LRCurve, top: Top) -> Choice:
    tried = np.flatnonzero(curve.usable & np.isclose(np.log10(curve.lr), top.u, rtol=0, atol=1e-6))
    lr, candidate = (float(curve.lr[tried[0]]), int(curve.candidate[tried[0]])) if len(tried) else (10**top.u, None)
    method = "quadratic" if top.is_quadratic else "neighbours"
    score, se = (float(y[0]) for y in top.model.value(np.array([top.u])))
    se, luck = (se, top.model.luck()) if curve.has_noise else (np.nan, np.nan)
    return Choice(lr, NOWHERE, "", method, "", score, se, candidate, 0.0, why_no_interval(curve), luck)


def _at(curve: LRCurve, i: int, method: str, refused: str = "") -> Choice:
    """Return the choice of the learning rate at position `i` of the curve."""
    score, se, candidate = float(curve.mean[i]), float(curve.se[i]), int(curve.candidate[i])
    luck = luck_of_best(curve.cell_scores[curve.usable])
    unknown = why_no_interval(curve)
    return Choice(float(curve.lr[i]), NOWHERE, "", method, refused, score, se, candidate, 0.0, unknown, luck)


def why_no_interval(curve: LRCurve) -> str:
    """Return why the scores determine no interval of the best learning rate; empty if they do."""
    if not curve.joined:
        return MIXED
    if not curve.has_noise:
        return f"{curve.cells} does not tell how noisy the scores are"
    if curve.usable.sum() == 1:
        return ONE_SCORE
    return ALL_EQUAL if curve.all_equal else ""


def within_one_se(curve: LRCurve) -> np.ndarray:
    """Return the contiguous positions around the best whose mean is within one standard error of it.

    The standard error is that of the paired difference from the best. With a single cell there is none, and only scores
    equal to the best are within it.
    """
    loss, se = _loss_to_best(curve)
    return _around(curve, loss <= se, curve.best)


def indistinguishable(curve: LRCurve, confidence: float = 0.9) -> tuple[float, float]:
    """Return the range of learning rates that cannot be distinguished from the best one by paired t tests.

    It contains the contiguous learning rates around the best one that a paired t test does not tell from it. Its ends
    are half way (in log lr) to the next learning rates tried, because the grid gives no finer answer.

    Parameters
    ----------
    curve : LRCurve
    confidence : float, default=0.9
        Confidence level of each comparison, one-sided.

    Returns
    -------
    low, high : float
        Both NaN with a single cell, if only one learning rate has a score, if all scores are equal, or if the curve is
        not `joined`.

    Examples
    --------
    >>> from sklr.selection import lr_curve
    >>> indistinguishable(lr_curve([0.01, 0.1], np.array([[0.5], [0.9]]), ["ok"] * 2))
    (nan, nan)
    >>> clear = lr_curve([0.01, 0.1, 1.0], np.array([[0.1, 0.2], [0.8, 0.9], [0.1, 0.2]]), ["ok"] * 3)
    >>> [round(end, 3) for end in indistinguishable(clear)]
    [0.032, 0.316]
    """
    if why_no_interval(curve):
        return np.nan, np.nan
    loss, se = _loss_to_best(curve)
    inside = loss <= se * stats.t.ppf(confidence, curve.cell_scores.shape[1] - 1)
    first = _around(curve, inside, int(curve.ties[0]))[0]
    last = _around(curve, inside, int(curve.ties[-1]))[-1]
    u = np.log10(curve.lr)
    low, high = (u[first] + u[max(first - 1, 0)]) / 2, (u[last] + u[min(last + 1, len(u) - 1)]) / 2
    return float(10**low), float(10**high)


def _loss_to_best(curve: LRCurve) -> tuple[np.ndarray, np.ndarray]:
    """Return how much lower than the best each mean is, and its paired standard error; shapes (n_lrs,)."""
    difference = curve.cell_scores[curve.best] - curve.cell_scores
    n_cells = difference.shape[1]
    se = difference.std(axis=1, ddof=1) / np.sqrt(n_cells) if n_cells > 1 else np.zeros(len(curve))
    return curve.mean[curve.best] - curve.mean, se


def _around(curve: LRCurve, inside: np.ndarray, position: int) -> np.ndarray:
    """Return the contiguous positions around this one where `inside` is True and there is a score."""
    return stretch_around(inside & curve.usable, position)
