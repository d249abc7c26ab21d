"""The memory that one run takes to compute its gradients and its predictions, measured on a full batch."""

from __future__ import annotations

import weakref
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from sklr.engines.stacked.data.batch import Batch
from sklr.engines.stacked.data.cell_rows import CellRows, PackRows
from sklr.engines.stacked.data.index_batches import map_tensors, widest
from sklr.engines.stacked.kernels.module_call import ROWS, first_tensor, rng_kept, rows_at_once
from sklr.engines.stacked.model.group import Group, GroupCell


class RunBytes(NamedTuple):
    """Bytes of one run on its largest batch, in proportion to at most 512 rows.

    Parameters
    ----------
    state : int
        Of its parameters, gradients, buffers and the state of its optimizer.
    step : int
        Of the tensors that computing the gradients allocates, at the peak.
    kept : int
        Of those that are still there after it: `MLPKernel` works in the same memory in every step.
    batch : int
        Of the batch itself, which all candidates of a cell share.
    outputs : int
        As `step`, of the predictions of one validation row.
    """

    state: int
    step: int
    kept: int
    batch: int
    outputs: int


class LiveBytes(TorchDispatchMode):
    """Within this mode, the memory that operations allocate for tensors is counted until it is freed.

    >>> x = torch.ones(256)
    >>> with LiveBytes() as live:
    ...     y = x * 2 + 1  # the product is freed after the sum
    >>> live.now, live.peak
    (1024, 2048)
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._counted: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in _tensors((args, kwargs))}
        for storage in (t.untyped_storage() for t in _tensors(result)):
            if storage._cdata not in given | self._counted:
                self._count(storage)
        return result

    def restart(self) -> int:
        """Measure the peak from now on; return what is there now."""
        self.peak = self.now
        return self.now

    def _count(self, storage: torch.UntypedStorage) -> None:
        self._counted.add(storage._cdata)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())

    def _free(self, address: int, n_bytes: int) -> None:
        self._counted.discard(address)
        self.now -= n_bytes


def _tensors(tree: Any) -> list[Tensor]:
    return [t for t in tree_leaves(tree) if isinstance(t, Tensor)]


def measure_run(group: Group) -> RunBytes:
    """Measure one run of a group in its first cell, on rows of that: made-up rows might not be valid ones."""
    group_cell = group.group_cells[0]
    batch, n_rows = _largest_batch(group_cell)
    x_test = _first_rows(group_cell.x_test)
    with rng_kept(batch.x), LiveBytes() as live:
        stack = group._replace(group_cells=[group_cell]).build([0])
        built = live.restart()
        stack.write_gradients(batch)
        step, kept = live.peak - built, live.now - built
        stack.release_memory()
        stack.step(torch.zeros(1, 1), batch)
        stack.release_memory()
        state = live.restart()
        stack.outputs(x_test)
    share, n_test = max(1.0, n_rows / ROWS), first_tensor(x_test).shape[1]
    of_batch = sum(t.nbytes for t in tree_leaves(batch.x))
    return RunBytes(
        state, int(step * share), int(kept * share), int(of_batch * share), -(-(live.peak - state) // n_test)
    )


def _largest_batch(group_cell: GroupCell) -> tuple[Batch, int]:
    """Return the cell's largest batch, or its first `ROWS` rows, and how many it has in all."""
    pack_cell = group_cell.pack_cell
    largest = max(widest(pack_cell.epochs), key=len)
    rows = largest[:ROWS] % pack_cell.x.n_rows  # of a stream only the first batch is known
    x, y = pack_cell.x.take(rows), map_tensors(lambda t: t[torch.from_numpy(rows).to(t.device)], pack_cell.y)
    return Batch(*tree_map(lambda t: t.unsqueeze(0), (x, y))), len(largest)


def _first_rows(rows: CellRows) -> Any:
    """Return as many validation rows, (1, n_rows, ...), as are predicted at once: of large ones only a few are."""
    of_cell = PackRows([rows])
    return of_cell.first(rows_at_once(1, of_cell.row_numel))
