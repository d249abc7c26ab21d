"""The peak memory that a stacked search is expected to take, on top of the data it is given.

Tensors and arrays that grow with the data, the cells or the runs are counted. What Python, its modules, the scorer and
the other steps of a pipeline allocate is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from sklr.engines.stacked.audit.batches import MOST_NUMBERS
from sklr.engines.stacked.data.index_batches import RedrawnEpochs, widest
from sklr.engines.stacked.kernels.module_call import NUMBERS, rows_at_once
from sklr.engines.stacked.model.feed import most_gathered
from sklr.engines.stacked.model.group import Group, GroupCell
from sklr.engines.stacked.setup.packing import Chosen
from sklr.engines.stacked.setup.run_bytes import RunBytes, measure_run

AUDITED = 2  # cells: see `choose_cells`
# Bytes of a heap of glibc's malloc. A thread has heaps of its own, of which about a quarter was measured to be kept
# when its memory is freed. What the set-up has freed is returned to the system by `trim`.
HEAP = 2**26
# Between tensors that come and go, malloc leaves gaps that others do not fit into. Steps of seven modules were measured
# to take 1.3 to 2.8 times as much of the heap as their tensors take at once.
SPREAD = 2


def peak_bytes(groups: Sequence[Group], dealt: Sequence[Sequence[Chosen]]) -> int:
    """Return the larger peak: of initializing and auditing these groups, or of training all their packs at once.

    Parameters
    ----------
    groups : sequence of Group
    dealt : sequence of sequence of (group, members)
        The packs of each group.
    """
    held = bytes_of_cells(_distinct(group_cell for group in groups for group_cell in group.group_cells))
    each = [measure_run(group) for group in groups]
    setup = max(map(setup_bytes, groups, each), default=0)
    pairs = zip(dealt, each, strict=True)
    training = sum(pack_bytes(part, len(chosen), run) for packs, run in pairs for part, chosen in packs)
    n_threads = min(sum(map(len, dealt)), torch.get_num_threads())
    kept = (n_threads - 1) * min(training // 2, HEAP // 4)
    return held + max(setup, training + kept)


def bytes_of_cells(group_cells: Sequence[GroupCell]) -> int:
    """Return the bytes that the cells hold for the whole search: batch orders, and rows that are not the data's own."""
    held = 0
    for group_cell in group_cells:
        pack_cell = group_cell.pack_cell
        epochs = pack_cell.epochs.states if isinstance(pack_cell.epochs, RedrawnEpochs) else _distinct(pack_cell.epochs)
        orders = [rows for epoch in epochs for rows in (epoch if isinstance(epoch, list) else [epoch])]
        held += sum(a.nbytes for a in (pack_cell.x.numbers, group_cell.x_test.numbers, *orders))
        held += _bytes(tree_leaves(pack_cell.y))  # targets are copied in the dtype and shape of the loss
    rows = tree_leaves(
        [part.tensors for group_cell in group_cells for part in (group_cell.pack_cell.x, group_cell.x_test)]
    )
    return held + _bytes(_distinct(t for t in rows if not _lies_in(t, group_cells[0].experiment.X)))


def setup_bytes(group: Group, run: RunBytes) -> int:
    """Return the bytes that it takes to concatenate the rows of a pipeline's folds, or to audit a stack, if more.

    The audit holds a cell's rows, as they are given to skorch, and the batches for the stack and for the single nets.
    """
    laid = _bytes(
        _distinct(
            tree_leaves(
                [(group_cell.pack_cell.x.tensors, group_cell.x_test.tensors) for group_cell in group.group_cells]
            )
        )
    )
    row, cell = _row_bytes(group), max(p.pack_cell.x.n_rows + p.x_test.n_rows for p in group.group_cells)
    copied = 0 if group.group_cells[0].head is not None or group.group_cells[0].pack_cell.stream else cell * row
    searched = min(4 * MOST_NUMBERS, cell * row)  # searched for rare values: the rows, then their columns
    audit = copied + 2 * searched + AUDITED * (_on_heap(group, run.step) + 4 * run.batch)
    return audit if group.group_cells[0].head is None else max(laid, audit)


