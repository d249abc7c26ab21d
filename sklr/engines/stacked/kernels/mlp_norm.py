"""Batch normalization in a chain of layers, forward and backward written by hand; see `mlp_chain`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sklr.engines.stacked.kernels.mlp_chain import Calls, Named, Operation


@dataclass(frozen=True)
class BatchNorm(Operation):
    """Batch normalization of every run by itself; the fields but the last four are names of parameters and buffers.

    In training mode the statistics are those of the batch, and the running ones are updated as `nn.BatchNorm1d` does.
    Gradients as in Ioffe and Szegedy 2015 (arXiv 1502.03167, section 3).
    """

    weight: str
    bias: str
    running_mean: str
    running_var: str
    n_batches: str
    momentum: float
    eps: float
    training: bool
    in_place: bool = False

    @property
    def mixes_rows(self) -> bool:  # type: ignore[override]  # it depends on the mode
        """Whether a row's output depends on the other rows."""
        return self.training

    def forward(self, calls: Calls, h: Tensor, state: Named) -> tuple[Tensor, Any]:
        return self._by_batch(calls, h, state) if self.training else (self._by_running(calls, h, state), None)

    def _by_running(self, calls: Calls, h: Tensor, state: Named) -> Tensor:
        mean, var = self._running(state)
        scale, shift = (torch.empty_like(state[self.weight]) for _ in range(2))
        y = h if self.in_place else torch.empty_like(h)
        calls.add(torch.add, var, self.eps, out=scale)
        calls.add(scale.rsqrt_)
        calls.add(scale.mul_, state[self.weight])
        calls.add(torch.mul, mean, scale, out=shift)
        calls.add(torch.sub, state[self.bias], shift, out=shift)
        calls.add(torch.mul, h, _column(scale, h), out=y)
        calls.add(y.add_, _column(shift, h))
        return y

    def _by_batch(self, calls: Calls, h: Tensor, state: Named) -> tuple[Tensor, Any]:
        weight, y = state[self.weight], torch.empty_like(h)
        mean, var, scale = (torch.empty_like(weight) for _ in range(3))
        normed = h if self.in_place else torch.empty_like(h)
        calls.add(torch.mean, h, 2, keepdim=True, out=_column(mean, h))
        calls.add(torch.sub, h, _column(mean, h), out=normed)
        calls.add(torch.mul, normed, normed, out=y)
        calls.add(torch.mean, y, 2, keepdim=True, out=_column(var, h))
        self._update(calls, state, (mean, var), h.shape[2])
        calls.add(torch.add, var, self.eps, out=scale)
        calls.add(scale.rsqrt_)
        calls.add(normed.mul_, _column(scale, h))
        calls.add(torch.mul, normed, _column(weight, h), out=y)
        calls.add(y.add_, _column(state[self.bias], h))
        calls.add(scale.mul_, weight)
        return y, (normed, scale, mean, var)  # the memory of mean and variance is used again in `backward`

    def _running(self, state: Named) -> list[Tensor]:
        """Return the running mean and variance like parameters, (n_cells, n_candidates, n_features)."""
        return [state[name].transpose(0, 1) for name in (self.running_mean, self.running_var)]

    def _update(self, calls: Calls, state: Named, found: tuple[Tensor, Tensor], n_rows: int) -> None:
        """Move the running statistics towards the batch's; the running variance is the unbiased one."""
        factors = 1, n_rows / max(n_rows - 1, 1)
        calls.add(state[self.n_batches].add_, 1)
        for average, value, factor in zip(self._running(state), found, factors, strict=True):
            calls.add(average.mul_, 1 - self.momentum)
            calls.add(average.add_, value, alpha=self.momentum * factor)

    def backward(self, calls: Calls, g: Tensor, saved: Any, into: Named) -> None:
        normed, _, by_weight, by_bias = saved
        product = torch.empty_like(g)
        calls.add(torch.mul, g, normed, out=product)
        for values, kept, name in ((product, by_weight, self.weight), (g, by_bias, self.bias)):
            calls.add(torch.sum, values, 2, out=kept.view(g.shape[:2]))
            calls.add(into[name].copy_, kept)

    def pull_back(self, calls: Calls, g: Tensor, saved: Any, state: Named) -> Tensor:
        normed, scale, by_weight, by_bias = (_column(t, g) for t in saved)
        for kept in (by_weight, by_bias):
            calls.add(kept.div_, g.shape[2])
        calls.add(g.addcmul_, normed, by_weight, value=-1)
        calls.add(g.sub_, by_bias)
        calls.add(g.mul_, scale)
        return g


def _column(t: Tensor, h: Tensor) -> Tensor:
    """View (n_cells, n_candidates, n_features), or activations themselves, as activations like `h` are."""
    return t.view(*h.shape[:2], -1)
