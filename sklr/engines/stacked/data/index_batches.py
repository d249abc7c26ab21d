"""A net's rows as tensors on its device, and the order in which its own DataLoader would visit them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np
import torch
from joblib import hash as joblib_hash
from scipy.sparse import csc_matrix, csr_matrix, issparse
from skorch import NeuralNet
from skorch.dataset import Dataset, unpack_data
from skorch.helper import SliceDataset, SliceDict
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, default_collate

from sklr._utils.random import global_generators_kept
from sklr._utils.sklearn import count_rows, take_rows
from sklr.experiment.datasets import DatasetRows
from sklr.nets._data import of_one_epoch

Rows = Any  # a tensor, or a dict or list of tensors, whose first axis counts rows


def map_tensors(function: Callable[..., Any], first: Rows, *others: Rows) -> Rows:
    """Apply a function to the tensors of equally built dicts, lists and tuples.

    >>> map_tensors(torch.add, {"a": torch.ones(1)}, {"a": torch.ones(1)})
    {'a': tensor([2.])}
    """
    if isinstance(first, Mapping):
        return {name: map_tensors(function, *(rows[name] for rows in (first, *others))) for name in first}
    if isinstance(first, (list, tuple)):
        parts = [map_tensors(function, *rows) for rows in zip(first, *others, strict=True)]
        return tuple(parts) if isinstance(first, tuple) else parts
    return function(first, *others)


# where rows that stay as they are come from
_FIXED = ("builtins", "numpy", "scipy", "pandas", "polars", "pyarrow", "torch", "skorch")


def reads_alike(X: Any) -> bool:
    """Say whether the first rows of data are the same when they are taken twice; of known kinds they are.

    >>> class Noisy:
    ...     def __len__(self):
    ...         return 3
    ...     def __getitem__(self, row):
    ...         return np.random.normal(size=2)
    >>> reads_alike(np.zeros((3, 2))), reads_alike(Noisy())
    (True, False)
    """
    if isinstance(X, DatasetRows) or type(X).__module__.partition(".")[0] in _FIXED:
        return True
    rows = np.arange(min(8, count_rows(X)))
    with global_generators_kept():
        first, again = (joblib_hash(take_rows(X, rows)) for _ in range(2))
    return first == again


def is_in_memory(dataset: Any) -> bool:
    """Say whether a dataset gives the same items each time it is asked: arrays do, another dataset need not.

    >>> is_in_memory(Dataset(np.zeros((3, 1)))), is_in_memory(Dataset([lambda: 1]))
    (True, False)
    """
    if type(dataset) in (torch.utils.data.Subset, DatasetRows):
        return is_in_memory(dataset.dataset)
    if type(dataset) is torch.utils.data.ConcatDataset:
        return all(map(is_in_memory, dataset.datasets))
    if type(dataset) is SliceDataset:
        return is_in_memory(dataset.dataset)
    return type(dataset) is torch.utils.data.TensorDataset or (
        type(dataset) is Dataset and _is_data(dataset.X) and _is_data(dataset.y)
    )


_VALUES = (np.ndarray, np.generic, Tensor, int, float, complex, str, bytes)


def _is_data(value: Any) -> bool:
    """Say whether a value is numbers in memory, or a structure of such; other objects may compute what they give."""
    if isinstance(value, Mapping):
        return type(value) in (dict, SliceDict) and all(map(_is_data, value.values()))
    if type(value) in (list, tuple):
        return all(map(_is_data, value[:1] if all(type(v) is type(value[0]) for v in value) else value))
    if isinstance(value, torch.utils.data.Dataset | SliceDataset):
        return is_in_memory(value)
    is_pandas = hasattr(value, "iloc") and type(value).__module__.startswith("pandas.")
    return value is None or is_pandas or issparse(value) or isinstance(value, _VALUES)


def all_rows(net: NeuralNet, dataset: Any) -> tuple[Rows, Rows]:
    """Return X and y of a dataset as the net's DataLoader would collate them, all rows at once, on the net's device."""
    X = _dense(getattr(dataset, "X", None))
    y = getattr(dataset, "y", None)
    loader = net.get_iterator(dataset, training=False)
    known = _are_arrays(X) and (y is None or _is_array(y))
    if type(dataset) is Dataset and loader.collate_fn is default_collate and known:
        no_targets = torch.zeros(len(dataset), 1)  # what skorch's dataset has in their place
        rows = map_arrays(torch.as_tensor, X), no_targets if y is None else torch.as_tensor(y)
    else:
        rows = unpack_data(loader.collate_fn([dataset[i] for i in range(len(dataset))]))
    return tuple(map_tensors(lambda t: t.to(net.device), part) for part in rows)


def _dense(X: Any) -> Any:
    """Return a sparse matrix as an array, all rows at once: skorch's dataset makes each an array when it is read."""
    return X.toarray() if isinstance(X, csr_matrix | csc_matrix) else X


