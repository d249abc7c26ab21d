"""What the runs of a stack have besides the parameters that are trained: frozen ones, and buffers."""

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
        Every candidate of a cell starts with what its module has.
    n_candidates : int

    Attributes
    ----------
    constants : dict of str to Tensor (n_cells, n_candidates, *shape)
        Parameters that take no gradient.
    buffers : dict of str to Tensor (n_candidates, n_cells, *shape)
        Unlike parameters in the order in which they are mapped over: batch normalisation writes its running
        statistics through a view of them, which another order would not allow.

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
        """Return constants and buffers of some cells, None for all."""
        if index is None:
            return self.constants, self.buffers
        constants = {name: t.index_select(0, index) for name, t in self.constants.items()}
        return constants, {name: t.index_select(1, index) for name, t in self.buffers.items()}

    def update(self, buffers: Named, index: Tensor | None) -> None:
        """Write buffers of some cells down where they are, for there replayed steps look for them."""
        places = {b.untyped_storage().data_ptr() for b in self.buffers.values()}  # one may lie in another's place
        buffers = {n: b.clone() if b.untyped_storage().data_ptr() in places else b for n, b in buffers.items()}
        for name, buffer in buffers.items():
            own = self.buffers[name]
            if index is not None:
                own.index_copy_(1, index, buffer)
            elif own.shape == buffer.shape and own.dtype == buffer.dtype:
                own.copy_(buffer)
            else:
                self.buffers[name] = buffer

    def keep(self, candidates: Tensor) -> None:
        """Let only these candidates stay, in this order."""
        self.constants = {name: t.index_select(1, candidates) for name, t in self.constants.items()}
        self.buffers = {name: t.index_select(0, candidates) for name, t in self.buffers.items()}

    def of_run(self, candidate: int, cell: int) -> Named:
        """Return one run's constants and buffers."""
        constants = {name: t[cell, candidate] for name, t in self.constants.items()}
        return constants | {name: t[candidate, cell] for name, t in self.buffers.items()}


def stacked(per_cell: Sequence[Tensor], n_candidates: int) -> Tensor:
    """Return a tensor of each cell, repeated for its candidates: (n_cells, n_candidates, *shape).

    >>> stacked([torch.zeros(2), torch.ones(2)], 3).shape
    torch.Size([2, 3, 2])
    """
    cells = torch.stack([t.detach() for t in per_cell]).unsqueeze(1)
    return cells.expand(-1, n_candidates, *cells.shape[2:]).contiguous()
