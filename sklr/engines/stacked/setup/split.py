"""What a net's `train_split` makes of the rows of a cell: those to train on, and those held out for its callbacks."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from skorch import NeuralNet
from skorch.dataset import Dataset
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, Subset

from sklr.engines.stacked.checks.static import Unstackable
from sklr.engines.stacked.checks.transforms import as_inferred
from sklr.engines.stacked.data.cell_rows import CellRows
from sklr.engines.stacked.data.index_batches import Rows, all_rows, all_targets, draw_epochs, map_tensors, outside
from sklr.engines.stacked.model.held import Held
from sklr.engines.stacked.model.pack import PackCell
from sklr.engines.stacked.setup.shared_rows import SharedRows, caster
from sklr.engines.stacked.setup.streamed import is_streamed
from sklr.experiment.experiment import Cell
from sklr.nets import _data as data

NOT_SPLIT = "train_split gives rows that are read batch by batch: leave it at None, the folds validate"


class Part(NamedTuple):
    """Some rows that a split gives: a dataset without sample weights, and these.

    `numbers` are those of the rows among all that were split, a slice for all; None if they are others.
    """

    dataset: Any
    numbers: np.ndarray | slice | None
    weight: np.ndarray | None


def split_side(
    net: NeuralNet, cell: Cell, X: Any, y: Any, weight: Any, stream: AbstractContextManager, shared: SharedRows | None
) -> PackCell:
    """Return a cell whose rows are held as tensors.

    Parameters
    ----------
    net : NeuralNet
        Initialised.
    cell : Cell
    X, y
        As the net's `fit_loop` takes them.
    weight : array-like of shape (n_rows,) or None
        Sample weights.
    stream : context manager
        The random numbers of the training, which the split and the order of the rows may draw.
    shared : SharedRows or None
        None for rows that are not those of the experiment.
    """
    fold = _fold(net, cell, net.get_dataset(X, y), shared)
    with stream:
        train, rest = split_parts(net, X, y, weight)
    x, targets = rows_of(net, train, fold)
    held = None if rest is None else held_rows(net, rest, fold)
    epochs = draw_epochs(net, x.n_rows, net.max_epochs, stream, partial(_draw_between, net, rest))
    if not len(epochs) or not all(epochs):
        raise Unstackable("there is no batch to train on in some epoch")
    if (row := outside(epochs, x.n_rows)) is not None:
        raise Unstackable(f"the sampler asks for row {row} of a fold of {x.n_rows} rows")
    own_weight = None if train.weight is None else _as_weight(net, train.weight)
    return PackCell(net, epochs, x, targets, own_weight, getattr(stream, "seed", cell.seed), held=held)


def _fold(net: NeuralNet, cell: Cell, dataset: Any, shared: SharedRows | None) -> tuple[CellRows, Rows]:
    """Return all rows of a cell to train on, before they are split."""
    x = None if shared is None else shared.of_cell(net, dataset, cell, training=True)
    if x is not None:
        return x, all_targets(net, dataset)
    rows, targets = all_rows(net, dataset)
    return CellRows.all_of(map_tensors(caster(net), rows)), targets


def split_parts(net: NeuralNet, X: Any, y: Any, weight: Any) -> tuple[Part, Part | None]:
    """Have a net split its rows, as it does when training begins; a `train_split` may hold nothing out.

    Parameters
    ----------
    net : NeuralNet
        X, y
        As the net's `fit_loop` takes them.
    weight : array-like of shape (n_rows,) or None
        Sample weights.
    """
    if weight is not None:
        net._sample_weight = np.asarray(weight)
    try:
        train, held = net.get_split_datasets(X, y)
    finally:
        vars(net).pop("_sample_weight", None)
    return _part(train, X, y), None if held is None else _part(held, X, y)


def _part(dataset: Any, X: Any, y: Any) -> Part:
    whole: Any = dataset
    numbers, weight = np.arange(len(dataset)), None
    while True:
        if isinstance(whole, data.WeightedDataset):
            whole, weight = whole.inside, whole.weights[numbers]
        elif type(whole) is Subset and whole is not X:
            whole, numbers = whole.dataset, np.asarray(whole.indices)[numbers]
        else:
            break
    is_whole = np.array_equal(numbers, np.arange(len(whole)))
    own = whole if is_whole else Subset(whole, numbers.tolist())
    if whole is X or (type(whole) is Dataset and whole.X is X and whole.y is y):
        return Part(own, slice(None) if is_whole else numbers, weight)
    return Part(own, None, weight)


def rows_of(net: NeuralNet, part: Part, fold: tuple[CellRows, Rows]) -> tuple[CellRows, Rows]:
    """Return a part as tensors; `fold` is what was split."""
    if part.numbers is not None:
        return fold[0].pick(part.numbers), map_tensors(lambda t: t[part.numbers], fold[1])
    if is_streamed(net, part.dataset, training=True):
        raise Unstackable(NOT_SPLIT)
    rows, targets = all_rows(net, part.dataset)
    return CellRows.all_of(map_tensors(caster(net), rows)), targets


def held_rows(net: NeuralNet, part: Part, fold: tuple[CellRows, Rows]) -> Held:
    """Return the rows that are held out, in the batches in which the net evaluates them.

    Raises
    ------
    Unstackable
        If these are not the same batches in every epoch.
    """
    loader = net.get_iterator(part.dataset, training=False)
    if net.iterator_valid is not DataLoader or not _reads_all_in_order(loader):
        raise Unstackable("iterator_valid does not read all rows of train_split in their order: leave it as it is")
    if is_streamed(net, part.dataset, training=False):
        raise Unstackable(NOT_SPLIT)
    sizes = [len(batch) for batch in loader.batch_sampler]
    if not sizes:
        raise Unstackable("train_split holds out no batch to evaluate: leave it at None, the folds validate")
    x, y = rows_of(net, part, fold)
    weight = None if part.weight is None else _as_weight(net, part.weight)
    return Held(x, y, sizes, weight, y, partial(as_inferred, net), fold)


def _reads_all_in_order(loader: DataLoader) -> bool:
    is_plain = type(loader.batch_sampler) is BatchSampler and type(loader.sampler) is SequentialSampler
    return is_plain and not loader.drop_last


def _as_weight(net: NeuralNet, weight: Any) -> torch.Tensor:
    """Return sample weights as the loss takes them."""
    return torch.as_tensor(np.asarray(weight), dtype=data.float_dtype(net.module_), device=net.device)


def _draw_between(net: NeuralNet, part: Part | None) -> None:
    """Draw what evaluating held-out rows draws from the global generator after each epoch: the seed of a DataLoader."""
    if part is not None and net.get_iterator(part.dataset, training=False).generator is None:
        torch.empty((), dtype=torch.int64).random_()
