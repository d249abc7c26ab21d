"""Where the top of the LR curve is, with an interval, or the reason why the scores do not tell."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sklr.selection._smooth import Scores, SmoothCurve, smooth, summarize
from sklr.selection.curve import LRCurve

MIN_POINTS = 4  # three make any quadratic fit
HALF_WIDTH = 1.5  # decades on each side: basins are one or two wide, and the flanks show how lopsided they are
CLIFF = 0.5  # a score that lost this part of the range is over the cliff, or still on the plateau: not in the basin
SHOULDER = 0.25  # beyond this loss the curve flattens, and points are left out while `ENOUGH` remain
ENOUGH = 5
RECENTRINGS = 3
GRID = 81  # points of each of the two passes that look for the interval's ends


@dataclass(frozen=True)
class Top:
    """The optimum the curve has: `u` is log10 of its lr, `low` and `high` the interval, `score` its height."""

    u: float
    low: float
    high: float
    score: float
    se: float
    is_quadratic: bool


def basin(curve: LRCurve) -> np.ndarray:
    """Return the positions of the learning rates around the best one, up to a cliff, a gap or the plateau.

    Returns
    -------
    positions : ndarray of int, consecutive
    """
    first, last = _walk(curve, CLIFF)
    inner_first, inner_last = _walk(curve, SHOULDER)
    while last - first + 1 > ENOUGH and (first < inner_first or last > inner_last):
        if last > inner_last:
            last -= 1
        else:
            first += 1
    return np.arange(first, last + 1)


def _walk(curve: LRCurve, loss: float) -> tuple[int, int]:
    """Return the first and last position reached from the best without losing more than that part of the range."""
    floor = curve.mean[curve.best] - loss * np.ptp(curve.mean[curve.usable])
    inside = curve.usable & (np.nan_to_num(curve.mean, nan=-np.inf) >= floor)
    gaps = np.flatnonzero(~inside)
    return int(np.max(gaps[gaps < curve.best], initial=-1)) + 1, int(
        np.min(gaps[gaps > curve.best], initial=len(curve))
    ) - 1


def find_top(curve: LRCurve, confidence: float) -> Top | str:
    """Fit the basin; return its top, or a sentence that says why the fit is refused.

    The stretch that is fitted is centred on the best lr first and on the top found then, because the best of noisy
    scores is often off the centre.
    """
    near = basin(curve)
    if len(near) < MIN_POINTS:
        return f"a fit needs at least {MIN_POINTS} learning rates in the basin of the best one, there are {len(near)}"
    u = np.log10(curve.lr)
    centre = u[curve.best]
    found: Top | str = ""
    for _ in range(RECENTRINGS):
        part = _stretch(u, near, centre)
        scores = summarize(u[part], curve.cell_scores[part])
        if scores.flatness > 1 - confidence:
            return "the basin is flat: its scores differ by no more than their noise"
        found = _top_of(smooth(scores), scores, _limits(u, part), centre, confidence)
        if isinstance(found, str) or abs(found.u - centre) < 0.15:
            break
        centre = found.u
    return found


def _stretch(u: np.ndarray, near: np.ndarray, centre: float) -> np.ndarray:
    distance = np.abs(u[near] - centre)
    within = near[distance <= HALF_WIDTH]
    return within if len(within) >= MIN_POINTS else np.sort(near[np.argsort(distance, kind="stable")[:MIN_POINTS]])


def _limits(u: np.ndarray, part: np.ndarray) -> tuple[float, float]:
    """The top is looked for up to the neighbours of the stretch: it may lie between its end and a diverged lr."""
    return float(u[max(part[0] - 1, 0)]), float(u[min(part[-1] + 1, len(u) - 1)])


def _top_of(
    curve: SmoothCurve, scores: Scores, limits: tuple[float, float], centre: float, confidence: float
) -> Top | str:
    tail = (1 - confidence) / 2
    at = np.linspace(*limits, GRID)
    below = curve.top_below(at)
    crossings = np.flatnonzero((below[:-1] < 0.5) & (below[1:] >= 0.5))
    if not len(crossings):
        return _why_no_top(below)
    middle = crossings[np.argmin(np.abs(at[crossings] - centre))]
    left = np.flatnonzero(below[: middle + 1] < tail)
    right = middle + 1 + np.flatnonzero(below[middle + 1 :] > 1 - tail)
    if not len(left) and not len(right):
        return "the basin is flat: any of its learning rates may be the best"
    fine = np.linspace(at[left[-1]] if len(left) else at[0], at[right[0]] if len(right) else at[-1], GRID)
    below = curve.top_below(fine)
    top = float(fine[np.argmax(below >= 0.5)])
    if not scores.u[0] <= top <= scores.u[-1]:
        return f"the optimum is outside the learning rates that were trained, {_side(top > scores.u[-1])} them"
    low, high = fine[np.argmax(below >= tail)], fine[GRID - 1 - np.argmax(below[::-1] <= 1 - tail)]
    return Top(top, float(low), float(high), *curve.value(top), curve.is_quadratic)


def _why_no_top(below: np.ndarray) -> str:
    if below[0] >= 0.5 > below[-1]:
        return "the curvature has the wrong sign: scores are lowest in the middle of the basin"
    return f"the optimum is outside the learning rates that were trained, {_side(below[-1] < 0.5)} them"


def _side(above: bool) -> str:
    return "above" if above else "below"
