"""Where the top of the LR curve is, with an interval, or the reason why the scores do not tell."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sklr.selection._smooth import Scores, SmoothCurve, smooth, summarize
from sklr.selection.curve import LRCurve, edge

MIN_POINTS = 4  # three make any quadratic fit
HALF_WIDTH = 1.5  # decades on each side: basins are one or two wide, and the flanks show how lopsided they are
CLIFF = 0.5  # a score that lost this part of the range is over the cliff, or still on the plateau: not in the basin
SHOULDER = 0.35  # beyond this loss the curve flattens, and points are left out while `ENOUGH` remain
ENOUGH = 5
RECENTRINGS = 3
GRID = 81  # points at which the sign of the slope is looked at first
FLAT = "the basin is flat: its scores differ by no more than their noise"
FLAT_IN_ONE_CELL = "the basin is flat: its scores differ by no more than they scatter around a smooth curve"


@dataclass(frozen=True)
class Top:
    """The optimum the curve has: `u` is log10 of its lr, `low` and `high` the interval, `score` its height."""

    u: float
    low: float
    high: float
    score: float
    se: float
    is_quadratic: bool


def find_top(curve: LRCurve, confidence: float) -> Top | str:
    """Fit the curve around its best lr; return its top, or a sentence that says why the fit is refused.

    All learning rates up to the next one without a score are fitted first. If a quadratic does not describe them, those
    over a cliff and on the plateau are left out.
    """
    connected = _around(curve, curve.usable)
    if len(connected) < MIN_POINTS:
        return _too_few(curve, connected)
    if _is_flat(curve, np.flatnonzero(curve.usable), confidence):
        return FLAT if curve.has_noise else FLAT_IN_ONE_CELL
    found = _fit_part(curve, connected, confidence)
    if isinstance(found, Top) and found.is_quadratic:
        return found
    near = basin(curve)
    if isinstance(found, str) and len(near) < MIN_POINTS:
        return found
    return _fit_part(curve, near, confidence)


def basin(curve: LRCurve) -> np.ndarray:
    """Return the positions of the learning rates around the best one, up to a cliff, a gap or the plateau.

    Returns
    -------
    positions : ndarray of int, consecutive
    """
    inside, near = (_around(curve, _loses_less(curve, part)) for part in (CLIFF, SHOULDER))
    first, last = inside[0], inside[-1]
    while last - first + 1 > ENOUGH and (first < near[0] or last > near[-1]):
        if last > near[-1]:
            last -= 1
        else:
            first += 1
    return np.arange(first, last + 1)


def _loses_less(curve: LRCurve, part: float) -> np.ndarray:
    floor = curve.mean[curve.best] - part * np.ptp(curve.mean[curve.usable])
    return np.nan_to_num(curve.mean, nan=-np.inf) >= floor


def _around(curve: LRCurve, inside: np.ndarray) -> np.ndarray:
    """Return the consecutive positions around the best where `inside` holds."""
    gaps = np.flatnonzero(~inside)
    first = np.max(gaps[gaps < curve.best], initial=-1) + 1
    return np.arange(first, np.min(gaps[gaps > curve.best], initial=len(curve)))


def _is_flat(curve: LRCurve, part: np.ndarray, confidence: float) -> bool:
    return summarize(np.log10(curve.lr[part]), curve.cell_scores[part]).flatness > 1 - confidence


def _too_few(curve: LRCurve, near: np.ndarray) -> str:
    if edge(curve) and len(curve.ties) == 1:
        return _outside(edge(curve) == "high")
    return f"a fit needs at least {MIN_POINTS} learning rates in the basin of the best one, there are {len(near)}"


def _fit_part(curve: LRCurve, near: np.ndarray, confidence: float) -> Top | str:
    """Fit the learning rates `near`, centred on the best one and then on the top found.

    The best of noisy scores is often off the centre, and a lopsided choice of points would pull the top there.
    """
    if len(near) < MIN_POINTS:
        return _too_few(curve, near)
    u = np.log10(curve.lr)
    centre = u[curve.best]
    found: Top | str = ""
    for _ in range(RECENTRINGS):
        part = _stretch(u, near, centre)
        if _is_flat(curve, part, confidence):
            return FLAT if curve.has_noise else FLAT_IN_ONE_CELL
        scores = summarize(u[part], curve.cell_scores[part])
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
    levels = np.array([tail, 0.5, 1 - tail])
    starts = np.array([at[left[-1]] if len(left) else at[0], at[middle], at[middle]])
    ends = np.array([at[middle + 1], at[middle + 1], at[right[0]] if len(right) else at[-1]])
    low, top, high = _crossings(curve, levels, starts, ends)
    if not scores.u[0] <= top <= scores.u[-1]:
        return _outside(bool(top > scores.u[-1]))
    if not curve.is_quadratic:  # it may have a kink, and where between two points that is nobody can say
        step = float(np.median(np.diff(scores.u)))
        low, high = min(low, top - step / 2), max(high, top + step / 2)
    return Top(top, float(low), float(high), *curve.value(top), curve.is_quadratic)


def _crossings(curve: SmoothCurve, levels: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> list[float]:
    """Return where the top is below with these chances, each between its start and end; the end where it never is.

    Each pass narrows every bracket 32 times; a narrow interval needs several.
    """
    for _ in range(4):
        at = np.linspace(starts, ends, 33)
        reached = curve.top_below(at.ravel()).reshape(at.shape) >= levels
        reached[-1] = True
        first = np.maximum(reached.argmax(axis=0), 1)
        starts, ends = (np.take_along_axis(at, (first - shift)[None], axis=0)[0] for shift in (1, 0))
    return [float(end) for end in ends]


def _why_no_top(below: np.ndarray) -> str:
    if below[0] >= 0.5 > below[-1]:
        return "the curvature has the wrong sign: scores are lowest in the middle of the basin"
    return _outside(bool(below[-1] < 0.5))


def _outside(above: bool) -> str:
    return f"the optimum is outside the learning rates that were trained, {'above' if above else 'below'} them"
