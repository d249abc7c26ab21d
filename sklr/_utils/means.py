"""The divisor of a weighted mean."""

from __future__ import annotations

import torch
from torch import Tensor


def or_one(divisor: Tensor, weight: Tensor | None) -> Tensor:
    """Return the divisor of a weighted mean, replaced by 1 where all weights are 0, so that the loss is 0 and not NaN.

    A divisor of 0 with weights above 0, as where all classes are ignored, stays 0: the loss is NaN, as torch's is.

    >>> or_one(torch.zeros(2), torch.tensor([[0.0, 0.0], [2.0, 0.0]]))  # in the second, all classes are ignored
    tensor([1., 0.])
    """
    return divisor if weight is None else torch.where(weight.any(-1), divisor, 1)
