"""The window of learning rates that can still turn out best, judged in the middle of training.

Pure functions of the scores after each epoch. They use what is special about the learning rate: a small one is slow,
and in a whole training gets as far as a larger one does in a part of it; a large one is noisy until it decays.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# chosen on half of the recorded curves of benchmarks/bench_pruning.py
SMOOTH = 0.1  # scores are averaged over this fraction of the epochs trained so far
NOISE = 2.0  # scores within this many standard deviations of the best (of the noise per epoch) are as good as it
LOW = 0.1  # decades kept below the lowest learning rate that can still catch up
HIGH = 0.3  # decades kept above the best
HIGH_AHEAD = 0.2  # decades more for each factor of ten between the whole path and the path so far
HIGH_DECAY = 0.2  # decades more while the whole decay is still to come


class Window(NamedTuple):
    """The lowest log10 lr that can still turn out best, the best one so far, and the highest."""

    low: float
    best: float
    high: float

    def contains(self, log_lr: np.ndarray) -> np.ndarray:
        """Return which learning rates are inside; the ends are, up to rounding."""
        return (log_lr > self.low - 1e-9) & (log_lr < self.high + 1e-9)


def first_epoch(path: np.ndarray, share: float) -> int:
    """Return after how many epochs pruning may begin: a share of them is done and the lr has reached its peak.

    >>> first_epoch(np.arange(1, 28.0), 1 / 9), first_epoch(np.array([0.25, 1.0, 2.0, 3.0, 4.0]), 1 / 9)
    (3, 3)
    """
    multipliers = np.diff(path, prepend=0.0)
    peak = int(np.argmax(multipliers >= 0.95 * multipliers.max())) + 1
    return max(int(np.ceil(share * len(path) - 1e-9)), peak)


def lr_window(log_lr: np.ndarray, scores: np.ndarray, path: np.ndarray) -> Window:
    r"""Return the learning rates that may still turn out best.

    Parameters
    ----------
    log_lr : ndarray of shape (n_candidates,)
        log10 of the peak learning rates.
    scores : ndarray of shape (n_candidates, n_done)
        Mean scores after each epoch so far; NaN after a candidate was stopped.
    path : ndarray of shape (n_epochs,)
        The sum of the schedule's multipliers up to the end of each epoch, in epochs at the peak lr.

    Returns
    -------
    window : Window
        All NaN if no candidate has a score after the last epoch.

    Notes
    -----
    Low side: while steps are small, training follows the gradient flow, and its progress depends on lr x path alone. So
    the lowest lr that may still win is the one whose lr x path over the *whole* training equals that with which any
    candidate first was as good as the best is now,

    .. math:: \log l \ge \min_{i, e} \log l_i + \log (p_e / p_E) - 0.1,

    over all candidates and epochs with such a score. With a constant lr that is 0.95 decades below the best after a
    ninth of the epochs, 0.48 after a third and 0 at the end. The optimum itself falls by only a third of that (0.35 and
    0.21 decades on the 24 problems of DeepOBS, Schneider, Balles and Hennig 2019). A decay that is still to come
    shortens the path of small learning rates too; but it helps large ones, whose noise it removes, so the high side is
    wider until then.

    The rule fails where a small learning rate is not simply slower but leads to another solution (where the noise is
    what generalizes), and where candidates stay on a plateau for long, because the scores after it cannot be foreseen.

    Examples
    --------
    >>> log_lr = np.array([-3.0, -2.0, -1.0, 0.0])
    >>> scores = np.array([[0.1, 0.1], [0.2, 0.4], [0.6, 0.7], [0.3, 0.2]])
    >>> np.round(lr_window(log_lr, scores, path=np.arange(1, 19.0)), 2).tolist()
    [-2.36, -1.0, -0.51]
    """
    done = scores.shape[1]
    smooth = trailing_mean(scores)
    now = smooth[:, -1]
    if not np.isfinite(now).any():
        return Window(np.nan, np.nan, np.nan)
    good = smooth >= np.nanmax(now) - NOISE * epoch_noise(scores, now)
    with np.errstate(divide="ignore"):  # a warmup from 0 has a path of length 0 at first
        needed = log_lr[:, None] + np.log10(path[:done] / path[-1])
    low = needed[good].min() - LOW
    high = log_lr[good[:, -1]].max() + HIGH + HIGH_AHEAD * np.log10(path[-1] / path[done - 1])
    return Window(low, log_lr[np.nanargmax(now)], high + HIGH_DECAY * decay_to_come(path, done))


def decay_to_come(path: np.ndarray, done: int) -> float:
    """Return the part of the peak lr by which the schedule will still decay, between 0 and 1.

    >>> decay_to_come(np.arange(1, 5.0), 1), decay_to_come(np.cumsum([1.0, 1.0, 0.5, 0.0]), 2)
    (0.0, 1.0)
    """
    multipliers = np.diff(path, prepend=0.0)
    return float(max(multipliers[done - 1] - multipliers[-1], 0.0) / multipliers.max())


def trailing_mean(scores: np.ndarray) -> np.ndarray:
    """Return the trailing mean of the scores at each epoch, over a tenth of the epochs so far.

    >>> trailing_mean(np.arange(40.0)[None])[0, [0, 9, 39]].tolist()
    [0.0, 9.0, 37.5]
    """
    sums = np.cumsum(scores, axis=1)
    smooth = np.empty_like(sums)
    for epoch in range(sums.shape[1]):
        width = _width(epoch + 1)
        smooth[:, epoch] = (sums[:, epoch] - (sums[:, epoch - width] if epoch >= width else 0.0)) / width
    return smooth


def epoch_noise(scores: np.ndarray, now: np.ndarray) -> float:
    """Return the standard deviation of a good candidate's score from one epoch to the next; 0 before the second epoch.

    Good candidates are those in the top tenth of the distance from the median to the best. Progress counts as noise, so
    that the window stays wide while all of them still improve fast.
    """
    best = np.nanmax(now)
    good = now >= best - 0.1 * (best - np.nanmedian(now))
    changes = np.diff(scores[good], axis=1)[:, -2 * max(_width(scores.shape[1]), 1) :]
    changes = changes[np.isfinite(changes)]
    return float(np.sqrt(np.median(changes**2) / 2)) if len(changes) else 0.0


def _width(n_epochs: int) -> int:
    return max(1, round(SMOOTH * n_epochs))
