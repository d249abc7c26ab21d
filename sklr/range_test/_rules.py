"""Published rules that select a learning rate from a range test, as pure functions of the curve.

Each takes `lr` and `loss` of shape (n_steps,), with ascending `lr` evenly spaced on a logarithmic scale, without NaN,
and cut where training became unstable. The caller must check that the loss falls at all, or the result is meaningless.
The formulas are those of fastai 2, `fastai/callback/schedule.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

SLIDE_WIDTH = 15  # steps
SLIDE_SLOPE = 0.005  # loss per step, an absolute value; `suggest` therefore scales the curve to a range of 1


def minimum(lr: np.ndarray, loss: np.ndarray) -> float:
    """Return a tenth of the learning rate with the lowest loss.

    >>> minimum(np.array([0.1, 1.0, 10.0]), np.array([3.0, 1.0, 2.0]))
    0.1
    """
    return float(lr[np.argmin(loss)] / 10)


def steep(lr: np.ndarray, loss: np.ndarray) -> float:
    """Return the learning rate at which the slope of the loss over ln(lr) is steepest, the left end of that interval.

    >>> steep(np.array([0.1, 1.0, 10.0]), np.array([3.0, 2.5, 1.0]))
    1.0
    """
    return float(lr[np.argmin(np.diff(loss) / np.diff(np.log(lr)))])


def valley(lr: np.ndarray, loss: np.ndarray) -> float:
    """Return a learning rate near the middle of the longest valley, as in fastai.

    The valley is the longest strictly decreasing subsequence. It is then treated as a contiguous interval of the same
    length that ends at the same step, and the middle of the second third of this interval is returned.

    >>> lr = np.geomspace(1e-3, 1.0, 7)
    >>> round(valley(lr, np.array([9.0, 8.0, 7.0, 6.0, 5.0, 6.0, 7.0])), 6)  # ends at 4, so starts at -1: -1 + 1 + 0
    0.001
    """
    longest = np.ones(len(loss), dtype=int)
    for i in range(1, len(loss)):
        longest[i] += longest[:i][loss[:i] > loss[i]].max(initial=0)
    end = int(longest.argmax())
    start = end - int(longest[end]) if longest[end] > 1 else 0
    third = (end - start) / 3
    return float(lr[max(start + int(third) + int(third / 2), 0)])


def slide(lr: np.ndarray, loss: np.ndarray) -> float | None:
    """Return where an interval, moved from right to left, first has similar slopes at both ends; None if too short.

    The interval is 15 steps wide, and slopes per step are similar if they differ by at most 0.005.

    >>> slide(np.geomspace(1e-3, 1.0, 10), np.arange(10.0)) is None
    True
    """
    if len(loss) <= SLIDE_WIDTH:
        return None
    slope = np.gradient(loss)
    apart = np.abs(slope[SLIDE_WIDTH:] - slope[:-SLIDE_WIDTH]) > SLIDE_SLOPE
    alike = np.flatnonzero(~apart)
    # the leftmost of the intervals on the right whose slopes differ; the rightmost interval if there is none
    left = int(alike[-1]) + 1 if len(alike) else 0
    return float(lr[min(left, len(apart) - 1)])


RULES: dict[str, Callable[[np.ndarray, np.ndarray], float | None]] = {
    "minimum": minimum,
    "steep": steep,
    "valley": valley,
    "slide": slide,
}
