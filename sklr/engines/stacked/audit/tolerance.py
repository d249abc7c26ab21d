"""How much rounding may make two computations of the same step differ."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

NOISE = 64  # times eps: the rounding error of a gradient, relative to the largest gradient
SLIP = (
    10  # times the tolerance: allowed in a few steps, as rounding may decide which of two equal pixels is the largest
)
TYPICAL = 0.1  # times the tolerance: allowed for the root mean square of all errors


class Tolerance:
    """Decides whether a stack and a single net compute the same up to rounding.

    Parameters
    ----------
    dtype : torch.dtype
        The parameters' dtype.
    precision : torch.dtype or None
        The dtype to which `torch.autocast` casts during the step; None without autocast.

    >>> same = Tolerance(torch.float32, None).same
    >>> same(torch.tensor([1.0, 1e-9]), torch.tensor([1.0, 0.0])), same(torch.tensor([1.001]), torch.tensor([1.0]))
    (True, False)
    """

    def __init__(self, dtype: torch.dtype, precision: torch.dtype | None):
        self.eps = torch.finfo(dtype).eps
        self.share = self.eps**0.5 if precision is None else 8 * torch.finfo(precision).eps
        self.noise = NOISE * self.eps if precision is None else self.share
        self.typical = TYPICAL if precision is None else 1.0
        # in half precision ten times the tolerance would admit any value
        self.slip = SLIP if precision is None and self.eps < 1e-6 else 1.0

    def same(self, found: Tensor, expected: Tensor, scale: float = 0.0) -> bool:
        """Say whether values agree to half their digits, relative to the largest of them or to `scale` if larger."""
        if found.shape != expected.shape:
            return False
        if not expected.is_floating_point():
            return torch.equal(found.to(expected.dtype), expected)
        found, expected = found.cpu().double(), expected.cpu().double()  # MPS has no float64
        finite = expected[expected.isfinite()]
        scale = max([scale, float(finite.abs().max())] if finite.numel() else [scale])
        return torch.allclose(found, expected, rtol=self.share, atol=self.share * scale + 1e-30, equal_nan=True)

    def worst(self, found: Flat, expected: Flat, before: Flat, noise: Tensor) -> tuple[str, float]:
        """Return the parameter whose update differs most, and by how many times the tolerance.

        `noise` is what `noise_in` has found in the gradients so far: an optimizer such as Adam divides a gradient by
        its own magnitude, so a gradient that is rounding alone gives an arbitrary update. Where all gradients of a
        parameter cancel (before batch normalization, say) their rounding error comes from larger numbers, so the
        tolerance also grows with the largest update of any parameter. Numbers whose gradient may be rounding alone
        (noise >= 1) are left out of the root mean square of the errors.
        """
        moves = expected.most((expected.values - before.values).abs())
        largest = moves.nan_to_num(0.0, 0.0).max()
        allowed = expected.spread(moves) * (self.share + noise) + largest * self.eps ** (2 / 3)
        allowed += 4 * self.eps * expected.values.abs() + 1e-30
        errors = (found.values - expected.values).abs() / allowed
        typical = expected.mean(torch.where(noise < 1, errors, 0.0).square()).sqrt()
        times = torch.maximum(expected.most(errors), typical / self.typical)
        as_lost = expected.most((found.values.isfinite() != expected.values.isfinite()).float()) == 0
        times = torch.where(moves.isfinite(), times, torch.where(as_lost, 0.0, torch.inf)).nan_to_num(torch.inf)
        return expected.names[int(times.argmax())], float(times.max())

    def noise_in(self, gradient: Flat) -> Tensor:
        """Return the share of each gradient that may be rounding error: `NOISE` x eps of the largest gradient of all.

        A gradient of exactly 0 has no rounding error, unless the other gradients of its parameter are rounding alone.

        >>> gradient = Flat({"weight": torch.tensor([1.0, 0.0]), "bias": torch.tensor([10.0])})
        >>> [round(n, 5) for n in Tolerance(torch.float32, None).noise_in(gradient).tolist()]
        [8e-05, 0.0, 1e-05]
        """
        sizes, most = gradient.values.abs(), gradient.most(gradient.values.abs())
        largest = most.max()
        most = gradient.spread(most)
        sizes = torch.where((sizes == 0) & (most <= self.noise * largest), most, sizes)
        return torch.where(sizes == 0, 0.0, self.noise * largest / sizes)


class Flat:
    """The numbers of several tensors, concatenated.

    Parameters
    ----------
    tensors : mapping from name to Tensor
        Each with at least one number.

    >>> flat = Flat({"weight": torch.tensor([[1.0, 5.0]]), "bias": torch.tensor([2.0])})
    >>> flat.most(flat.values).tolist(), flat.spread(torch.tensor([7, 8])).tolist()
    ([5.0, 2.0], [7, 7, 8])
    """

    def __init__(self, tensors: Mapping[str, Tensor]):
        self.names, self.sizes = list(tensors), [t.numel() for t in tensors.values()]
        self.values = torch.cat([t.detach().reshape(-1) for t in tensors.values()])

    def most(self, values: Tensor) -> Tensor:
        """Return the largest of the values of each tensor, shape (n_tensors,)."""
        return torch.stack([part.max() for part in values.split(self.sizes)])

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of the values of each tensor, shape (n_tensors,)."""
        return torch.stack([part.mean() for part in values.split(self.sizes)])

    def spread(self, values: Tensor) -> Tensor:
        """Repeat one number per tensor for each of its values."""
        return values.repeat_interleave(torch.tensor(self.sizes, device=values.device))
