"""The batch of one training step of a stack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map


@dataclass(frozen=True)
class Batch:
    """The rows that some cells are trained on in one step, the same for all candidates.

    Parameters
    ----------
    x : Tensor (n_cells, n_rows, ...), or a dict or tuple of such
        A dict is passed to the module by keyword, anything else as its one argument.
    y : Tensor (n_cells, n_rows, ...)
    weight : Tensor (n_cells, n_rows), optional
        Sample weights; 0 masks a padded row.
    cells : tuple of int, default all
        The numbers of these cells.
    """

    x: Any
    y: Any
    weight: Tensor | None = None
    cells: tuple[int, ...] | None = None

    def part(self, which: int | slice) -> Batch:
        """Index the leading axis of all tensors: the steps, in batches of several steps, else the cells."""
        x, y, weight = tree_map(lambda t: None if t is None else t[which], (self.x, self.y, self.weight))
        return Batch(x, y, weight)

    def leaves(self, lr: Tensor) -> list[Tensor]:
        """Return the learning rates of a step, or of several, and all tensors of the batch."""
        return [lr, *(t for t in tree_leaves((self.x, self.y, self.weight)) if t is not None)]

    def cut(self, n_rows: int, cells: np.ndarray | None = None) -> Batch:
        """Return a batch of the first `n_rows` rows, and of these cells alone."""
        chosen = None if cells is None else torch.as_tensor(cells)

        def cut(rows: Tensor | None) -> Any:
            if rows is None or chosen is None:
                return None if rows is None else rows[:, :n_rows]
            return rows[:, :n_rows].index_select(0, chosen.to(rows.device, non_blocking=True))

        x, y, weight = (tree_map(cut, part) for part in (self.x, self.y, self.weight))
        return Batch(x, y, weight, None if cells is None else tuple(cells.tolist()))
