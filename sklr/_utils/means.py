"""What a weighted mean divides by."""

from __future__ import annotations

import torch
from torch import Tensor


def or_one(divisor: Tensor, weight: Tensor | None) -> Tensor:
    """Return what a mean divides by, and 1 where no row weighs anything: the loss is then 0.

    >>> or_one(torch.zeros(2), torch.tensor([[0.0, 0.0], [2.0, 0.0]]))  # the second has nothing but ignored classes
    tensor([1., 0.])
    """
    return divisor if weight is None else torch.where(weight.any(-1), divisor, 1)
