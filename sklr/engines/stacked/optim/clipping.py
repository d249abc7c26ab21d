"""Gradient clipping for each run by itself: at a fixed norm, or at a percentile of the run's gradient norms so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from skorch.callbacks import GradientNormClipping
from torch import Tensor

from sklr.callbacks import GradientClipping
from sklr.callbacks._clipping import percentile_of
from sklr.engines.stacked.optim.block import over_runs


class Clip(NamedTuple):
    """The norm at which gradients are clipped: `norm`, or after `startup_steps` a `percentile` of the earlier norms."""

    norm: float = torch.inf
    percentile: float | None = None
    startup_steps: int = 1
    norm_type: float = 2.0

    @classmethod
    def of(cls, callback: Any) -> Clip | None:
        """Return how a callback of a net clips gradients, None if it does not.

        >>> Clip.of(GradientClipping("p90")), Clip.of(GradientClipping())
        (Clip(norm=inf, percentile=90.0, startup_steps=20, norm_type=2), None)
        """
        if not isinstance(callback, GradientNormClipping):
            return None
        norm_type = callback.gradient_clip_norm_type
        if isinstance(callback, GradientClipping) and (percentile := percentile_of(callback.clip)) is not None:
            return cls(percentile=percentile, startup_steps=callback.startup_steps, norm_type=norm_type)
        norm = callback.gradient_clip_value
        return None if norm is None else cls(norm, norm_type=norm_type)


class StackedClip:
    """A `Clip` applied to each of many runs, as `torch.nn.utils.clip_grad_norm_` and `GradientClipping` do to one.

    Parameters
    ----------
    clip : Clip
    like : Tensor (n_cells, n_candidates, ...)
        Any parameter of the runs.

    >>> clip, grads = StackedClip(Clip(1.0), torch.zeros(1, 2)), [torch.tensor([[[3.0, 4.0], [0.3, 0.4]]])]
    >>> clip.apply(grads).tolist(), grads[0].norm(dim=2).round(decimals=3).tolist()
    ([[5.0, 0.5]], [[1.0, 0.5]])
    """

    def __init__(self, clip: Clip, like: Tensor):
        self.clip = clip
        self.norms = None if clip.percentile is None else NormTable(like)

    @torch.no_grad()
    def apply(self, grads: Sequence[Tensor], cells: Sequence[int] | None = None) -> Tensor:
        """Clip gradients (n_cells, n_candidates, *shape) in place; return the norms before, (n_cells, n_candidates).

        Only the norms of these `cells`, which take this step, enter later percentiles.
        """
        kind = self.clip.norm_type
        each = [torch.linalg.vector_norm(grad.reshape(*grad.shape[:2], -1), kind, dim=2) for grad in grads]
        norms = torch.linalg.vector_norm(torch.stack(each), kind, dim=0)
        # As `clip_grad_norm_` rounds it: PyTorch computes `max_norm / tensor` as `max_norm * tensor.reciprocal()`.
        share = (self._threshold() * (norms + 1e-6).reciprocal()).clamp(max=1.0).to(norms.dtype)
        for grad in grads:
            grad.mul_(over_runs(share, grad))
        if self.norms is not None:
            self.norms.add(norms, cells)
        return norms

    def _threshold(self) -> Tensor | float:
        if self.norms is None or self.clip.percentile is None:
            return self.clip.norm
        found = self.norms.percentile(self.clip.percentile)
        return torch.where(self.norms.count < self.clip.startup_steps, torch.inf, found)


class NormTable:
    """The finite gradient norms of each run so far, sorted, in memory that stays where it is for replayed steps.

    Parameters
    ----------
    like : Tensor (n_cells, n_candidates, ...)

    Attributes
    ----------
    sorted : Tensor (n_cells, n_candidates, 1 + room)
        -inf, then the norms in ascending order, then inf where there is room for more.
    count : Tensor of int (n_cells, n_candidates)
        The number of norms.

    >>> table = NormTable(torch.zeros(1, 1))
    >>> table.make_room(4)
    True
    >>> for norm in (4.0, 1.0, torch.nan, 2.0):
    ...     table.add(torch.tensor([[norm]]))
    >>> table.sorted.tolist(), table.percentile(75).item()
    ([[[-inf, 1.0, 2.0, 4.0, inf]]], 3.0)
    """

    def __init__(self, like: Tensor):
        dtype = torch.promote_types(like.dtype, torch.float32)
        self.sorted = torch.full((*like.shape[:2], 1), -torch.inf, dtype=dtype, device=like.device)
        self.count = torch.zeros(like.shape[:2], dtype=torch.int64, device=like.device)
        self._n_expected = 0

    def make_room(self, n: int, n_more: int = 0) -> bool:
        """Make room for `n` norms, and for about `n_more` after them; return whether the table has moved in memory."""
        self._n_expected += n
        room = self.sorted.shape[-1] - 1
        if self._n_expected <= room:
            return False
        new = max(self._n_expected + n_more, 2 * room) - room  # at least doubled, so that it seldom moves
        self.sorted = torch.nn.functional.pad(self.sorted, (0, new), value=torch.inf)
        return True

    def add(self, norms: Tensor, cells: Sequence[int] | None = None) -> None:
        """Insert a norm for each run of these `cells` (None: all), (n_cells, n_candidates)."""
        known = norms.isfinite()
        if cells is not None:
            known = known & torch.isin(torch.arange(len(norms)), torch.tensor(cells)).to(norms.device)[:, None]
        new = torch.where(known, norms, torch.inf).to(self.sorted.dtype).unsqueeze(-1)
        self.count += known
        # One step of insertion sort without branches: each place keeps its number, takes the new one or its left
        # neighbour's. An infinite norm changes nothing.
        self.sorted[..., 1:].copy_(torch.maximum(torch.minimum(self.sorted[..., 1:], new), self.sorted[..., :-1]))

    def percentile(self, percentile: float) -> Tensor:
        """Return the percentile of each run's norms, as `percentile_of_sorted` does; NaN without norms."""
        last = (self.count - 1).clamp(min=0).to(self.sorted.dtype)
        place = last * percentile / 100
        below = place.floor()
        places = torch.stack([below, torch.minimum(below + 1, last)], -1).long() + 1
        low, high = self.sorted.gather(-1, places).unbind(-1)
        return low + (place - below) * (high - low)

    def keep(self, candidates: Tensor) -> None:
        """Keep only these candidates, in this order."""
        self.sorted, self.count = self.sorted.index_select(1, candidates), self.count.index_select(1, candidates)
