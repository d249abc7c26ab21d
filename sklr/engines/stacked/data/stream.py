"""Batches read from a dataset during training: for datasets that return other items each time, or exceed the memory."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from skorch import NeuralNet
from skorch.dataset import unpack_data

Shown = tuple[Any, Any]  # x and y of one batch, as the stack takes them


class CellStream:
    """The batches of one cell, from its net's DataLoader, in the random stream of the net's training.

    They are read once for all candidates of the cell. The order and the dataset's random numbers are those that a net
    trained by itself would draw.

    Parameters
    ----------
    net : NeuralNet
        Initialised.
    dataset : Dataset
        The rows to train on.
    random_stream : context manager
        The random stream of the net's training.
    ready : callable (x, y) -> (x, y)
        Converts a batch for the stack.
    """

    def __init__(
        self, net: NeuralNet, dataset: Any, random_stream: AbstractContextManager, ready: Callable[[Any, Any], Shown]
    ):
        self.net, self.dataset, self.ready = net, dataset, ready
        self.random_stream = copy.deepcopy(random_stream)
        self.loader = net.get_iterator(dataset, training=True)
        self.generator = _with_own_generator(self.loader)

    def __getstate__(self) -> dict[str, Any]:
        state = None if self.generator is None else self.generator.get_state()
        return {**vars(self), "loader": None, "generator": state}  # a DataLoader's workers cannot be pickled

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.loader = self.net.get_iterator(self.dataset, training=True)
        self.generator = _with_own_generator(self.loader)
        if self.generator is not None:
            self.generator.set_state(state["generator"])

    def afresh(self) -> CellStream:
        """Return an independent stream in the same random state."""
        stream = CellStream(self.net, self.dataset, self.random_stream, self.ready)
        if stream.generator is not None and self.generator is not None:
            stream.generator.set_state(self.generator.get_state())
        return stream

    def raw(self) -> Iterator[Any]:
        """Yield the batches of the next epoch as the DataLoader returns them."""
        with self.random_stream:
            batches = iter(self.loader)
        while True:
            with self.random_stream:
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def batches(self) -> Iterator[Shown]:
        """Yield the batches of the next epoch as the stack takes them."""
        return (self.shown(batch) for batch in self.raw())

    def shown(self, batch: Any) -> Shown:
        """Return a batch as the stack takes it."""
        return self.ready(*unpack_data(batch))


def _with_own_generator(loader: Any) -> torch.Generator | None:
    """Replace a DataLoader's sampler and generator by copies, so that the net's own keep their state."""
    generator = loader.generator
    if generator is None:
        return None
    own = torch.Generator().set_state(generator.get_state())
    known = {id(loader.dataset): loader.dataset, id(generator): own}
    vars(loader)["batch_sampler"] = copy.deepcopy(
        loader.batch_sampler, known
    )  # DataLoader.__setattr__ refuses a new sampler
    vars(loader)["sampler"] = loader.batch_sampler.sampler
    loader.generator = own
    return own
