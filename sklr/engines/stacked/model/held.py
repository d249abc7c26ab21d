"""Rows that a net's `train_split` holds out of the training, evaluated after each epoch for all runs of a pack."""

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
    """The rows that the `train_split` of one cell's net holds out.

    Parameters
    ----------
    x, y : rows
        In the order of the net's DataLoader; `y` as the loss is given it.
    sizes : sequence of int
        The number of rows of each batch.
    weight : Tensor (n_rows,) or None
        Sample weights.
    targets : Rows
        `y` as the dataset holds it, for scores.
    infer : callable
        Turns the module's outputs into what the net's `infer` returns, for scores.
    fold : (x, y)
        All rows before the split, in their order; `y` as the loss is given it.
    """

    x: CellRows
    y: Rows
    sizes: Sequence[int]
    weight: Tensor | None
    targets: Rows
    infer: Callable[[Rows], Rows]
    fold: tuple[CellRows, Rows]


class HeldEpoch(NamedTuple):
    """One run on its held-out rows: the losses and sizes of the batches, the outputs and targets of all rows."""

    loss: Sequence[float]
    n_rows: Sequence[int]
    outputs: Rows
    targets: Rows


class HeldRows:
    """The held-out rows of all cells of a pack, padded to the same number of rows.

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
            ones = [like.new_ones(n) for n in self.n_rows]  # for cells without weights
            self.weight = stack_rows([o if h.weight is None else h.weight for h, o in zip(cells, ones, strict=True)])

    def epoch(self, stack: ModelStack) -> Callable[[int, int], HeldEpoch]:
        """Evaluate all runs; return a function from (candidate, cell) in the stack to a run's `HeldEpoch`."""
        outputs = self.outputs(stack)
        losses, inferred = self.losses(stack, outputs), self.cells[0].infer(outputs)

        def of_run(i: int, cell: int) -> HeldEpoch:
            n_rows, sizes, most = self.n_rows[cell], self.sizes[cell], max(self.n_rows)
            own = map_tensors(lambda t: t[i, cell, :n_rows] if has_rows(t, most) else t[i, cell], inferred)
            return HeldEpoch(losses[: len(sizes), i, cell].tolist(), sizes, own, self.cells[cell].targets)

        return of_run

    def outputs(self, stack: ModelStack) -> Rows:
        """Return the modules' outputs for all held-out rows, shape (n_in_stack, n_cells, n_rows, ...)."""
        return in_blocks(stack.outputs, self.rows)

    def losses(self, stack: ModelStack, outputs: Rows) -> np.ndarray:
        """Return the loss of each batch, shape (n_batches, n_in_stack, n_cells); NaN past a cell's last batch."""
        found = np.full((max(map(len, self.sizes)), stack.n_candidates, stack.n_cells), np.nan)
        # batch by batch, since skorch's `valid_loss` is a mean of batches' losses weighted by their sizes
        for batch, rows, cells in self._batches():
            of_cells = partial(_of_cells, cells=cells, rows=rows, n_rows=max(self.n_rows))
            # the loss takes cells first
            x = map_tensors(lambda t, cut=of_cells: cut(t.transpose(0, 1), axis=2), outputs)
            y = map_tensors(partial(of_cells, axis=1), self.y)
            weight = None if self.weight is None else of_cells(self.weight, axis=1)
            with torch.no_grad():
                found[batch][:, cells] = stack.loss(x, y, weight).mT.cpu().double().numpy()
        return found

    def _batches(self) -> Iterator[tuple[int, slice, list[int]]]:
        """Yield the number and the rows of a batch, and the cells in which that batch has these rows."""
        for batch in range(max(map(len, self.sizes))):
            there = [cell for cell, sizes in enumerate(self.sizes) if batch < len(sizes)]
            ends = {cell: (sum(self.sizes[cell][:batch]), sum(self.sizes[cell][: batch + 1])) for cell in there}
            for start, end in sorted(set(ends.values())):
                yield batch, slice(start, end), [cell for cell in there if ends[cell] == (start, end)]


def _of_cells(t: Tensor, cells: Sequence[int], rows: slice, n_rows: int, axis: int) -> Tensor:
    """Select cells along the first axis, and rows along `axis` if the tensor has `n_rows` there."""
    t = t.index_select(0, torch.tensor(cells, device=t.device))
    return t[(slice(None),) * axis + (rows,)] if t.dim() > axis and t.shape[axis] == n_rows else t
