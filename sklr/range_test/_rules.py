"""The rules by which others read a learning rate off a range test, as they were published; pure functions of a curve.

Each is given `lr` and `loss`, both of shape (n_steps,), ascending in `lr`, evenly spaced on a logarithmic scale,
without NaN, and cut where the training broke. A curve that never falls has no such lr: that is the caller's to see.
The formulas are those of fastai 2, `fastai/callback/schedule.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

SLIDE_WIDTH = 15  # steps
SLIDE_SLOPE = 0.005  # loss per step; why the test scales a curve before it asks


def minimum(lr: np.ndarray, loss: np.ndarray) -> float:
    """Return a tenth of the learning rate with the lowest loss.

    >>> minimum(np.array([0.1, 1.0, 10.0]), np.array([3.0, 1.0, 2.0]))
    0.1
    """
    return float(lr[np.argmin(loss)] / 10)


def steep(lr: np.ndarray, loss: np.ndarray) -> float:
    """Return the left end of the step in which the loss falls most, by slope over ln lr.

    >>> steep(np.array([0.1, 1.0, 10.0]), np.array([3.0, 2.5, 1.0]))
    1.0
    """
    return float(lr[np.argmin(np.diff(loss) / np.diff(np.log(lr)))])


def valley(lr: np.ndarray, loss: np.ndarray) -> float:
    """Return about the middle of the longest valley.

    The valley is the longest strictly falling subsequence, whose length is then taken for that of a stretch of
    neighbours that ends where it ends; of the stretch's three thirds the answer is the middle of the second.

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
    """Return where an interval that slides down from the right first has slopes alike at both ends; None if too short.

    The interval is 15 steps wide, slopes are per step, and alike means less than 0.005 apart.

    >>> slide(np.geomspace(1e-3, 1.0, 10), np.arange(10.0)) is None
    True
    """
    if len(loss) <= SLIDE_WIDTH:
        return None
    slope = np.gradient(loss)
    apart = np.abs(slope[SLIDE_WIDTH:] - slope[:-SLIDE_WIDTH]) > SLIDE_SLOPE
    alike = np.flatnonzero(~apart)
    # the last interval whose ends are still apart; the rightmost where even that one is alike
    left = int(alike[-1]) + 1 if len(alike) else 0
    return float(lr[min(left, len(apart) - 1)])


RULES: dict[str, Callable[[np.ndarray, np.ndarray], float | None]] = {
    "minimum": minimum,
    "steep": steep,
    "valley": valley,
    "slide": slide,
}
