"""One copy of the rows for all cells, where a net reads a row as the same tensor in every cell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from skorch import NeuralNet
from torch import Tensor
from torch.utils._pytree import tree_leaves

from sklr._utils.sklearn import count_rows
from sklr.engines.stacked.data.cell_rows import CellRows
from sklr.engines.stacked.data.index_batches import Rows, map_tensors
from sklr.engines.stacked.data.read_rows import all_rows, is_in_memory
from sklr.experiment.datasets import DatasetRows
from sklr.experiment.experiment import Cell, Experiment
from sklr.nets import _data as data

AT_ONCE = 1024  # rows to compare at a time


class SharedRows:
    """Tensors of all rows of an experiment, made when they are first needed.

    They are compared with the first cell's rows, since a net may transform a row depending on the other rows.
    """

    def __init__(self, experiment: Experiment):
        self.experiment = experiment
        self._known: dict[int, Rows | None] = {}  # by the id of the data that they were made from

    def of_cell(self, net: NeuralNet, dataset: Any, cell: Cell, *, training: bool) -> CellRows | None:
        """Return the rows of a cell, from which the net has made `dataset`; None if they cannot be shared."""
        numbers = cell.train if training else cell.test
        X = self.experiment.X
        if isinstance(X, DatasetRows) and not training:
            X = X.evaluated()
        source = id(getattr(X, "dataset", X))
        if source not in self._known:
            self._known[source] = self._found(net, X, dataset, np.asarray(numbers), cell)
        tensors = self._known[source]
        return None if tensors is None else CellRows(tensors, np.asarray(numbers, dtype=np.int64))

    def _found(self, net: NeuralNet, X: Any, dataset: Any, numbers: np.ndarray, cell: Cell) -> Rows | None:
        n_used = len(np.union1d(cell.train, cell.test))
        if 2 * n_used < count_rows(X):  # a subsample, whose own tensors take less memory than all rows
            return None
        everything = net.get_dataset(as_predicted(net, X))
        if not is_in_memory(everything):
            return None
        cast = caster(net)
        tensors = map_tensors(cast, all_rows(net, everything)[0])
        own = map_tensors(cast, all_rows(net, dataset)[0])
        return tensors if _are_rows(tensors, own, torch.from_numpy(numbers)) else None


class FoldRows(SharedRows):
    """Tensors of a fold's rows, transformed by the fitted head of a pipeline: the same for all seeds of the fold."""

    def of_cell(self, net: NeuralNet, dataset: Any, cell: Cell, *, training: bool) -> CellRows:
        """Return the rows of a cell, from which the net has made `dataset`."""
        if training not in self._known:
            self._known[training] = map_tensors(caster(net), all_rows(net, dataset)[0])
        return CellRows.all_of(self._known[training])


def _are_rows(everything: Rows, own: Rows, numbers: Tensor) -> bool:
    """Say whether `own` equals the rows `numbers` of `everything`, compared in blocks to avoid a copy of all rows."""
    for a, b in zip(tree_leaves(everything), tree_leaves(own), strict=True):
        if a.dtype != b.dtype or len(b) != len(numbers):
            return False
        for start in range(0, len(b), AT_ONCE):
            some = slice(start, start + AT_ONCE)
            if not torch.equal(a[numbers[some].to(a.device)], b[some]):
                return False
    return True


def caster(net: NeuralNet) -> Callable[[Any], Any]:
    """Return the function that casts a batch to the dtype of the net's module."""
    dtype = data.float_dtype(net.module_) if hasattr(net, "start_fit") else None
    return lambda t: data.cast_floats(t, dtype) if dtype is not None else t


def as_predicted(net: NeuralNet, X: Any) -> Any:
    """Return rows as the net's own `predict` would pass them to the module."""
    return net.ready_to_predict(X) if hasattr(net, "ready_to_predict") else X
