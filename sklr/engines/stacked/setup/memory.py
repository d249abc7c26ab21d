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
from sklr.engines.stacked.setup.packing import Chosen, state_bytes, step_bytes

AUDITED = 2  # cells: see `choose_cells`
# Bytes of a heap of glibc's malloc. A thread has heaps of its own, of which about a quarter was measured to be kept
# when its memory is freed. What the set-up has freed is returned to the system by `trim`.
HEAP = 2**26


def peak_bytes(groups: Sequence[Group], packs: Sequence[Chosen]) -> int:
    """Return the larger peak: of initializing and auditing these groups, or of training all their packs at once."""
    held = bytes_of_cells(_distinct(group_cell for group in groups for group_cell in group.group_cells))
    setup = max(map(setup_bytes, groups), default=0)
    training = sum(pack_bytes(group, len(chosen)) for group, chosen in packs)
    n_threads = min(len(packs), torch.get_num_threads())
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


def setup_bytes(group: Group) -> int:
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
    own, shared = step_bytes(group)
    audit = copied + 2 * searched + AUDITED * (2 * own + 4 * shared)
    return audit if group.group_cells[0].head is None else max(laid, audit)


def pack_bytes(group: Group, n_members: int) -> int:
    """Return the bytes that one pack takes while it trains and is scored."""
    pack_cells, n_cells = [group_cell.pack_cell for group_cell in group.group_cells], len(group.group_cells)
    row, n_train = _row_bytes(group), max(pack_cell.x.n_rows for pack_cell in pack_cells)
    n_test = max(group_cell.x_test.n_rows for group_cell in group.group_cells)
    own, shared = step_bytes(group)
    sizes = {len(batch) for pack_cell in pack_cells for batch in widest(pack_cell.epochs)}
    step = n_cells * max(sizes) * row
    at_once = 1 if pack_cells[0].stream is not None else len(widest(pack_cells[0].epochs))
    all_rows = len(tree_leaves(pack_cells[0].x.tensors)[0])
    most = most_gathered(row * all_rows // 4)
    chunk = min(max(step, 4 * most), at_once * step)  # batches that `Feed` gathers together
    traits = group.stack_args["traits"]
    if traits.is_chain:
        # the kernel keeps a copy of the batch in its own layout for each batch size; a smaller last batch is one more
        work = n_cells * (min(len(sizes), 2) * (shared + n_members * 2 * own) + (len(sizes) > 1) * shared)
    else:
        work = n_cells * shared + traits.blocks.n_runs(n_cells, n_members, max(sizes)) * 2 * own
    # row numbers: in the pack's tables and in the batch orders of an epoch; and the targets
    tables = 4 * n_cells * (3 * n_train + n_test) + n_cells * max(
        _bytes(tree_leaves(pack_cell.y)) for pack_cell in pack_cells
    )
    evaluated = 2 * min(4 * NUMBERS, n_cells * n_test * row)  # a block of rows, and its copy in the kernel's layout
    if not traits.is_chain:  # what it computes for these rows, at most as much as is saved for backward
        n_rows = min(n_test, rows_at_once(n_cells, max(1, row // 4)))
        n_runs = traits.blocks.without_draws.n_runs(n_cells, n_members, n_rows)
        evaluated += n_runs * n_rows * own // max(sizes)
    return n_members * n_cells * state_bytes(group) + max(chunk + work, evaluated) + tables


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
