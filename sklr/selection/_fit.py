"""The maximum of the LR curve with a confidence interval, or the reason why the scores do not determine it.

There are two models: a quadratic, if the scores show that the curve is one; otherwise the best learning rate and its
neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sklr.selection._neighbours import Neighbours, pool
from sklr.selection._noise import N_COPIES, flatness, summarize
from sklr.selection._quadratic import Quadratic, fit_quadratic
from sklr.selection.curve import LRCurve, edge, stretch_around

MIN_POINTS = 4  # a quadratic goes through any three points
HALF_WIDTH = 1.5  # decades on each side of the top to which a quadratic is fitted
CLIFF = 0.5  # scores lower than the best by this part of their range are outside of the basin (cliff or plateau)
DOUBT = 0.05  # decades by which a cubic term may at most move the top of an accepted quadratic
RECENTRINGS = 3  # times a quadratic is fitted, each time around the top found before
FLAT = "the basin is flat: its scores differ by no more than their noise"
FLAT_IN_ONE_CELL = "the basin is flat: its scores differ by no more than they scatter around a smooth curve"


@dataclass(frozen=True)
class Top:
    """The maximum of a curve: `u` is log10 of its lr, `low` and `high` the interval, `model` the fit it comes from."""

    u: float
    low: float
    high: float
    model: Quadratic | Neighbours

    @property
    def is_quadratic(self) -> bool:
        """Whether the model is the quadratic."""
        return isinstance(self.model, Quadratic)


def find_top(curve: LRCurve, confidence: float) -> Top | str:
    """Return the curve's top, or a sentence that says why the scores do not determine it."""
    connected = stretch_around(curve.usable, curve.best)
    if len(connected) < MIN_POINTS:
        return _too_few(curve, connected)
    usable = np.flatnonzero(curve.usable)
    scores = summarize(np.log10(curve.lr[usable]), curve.cell_scores[usable])
    if flatness(curve.cell_scores[usable], scores) > (1 - confidence) / 2:
        return FLAT if curve.has_noise else FLAT_IN_ONE_CELL
    for part in (connected, _basin(curve)):
        top = _quadratic_top(curve, part, confidence)
        if top is not None:
            return top
    return _neighbours_top(curve, connected, confidence)


def _basin(curve: LRCurve) -> np.ndarray:
    """Return the positions of the learning rates around the best one, up to a cliff, the plateau or a missing score."""
    floor = curve.mean[curve.best] - CLIFF * np.ptp(curve.mean[curve.usable])
    return stretch_around(np.nan_to_num(curve.mean, nan=-np.inf) >= floor, curve.best)


def _too_few(curve: LRCurve, near: np.ndarray) -> str:
    if edge(curve) and len(curve.ties) == 1:
        return _outside(edge(curve) == "high")
    return f"a fit needs at least {MIN_POINTS} learning rates in the basin of the best one, there are {len(near)}"


def _quadratic_top(curve: LRCurve, near: np.ndarray, confidence: float) -> Top | None:
    """Fit a quadratic to `near`, centred on the best one and then on the top found; None if it does not fit.

    The best of noisy scores is often off the centre, and an asymmetric choice of points would pull the top there.
    """
    u, centre = np.log10(curve.lr), float(np.log10(curve.lr[curve.best]))
    for _ in range(RECENTRINGS):
        part = near[np.abs(u[near] - centre) <= HALF_WIDTH]
        if len(part) <= MIN_POINTS:  # any four lie on a cubic
            return None
        model = fit_quadratic(summarize(u[part], curve.cell_scores[part]))
        if not model.curves_down or not u[part[0]] <= model.top <= u[part[-1]]:
            return None
        if abs(model.top - centre) < 0.15:
            break
        centre = model.top
    interval = model.interval(confidence)
    if interval is None or model.doubt() > DOUBT:
        return None
    return Top(model.top, *interval, model)


def _neighbours_top(curve: LRCurve, near: np.ndarray, confidence: float) -> Top | str:
    u = np.log10(curve.lr)
    walls = (
        float(u[near[0] - 1]) if near[0] > 0 else -np.inf,
        float(u[near[-1] + 1]) if near[-1] < len(u) - 1 else np.inf,
    )
    pooled, cell_scores = pool(u[near], curve.cell_scores[near])
    if len(pooled) < MIN_POINTS:
        return _too_few(curve, pooled)
    model = Neighbours(summarize(pooled, cell_scores), walls)
    lower, upper = np.sort(model.tops)[
        [N_COPIES // 2 - 1, N_COPIES // 2]
    ]  # their mean is the median, if both are finite
    if np.isinf(lower) or np.isinf(upper):
        return _outside(upper == np.inf)
    middle = float(lower + upper) / 2
    tail = (1 - confidence) / 2
    low, high = model.quantiles(np.array([tail, 1 - tail]))
    if low <= pooled[0] and high >= pooled[-1]:
        return "the basin is flat: any of its learning rates may be the best"
    return Top(middle, min(float(low), middle), max(float(high), middle), model)


def _outside(above: bool) -> str:
    return f"the optimum is outside the learning rates that were trained, {'above' if above else 'below'} them"
