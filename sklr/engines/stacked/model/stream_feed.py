"""The batches of an epoch where each cell reads its own from a DataLoader: the cells' next batches, stacked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from sklr.engines.stacked.data.batch import Batch
from sklr.engines.stacked.data.stream import Shown

# Most steps that are read ahead, so that several can be replayed without Python, and about most elements in them.
AT_ONCE, SMALL = 16, 2**22


class StreamFeed:
    """The batches of an epoch, in the order of the steps, as `Feed` yields them.

    Parameters
    ----------
    epochs : sequence of iterators over (x, y), one per cell
        The batches of each cell.
    sizes : ndarray of shape (n_steps, n_cells)
        How many rows each batch is expected to have. Replaced, in a copy, by the actual number once it has been read.

    Attributes
    ----------
    last : dict of int to (x, y)
        Each cell's last batch.
    """

    def __init__(self, epochs: Sequence[Iterator[Shown]], sizes: np.ndarray):
        self.epochs, self.sizes = epochs, sizes.copy()
        self.last: dict[int, Shown] = {}

    def __iter__(self) -> Iterator[tuple[slice, Batch | list[Batch]]]:
        """Yield which steps come next, and their batches; a step whose batches differ in shape comes by itself."""
        waiting = list[list[Shown]]()
        for step in range(len(self.sizes)):
            read = [next(epoch, None) for epoch in self.epochs]
            self._note(step, read)
            known = [shown for shown in read if shown is not None]
            whole = len(known) == len(read) and are_alike(known)
            # steps that wait have one shape: another shape, or a cell without a step, ends their series
            if waiting and not (whole and are_alike([*waiting[0][:1], known[0]])):
                yield _steps(step, waiting)
                waiting = []
            if not whole:
                yield slice(step, step + 1), _apart(read)
                continue
            waiting.append(known)
            if len(waiting) == AT_ONCE or len(waiting) * _numbers(known) > SMALL:
                yield _steps(step + 1, waiting)
                waiting = []
        if waiting:
            yield _steps(len(self.sizes), waiting)
        for epoch in self.epochs:  # exhaust the iterators: a RandomSampler draws once more at its end
            if next(epoch, None) is not None:
                raise ValueError(
                    "the training DataLoader must yield as many batches as its length says, got more than "
                    f"{len(self.sizes)}: correct its length, or that of its batch sampler"
                )

    def _note(self, step: int, read: Sequence[Shown | None]) -> None:
        self.sizes[step] = [0 if shown is None else n_rows(shown) for shown in read]
        self.last.update({cell: shown for cell, shown in enumerate(read) if shown is not None})


def show_once(read: Sequence[Shown | None]) -> list[tuple[slice, Batch | list[Batch]]]:
    """Return the feed of a single step from each cell's batch; None for a cell that takes no step."""
    known = [shown for shown in read if shown is not None]
    if len(known) < len(read) or not are_alike(known):
        return [(slice(0, 1), _apart(read))]
    return [(slice(0, 1), _steps(1, [known])[1])]


def _steps(end: int, waiting: Sequence[Sequence[Shown]]) -> tuple[slice, Batch]:
    steps = [stacked_batches(read) for read in waiting]
    x, y = tree_map(lambda *each: torch.stack(each), steps[0], *steps[1:])
    return slice(end - len(waiting), end), Batch(x, y)


def _apart(read: Sequence[Shown | None]) -> list[Batch]:
    """Return one batch for the cells of each shape."""
    there = [(cell, shown) for cell, shown in enumerate(read) if shown is not None]
    there.sort(key=lambda pair: repr(_shapes(pair[1])))
    groups = [list(group) for _, group in groupby(there, key=lambda pair: repr(_shapes(pair[1])))]
    return [Batch(*stacked_batches([shown for _, shown in g]), cells=tuple(cell for cell, _ in g)) for g in groups]


def stacked_batches(batches: Sequence[Shown]) -> Shown:
    """Stack the batches of some cells along a new leading axis."""
    x, y = tree_map(lambda *cells: torch.stack(cells), tuple(batches[0]), *map(tuple, batches[1:]))
    return x, y


def are_alike(batches: Sequence[Shown]) -> bool:
    """Return whether all batches have the same shapes."""
    return all(_shapes(batch) == _shapes(batches[0]) for batch in batches)


def _shapes(batch: Shown) -> list[torch.Size]:
    return [t.shape for t in tree_leaves(batch)]


def _numbers(read: Sequence[Shown]) -> int:
    return sum(t.numel() for t in tree_leaves(list(read)) if isinstance(t, Tensor))


def n_rows(shown: Shown) -> int:
    """Return the number of rows of a batch."""
    return len(tree_leaves(shown)[0])