def all_targets(net: NeuralNet, dataset: Any) -> Rows:
    """Return y of a dataset as `all_rows` does, without X where that can be done."""
    if type(dataset) is Dataset and _is_array(dataset.y):
        return torch.as_tensor(dataset.y).to(net.device)
    return all_rows(net, dataset)[1]


def _is_array(value: Any) -> bool:
    return isinstance(value, (np.ndarray, Tensor))


def _are_arrays(value: Any) -> bool:
    return _is_array(value) or (isinstance(value, dict) and all(map(_is_array, value.values())))


def map_arrays(function: Callable[[Any], Tensor], value: Any) -> Rows:
    """Turn an array, or a dict of arrays, into tensors."""
    return {k: function(v) for k, v in value.items()} if isinstance(value, dict) else function(value)


class _Positions(torch.utils.data.Dataset):
    """A dataset whose items are their own positions, to ask a DataLoader for its order."""

    def __init__(self, n: int):
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitems__(self, positions: list[int]) -> list[int]:
        return positions


Epoch = Sequence[np.ndarray]  # one epoch's batches: int64 arrays of row numbers


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
        Initialised; its `iterator_train` and the parameters of it count.
    n : int
        Rows to train on.
    n_epochs : int
    random_stream : context manager
        Entered to draw, for nets whose order comes from the global generator.
    between : callable
        Called after each epoch, to draw what comes between the orders of two.
    """
    loader = of_one_epoch(net.get_iterator(_Positions(n), training=True))
    loader.collate_fn = _row_numbers
    loader.num_workers = 0  # there is nothing to load
    sizes = _batch_sizes(net, loader, n_epochs)
    draw = _quickly if _is_plain(loader) else _as_it_does
    with random_stream:
        if draw is _quickly and type(loader.sampler) is SequentialSampler:
            once = {size: draw(loader, size) for size in set(sizes)}
            return [once[size] for size in sizes]  # the same each time; the skipped draws decide nothing else
        if draw is _quickly and n * n_epochs > MOST_KEPT:
            return RedrawnEpochs(loader, [size or 1 for size in sizes], between)  # all have one: the loader is plain
        return list(_each(partial(draw, loader), between, sizes))


def _batch_sizes(net: NeuralNet, loader: DataLoader, n_epochs: int) -> list[int | None]:
    """Return the batch size of each epoch; None where the loader's batches have no size in common."""
    if getattr(net, "batches_grow", False):
        return [net.rows_in_step(epoch) for epoch in range(n_epochs)]
    return [loader.batch_size] * n_epochs


MOST_KEPT = 2**22  # row numbers: the orders of longer trainings are drawn again for each epoch


