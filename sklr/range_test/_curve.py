"""Analysis of the losses of a range test: where training becomes unstable, the smoothed curve, its noise.

Pure functions of arrays with axes (n_steps, n_runs). No threshold is a multiple of the loss, so losses may be negative
or of any scale.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter1d, median_filter

from sklr.range_test._rules import RULES

MEDIAN_WIDTH = 5  # steps; so that one or two batches with a high loss do not count as instability
UNSTABLE_SHARE = 0.5  # of the total decrease of the loss; smaller increases are often recovered from
UNSTABLE_NOISE = 5.0  # standard deviations of a batch's loss, the minimum increase where the loss hardly decreased
SMOOTHING = 0.2  # decades, the standard deviation of the Gaussian
SHORTEST = 3  # minimum number of steps of a curve
FALLEN_NOISE = 2.0  # standard errors of a step's mean loss, the minimum decrease for which the rules are applied
BELOW_EDGE = 4.0  # the minimum ratio of the edge to the suggestion of `midway`


class Runs(NamedTuple):
    """Properties of each run.

    Attributes
    ----------
    start, gain, noise : ndarray of shape (n_runs,)
        The loss at the start, its largest decrease, and the standard deviation of a batch's loss.
    unstable_step : ndarray of int of shape (n_runs,)
        The first step at which the run was unstable; -1 if there is none.
    """

    start: np.ndarray
    gain: np.ndarray
    noise: np.ndarray
    unstable_step: np.ndarray


def read_runs(before: np.ndarray, after: np.ndarray) -> Runs:
    """Find where each run becomes unstable.

    A run is unstable from the first step at which its loss, smoothed by a running median of five steps, is above its
    minimum so far by half of its total decrease and by five standard deviations of a batch's loss; or is not finite.

    Parameters
    ----------
    before : ndarray of shape (n_runs,)
        Losses before the first step.
    after : ndarray of shape (n_steps, n_runs)
        Losses after each step; NaN from where a run diverged.

    Examples
    --------
    >>> loss = np.concatenate([np.full(10, 3.0), np.linspace(3, 1, 10), [1.5, 2.1, 2.5, 4.0, np.nan]])
    >>> runs = read_runs(np.array([3.0]), loss[:, None])
    >>> runs.unstable_step.tolist(), runs.gain.round(1).tolist()
    ([22], [1.6])
    """
    losses = np.vstack([before, after])
    ended = np.isnan(losses)
    usual = median_filter(np.where(ended, np.inf, losses), size=(MEDIAN_WIDTH, 1), mode="nearest")
    best = np.minimum.accumulate(usual, axis=0)
    start = usual[0]
    gain, noise = start - best[-1], np.array([_noise(run) for run in losses.T])
    unstable = (usual > best + np.maximum(UNSTABLE_SHARE * gain, UNSTABLE_NOISE * noise)) | ended
    return Runs(start, gain, noise, _first(unstable[1:]))


def _noise(losses: np.ndarray) -> float:
    """Return the standard deviation of a batch's loss, from the differences of neighbours in the first half.

    There the learning rates are so low that the loss changes by little else. The estimate is the scaled median
    absolute difference (1.4826 for a normal distribution), divided by the square root of 2 for a difference of two.
    """
    early = losses[: max(len(losses) // 2, SHORTEST)]
    steps = np.diff(early[np.isfinite(early)])
    return float(np.median(np.abs(steps)) * 1.4826 / np.sqrt(2)) if len(steps) else 0.0


def _first(marks: np.ndarray) -> np.ndarray:
    """Return the first marked step of each run, -1 if there is none."""
    return np.where(marks.any(axis=0), marks.argmax(axis=0), -1)


def find_edge(lr: np.ndarray, unstable_step: np.ndarray) -> float | None:
    """Return the last learning rate before the step at which half of the runs are unstable; None if fewer ever are.

    If that is the first step, its own learning rate is returned, as there is no lower one.

    >>> lr = np.array([0.01, 0.1, 1.0])
    >>> find_edge(lr, np.array([2, 1, -1])), find_edge(lr, np.array([-1, -1, 1]))
    (0.1, None)
    """
    steps = np.sort(np.where(unstable_step < 0, len(lr), unstable_step))
    step = int(steps[(len(steps) - 1) // 2])
    return None if step == len(lr) else float(lr[max(step - 1, 0)])


def smooth(lr: np.ndarray, loss: np.ndarray, runs: Runs) -> np.ndarray:
    """Smooth every run over log lr with a centred Gaussian of 0.2 decade; shape (n_steps, n_runs), without NaN.

    Losses are capped as far above the start as the run decreased below it, since the huge losses of a divergence would
    dominate their neighbours in the average.

    >>> lr, loss = np.geomspace(0.01, 1.0, 9), np.array([[3, 3, 3, 2, 1, 1, 2, 1e9, np.nan]]).T
    >>> smooth(lr, loss, read_runs(loss[0], loss)).ravel().round(1)
    array([3. , 3. , 2.7, 2. , 1.3, 1.3, 2.3, 3.5, 4. ])
    """
    ceiling = runs.start + np.maximum(runs.gain, UNSTABLE_NOISE * runs.noise)
    steps_per_decade = (len(lr) - 1) / np.log10(lr[-1] / lr[0])
    capped = np.fmin(loss, ceiling)
    return gaussian_filter1d(capped, SMOOTHING * steps_per_decade, axis=0, mode="nearest")


def suggest(lr: np.ndarray, curve: np.ndarray, runs: Runs, edge: float | None) -> dict[str, float]:
    """Return a learning rate for each rule, from a smoothed mean curve up to the edge; empty if the loss never falls.

    Parameters
    ----------
    lr, curve : ndarray of shape (n_steps,)
    runs : Runs
        The runs of which `curve` is the mean.
    edge : float or None

    Examples
    --------
    >>> lr, runs = np.geomspace(1e-4, 1.0, 5), Runs(np.array([3.0]), np.array([2.0]), np.zeros(1), np.array([4]))
    >>> {rule: round(value, 6) for rule, value in suggest(lr, np.array([3.0, 2.8, 2.0, 1.5, 4.0]), runs, 0.1).items()}
    {'minimum': 0.01, 'steep': 0.001, 'valley': 0.0001, 'midway': 0.003162}
    """
    stop = len(lr) if edge is None else int(np.searchsorted(lr, edge, side="right"))
    lr, curve = lr[:stop], curve[:stop]
    start, low = runs.start.mean(), curve.min()
    if stop < SHORTEST or start - low <= FALLEN_NOISE * runs.noise.mean() / np.sqrt(len(runs.noise)):
        return {}
    curve = (curve - low) / (start - low)  # `slide` has an absolute threshold, so it needs a curve of unit range
    found = {name: rule(lr, curve) for name, rule in RULES.items()}
    found["midway"] = _midway(found["minimum"], found["steep"], edge)
    return {name: lr for name, lr in found.items() if lr is not None}


def _midway(minimum: float | None, steep: float | None, edge: float | None) -> float:
    assert minimum is not None
    assert steep is not None
    return float(min(np.sqrt(minimum * steep), np.inf if edge is None else edge / BELOW_EDGE))
