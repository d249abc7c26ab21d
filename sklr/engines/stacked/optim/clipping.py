"""Gradients clipped run by run: at a fixed norm, or at a percentile of the norms that the run has met so far."""

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
    """What gradients are clipped at: `norm`, or from `startup_steps` on the `percentile` of the norms before."""

    norm: float = torch.inf
    percentile: float | None = None
    startup_steps: int = 1
    norm_type: float = 2.0

    @classmethod
    def of(cls, callback: Any) -> Clip | None:
        """Return what a callback of a net does to gradients, None for one that does not clip.

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
    """A `Clip` of many runs, each by itself, as `torch.nn.utils.clip_grad_norm_` and `GradientClipping` do it.

    Parameters
    ----------
    clip : Clip
    like : Tensor (n_cells, n_candidates, ...)
        Some parameter of the runs.

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

        Of percentiles, only the norms of these `cells` count.
        """
        kind = self.clip.norm_type
        each = [torch.linalg.vector_norm(grad.reshape(*grad.shape[:2], -1), kind, dim=2) for grad in grads]
        norms = torch.linalg.vector_norm(torch.stack(each), kind, dim=0)
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
    """The finite norms that each run has met, in rising order: in memory that stays, as recorded steps need it.

    Parameters
    ----------
    like : Tensor (n_cells, n_candidates, ...)

    Attributes
    ----------
    sorted : Tensor (n_cells, n_candidates, 1 + room)
        After a first number that is below all norms; those that are not known yet are above all.
    count : Tensor of int (n_cells, n_candidates)

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
        """Make room for `n` more norms, after which about `n_more` will come; return whether the table has moved."""
        self._n_expected += n
        room = self.sorted.shape[-1] - 1
        if self._n_expected <= room:
            return False
        new = max(self._n_expected + n_more, 2 * room) - room
        self.sorted = torch.nn.functional.pad(self.sorted, (0, new), value=torch.inf)
        return True

    def add(self, norms: Tensor, cells: Sequence[int] | None = None) -> None:
        """Put a norm of each run in its place, (n_cells, n_candidates); those of other `cells` are left out."""
        known = norms.isfinite()
        if cells is not None:
            known = known & torch.isin(torch.arange(len(norms)), torch.tensor(cells)).to(norms.device)[:, None]
        new = torch.where(known, norms, torch.inf).to(self.sorted.dtype).unsqueeze(-1)
        self.count += known
        self.sorted[..., 1:].copy_(torch.maximum(torch.minimum(self.sorted[..., 1:], new), self.sorted[..., :-1]))

    def percentile(self, percentile: float) -> Tensor:
        """Return the percentile of each run's norms, as `percentile_of_sorted` does; of none it is not a number."""
        last = (self.count - 1).clamp(min=0).to(self.sorted.dtype)
        place = last * percentile / 100
        below = place.floor()
        places = torch.stack([below, torch.minimum(below + 1, last)], -1).long() + 1
        low, high = self.sorted.gather(-1, places).unbind(-1)
        return low + (place - below) * (high - low)

    def keep(self, candidates: Tensor) -> None:
        """Let only these candidates stay, in this order."""
        self.sorted, self.count = self.sorted.index_select(1, candidates), self.count.index_select(1, candidates)
