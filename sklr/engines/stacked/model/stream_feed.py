"""What the steps of an epoch are shown where batches are read from streams: each cell's next batch, put together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from sklr.engines.stacked.data.batch import Batch
from sklr.engines.stacked.data.stream import Shown

AT_ONCE, SMALL = 16, 2**22  # steps read ahead, and the numbers in them: enough to replay some without Python


class StreamFeed:
    """The batches of an epoch, in the order of the steps, as `Feed` yields them.

    Parameters
    ----------
    epochs : sequence of iterators over (x, y), one per cell
        Their batches.
    sizes : ndarray of shape (n_steps, n_cells)
        How many rows each batch is expected to have; those that it has, once it has been read.

    Attributes
    ----------
    last : dict of int to (x, y)
        Each cell's last batch.
    """

    def __init__(self, epochs: Sequence[Iterator[Shown]], sizes: np.ndarray):
        self.epochs, self.sizes = epochs, sizes.copy()
        self.last: dict[int, Shown] = {}

    def __iter__(self) -> Iterator[tuple[slice, Batch | list[Batch]]]:
        """Yield which steps come next, and what they are shown; batches of different shapes are shown apart."""
        waiting = list[list[Shown]]()
        for step in range(len(self.sizes)):
            read = [next(epoch, None) for epoch in self.epochs]
            self._note(step, read)
            known = [shown for shown in read if shown is not None]
            whole = len(known) == len(read) and are_alike(known)
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
        for epoch in self.epochs:  # to the very end: a RandomSampler draws once more there
            if next(epoch, None) is not None:
                raise ValueError("the training DataLoader has more batches than its length says")

    def _note(self, step: int, read: Sequence[Shown | None]) -> None:
        self.sizes[step] = [0 if shown is None else n_rows(shown) for shown in read]
        self.last.update({cell: shown for cell, shown in enumerate(read) if shown is not None})


def show_once(read: Sequence[Shown | None]) -> list[tuple[slice, Batch | list[Batch]]]:
    """Return what a single step is shown, as a feed yields it, from each cell's batch; None where it takes no step."""
    known = [shown for shown in read if shown is not None]
    if len(known) < len(read) or not are_alike(known):
        return [(slice(0, 1), _apart(read))]
    return [(slice(0, 1), _steps(1, [known])[1])]


def _steps(end: int, waiting: Sequence[Sequence[Shown]]) -> tuple[slice, Batch]:
    steps = [stacked_batches(read) for read in waiting]
    x, y = tree_map(lambda *each: torch.stack(each), steps[0], *steps[1:])
    return slice(end - len(waiting), end), Batch(x, y)


def _apart(read: Sequence[Shown | None]) -> list[Batch]:
    """Return a batch for the cells of each shape."""
    there = [(cell, shown) for cell, shown in enumerate(read) if shown is not None]
    there.sort(key=lambda pair: repr(_shapes(pair[1])))
    groups = [list(group) for _, group in groupby(there, key=lambda pair: repr(_shapes(pair[1])))]
    return [Batch(*stacked_batches([shown for _, shown in g]), cells=tuple(cell for cell, _ in g)) for g in groups]


def stacked_batches(batches: Sequence[Shown]) -> Shown:
    """Return the batches of some cells with an axis of cells in front."""
    x, y = tree_map(lambda *cells: torch.stack(cells), tuple(batches[0]), *map(tuple, batches[1:]))
    return x, y


def are_alike(batches: Sequence[Shown]) -> bool:
    """Say whether batches are of the same shapes."""
    return all(_shapes(batch) == _shapes(batches[0]) for batch in batches)


def _shapes(batch: Shown) -> list[torch.Size]:
    return [t.shape for t in tree_leaves(batch)]


def _numbers(read: Sequence[Shown]) -> int:
    return sum(t.numel() for t in tree_leaves(list(read)) if isinstance(t, Tensor))


def n_rows(shown: Shown) -> int:
    """Return how many rows a batch has."""
    return len(tree_leaves(shown)[0])
