"""Splits the rows of a cell by the net's `train_split`: rows to train on, and rows held out for its callbacks."""

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
from sklr.engines.stacked.data.index_batches import Rows, draw_epochs, map_tensors, outside
from sklr.engines.stacked.data.read_rows import all_rows, all_targets
from sklr.engines.stacked.model.held import Held
from sklr.engines.stacked.model.member import PackCell
from sklr.engines.stacked.setup.shared_rows import SharedRows, caster
from sklr.engines.stacked.setup.streamed import NO_BATCH, is_streamed
from sklr.experiment.experiment import Cell
from sklr.nets import _data as data

NOT_SPLIT = (
    "train_split gives rows that are read batch by batch, and a stack evaluates held-out rows from memory: set it to "
    "None, since the folds validate, and give a fixed validation set to the search: fit(train, validation=valid)"
)


class Part(NamedTuple):
    """One part of a split: a dataset without sample weights, and the weights.

    `numbers` are the positions of its rows in the rows that were split: a slice for all of them, None if it has others.
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
        The random stream of the training, from which the split and the order of the rows are drawn.
    shared : SharedRows or None
        None for rows that are not the experiment's.
    """
    fold = _fold(net, cell, net.get_dataset(X, y), shared)
    with stream:
        train, rest = split_parts(net, X, y, weight)
    x, targets = rows_of(net, train, fold)
    held = None if rest is None else held_rows(net, rest, fold)
    epochs = draw_epochs(net, x.n_rows, net.max_epochs, stream, partial(_draw_between, net, rest))
    if not len(epochs) or not all(epochs):
        raise Unstackable(NO_BATCH)
    if (row := outside(epochs, x.n_rows)) is not None:
        raise Unstackable(
            f"the sampler asks for row {row} of a fold of {x.n_rows} rows: its indices must fit the training rows of "
            "every fold"
        )
    own_weight = None if train.weight is None else _as_weight(net, train.weight)
    return PackCell(net, epochs, x, targets, own_weight, getattr(stream, "seed", cell.seed), held=held)


def _fold(net: NeuralNet, cell: Cell, dataset: Any, shared: SharedRows | None) -> tuple[CellRows, Rows]:
    """Return a cell's training rows and targets before they are split."""
    x = None if shared is None else shared.of_cell(net, dataset, cell, training=True)
    if x is not None:
        return x, all_targets(net, dataset)
    rows, targets = all_rows(net, dataset)
    return CellRows.all_of(map_tensors(caster(net), rows)), targets


def split_parts(net: NeuralNet, X: Any, y: Any, weight: Any) -> tuple[Part, Part | None]:
    """Split rows by the net's `train_split`, as it does when training begins; the second part may be None.

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
    while True:  # unwrap what splits and weights wrap around the data; X may be a Subset itself
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
    """Return the held-out rows, in the batches in which the net evaluates them.

    Raises
    ------
    Unstackable
        If these are not the same batches in every epoch.
    """
    loader = net.get_iterator(part.dataset, training=False)
    if net.iterator_valid is not DataLoader or not _reads_all_in_order(loader):
        raise Unstackable(
            "iterator_valid does not read all rows that train_split holds out in their order, as a stack does: leave "
            "it at its default"
        )
    if is_streamed(net, part.dataset, training=False):
        raise Unstackable(NOT_SPLIT)
    sizes = [len(batch) for batch in loader.batch_sampler]
    if not sizes:
        raise Unstackable("train_split holds out no batch to evaluate: set it to None, since the folds validate")
    x, y = rows_of(net, part, fold)
    weight = None if part.weight is None else _as_weight(net, part.weight)
    return Held(x, y, sizes, weight, y, partial(as_inferred, net), fold)


def _reads_all_in_order(loader: DataLoader) -> bool:
    is_plain = type(loader.batch_sampler) is BatchSampler and type(loader.sampler) is SequentialSampler
    return is_plain and not loader.drop_last


def _as_weight(net: NeuralNet, weight: Any) -> torch.Tensor:
    """Return sample weights as a tensor in the module's dtype, on the net's device."""
    return torch.as_tensor(np.asarray(weight), dtype=data.float_dtype(net.module_), device=net.device)


def _draw_between(net: NeuralNet, part: Part | None) -> None:
    """Draw from the global generator what evaluating held-out rows draws after each epoch: a DataLoader's seed."""
    if part is not None and net.get_iterator(part.dataset, training=False).generator is None:
        torch.empty((), dtype=torch.int64).random_()
