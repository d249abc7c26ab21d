"""A run of an audit trained without a stack, step by step: by skorch's net, optimizer, callbacks and DataLoader."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from skorch import NeuralNet
from skorch.callbacks import EarlyStopping, LRScheduler, PrintLog
from skorch.dataset import Dataset
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from sklr._utils.random import global_state
from sklr.callbacks import GradientClipping
from sklr.engines.sequential.fit import start_net
from sklr.engines.stacked.audit.tolerance import Flat, Tolerance
from sklr.engines.stacked.checks.static import Unstackable
from sklr.engines.stacked.data.index_batches import Epoch
from sklr.experiment.cell_data import CellData
from sklr.nets._data import WeightedBatches, of_one_epoch

MOST_NUMBERS = 2**22  # most numbers of a cell's rows to keep whole; of larger ones only the rows in the batches stay
STARTUP = 1  # step before gradients are clipped at a percentile, instead of the usual 20: an audit has few steps


class PlainRun:
    """One candidate in one cell, trained as the sequential engine would, but on given batches.

    Only its initialization draws from the cell's random stream: a step that draws random numbers is refused.

    Parameters
    ----------
    net : NeuralNet
        With the candidate's parameters and the cell's seed, not initialized.
    data : CellData
        The cell's rows.
    seed : int
        The cell's.
    rows : ndarray of int, optional
        The sorted numbers of the rows that the batches will hold; of a large dataset only these are kept.
    """

    def __init__(self, net: NeuralNet, data: CellData, seed: int, rows: np.ndarray | None = None):
        self.net = net
        net.set_params(verbose=0)
        X, y, stream = start_net(net, data, seed)
        if (weight := data.fit_params.get("sample_weight")) is not None:
            net._sample_weight = np.asarray(weight)
        with stream:  # the split may draw
            dataset, self.held = net.get_split_datasets(X, y)
        # what schedules count by; it is compared with the number of batches that the DataLoader yields
        self.n_batches = len(net.get_iterator(dataset, training=True))
        self.dataset, self.rows = dataset, None
        if rows is not None and _is_plain(dataset) and _is_large(dataset):
            items = [copy.deepcopy(dataset[int(row)]) for row in rows]  # a view would keep the whole array alive
            self.dataset, self.rows = Items(items, len(dataset)), rows
        self.batches: Iterator[Any] = iter(())
        self.first_loss = float("nan")
        self.noise: Tensor | None = None
        self.trained = {name: p for name, p in net.module_.named_parameters() if p.requires_grad and p.numel()}
        self.is_scheduled = any(isinstance(c, LRScheduler) for _, c in net.callbacks_)
        # an LRScheduler may step only as often as a training has batches, and an audit may have more
        left_out = PrintLog, EarlyStopping, LRScheduler
        net.callbacks_ = [(name, c) for name, c in net.callbacks_ if not isinstance(c, left_out)]
        self.criterion_state = _buffers(net.criterion_)
        for callback in (c for _, c in net.callbacks_ if isinstance(c, GradientClipping)):
            callback.startup_steps = min(callback.startup_steps, STARTUP)
        with stream:
            net.notify("on_train_begin", X=X, y=y)

    def begin_epoch(self, batches: Iterable[Any]) -> None:
        """Begin an epoch of these batches, as a DataLoader returns them."""
        self.net.notify("on_epoch_begin", dataset_train=self.dataset, dataset_valid=self.held)
        self.batches = iter(batches)

    def batches_of(self, rows: Epoch) -> Iterator[Any]:
        """Yield batches of these rows, collated by the net's own DataLoader."""
        batches = loader = of_one_epoch(self.net.get_iterator(self.dataset, training=True))
        if isinstance(batches, WeightedBatches):
            batches.batches = loader = of_one_epoch(batches.batches)
        places = rows if self.rows is None else [np.searchsorted(self.rows, batch) for batch in rows]
        vars(loader)["batch_sampler"] = [
            batch.tolist() for batch in places
        ]  # DataLoader.__setattr__ refuses a new sampler
        loader.num_workers = 0  # a few batches are not worth a worker
        yield from batches

    def step(self, lrs: Sequence[float]) -> float:
        """Take a step on the next batch; return its loss.

        `lrs` are the learning rates of the parameter groups, used where skorch's `LRScheduler` would set them.

        Raises
        ------
        Unstackable
            If the step draws random numbers, or does not use a parameter.
        """
        net, batch, before = self.net, next(self.batches), _random_states()
        for group, lr in zip(net.optimizer_.param_groups, lrs, strict=True) if self.is_scheduled else ():
            group["lr"] = lr
        net.run_single_epoch([batch], training=True, prefix="train", step_fn=net.train_step)
        if _random_states() != before:
            raise self.unfit(
                "draws random numbers in training by other means than Dropout, and would draw others in a stack: leave "
                "them out, or use nn.Dropout"
            )
        if unused := [name for name, p in self.trained.items() if p.grad is None]:
            raise self.unfit(
                f"has a parameter {unused[0]!r} that a step does not use, and a stack steps all of them: leave it out, "
                "or set its requires_grad to False"
            )
        loss = float(net.history[-1, "batches", -1, "train_loss"])
        if np.isnan(self.first_loss):
            self.first_loss = loss
        return loss

    def unfit(self, what: str, kind: type[Unstackable] = Unstackable) -> Unstackable:
        """Return the exception for a module that cannot be stacked, which `what` says of it."""
        return kind(f"module {type(self.net.module_).__name__}: it {what}")

    def end_epoch(self) -> None:
        """Evaluate the held-out rows and end the epoch, so that schedules move on.

        Raises
        ------
        Unstackable
            If the criterion's buffers have changed: a stack may call it once for all runs, or several times for some.
        """
        for name, value in self.net.criterion_.named_buffers():
            if not torch.equal(value, self.criterion_state.get(name, value)):
                raise Unstackable(
                    f"{type(self.net.criterion_).__name__} changes its buffer {name!r} at every call, and a stack "
                    "calls one criterion for all runs: keep what changes in the module"
                )
        if self.held is not None:
            batches = self.net.get_iterator(self.held, training=False)
            self.net.run_single_epoch(batches, training=False, prefix="valid", step_fn=self.net.validation_step)
        self.net.notify("on_epoch_end", dataset_train=self.dataset, dataset_valid=self.held)

    def gradient_noise(self, tolerance: Tolerance) -> Tensor:
        """Return the largest share of each gradient that rounding explains so far, in the order of `trained`."""
        noise = tolerance.noise_in(Flat({name: cast(Tensor, p.grad) for name, p in self.trained.items()}))
        self.noise = noise if self.noise is None else torch.maximum(noise, self.noise)
        return self.noise

    def parameters(self) -> Flat:
        """Return a copy of the trainable parameters."""
        return Flat(self.trained)

    @property
    def held_losses(self) -> list[float]:
        """The loss of each batch of held-out rows in the last epoch."""
        return [batch["valid_loss"] for batch in self.net.history[-1, "batches"] if "valid_loss" in batch]

    @property
    def lrs(self) -> list[float]:
        """The learning rate of each parameter group in the last step."""
        return [float(group["lr"]) for group in self.net.optimizer_.param_groups]

    def predictions(self, X: Any) -> list[Tensor]:
        """Return the module's output tensors for validation rows; those with an axis of rows are concatenated."""
        batches = [tree_flatten(outputs)[0] for outputs in self.net.forward_iter(X, device=self.net.device)]
        return [parts[0] if parts[0].dim() == 0 else torch.cat(parts) for parts in zip(*batches, strict=True)]


def _is_plain(dataset: Any) -> bool:
    """Say whether a dataset is skorch's own, or a subset of one."""
    whole = dataset.dataset if type(dataset) is torch.utils.data.Subset else dataset
    return type(whole) is Dataset


def _is_large(dataset: Any) -> bool:
    in_a_row = (part.numel() if isinstance(part, Tensor) else np.size(part) for part in tree_flatten(dataset[0])[0])
    return len(dataset) * sum(in_a_row) > MOST_NUMBERS


class Items(torch.utils.data.Dataset):
    """Some items read from a dataset, with the length of the whole dataset, which schedules count by."""

    def __init__(self, items: list[Any], n: int):
        self.items, self.n = items, n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> Any:
        return self.items[i]


def _buffers(criterion: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in criterion.named_buffers()}


def _random_states() -> tuple[Any, ...]:
    cpu, cuda, (_, keys, *place) = global_state()
    return cpu.numpy().tobytes(), [t.numpy().tobytes() for t in cuda], keys.tobytes(), place, random.getstate()
