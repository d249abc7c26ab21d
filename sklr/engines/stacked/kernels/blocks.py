"""Blocks of runs, computed one after another so that what an operation returns stays in a CPU's cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

# Most bytes that an operation returns on average, in a block of several cells, and of several candidates of a cell.
# Milliseconds of a step of 3 cells x 8 candidates, all at once / cell by cell (one thread, 1 MiB of L2 and 32 MiB of
# shared L3): layer normalization of width 128 (0.9 MiB at once) 17.5 / 12.0, of width 32 (0.3 MiB) 3.0 / 3.2; a GRU on
# 64 rows (0.3 MiB) 85 / 96, on 512 rows (2.6 MiB) 717 / 487; a residual network 239 / 137, LeNet 207 / 132, a
# transformer 317 / 240. 24 candidates of LeNet in one cell (7 MiB) take 166, and 130 with 8 at a time.
OF_CELLS, OF_CANDIDATES = 2**19, 3 * 2**20
USUAL = 8  # candidates, assumed where their true number must not matter


@dataclass(frozen=True)
class Blocks:
    """Decides how many runs to compute at once.

    Parameters
    ----------
    bytes_per_row : float, default 0
        As in `Traits`; with 0, all runs are computed at once.
    draws : bool, default False
        Whether the candidates of a cell share random numbers. They are then in one block, and how many cells are in it
        does not depend on how many candidates are left: pruning must not change what is drawn.

    >>> Blocks(2**11).of(3, 8, n_rows=64)
    ([slice(0, 1, None), slice(1, 2, None), slice(2, 3, None)], [slice(0, 8, None)])
    >>> Blocks(2**13).of(1, 8, n_rows=64)
    ([slice(0, 1, None)], [slice(0, 4, None), slice(4, 8, None)])
    """

    bytes_per_row: float = 0.0
    draws: bool = False

    def of(self, n_cells: int, n_candidates: int, n_rows: int) -> tuple[list[slice], list[slice]]:
        """Return the cells and the candidates of blocks: each block is one of the former with one of the latter."""
        run = max(1.0, self.bytes_per_row * n_rows)
        cells = int(OF_CELLS / (run * (USUAL if self.draws else n_candidates)))
        candidates = n_candidates if self.draws else int(OF_CANDIDATES / run)
        return _slices(n_cells, max(1, cells)), _slices(n_candidates, max(1, candidates))

    @property
    def without_draws(self) -> Blocks:
        """The blocks in evaluation mode, in which a module that draws random numbers is not stacked."""
        return replace(self, draws=False)

    def n_runs(self, n_cells: int, n_candidates: int, n_rows: int) -> int:
        """Return the number of runs in the largest block."""
        (cells, *_), (candidates, *_) = self.of(n_cells, n_candidates, n_rows)
        return cells.stop * candidates.stop

    def join(
        self, compute: Callable[[slice, slice], Any], shape: tuple[int, int, int], axes: tuple[int, int] = (0, 1)
    ) -> Any:
        """Concatenate what `compute(cells, candidates)` returns for each block.

        Parameters
        ----------
        compute : callable
            Returns a tensor or a structure of tensors with axes of cells and of candidates.
        shape : (n_cells, n_candidates, n_rows)
        axes : (int, int)
            The positions of these axes.
        """
        cells, candidates = self.of(*shape)
        if len(cells) == len(candidates) == 1:
            return compute(slice(None), slice(None))
        of_cells = [_cat([compute(c, k) for k in candidates], axes[1]) for c in cells]
        return _cat(of_cells, axes[0])


def _slices(n: int, at_most: int) -> list[slice]:
    """Divide `n` into slices of about equal length.

    >>> _slices(5, 2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    n_slices = -(-n // at_most)
    size, longer = divmod(n, n_slices)
    starts = [i * size + min(i, longer) for i in range(n_slices + 1)]
    return [slice(start, stop) for start, stop in pairwise(starts)]


def _cat(parts: list[Any], axis: int) -> Any:
    return parts[0] if len(parts) == 1 else tree_map(lambda *tensors: torch.cat(tensors, axis), *parts)


class OutputSizes(TorchDispatchMode):
    """Within this mode, the sizes of all tensors that operations return are recorded, views of parameters excepted.

    >>> layer, x = nn.Sequential(nn.Linear(3, 8), nn.ReLU()), torch.ones(4, 3)
    >>> with OutputSizes(layer) as sizes, torch.no_grad():
    ...     _ = layer(x)
    >>> sizes.bytes, sizes.mean
    ([128, 128], 128.0)
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        self.parameters = {p.untyped_storage().data_ptr() for p in module.parameters()}
        self.bytes: list[int] = []

    @property
    def mean(self) -> float:
        """The mean size in bytes; 0 if no operation was called."""
        return sum(self.bytes) / max(1, len(self.bytes))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        self.bytes += [t.nbytes for t in tensors if t.untyped_storage().data_ptr() not in self.parameters]
        return result
