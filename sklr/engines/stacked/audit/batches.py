"""Which batches an audit trains on: the first ones, one of every size, and those with rare values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from sklr.engines.stacked.data.cell_rows import CellRows
from sklr.engines.stacked.data.index_batches import Epoch, different, map_tensors
from sklr.engines.stacked.model.member import PackCell

N_FIRST = 3  # batches: a stack records its step during the second and third, to replay it later
N_LATER = 1  # batches of the second epoch, after an evaluation: here the recorded step is replayed
MOST_SIZES, MOST_RARE = 8, 8  # most batches of other sizes than the first ones', and most batches of rare values
MOST_NUMBERS = 2**22  # most numbers to search for rare values: of larger data only every n-th row is searched
MOST_COLUMNS = 64  # up to so many columns each has its own rare values; wider rows are a sequence or an image
MOST_VALUES = 2**16  # largest range of a column of whole numbers that is taken to be categories


def plan(pack_cells: Sequence[PackCell], all_cells: Sequence[PackCell]) -> list[list[Epoch]]:
    """Return the batches of an audit's two epochs: a list over cells of lists over epochs.

    Parameters
    ----------
    pack_cells : sequence of PackCell
        The audited cells, each with the batches of its whole training.
    all_cells : sequence of PackCell
        All cells of the search: the audit has a batch of every size that occurs in one of them.
    """
    first = _first_epoch(pack_cells, all_cells)
    if len(pack_cells[0].epochs) == 1:
        return [[batches] for batches in first]
    return [
        [batches, list(pack_cell.epochs[1][:N_LATER])] for pack_cell, batches in zip(pack_cells, first, strict=True)
    ]


def read_plan(pack_cells: Sequence[PackCell], all_cells: Sequence[PackCell]) -> list[list[list[Any]]]:
    """Return the same for cells that are read batch by batch, as their DataLoaders return the batches.

    There is one batch of every size that is expected: the first rows of a batch that has been read.
    """
    sizes = sorted({len(rows) for pack_cell in all_cells for rows in pack_cell.epochs[0]})
    return [_read_cell(pack_cell, sizes[:MOST_SIZES]) for pack_cell in pack_cells]


def _read_cell(pack_cell: PackCell, sizes: Sequence[int]) -> list[list[Any]]:
    assert pack_cell.stream is not None
    read = list(islice(pack_cell.stream.afresh().raw(), N_FIRST + N_LATER))
    first = [
        *read[:N_FIRST],
        *(tree_map(lambda t, n=n: t[:n], read[0]) for n in sizes if n < len(pack_cell.epochs[0][0])),
    ]
    return [first] if len(pack_cell.epochs) == 1 else [first, read[N_FIRST:] or read[:N_LATER]]


def _first_epoch(pack_cells: Sequence[PackCell], all_cells: Sequence[PackCell]) -> list[list[np.ndarray]]:
    epochs = [pack_cell.epochs[0] for pack_cell in pack_cells]
    n_common = min(map(len, epochs))
    n_first = min(N_FIRST + (N_LATER if len(pack_cells[0].epochs) == 1 else 0), n_common)
    chosen = [list(epoch[:n_first]) for epoch in epochs]
    typical = len(chosen[0][0])
    for step in _steps_of_other_sizes(pack_cells, {tuple(len(c[i]) for c in chosen) for i in range(len(chosen[0]))}):
        for batches, rows in zip(chosen, step, strict=True):
            batches.append(rows)
    known = {len(rows) for batches in chosen for rows in batches}
    for size in _other_sizes(all_cells, known):
        for batches, epoch in zip(chosen, epochs, strict=True):
            batches.append(np.resize(np.concatenate(epoch), size))
    rare = [
        _rare_batches(pack_cell, np.concatenate(batches), typical)
        for pack_cell, batches in zip(pack_cells, chosen, strict=True)
    ]
    for i in range(max(map(len, rare))):
        for batches, own, epoch in zip(chosen, rare, epochs, strict=True):
            batches.append(own[i] if i < len(own) else epoch[0])
    if len({*map(len, epochs)}) > 1:  # at the end, as in the training: a step that only the longer epochs take
        for batches, epoch in zip(chosen, epochs, strict=True):
            batches.extend(epoch[-1:] if len(epoch) > n_common else [])
    return chosen


def _steps_of_other_sizes(pack_cells: Sequence[PackCell], seen: set[tuple[int, ...]]) -> list[tuple[np.ndarray, ...]]:
    """Return a step for each combination of batch sizes in the audited cells that is not in `seen`."""
    found = list[tuple[np.ndarray, ...]]()
    for epochs in zip(*(different(pack_cell.epochs) for pack_cell in pack_cells), strict=True):
        for step in zip(*epochs, strict=False):
            sizes = tuple(map(len, step))
            if sizes not in seen and len(found) < MOST_SIZES:
                seen.add(sizes)
                found.append(step)
    return found


def _other_sizes(pack_cells: Sequence[PackCell], known: set[int]) -> list[int]:
    """Return batch sizes that occur only in other cells, from both ends if there are too many."""
    sizes = sorted(
        {len(rows) for pack_cell in pack_cells for epoch in different(pack_cell.epochs) for rows in epoch} - known
    )
    return [*sizes[:MOST_SIZES:2], *sizes[: -MOST_SIZES - 1 : -2]][: min(MOST_SIZES, len(sizes))]


def _rare_batches(pack_cell: PackCell, seen: np.ndarray, size: int) -> list[np.ndarray]:
    """Return batches of rows that hold a value which none of the rows in `seen` has."""
    rows = search_rare(pack_cell.x, seen, pack_cell.y)[: MOST_RARE * size]
    if not len(rows):
        return []
    n_batches = -(-len(rows) // size)
    fill = np.resize(np.concatenate([rows, seen]), n_batches * size)
    return list(fill.reshape(n_batches, size))


def search_rare(x: CellRows, seen: np.ndarray, y: Any = ()) -> np.ndarray:
    """Return the rows that hold a value, or a target in `y`, which none of the rows in `seen` has."""
    searched = rows_to_search(x, seen)
    targets = map_tensors(lambda t: t[torch.from_numpy(searched)], y)
    return searched[rare_rows(tree_leaves((x.take(searched), targets)), np.searchsorted(searched, seen))]


def rows_to_search(x: CellRows, seen: np.ndarray) -> np.ndarray:
    """Return the rows to search for rare values, in order: all, or of large data every n-th and those in `seen`."""
    numbers = sum(t[0].numel() for t in tree_leaves(x.tensors)) * x.n_rows
    return np.union1d(np.arange(0, x.n_rows, max(1, -(-numbers // MOST_NUMBERS))), seen)


def rare_rows(tensors: Sequence[Tensor], seen: np.ndarray) -> np.ndarray:
    """Return the numbers of rows that hold values (categories, tokens, classes) which no row in `seen` has.

    The smallest and the largest value come first (padding, unknown, the last class), then the rarest ones.

    >>> tokens = torch.tensor([[1, 2], [2, 1], [1, 1], [0, 2], [3, 2]])
    >>> rare_rows([tokens], np.array([0])).tolist()
    [3, 4, 1]
    """
    found = [rows for tensor in tensors if len(tensor) for rows in _rare_in(tensor, seen)]
    return np.fromiter(dict.fromkeys(int(row) for rows in found for row in rows), np.int64)


def _rare_in(tensor: Tensor, seen: np.ndarray) -> Iterator[np.ndarray]:
    numbers = _categories(tensor)
    if numbers.size:
        yield _first_rows(numbers, seen)
        if 1 < numbers.shape[1] <= MOST_COLUMNS:
            yield _first_rows(numbers + (numbers.max() + 1) * np.arange(numbers.shape[1]), seen)


def _categories(tensor: Tensor) -> np.ndarray:
    """Return the columns of whole numbers, shifted to start at 0."""
    flat = tensor.detach().reshape(len(tensor), -1)
    few = flat[:: max(1, len(flat) // 256)].cpu()
    whole = torch.isfinite(few).all(0) & (few == few.round()).all(0) if few.is_floating_point() else few[0] == few[0]
    numbers = flat[:, whole.to(flat.device)].cpu().double().numpy()
    known = np.isfinite(numbers) & (abs(numbers) < MOST_VALUES)  # missing and huge values count as one category
    least, most = numbers.min(initial=0, where=known), numbers.max(initial=0, where=known)
    return np.where(known, np.round(numbers), most + 1).astype(np.int64) - int(least)


def _first_rows(numbers: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Return a row for each number that no row in `seen` holds: the smallest, the largest, then the rarest first."""
    counts = np.bincount(numbers.ravel())
    first = np.zeros(len(counts), dtype=np.int64)
    first[numbers.ravel()[::-1]] = np.repeat(np.arange(len(numbers)), numbers.shape[1])[::-1]
    counts[np.unique(numbers[seen])] = 0
    new = np.flatnonzero(counts)
    order = [*new[:1], *new[-1:], *new[np.argsort(counts[new], kind="stable")]] if len(new) else []
    return first[np.array(order, dtype=np.int64)]
