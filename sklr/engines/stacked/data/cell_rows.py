"""The cells' rows as numbers into tensors that the cells share, so that memory does not grow with the folds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from sklr.engines.stacked.data.index_batches import Rows, map_tensors, row_dtype


class CellRows(NamedTuple):
    """The rows of one cell.

    Parameters
    ----------
    tensors : Rows
        Tensors of all rows, the same objects in all cells where possible.
    numbers : ndarray of int, shape (n_rows,)
        The positions of the cell's rows in `tensors`.

    >>> CellRows(torch.arange(4.0), np.array([3, 1])).take([1]).tolist()
    [1.0]
    """

    tensors: Rows
    numbers: np.ndarray

    @classmethod
    def all_of(cls, tensors: Rows) -> CellRows:
        """Return a cell that has all rows of these tensors."""
        return cls(tensors, np.arange(len(tree_leaves(tensors)[0])))

    @property
    def n_rows(self) -> int:
        """The number of rows."""
        return len(self.numbers)

    def pick(self, rows: Any) -> CellRows:
        """Return some of the rows, by their positions in the cell."""
        return CellRows(self.tensors, self.numbers[rows])

    def take(self, rows: Any = slice(None)) -> Rows:
        """Return copies of rows, by their positions in the cell."""
        numbers = torch.from_numpy(self.numbers[rows])
        return map_tensors(lambda t: t[numbers.to(t.device)], self.tensors)


def laid_end_to_end(cells: Sequence[CellRows]) -> list[CellRows]:
    """Concatenate the tensors of cells; return the same rows in tensors that all cells share.

    >>> first, second = laid_end_to_end([CellRows.all_of(torch.zeros(2)), CellRows.all_of(torch.ones(2))])
    >>> first.tensors is second.tensors, second.numbers.tolist(), second.take().tolist()
    (True, [2, 3], [1.0, 1.0])
    """
    parts = list({id(cell.tensors): cell.tensors for cell in cells}.values())
    if len(parts) == 1:
        return list(cells)
    starts = np.cumsum([0, *(len(tree_leaves(part)[0]) for part in parts)])
    places = dict(zip(map(id, parts), starts.tolist(), strict=False))
    tensors = map_tensors(lambda *each: torch.cat(each), *parts)
    return [CellRows(tensors, cell.numbers + places[id(cell.tensors)]) for cell in cells]


class PackRows:
    """The rows of several cells, gathered for all of them at once.

    Parameters
    ----------
    cells : sequence of CellRows

    Attributes
    ----------
    numbers : Tensor (n_cells, most rows)
        The positions of each cell's rows in `tensors`; shorter cells are padded with 0.

    >>> shared = torch.arange(5.0)
    >>> rows = PackRows([CellRows(shared, np.array([4, 2])), CellRows(shared, np.array([1]))])
    >>> rows.tensors is shared, rows.take(torch.tensor([[0, 1], [0, 0]])).tolist()
    (True, [[4.0, 2.0], [1.0, 1.0]])
    """

    def __init__(self, cells: Sequence[CellRows]):
        cells = laid_end_to_end(cells)
        self.tensors = cells[0].tensors
        n_rows = max(cell.n_rows for cell in cells)
        table = np.zeros((len(cells), n_rows), dtype=row_dtype(len(tree_leaves(self.tensors)[0])))
        for row, cell in zip(table, cells, strict=True):
            row[: cell.n_rows] = cell.numbers
        self.numbers = torch.from_numpy(table).to(tree_leaves(self.tensors)[0].device)

    @property
    def row_numel(self) -> int:
        """The number of elements per row of the largest tensor."""
        return max(t[0].numel() for t in tree_leaves(self.tensors))

    def take(self, positions: Tensor, memory: list[Tensor] | None = None) -> Rows:
        """Return rows by their positions in the cells, (..., n_cells, n), as tensors (..., n_cells, n, ...)."""
        cells = torch.arange(len(self.numbers), device=positions.device)[:, None]
        return self.at(self.numbers[cells, positions], memory)

    def first(self, n: int | None = None) -> Rows:
        """Return the first `n` rows of each cell, or all; shorter cells are padded with row 0."""
        return self.at(self.numbers[:, :n])

    def at(self, places: Tensor, memory: list[Tensor] | None = None) -> Rows:
        """Return the rows at these positions in `tensors`, (..., n), as tensors (..., n, ...).

        Parameters
        ----------
        places : Tensor of int
        memory : list of Tensor, optional
            Buffers to write into, an empty list at first: a call overwrites what the last one with this list returned.
        """
        flat = places.flatten()
        if memory is None:
            return map_tensors(lambda t: t.index_select(0, flat).unflatten(0, places.shape), self.tensors)
        leaves = tree_leaves(self.tensors)
        if not memory or len(memory[0]) < len(flat):
            memory[:] = [t.new_empty(len(flat), *t.shape[1:]) for t in leaves]
        into = iter(memory)
        return map_tensors(
            lambda t: torch.index_select(t.detach(), 0, flat, out=next(into)[: len(flat)]).unflatten(0, places.shape),
            self.tensors,
        )
