"""The batches of an epoch, gathered by row number, for as many steps of the same shape at once as are small to keep."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from sklr.engines.stacked.data.batch import Batch
from sklr.engines.stacked.data.cell_rows import PackRows
from sklr.engines.stacked.data.index_batches import Rows, map_tensors
from sklr.engines.stacked.model.stack import ModelStack

SMALL = 2**23  # most elements of a gathered tensor: 32 MiB in float32
LEAST = 2**20  # fewer are not worth calling a replay for


def most_gathered(n_elements: int) -> int:
    """Return how many elements to gather at most from rows with as many: a part, so that batches take little memory.

    >>> most_gathered(2**24) == 2**21, most_gathered(2**30) == SMALL
    (True, True)
    """
    return min(SMALL, max(LEAST, n_elements // 8))


class Feed:
    """The batches of an epoch, in the order of the steps.

    Parameters
    ----------
    stack : ModelStack
        The stack that will take the steps.
    rows : PackRows
    y : Rows (n_cells, n_rows, ...)
    weight : Tensor (n_cells, n_rows) or None
        Sample weights.
    positions : Tensor of shape (n_steps, n_cells, largest batch)
        Row numbers within each cell, as `epoch_positions` returns them.
    sizes : ndarray of shape (n_steps, n_cells)
        The number of rows of each batch; 0 if a cell takes no step.

    >>> from sklr.engines.stacked.data.cell_rows import CellRows
    >>> stack = ModelStack([torch.nn.Linear(2, 1)], 1, torch.nn.MSELoss(), torch.optim.SGD, {},
    ...                    example=(torch.rand(4, 2), torch.rand(4, 1)))
    >>> positions, sizes = torch.tensor([[[4, 3]], [[2, 1]], [[0, 0]]]), np.array([[2], [2], [1]])
    >>> rows = PackRows([CellRows.all_of(torch.rand(5, 2))])
    >>> feed = Feed(stack, rows, torch.rand(1, 5, 1), None, positions, sizes)
    >>> [(steps, tuple(shown.x.shape)) for steps, shown in feed]
    [(slice(0, 2, None), (2, 1, 2, 2)), (slice(2, 3, None), (1, 1, 1, 2))]
    """

    def __init__(
        self, stack: ModelStack, rows: PackRows, y: Rows, weight: Tensor | None, positions: Tensor, sizes: np.ndarray
    ):
        self.stack, self.rows, self.y, self.weight, self.sizes = stack, rows, y, weight, sizes
        self.like = next(iter(stack.optimizer.params.values()))
        self.positions = positions.to(self.like.device, non_blocking=True)
        # where each cell's targets begin
        self.starts = torch.arange(len(sizes[0]), device=self.like.device)[:, None] * tree_leaves(y)[0].shape[1]
        self._memory: list[Tensor] = []  # reused by all gathers: new memory for each adds up

    def __iter__(self) -> Iterator[tuple[slice, Batch | list[Batch]]]:
        """Yield which steps come next, and their batches, which the next iteration overwrites.

        For steps that all cells take, in batches that may be padded to the same size, that is one `Batch` with a
        leading axis of steps, as for `ModelStack.steps`. For any other step it is a list, as for `ModelStack.step`.
        """
        first, ends = 0, self._ends()
        while first < len(self.sizes):
            if ends[first] == first:
                yield slice(first, first + 1), self._apart(first)
                first += 1
            else:
                steps = slice(first, min(ends[first], first + self._at_once()))
                yield steps, self._alike(steps)
                first = steps.stop

    def _ends(self) -> list[int]:
        """Return for each step where the series of steps of its shape ends; the step itself if it is taken alone."""
        is_even = (self.sizes == self.sizes[:, :1]).all(axis=1)
        together = (self.sizes > 0).all(axis=1) & (is_even | (not self.stack.mixes_rows))
        kinds = list(zip(self.sizes.max(axis=1), is_even, strict=True))
        ends = [0] * len(kinds)
        for i in reversed(range(len(kinds))):
            goes_on = i + 1 < len(kinds) and kinds[i + 1] == kinds[i] and together[i + 1]
            ends[i] = i if not together[i] else ends[i + 1] if goes_on else i + 1
        return ends

    def _at_once(self) -> int:
        """Return for how many steps batches may be gathered at once."""
        per_row = max(self.rows.row_numel, *(rows[0, 0].numel() for rows in tree_leaves(self.y)))
        most = most_gathered(self.rows.row_numel * len(tree_leaves(self.rows.tensors)[0]))
        return max(1, most // (per_row * self.positions[0].numel()))

    def _alike(self, steps: slice) -> Batch:
        """Return the batches of steps of one shape, padded where cells have fewer rows."""
        sizes = self.sizes[steps]
        x, y, weight = self._gathered(steps, int(sizes.max()))
        if (sizes != sizes.max()).any():
            weight = self._masked(weight, sizes)
        return Batch(x, y, weight)

    def _apart(self, step: int) -> list[Batch]:
        """Return the batches of one step: one for all cells that take it, or one for each size if rows mix."""
        sizes = self.sizes[step]
        x, y, weight = self._gathered(step, int(sizes.max()))
        training = np.flatnonzero(sizes)
        if self.stack.mixes_rows:  # padding would change the result
            chosen = [(int(size), np.flatnonzero(sizes == size)) for size in np.unique(sizes[training])]
            return [Batch(x, y, weight).cut(size, cells) for size, cells in chosen]
        return [Batch(x, y, self._masked(weight, sizes)).cut(int(sizes.max()), training)]

    def _gathered(self, steps: slice | int, n_rows: int) -> tuple[Rows, Rows, Tensor | None]:
        positions = self.positions[steps, ..., :n_rows]
        places = positions + self.starts

        def gather(rows: Tensor) -> Tensor:
            return rows.flatten(0, 1).index_select(0, places.flatten()).unflatten(0, places.shape)

        x = self.rows.take(positions, self._memory)
        return x, map_tensors(gather, self.y), None if self.weight is None else gather(self.weight)

    def _masked(self, weight: Tensor | None, sizes: np.ndarray) -> Tensor:
        """Return the sample weights, 0 for padding."""
        real = torch.as_tensor(np.arange(sizes.max()) < sizes[..., None])
        mask = real.to(self.like.device, self.like.dtype, non_blocking=True)
        return mask if weight is None else weight * mask
