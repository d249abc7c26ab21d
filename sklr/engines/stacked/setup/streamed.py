"""Cells whose rows are read from a dataset as the training needs them, instead of being held as tensors."""

from __future__ import annotations

import random
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from skorch import NeuralNet
from skorch.dataset import unpack_data
from skorch.utils import to_tensor
from torch.utils._pytree import tree_map
from torch.utils.data import BatchSampler, default_collate

from sklr._utils.random import RandomStream
from sklr.engines.stacked.checks.static import Unstackable
from sklr.engines.stacked.checks.transforms import targets_of
from sklr.engines.stacked.data.cell_rows import CellRows
from sklr.engines.stacked.data.index_batches import Epoch, Rows, is_in_memory
from sklr.engines.stacked.data.stream import CellStream, Shown
from sklr.engines.stacked.model.pack import PackCell
from sklr.engines.stacked.purity.reach import inside
from sklr.engines.stacked.purity.untouched import difference, reached_from
from sklr.engines.stacked.setup.shared_rows import caster

_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


def is_streamed(net: NeuralNet, dataset: Any, *, training: bool) -> bool:
    """Say whether the rows of a dataset are to be read batch by batch.

    They are if they may be others each time, or if batches are put together in a way of their own.
    """
    part = "iterator_train" if training else "iterator_valid"
    return not is_in_memory(dataset) or net.get_params_for(part).get("collate_fn") not in (None, default_collate)


class Ready:
    """Makes a batch of a DataLoader ready for a stack: on the net's device, in its dtype, with targets as its loss has.

    Parameters
    ----------
    net : NeuralNet
    output : Rows, optional
        Some of what its module returns; without it targets stay as they are.
    """

    def __init__(self, net: NeuralNet, output: Rows = None):
        self.net, self.output = net, output

    def __call__(self, x: Any, y: Any) -> Shown:
        x, y = (to_tensor(part, device=self.net.device) for part in (x, y))
        return caster(self.net)(x), y if self.output is None else targets_of(self.net, y, self.output)


def streamed_side(
    net: NeuralNet, dataset: Any, seed: int, random_stream: AbstractContextManager, *, watched: bool = True
) -> PackCell:
    """Return a cell whose batches are read from a stream; if `watched`, the dataset may not remember what it gave."""
    if getattr(net, "batches_grow", False):
        raise Unstackable("BatchSizeSchedule changes the DataLoader of a Dataset that is read batch by batch")
    stream = CellStream(net, dataset, random_stream, Ready(net))
    x, y = _watched_batch(stream) if watched else _first_batch(stream)[0]
    if x is None:
        raise Unstackable("there is no batch to train on in some epoch")
    epoch = _expected(stream.loader, len(y) if isinstance(y, torch.Tensor) else 1)
    return PackCell(
        net, [epoch] * net.max_epochs, CellRows.all_of(x), y, None, getattr(random_stream, "seed", seed), stream
    )


def _first_batch(stream: CellStream) -> tuple[Shown, list[float]]:
    """Return the first batch of a training, and what it would draw next from each generator; None without a batch."""
    stream = stream.afresh()
    batch = next(stream.batches(), (None, None))
    with stream.random_stream:
        return batch, [float(torch.rand(())), float(np.random.rand()), random.random()]


def _watched_batch(stream: CellStream) -> Shown:
    """Return the first batch of a training; refuse a dataset of which another training would read another one."""
    reached = reached_from((stream.dataset,))  # a list of files takes a tenth of a second
    generators = [thing for thing in reached if isinstance(thing, _GENERATORS)]
    before = [inside(generator) for generator in generators]
    first = _first_batch(stream)
    if [inside(generator) for generator in generators] != before:
        raise Unstackable(
            "the Dataset draws from a random generator of its own, which each training moves on; draw from those of "
            "torch, NumPy or Python, which each training starts anew"
        )
    if difference(_first_batch(stream), first) is not None:
        raise Unstackable(
            "the Dataset gives other items, or draws other numbers, when it is read again from the same random state: "
            "it keeps what it once drew, say; keep what is loaded, and draw anew for each item"
        )
    return first[0]


def _expected(loader: Any, n_first: int) -> Epoch:
    """Return batches of the sizes that those of an epoch are expected to have."""
    if type(loader.batch_sampler) is not BatchSampler:
        return [np.arange(n_first)] * len(loader)
    n_rows, size = len(loader.sampler), loader.batch_size
    sizes = [size] * (n_rows // size) + [n_rows % size] * (n_rows % size > 0 and not loader.drop_last)
    return [np.arange(n) for n in sizes]


def predicted_rows(net: NeuralNet, dataset: Any, seed: int) -> Rows:
    """Return all rows of a dataset as a prediction reads them.

    Scores are taken in a random stream of their cell, which begins anew for each: so all runs of a cell are scored on
    the same rows, in a stack as one by one, even where the dataset draws random numbers.
    """
    with RandomStream(seed):
        batches = [unpack_data(batch)[0] for batch in net.get_iterator(dataset, training=False)]
    if not batches:
        raise Unstackable("there is no row to predict in some fold")
    try:
        rows = tree_map(lambda *parts: torch.cat(parts), *(to_tensor(batch, device="cpu") for batch in batches))
    except (RuntimeError, ValueError) as error:
        raise Unstackable("batches to predict are of different shapes") from error
    return tree_map(lambda t: t.to(net.device), rows)


def check_read_alike(rows: Rows, again: Rows) -> None:
    """Refuse rows to score that another random state makes others: scikit-learn's own searches draw them for each fit.

    Raises
    ------
    Unstackable
        If the rows are not the same.
    """
    if difference(rows, again) is not None:
        raise Unstackable(
            "the Dataset in X gives each fit other rows to be scored on: sklr's own searches draw them once per fold, "
            "and take an eval_dataset that does not draw"
        )
