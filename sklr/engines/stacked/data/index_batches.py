"""The batches of each epoch, as row numbers, in the order in which a net's own DataLoader draws them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np
import torch
from skorch import NeuralNet
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler

from sklr.nets._data import of_one_epoch

Rows = Any  # a tensor, or a dict or list of tensors, whose first axis counts rows


def map_tensors(function: Callable[..., Any], first: Rows, *others: Rows) -> Rows:
    """Apply a function to the tensors of dicts, lists and tuples of the same structure.

    >>> map_tensors(torch.add, {"a": torch.ones(1)}, {"a": torch.ones(1)})
    {'a': tensor([2.])}
    """
    if isinstance(first, Mapping):
        return {name: map_tensors(function, *(rows[name] for rows in (first, *others))) for name in first}
    if isinstance(first, (list, tuple)):
        parts = [map_tensors(function, *rows) for rows in zip(first, *others, strict=True)]
        return tuple(parts) if isinstance(first, tuple) else parts
    return function(first, *others)


class _Positions(torch.utils.data.Dataset):
    """A dataset whose items are their own positions, so that a DataLoader over it yields its order."""

    def __init__(self, n: int):
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitems__(self, positions: list[int]) -> list[int]:
        return positions


Epoch = Sequence[np.ndarray]  # one epoch's batches: arrays of row numbers


def draw_epochs(
    net: NeuralNet,
    n: int,
    n_epochs: int,
    random_stream: AbstractContextManager,
    between: Callable[[], object] = lambda: None,
) -> Sequence[Epoch]:
    """Return the batches of all epochs of a training, as the net's own DataLoader draws them.

    Parameters
    ----------
    net : NeuralNet
        Initialised; its `iterator_train` and the parameters of that are used.
    n : int
        Number of rows to train on.
    n_epochs : int
    random_stream : context manager
        Entered while drawing, for nets whose order comes from the global generator.
    between : callable
        Called after each epoch, to draw what the training draws between the orders of two epochs.
    """
    loader = of_one_epoch(net.get_iterator(_Positions(n), training=True))
    loader.collate_fn = _row_numbers
    loader.num_workers = 0  # only row numbers are read
    sizes = _batch_sizes(net, loader, n_epochs)
    draw = _draw_plain if _is_plain(loader) else _draw_by_iterating
    with random_stream:
        if draw is _draw_plain and type(loader.sampler) is SequentialSampler:
            once = {size: draw(loader, size) for size in set(sizes)}
            return [once[size] for size in sizes]  # the same in each epoch; nothing later depends on the skipped draws
        if draw is _draw_plain and n * n_epochs > MOST_KEPT:
            return RedrawnEpochs(loader, [size or 1 for size in sizes], between)  # a plain loader's size is never None
        return list(_each(partial(draw, loader), between, sizes))


def _batch_sizes(net: NeuralNet, loader: DataLoader, n_epochs: int) -> list[int | None]:
    """Return the batch size of each epoch; None where the loader has a batch sampler of its own."""
    if getattr(net, "batches_grow", False):
        return [net.rows_in_step(epoch) for epoch in range(n_epochs)]
    return [loader.batch_size] * n_epochs


MOST_KEPT = 2**22  # row numbers to keep; the orders of longer trainings are drawn again for each epoch


class RedrawnEpochs(Sequence[Epoch]):
    """The batches of shuffled epochs: drawn once to find the random state before each, and again when indexed.

    This saves memory: the orders of twenty epochs can take more than the rows themselves where these have few columns.

    >>> loader = DataLoader(range(5), batch_size=2, shuffle=True, generator=torch.Generator().manual_seed(0))
    >>> epochs = RedrawnEpochs(loader, [2, 2, 2])
    >>> [len(batch) for batch in epochs[2]], np.array_equal(epochs[0][0], epochs[0][0]), len(epochs)
    ([2, 2, 1], True, 3)
    """

    def __init__(self, loader: DataLoader, sizes: Sequence[int], between: Callable[[], object] = lambda: None):
        self.n, self.sizes, self.drop_last = len(loader.sampler), sizes, loader.drop_last  # type: ignore[arg-type]
        self.is_own = loader.generator is not None
        self.states = list(_each(partial(self._state_before_drawing, loader), between, sizes))
        self._last: tuple[int, Epoch] | None = None

    @staticmethod
    def _state_before_drawing(loader: DataLoader, size: int) -> Tensor:
        state = torch.get_rng_state() if loader.generator is None else loader.generator.get_state()
        _draw_plain(loader, size)
        return state

    @property
    def lengths(self) -> list[int]:
        """The number of batches of each epoch."""
        return [self.n // size if self.drop_last else -(-self.n // size) for size in self.sizes]

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, epoch: Any) -> Any:
        if isinstance(epoch, slice):
            return [self[i] for i in range(*epoch.indices(len(self)))]
        if self._last is None or self._last[0] != epoch:
            self._last = epoch, self._drawn(self.states[epoch], self.sizes[epoch])
        return self._last[1]

    def _drawn(self, state: Tensor, size: int) -> Epoch:
        generator = torch.Generator().set_state(state) if self.is_own else None
        loader = DataLoader(_Positions(self.n), shuffle=True, drop_last=self.drop_last, generator=generator)
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(state)
            return _draw_plain(loader, size)


def _each(draw: Callable[[Any], Any], between: Callable[[], object], sizes: Sequence[Any]) -> Iterator[Any]:
    """Yield what `draw` returns for each epoch's batch size, and call `between` after each."""
    for size in sizes:
        yield draw(size)
        between()