def pack_bytes(group: Group, n_members: int, run: RunBytes) -> int:
    """Return the bytes that one pack takes while it trains and is scored."""
    n_cells, is_chain = len(group.group_cells), group.stack_args["traits"].is_chain
    step, outputs = _step_bytes(group, n_members, run), _outputs_bytes(group, n_members, run)
    # an `MLPKernel` keeps the memory of its steps while it predicts
    computed = _gathered_bytes(group) + (step + outputs if is_chain else max(step, outputs))
    return n_members * n_cells * run.state + computed + _tables_bytes(group)


def _gathered_bytes(group: Group) -> int:
    """Return the bytes of the batches that `Feed` gathers together."""
    pack_cell, row = group.group_cells[0].pack_cell, _row_bytes(group)
    step = len(group.group_cells) * max(_batch_sizes(group)) * row
    at_once = 1 if pack_cell.stream is not None else len(widest(pack_cell.epochs))
    all_rows = len(tree_leaves(pack_cell.x.tensors)[0])
    return min(max(step, 4 * most_gathered(row * all_rows // 4)), at_once * step)


def _step_bytes(group: Group, n_members: int, run: RunBytes) -> int:
    """Return the bytes that the kernel allocates in a step, or keeps from step to step."""
    sizes, n_cells, traits = _batch_sizes(group), len(group.group_cells), group.stack_args["traits"]
    if traits.is_chain:  # it works in memory of its own for each batch size; a smaller last batch is one more
        of_largest = n_cells * (run.batch + n_members * (run.kept - run.batch))
        return of_largest * sum(sorted(sizes)[-2:]) // max(sizes)
    at_once = traits.blocks.n_runs(n_cells, n_members, max(sizes))
    return n_cells * run.batch + _on_heap(group, at_once * run.step)


def _outputs_bytes(group: Group, n_members: int, run: RunBytes) -> int:
    """Return the bytes that predictions take: a block of rows, and what is computed for them."""
    n_cells, row, traits = len(group.group_cells), _row_bytes(group), group.stack_args["traits"]
    n_test = max(group_cell.x_test.n_rows for group_cell in group.group_cells)
    rows = min(4 * NUMBERS, n_cells * n_test * row)
    if traits.is_chain:
        return rows
    n_rows = -(-n_test // -(-n_test // rows_at_once(n_cells, max(1, row // 4))))  # as `in_blocks` divides them
    n_runs = traits.blocks.without_draws.n_runs(n_cells, n_members, n_rows)
    return rows + _on_heap(group, n_runs * n_rows * run.outputs)


def _tables_bytes(group: Group) -> int:
    """Return the bytes of row numbers, in the pack's tables and in the batch orders of an epoch, and of targets."""
    pack_cells = [group_cell.pack_cell for group_cell in group.group_cells]
    n_train = max(pack_cell.x.n_rows for pack_cell in pack_cells)
    n_test = max(group_cell.x_test.n_rows for group_cell in group.group_cells)
    targets = max(_bytes(tree_leaves(pack_cell.y)) for pack_cell in pack_cells)
    return len(pack_cells) * (4 * (3 * n_train + n_test) + targets)


def _batch_sizes(group: Group) -> set[int]:
    return {len(batch) for group_cell in group.group_cells for batch in widest(group_cell.pack_cell.epochs)}


def _on_heap(group: Group, n_bytes: int) -> int:
    """Return the bytes of the heap that passing tensors of so many bytes take; CUDA's allocator leaves no gaps."""
    return n_bytes * (SPREAD if group.device.type == "cpu" else 1)


def _row_bytes(group: Group) -> int:
    """Return the bytes of a row of X as a stack holds it."""
    return _bytes(t[0] for t in tree_leaves(group.group_cells[0].pack_cell.x.tensors))


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def _distinct(things: Iterable[Any]) -> list[Any]:
    return list({id(thing): thing for thing in things}.values())


def _lies_in(tensor: Tensor, X: Any) -> bool:
    """Say whether a tensor is a view of the data's own memory.

    >>> X = np.zeros((2, 3), np.float32)
    >>> _lies_in(torch.from_numpy(X), X), _lies_in(torch.tensor(X), X)
    (True, False)
    """
    parts = X.values() if isinstance(X, Mapping) else [X]
    return tensor.data_ptr() in [
        part.data_ptr() if isinstance(part, Tensor) else part.__array_interface__["data"][0]
        for part in parts
        if isinstance(part, Tensor | np.ndarray)
    ]
