"""The state of a stack's runs besides the trained parameters: frozen parameters and buffers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sklr.engines.stacked.kernels.module_call import Named


class FixedState:
    """The frozen parameters and the buffers of `n_candidates x n_cells` copies of a module.

    Parameters
    ----------
    modules : sequence of nn.Module, one per cell
        Every candidate of a cell starts with the values of its module.
    n_candidates : int

    Attributes
    ----------
    constants : dict of str to Tensor (n_cells, n_candidates, *shape)
        Frozen parameters (`requires_grad=False`).
    buffers : dict of str to Tensor (n_candidates, n_cells, *shape)
        The axes are in the order of the two `vmap` levels, unlike those of parameters: batch normalization updates its
        running statistics in place through a view, which needs this order.

    >>> state = FixedState([nn.BatchNorm1d(2), nn.BatchNorm1d(2)], 3)
    >>> state.update({"running_mean": torch.ones(3, 1, 2)}, torch.tensor([1]))
    >>> state.buffers["running_mean"][0].tolist()
    [[0.0, 0.0], [1.0, 1.0]]
    """

    def __init__(self, modules: Sequence[nn.Module], n_candidates: int):
        frozen = [name for name, p in modules[0].named_parameters() if not p.requires_grad]
        self.constants = {n: stacked([m.get_parameter(n) for m in modules], n_candidates) for n in frozen}
        names = [name for name, _ in modules[0].named_buffers()]
        cells = {name: torch.stack([m.get_buffer(name) for m in modules]) for name in names}
        self.buffers = {name: t.expand(n_candidates, *t.shape).contiguous() for name, t in cells.items()}

    def of_cells(self, index: Tensor | None) -> tuple[Named, Named]:
        """Return the constants and the buffers of the cells in `index`; None means all."""
        if index is None:
            return self.constants, self.buffers
        constants = {name: t.index_select(0, index) for name, t in self.constants.items()}
        return constants, {name: t.index_select(1, index) for name, t in self.buffers.items()}

    def update(self, buffers: Named, index: Tensor | None) -> None:
        """Copy new values into the buffers of the cells in `index`, in place: replayed steps read the same memory."""
        # A new value may be another buffer's memory (a module that swaps two): copy it before that is overwritten.
        places = {b.untyped_storage().data_ptr() for b in self.buffers.values()}
        buffers = {n: b.clone() if b.untyped_storage().data_ptr() in places else b for n, b in buffers.items()}
        for name, buffer in buffers.items():
            own = self.buffers[name]
            if index is not None:
                own.index_copy_(1, index, buffer)
            elif own.shape == buffer.shape and own.dtype == buffer.dtype:
                own.copy_(buffer)
            else:  # the module has replaced its buffer by one of another shape or dtype
                self.buffers[name] = buffer

    def keep(self, candidates: Tensor) -> None:
        """Keep only these candidates, in this order."""
        self.constants = {name: t.index_select(1, candidates) for name, t in self.constants.items()}
        self.buffers = {name: t.index_select(0, candidates) for name, t in self.buffers.items()}

    def of_run(self, candidate: int, cell: int) -> Named:
        """Return one run's constants and buffers."""
        constants = {name: t[cell, candidate] for name, t in self.constants.items()}
        return constants | {name: t[candidate, cell] for name, t in self.buffers.items()}


def stacked(per_cell: Sequence[Tensor], n_candidates: int) -> Tensor:
    """Stack one tensor per cell and repeat it for each candidate: (n_cells, n_candidates, *shape).

    >>> stacked([torch.zeros(2), torch.ones(2)], 3).shape
    torch.Size([2, 3, 2])
    """
    cells = torch.stack([t.detach() for t in per_cell]).unsqueeze(1)
    return cells.expand(-1, n_candidates, *cells.shape[2:]).contiguous()