def different(epochs: Sequence[Epoch]) -> Sequence[Epoch]:
    """Return epochs among which every combination of batch sizes occurs: one per batch size where that is enough."""
    if not isinstance(epochs, RedrawnEpochs):
        return epochs
    return [epochs[epochs.sizes.index(size)] for size in dict.fromkeys(epochs.sizes)]


def n_batches(epochs: Sequence[Epoch], end: int | None = None) -> int:
    """Return the number of batches in all epochs, or in those before `end`."""
    return sum(_lengths(epochs)[:end])


def alike_after(epochs: Sequence[Epoch], epoch: int) -> int:
    """Return how many of the later epochs have as many batches as this one."""
    return _lengths(epochs)[epoch + 1 :].count(_lengths(epochs)[epoch])


def _lengths(epochs: Sequence[Epoch]) -> list[int]:
    return epochs.lengths if isinstance(epochs, RedrawnEpochs) else list(map(len, epochs))


def widest(epochs: Sequence[Epoch]) -> Epoch:
    """Return the epoch with the largest batches."""
    return max(different(epochs), key=lambda epoch: len(epoch[0]))


def outside(epochs: Sequence[Epoch], n: int) -> int | None:
    """Return a row number drawn by a sampler that is outside of the `n` rows; None if there is none.

    >>> outside([[np.array([0, 3])]], 3), outside([[np.array([0, 2])]], 3)
    (3, None)
    """
    if isinstance(epochs, RedrawnEpochs):
        return None  # drawn by PyTorch's own sampler
    rows = np.concatenate([batch for epoch in {id(epoch): epoch for epoch in epochs}.values() for batch in epoch])
    wrong = rows[(rows < 0) | (rows >= n)]
    return int(wrong[0]) if wrong.size else None


def row_dtype(n: int) -> type[np.signedinteger]:
    """Return the integers to number `n` rows with; next to rows of few columns they take a good part of the memory.

    >>> row_dtype(2**31).__name__, row_dtype(2**31 + 1).__name__
    ('int32', 'int64')
    """
    return np.int32 if n <= 2**31 else np.int64


def _row_numbers(rows: Sequence[int]) -> np.ndarray:
    return np.asarray(rows, dtype=np.int64)


def _is_plain(loader: DataLoader) -> bool:
    return type(loader.batch_sampler) is BatchSampler and type(loader.sampler) in (RandomSampler, SequentialSampler)


def _draw_by_iterating(loader: DataLoader, size: int | None) -> Epoch:
    """Return an epoch's batches by iterating a DataLoader, whatever its sampler."""
    if size is not None:  # then the batch sampler is PyTorch's
        vars(loader.batch_sampler)["batch_size"] = size
    return list(loader)


def _draw_plain(loader: DataLoader, size: int | None) -> Epoch:
    """Return the same for PyTorch's own samplers, much faster: the order is cut into batches without a DataLoader."""
    # iterating a DataLoader first draws a seed for its workers, whether it has any or not
    torch.empty((), dtype=torch.int64).random_(generator=loader.generator)
    assert size is not None
    order = np.fromiter(loader.sampler, row_dtype(len(loader.sampler)))  # type: ignore[arg-type]
    end = len(order) - len(order) % size if loader.drop_last else len(order)
    return [order[start : start + size] for start in range(0, end, size)]


def loads_plainly(net: NeuralNet) -> bool:
    """Say whether the net's training batches come from torch's DataLoader, whose order can be drawn without rows."""
    return net.iterator_train is DataLoader


def stack_rows(per_cell: Sequence[Rows]) -> Rows:
    """Stack the cells' rows into tensors of shape (n_cells, n_rows, ...); shorter cells are padded with zeros.

    >>> stack_rows([torch.ones(2), torch.ones(1)]).tolist()
    [[1.0, 1.0], [1.0, 0.0]]
    """
    return map_tensors(lambda *cells: torch.nn.utils.rnn.pad_sequence(list(cells), batch_first=True), *per_cell)


def epoch_positions(orders: Sequence[Epoch]) -> tuple[Tensor, np.ndarray]:
    """Arrange the batches of an epoch in one array over steps and cells.

    Parameters
    ----------
    orders : sequence over cells of sequences over batches of arrays of int
        Row numbers.

    Returns
    -------
    positions : Tensor of shape (n_steps, n_cells, largest batch)
        Row numbers; 0 where a batch is shorter.
    sizes : ndarray of shape (n_steps, n_cells)
        The size of each batch; 0 where a cell has no step left.

    >>> positions, sizes = epoch_positions([[np.array([2, 1]), np.array([0])], [np.array([1, 0])]])
    >>> positions.tolist(), sizes.tolist()
    ([[[2, 1], [1, 0]], [[0, 0], [0, 0]]], [[2, 2], [1, 0]])
    """
    sizes = epoch_sizes(orders)
    dtype = np.result_type(*(batches[0] for batches in orders if batches))
    positions = np.zeros((*sizes.shape, sizes.max()), dtype)
    real = np.arange(sizes.max()) < sizes[..., None]
    for cell, batches in enumerate(orders):
        if batches:
            positions[:, cell][real[:, cell]] = np.concatenate(batches)
    return torch.from_numpy(positions), sizes


def epoch_sizes(orders: Sequence[Epoch]) -> np.ndarray:
    """Return the size of each batch of an epoch, shape (n_steps, n_cells); 0 where a cell has no step left."""
    sizes = np.zeros((max(map(len, orders)), len(orders)), dtype=int)
    for cell, batches in enumerate(orders):
        sizes[: len(batches), cell] = [len(batch) for batch in batches]
    return sizes
