"""Cells whose rows are read from a dataset batch by batch during training, instead of being kept as tensors."""

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
from sklr.engines.stacked.data.index_batches import Epoch, Rows
from sklr.engines.stacked.data.read_rows import is_in_memory
from sklr.engines.stacked.data.stream import CellStream, Shown
from sklr.engines.stacked.model.member import PackCell
from sklr.engines.stacked.purity.reach import inside
from sklr.engines.stacked.purity.untouched import difference, reached_from
from sklr.engines.stacked.setup.shared_rows import caster

NO_BATCH = "there is no batch to train on in some epoch: check batch_size, drop_last and max_epochs"
_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


def is_streamed(net: NeuralNet, dataset: Any, *, training: bool) -> bool:
    """Say whether the rows of a dataset are to be read batch by batch.

    They are if reading them again may give other values, or if the DataLoader has a `collate_fn` of its own.
    """
    part = "iterator_train" if training else "iterator_valid"
    return not is_in_memory(dataset) or net.get_params_for(part).get("collate_fn") not in (None, default_collate)


class Ready:
    """Converts a DataLoader's batch for a stack: to the net's device and dtype, with targets as its loss takes them.

    Parameters
    ----------
    net : NeuralNet
    output : Rows, optional
        An example of its module's output, whose shape targets are fitted to; without it targets stay as they are.
    """

    def __init__(self, net: NeuralNet, output: Rows = None):
        self.net, self.output = net, output

    def __call__(self, x: Any, y: Any) -> Shown:
        x, y = (to_tensor(part, device=self.net.device) for part in (x, y))
        return caster(self.net)(x), y if self.output is None else targets_of(self.net, y, self.output)


def streamed_side(
    net: NeuralNet, dataset: Any, seed: int, random_stream: AbstractContextManager, *, watched: bool = True
) -> PackCell:
    """Return a cell whose batches are read from a stream; if `watched`, check that reading changes no state."""
    if getattr(net, "batches_grow", False):
        raise Unstackable(
            "BatchSizeSchedule changes the batch size, and a Dataset that is read batch by batch is read from one "
            "DataLoader: leave it out, or keep the rows in memory (arrays or a TensorDataset)"
        )
    stream = CellStream(net, dataset, random_stream, Ready(net))
    x, y = _watched_batch(stream) if watched else _first_batch(stream)[0]
    if x is None:
        raise Unstackable(NO_BATCH)
    epoch = _expected(stream.loader, len(y) if isinstance(y, torch.Tensor) else 1)
    return PackCell(
        net, [epoch] * net.max_epochs, CellRows.all_of(x), y, None, getattr(random_stream, "seed", seed), stream
    )


def _first_batch(stream: CellStream) -> tuple[Shown, list[float]]:
    """Return the first batch of a training (None if it has none), and the next number of each random generator."""
    stream = stream.afresh()
    batch = next(stream.batches(), (None, None))
    with stream.random_stream:
        return batch, [float(torch.rand(())), float(np.random.rand()), random.random()]


def _watched_batch(stream: CellStream) -> Shown:
    """Return the first batch of a training; refuse a dataset that would give a second training another one."""
    reached = reached_from((stream.dataset,))  # takes a tenth of a second for a long list of files
    generators = [thing for thing in reached if isinstance(thing, _GENERATORS)]
    before = [inside(generator) for generator in generators]
    first = _first_batch(stream)
    if [inside(generator) for generator in generators] != before:
        raise Unstackable(
            "the Dataset draws from a random generator of its own, which each training advances, so that a stack would "
            "read other rows: draw from the global generators of torch, NumPy or Python, which each training seeds anew"
        )
    if difference(_first_batch(stream), first) is not None:
        raise Unstackable(
            "the Dataset gives other items, or draws other numbers, when it is read again from the same random state, "
            "so that a stack would read other rows: cache only what is loaded, and draw random numbers anew for each "
            "item"
        )
    return first[0]


def _expected(loader: Any, n_first: int) -> Epoch:
    """Return placeholder batches of the sizes that an epoch is expected to have."""
    if type(loader.batch_sampler) is not BatchSampler:
        return [np.arange(n_first)] * len(loader)  # a batch sampler of its own does not tell sizes before it draws
    n_rows, size = len(loader.sampler), loader.batch_size
    sizes = [size] * (n_rows // size) + [n_rows % size] * (n_rows % size > 0 and not loader.drop_last)
    return [np.arange(n) for n in sizes]


def predicted_rows(net: NeuralNet, dataset: Any, seed: int) -> Rows:
    """Return all rows of a dataset as a prediction reads them.

    Every scoring of a cell starts the cell's random stream anew. So all runs of a cell are scored on the same rows, in
    a stack and one by one, even where the dataset draws random numbers.
    """
    with RandomStream(seed):
        batches = [unpack_data(batch)[0] for batch in net.get_iterator(dataset, training=False)]
    if not batches:
        raise Unstackable("there is no row to predict in some fold: check iterator_valid__drop_last and the folds")
    try:
        rows = tree_map(lambda *parts: torch.cat(parts), *(to_tensor(batch, device="cpu") for batch in batches))
    except (RuntimeError, ValueError) as error:
        raise Unstackable(
            "batches to predict are of different shapes, and a stack joins them: pad all rows to one shape"
        ) from error
    return tree_map(lambda t: t.to(net.device), rows)


def check_read_alike(rows: Rows, again: Rows) -> None:
    """Refuse validation rows that depend on the random state: scikit-learn's own searches draw them for each fit.

    Raises
    ------
    Unstackable
        If the rows are not the same.
    """
    if difference(rows, again) is not None:
        raise Unstackable(
            "the Dataset in X gives each fit other rows to be scored on, since it draws random numbers, and a stack "
            "reads them once per fold: use one of sklr's searches, which do so, too, and take an eval_dataset that "
            "does not draw"
        )
