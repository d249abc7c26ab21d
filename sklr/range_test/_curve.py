"""What the losses of a ramp tell: where training breaks, the smoothed curve, its noise. Pure functions of arrays.

Axes are (n_steps, n_runs). Nothing is compared with a multiple of the loss, so losses may be negative or of any size.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter1d, median_filter

from sklr.range_test._rules import RULES

MEDIAN_WIDTH = 5  # steps; one unlucky batch, or two, break no training
BROKEN_SHARE = (
    0.5  # of what a run has gained in all; less is given back and won again where training is merely restless
)
BROKEN_NOISE = 5.0  # standard deviations of a batch's loss; what a run that gains nothing must lose to be broken
SMOOTHING = 0.2  # decades, the standard deviation of the Gaussian
SHORTEST = 3  # steps a curve must have to be read
FALLEN_NOISE = 2.0  # standard errors of a step's mean loss that a smoothed curve must fall by, for rules to be asked
BELOW_EDGE = 4.0  # of `midway`, a factor


class Runs(NamedTuple):
    """Each run by itself.

    Attributes
    ----------
    start, gain, noise : ndarray of shape (n_runs,)
        The loss before anything happens, by how much it falls at most, and the standard deviation of a batch's loss.
    unstable_step : ndarray of int of shape (n_runs,)
        The first step that broke the run; -1 if none did.
    """

    start: np.ndarray
    gain: np.ndarray
    noise: np.ndarray
    unstable_step: np.ndarray


def read_runs(before: np.ndarray, after: np.ndarray) -> Runs:
    """Find where each run breaks.

    A run is broken from the first step at which its loss, the median of five neighbours, has given back half of all it
    ever gains, and five standard deviations of a batch's loss; or is no longer finite.

    Parameters
    ----------
    before : ndarray of shape (n_runs,)
        Losses before the first step.
    after : ndarray of shape (n_steps, n_runs)
        Losses after each step; NaN from where a run is beyond return.

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
    broken = (usual > best + np.maximum(BROKEN_SHARE * gain, BROKEN_NOISE * noise)) | ended
    return Runs(start, gain, noise, _first(broken[1:]))


def _noise(losses: np.ndarray) -> float:
    """Return the standard deviation of a batch's loss, from neighbours in the first half, where little else happens."""
    early = losses[: max(len(losses) // 2, SHORTEST)]
    steps = np.diff(early[np.isfinite(early)])
    return float(np.median(np.abs(steps)) * 1.4826 / np.sqrt(2)) if len(steps) else 0.0


def _first(marks: np.ndarray) -> np.ndarray:
    """Return the first marked step of each run, -1 where there is none."""
    return np.where(marks.any(axis=0), marks.argmax(axis=0), -1)


def find_edge(lr: np.ndarray, unstable_step: np.ndarray) -> float | None:
    """Return the highest learning rate before the step at which half of the runs are broken; None if fewer ever are.

    Where a run breaks in its first step that step's learning rate stands in for one below it.

    >>> lr = np.array([0.01, 0.1, 1.0])
    >>> find_edge(lr, np.array([2, 1, -1])), find_edge(lr, np.array([-1, -1, 1]))
    (0.1, None)
    """
    steps = np.sort(np.where(unstable_step < 0, len(lr), unstable_step))
    step = int(steps[(len(steps) - 1) // 2])
    return None if step == len(lr) else float(lr[max(step - 1, 0)])


def smooth(lr: np.ndarray, loss: np.ndarray, runs: Runs) -> np.ndarray:
    """Smooth every run over log lr with a centred Gaussian of 0.2 decade; shape (n_steps, n_runs), without NaN.

    A loss counts for no more than what lies as far above the start as the run has fallen below it: an explosion says
    no more than that, and would drown its neighbours.

    >>> lr, loss = np.geomspace(0.01, 1.0, 9), np.array([[3, 3, 3, 2, 1, 1, 2, 1e9, np.nan]]).T
    >>> smooth(lr, loss, read_runs(loss[0], loss)).ravel().round(1)
    array([3. , 3. , 2.7, 2. , 1.3, 1.3, 2.3, 3.5, 4. ])
    """
    ceiling = runs.start + np.maximum(runs.gain, BROKEN_NOISE * runs.noise)
    steps_per_decade = (len(lr) - 1) / np.log10(lr[-1] / lr[0])
    capped = np.fmin(loss, ceiling)
    return gaussian_filter1d(capped, SMOOTHING * steps_per_decade, axis=0, mode="nearest")


def suggest(lr: np.ndarray, curve: np.ndarray, runs: Runs, edge: float | None) -> dict[str, float]:
    """Return a learning rate for each rule, read off a smoothed mean curve up to the edge; empty if it never falls.

    Parameters
    ----------
    lr, curve : ndarray of shape (n_steps,)
    runs : Runs
        Those that `curve` is the mean of.
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
    curve = (curve - low) / (start - low)  # so that `slide`, which knows an absolute slope, asks no one's units
    found = {name: rule(lr, curve) for name, rule in RULES.items()}
    found["midway"] = _midway(found["minimum"], found["steep"], edge)
    return {name: lr for name, lr in found.items() if lr is not None}


def _midway(minimum: float | None, steep: float | None, edge: float | None) -> float:
    assert minimum is not None
    assert steep is not None
    return float(min(np.sqrt(minimum * steep), np.inf if edge is None else edge / BELOW_EDGE))
