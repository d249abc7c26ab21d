"""The rule by which a loss counts as diverged, shared by everything that stops a training."""

from __future__ import annotations

import math
from typing import Any

EXPLODED_FACTOR = 1e4  # far above any loss a training recovers from; a real divergence exceeds it within a few steps
SMALLEST_FIRST_LOSS = 1e-2  # a training that starts near zero loss may rise by a large factor without diverging


def exploded(loss: Any, first_loss: Any) -> Any:
    """Return whether a loss counts as diverged: not finite, or more than 10,000 times the first one.

    Parameters
    ----------
    loss : float, ndarray or Tensor
        The training loss of a step.
    first_loss : float, ndarray or Tensor
        The loss of the training's first step, same shape as `loss`; values below 0.01 are treated as 0.01.

    Returns
    -------
    exploded : bool, or ndarray or Tensor of bool, element by element

    Examples
    --------
    >>> exploded(9999.0, 1.0), exploded(10001.0, 1.0), exploded(99.0, 0.0), exploded(float("nan"), 1.0)
    (False, True, False, True)
    """
    size, first_size = abs(loss), abs(first_loss)
    too_large = (size > EXPLODED_FACTOR * first_size) & (size > EXPLODED_FACTOR * SMALLEST_FIRST_LOSS)
    return too_large | (size == math.inf) | (loss != loss)