class RedrawnEpochs(Sequence[Epoch]):
    """The batches of epochs that shuffle, drawn once to find the random state of each, and again when asked for.

    Kept, the orders of twenty epochs of narrow rows take more memory than the rows.

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
        _quickly(loader, size)
        return state

    @property
    def lengths(self) -> list[int]:
        """How many batches each epoch has."""
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
            return _quickly(loader, size)


def _each(draw: Callable[[Any], Any], between: Callable[[], object], sizes: Sequence[Any]) -> Iterator[Any]:
    """Yield what is drawn for each epoch, and draw what comes after it."""
    for size in sizes:
        yield draw(size)
        between()


def different(epochs: Sequence[Epoch]) -> Sequence[Epoch]:
    """Return the epochs whose batches may be of different sizes."""
    if not isinstance(epochs, RedrawnEpochs):
        return epochs
    return [epochs[epochs.sizes.index(size)] for size in dict.fromkeys(epochs.sizes)]


def n_batches(epochs: Sequence[Epoch], end: int | None = None) -> int:
    """Return how many batches there are in all epochs, or in those before `end`."""
    return sum(_lengths(epochs)[:end])


def alike_after(epochs: Sequence[Epoch], epoch: int) -> int:
    """Return how many of the epochs after this one have as many batches."""
    return _lengths(epochs)[epoch + 1 :].count(_lengths(epochs)[epoch])


def _lengths(epochs: Sequence[Epoch]) -> list[int]:
    return epochs.lengths if isinstance(epochs, RedrawnEpochs) else list(map(len, epochs))


def widest(epochs: Sequence[Epoch]) -> Epoch:
    """Return the epoch with the largest batches."""
    return max(different(epochs), key=lambda epoch: len(epoch[0]))


def outside(epochs: Sequence[Epoch], n: int) -> int | None:
    """Return a row number that a sampler has drawn though there are only `n` rows; None if there is none.

    >>> outside([[np.array([0, 3])]], 3), outside([[np.array([0, 2])]], 3)
    (3, None)
    """
    if isinstance(epochs, RedrawnEpochs):
        return None  # of PyTorch's own sampler
    rows = np.concatenate([batch for epoch in {id(epoch): epoch for epoch in epochs}.values() for batch in epoch])
    wrong = rows[(rows < 0) | (rows >= n)]
    return int(wrong[0]) if wrong.size else None


def _row_numbers(rows: Sequence[int]) -> np.ndarray:
    return np.asarray(rows, dtype=np.int64)


def _is_plain(loader: DataLoader) -> bool:
    return type(loader.batch_sampler) is BatchSampler and type(loader.sampler) in (RandomSampler, SequentialSampler)


def _as_it_does(loader: DataLoader, size: int | None) -> Epoch:
    if size is not None:  # its batch sampler is PyTorch's
        vars(loader.batch_sampler)["batch_size"] = size
    return list(loader)


def _quickly(loader: DataLoader, size: int | None) -> Epoch:
    # iterating a DataLoader first draws a seed for its workers, whether it has any or not
    torch.empty((), dtype=torch.int64).random_(generator=loader.generator)
    assert size is not None
    order = np.fromiter(loader.sampler, np.int64)
    end = len(order) - len(order) % size if loader.drop_last else len(order)
    return [order[start : start + size] for start in range(0, end, size)]


def loads_plainly(net: NeuralNet) -> bool:
    """Say whether the net's training batches come from torch's DataLoader, which can be asked for its order."""
    return net.iterator_train is DataLoader


def stack_rows(per_cell: Sequence[Rows]) -> Rows:
    """Stack the cells' rows into tensors of shape (n_cells, n_rows, ...), shorter cells padded with zeros.

    >>> stack_rows([torch.ones(2), torch.ones(1)]).tolist()
    [[1.0, 1.0], [1.0, 0.0]]
    """
    return map_tensors(lambda *cells: torch.nn.utils.rnn.pad_sequence(list(cells), batch_first=True), *per_cell)


def epoch_positions(orders: Sequence[Epoch]) -> tuple[Tensor, np.ndarray]:
    """Line up the batches of an epoch, cell by cell.

    Parameters
    ----------
    orders : sequence over cells of sequences over batches of int64 arrays
        Row numbers.

    Returns
    -------
    positions : Tensor of shape (n_steps, n_cells, largest batch)
        Row numbers; 0 where a batch is shorter.
    sizes : ndarray of shape (n_steps, n_cells)
        How long each batch is; 0 where a cell has no step left.

    >>> positions, sizes = epoch_positions([[np.array([2, 1]), np.array([0])], [np.array([1, 0])]])
    >>> positions.tolist(), sizes.tolist()
    ([[[2, 1], [1, 0]], [[0, 0], [0, 0]]], [[2, 2], [1, 0]])
    """
    sizes = epoch_sizes(orders)
    positions = np.zeros((*sizes.shape, sizes.max()), dtype=np.int64)
    real = np.arange(sizes.max()) < sizes[..., None]
    for cell, batches in enumerate(orders):
        if batches:
            positions[:, cell][real[:, cell]] = np.concatenate(batches)
    return torch.from_numpy(positions), sizes


def epoch_sizes(orders: Sequence[Epoch]) -> np.ndarray:
    """Return how long each batch of an epoch is, shape (n_steps, n_cells); 0 where a cell has no step left."""
    sizes = np.zeros((max(map(len, orders)), len(orders)), dtype=int)
    for cell, batches in enumerate(orders):
        sizes[: len(batches), cell] = [len(batch) for batch in batches]
    return sizes
