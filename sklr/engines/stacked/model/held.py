"""Rows that a net's `train_split` holds out of the training: evaluated after each epoch, for all runs of a pack."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sklr.engines.stacked.data.cell_rows import CellRows, PackRows
from sklr.engines.stacked.data.index_batches import Rows, map_tensors, stack_rows
from sklr.engines.stacked.kernels.module_call import has_rows, in_blocks
from sklr.engines.stacked.model.stack import ModelStack


class Held(NamedTuple):
    """What the `train_split` of one cell's net holds out.

    Parameters
    ----------
    x, y : rows
        In the order of the net's DataLoader; `y` as the loss has it.
    sizes : sequence of int
        How many rows each of its batches has.
    weight : Tensor (n_rows,) or None
        Sample weights.
    targets : Rows
        `y` as the dataset has it, for scores.
    infer : callable
        What the net does to outputs of its module, for scores.
    fold : (x, y)
        All rows that were to be split, in their order; `y` as the loss has it.
    """

    x: CellRows
    y: Rows
    sizes: Sequence[int]
    weight: Tensor | None
    targets: Rows
    infer: Callable[[Rows], Rows]
    fold: tuple[CellRows, Rows]


class HeldEpoch(NamedTuple):
    """What a run makes of its held-out rows: losses and sizes of batches, then outputs and targets of all rows."""

    loss: Sequence[float]
    n_rows: Sequence[int]
    outputs: Rows
    targets: Rows


class HeldRows:
    """The held-out rows of all cells of a pack.

    Parameters
    ----------
    cells : sequence of Held
    """

    def __init__(self, cells: Sequence[Held]):
        self.cells, self.sizes = list(cells), [list(held.sizes) for held in cells]
        self.n_rows = [held.x.n_rows for held in cells]
        self.rows = PackRows([held.x for held in cells])
        self.y = stack_rows([held.y for held in cells])
        self.weight: Tensor | None = None
        if any(held.weight is not None for held in cells):
            like = next(held.weight for held in cells if held.weight is not None)
            ones = [like.new_ones(n) for n in self.n_rows]
            self.weight = stack_rows([o if h.weight is None else h.weight for h, o in zip(cells, ones, strict=True)])

    def epoch(self, stack: ModelStack) -> Callable[[int, int], HeldEpoch]:
        """Evaluate all runs; return what gives that of one, by its place in the stack."""
        outputs = self.outputs(stack)
        losses, inferred = self.losses(stack, outputs), self.cells[0].infer(outputs)

        def of_run(i: int, cell: int) -> HeldEpoch:
            n_rows, sizes, most = self.n_rows[cell], self.sizes[cell], max(self.n_rows)
            own = map_tensors(lambda t: t[i, cell, :n_rows] if has_rows(t, most) else t[i, cell], inferred)
            return HeldEpoch(losses[: len(sizes), i, cell].tolist(), sizes, own, self.cells[cell].targets)

        return of_run

    def outputs(self, stack: ModelStack) -> Rows:
        """Return what the modules say to all rows, shape (n_in_stack, n_cells, n_rows, ...)."""
        return in_blocks(stack.outputs, self.rows)

    def losses(self, stack: ModelStack, outputs: Rows) -> np.ndarray:
        """Return the loss of each batch, shape (n_batches, n_in_stack, n_cells); NaN past a cell's last one."""
        found = np.full((max(map(len, self.sizes)), stack.n_candidates, stack.n_cells), np.nan)
        for batch, rows, cells in self._batches():
            of_cells = partial(_of_cells, cells=cells, rows=rows, n_rows=max(self.n_rows))
            x = map_tensors(lambda t, cut=of_cells: cut(t.transpose(0, 1), axis=2), outputs)
            y = map_tensors(partial(of_cells, axis=1), self.y)
            weight = None if self.weight is None else of_cells(self.weight, axis=1)
            with torch.no_grad():
                found[batch][:, cells] = stack.loss(x, y, weight).mT.cpu().double().numpy()
        return found

    def _batches(self) -> Iterator[tuple[int, slice, list[int]]]:
        """Yield number and rows of batches that some cells have alike, and these cells."""
        for batch in range(max(map(len, self.sizes))):
            there = [cell for cell, sizes in enumerate(self.sizes) if batch < len(sizes)]
            ends = {cell: (sum(self.sizes[cell][:batch]), sum(self.sizes[cell][: batch + 1])) for cell in there}
            for start, end in sorted(set(ends.values())):
                yield batch, slice(start, end), [cell for cell in there if ends[cell] == (start, end)]


def _of_cells(t: Tensor, cells: Sequence[int], rows: slice, n_rows: int, axis: int) -> Tensor:
    """Return some rows, which are along an axis if there are as many as `n_rows`, of cells along the first axis."""
    t = t.index_select(0, torch.tensor(cells, device=t.device))
    return t[(slice(None),) * axis + (rows,)] if t.dim() > axis and t.shape[axis] == n_rows else t
