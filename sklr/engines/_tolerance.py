"""By how much two trainings of one step may differ: by rounding and nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

NOISE = 64  # times the precision: what rounding leaves of a gradient, relative to the largest one
TYPICAL = 0.1  # of the largest error allowed: the root mean square of all errors


class Tolerance:
    """Whether what a stack computes is what a single net computes, but for rounding.

    Parameters
    ----------
    dtype : torch.dtype
        Of the parameters.
    precision : torch.dtype or None
        To which `torch.autocast` casts during the step, if it does.

    >>> same = Tolerance(torch.float32, None).same
    >>> same(torch.tensor([1.0, 1e-9]), torch.tensor([1.0, 0.0])), same(torch.tensor([1.001]), torch.tensor([1.0]))
    (True, False)
    """

    def __init__(self, dtype: torch.dtype, precision: torch.dtype | None):
        self.eps = torch.finfo(dtype).eps
        self.share = self.eps**0.5 if precision is None else 8 * torch.finfo(precision).eps
        self.noise = NOISE * self.eps if precision is None else self.share
        self.typical = TYPICAL if precision is None else 1.0

    def same(self, found: Tensor, expected: Tensor, scale: float = 0.0) -> bool:
        """Say whether values agree to half their digits, relative to the largest of them, or to a larger `scale`."""
        if found.shape != expected.shape:
            return False
        if not expected.is_floating_point():
            return torch.equal(found.to(expected.dtype), expected)
        found, expected = found.double(), expected.double()
        finite = expected[expected.isfinite()]
        scale = max([scale, float(finite.abs().max())] if finite.numel() else [scale])
        return torch.allclose(found, expected, rtol=self.share, atol=self.share * scale + 1e-30, equal_nan=True)

    def same_update(self, found: Tensor, expected: Tensor, before: Tensor, noise: Tensor, largest: float = 0.0) -> bool:
        """Say whether a step has moved a parameter to the same place, relative to how far it has moved.

        `noise` is what `noise_in` has found in its gradients so far: an optimizer that divides a gradient by its own
        size makes anything of one that is rounding alone. `largest` is the largest move of any parameter: where all
        gradients of a parameter cancel (before batch normalisation, say) others leave more than this one's own.
        """
        size = (expected - before).abs().max()
        if not torch.isfinite(size):
            return torch.equal(found.isfinite(), expected.isfinite())
        allowed = size * (self.share + noise) + largest * self.eps ** (2 / 3) + 4 * self.eps * expected.abs() + 1e-30
        errors = (found - expected).abs() / allowed
        return bool((errors.max() <= 1) & (errors.square().mean().sqrt() <= self.typical))

    def noise_in(self, gradient: Tensor, largest: float) -> Tensor:
        """Return which share of each gradient may be rounding, when the `largest` one of all parameters is this.

        A gradient of exactly 0 has none, but for one among others that are rounding.

        >>> [round(n, 5) for n in Tolerance(torch.float32, None).noise_in(torch.tensor([1.0, 0.0]), 10.0).tolist()]
        [8e-05, 0.0]
        """
        sizes = gradient.abs()
        most = sizes.max() if sizes.numel() else sizes.sum()
        sizes = torch.where((sizes == 0) & (most <= self.noise * largest), most, sizes)
        return torch.where(sizes == 0, 0.0, self.noise * largest / sizes)
