"""The history of one run of a pack, and the callbacks that hear of it, as if the run were trained by its own net.

The callbacks are skorch's own objects, copied for each run. They are notified by a stand-in for the run's net: it has
the run's history and module, and all else from the net of its cell.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from skorch import NeuralNet
from skorch.callbacks import Callback, EarlyStopping, EpochScoring, EpochTimer, LRScheduler, PassthroughScoring
from skorch.history import History
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from sklr.callbacks import BatchSizeSchedule, GradientClipping, LRSchedule
from sklr.callbacks._stop import best_weights, remember_best
from sklr.engines.stacked.model.held import HeldEpoch
from sklr.engines.stacked.model.stack import ModelStack
from sklr.engines.stacked.optim.clipping import Clip
from sklr.nets._sklearn_callbacks import raised_by_callback

TOLD = (
    BatchSizeSchedule,
    GradientClipping,
    EarlyStopping,
    EpochScoring,
    EpochTimer,
    LRSchedule,
    LRScheduler,
    PassthroughScoring,
)  # others need not hear of an epoch


class StepRows(NamedTuple):
    """The steps of one epoch of one run: losses, rows and lrs, shape (n_steps,), lrs of groups, norms of gradients."""

    loss: np.ndarray
    n_rows: np.ndarray
    lr: np.ndarray
    group_lrs: np.ndarray  # shape (n_steps, n_groups)
    norms: np.ndarray  # shape (n_steps, n_clips)


class NotedLR(Callback):
    """Stands for skorch's `LRScheduler`, whose learning rates the pack knows beforehand: it writes them down alone."""

    def __init__(self, scheduler: LRScheduler):
        self.name, self.by_batch = scheduler.event_name, scheduler.step_every == "batch"
        self.lr, self.n_epochs = float("nan"), 0

    def on_epoch_end(self, net: NeuralNet, dataset_train: Any = None, dataset_valid: Any = None, **kwargs: Any) -> None:
        """Record the learning rate of the first parameter group."""
        self.n_epochs += 1
        if self.name is not None and not self.by_batch:
            net.history.record(self.name, self.lr)


def written_by(callback: Callback) -> tuple[str, ...]:
    """Return the columns of the history that a callback of skorch's writes scores into."""
    if isinstance(callback, PassthroughScoring | EpochScoring):
        name = callback.name if isinstance(callback, PassthroughScoring) else callback.name_
        return name, f"{name}_best"
    return ()


def listeners(net: NeuralNet, read: Iterable[str], *, whole: bool) -> list[tuple[str, Callback]]:
    """Return the callbacks that are to be told of each epoch, with their names.

    Parameters
    ----------
    net : NeuralNet
        Initialised.
    read : iterable of str
        Columns of the history that are read by others than callbacks.
    whole : bool
        Whether the history is to be complete. If not, scores that nobody reads are left out, but for those that a
        user has asked for: what they raise is to end the training.
    """
    known = [(name, callback) for name, callback in net.callbacks_ if isinstance(callback, TOLD)]
    if whole:
        return known
    wanted = {*read, *(callback.monitor for _, callback in known if isinstance(callback, EarlyStopping))}

    def is_needed(callback: Callback) -> bool:
        is_own = isinstance(callback, EpochScoring) and callback.scoring != "accuracy"
        return isinstance(callback, EarlyStopping) or is_own or not wanted.isdisjoint(written_by(callback))

    return [(name, callback) for name, callback in known if is_needed(callback)]


class RunModule:
    """Stands for the module of one run of a stack where a callback keeps its weights, or puts others in their place.

    Parameters
    ----------
    stack : ModelStack
    i, cell : int
        The run's place in it.
    like : nn.Module
        A module of the same kind, which is written to.

    >>> import torch
    >>> example = torch.ones(2, 1), torch.ones(2, 1)
    >>> stack = ModelStack([nn.Linear(1, 1)], 2, nn.MSELoss(), torch.optim.SGD, {}, example=example)
    >>> module = RunModule(stack, 1, 0, nn.Linear(1, 1))
    >>> module.load_state_dict({"weight": torch.tensor([[3.0]]), "bias": torch.tensor([4.0])})
    >>> stack.run_state(1, 0)["bias"].item(), module.state_dict()["weight"].item(), module.is_changed
    (4.0, 3.0, True)
    """

    def __init__(self, stack: ModelStack, i: int, cell: int, like: nn.Module):
        self.stack, self.i, self.cell, self.like = stack, i, cell, like
        self.is_changed = False

    def state_dict(self) -> dict[str, Any]:
        """Return the run's weights and buffers; the next call, of another run too, overwrites them."""
        return self.stack.load_run(self.i, self.cell, self.like).state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put weights and buffers into the stack."""
        self.stack.load_run(self.i, self.cell, self.like).load_state_dict(state)
        self.stack.store_run(self.i, self.cell, self.like)
        self.is_changed = True


class Record:
    """The history of one run, and its callbacks.

    Parameters
    ----------
    net : NeuralNet
        Of the run's cell, initialised.
    callbacks : sequence of (name, callback)
        As `listeners` returns them; copies of them are told.
    whole : bool
        Whether the history is to have the steps of each epoch, too.

    Attributes
    ----------
    history : History
        Of the epochs that the run has come through.
    last : StepRows or None
        The steps of the last one.
    """

    def __init__(self, net: NeuralNet, callbacks: Sequence[tuple[str, Callback]], *, whole: bool):
        self.history = History()
        self.last: StepRows | None = None
        self.callbacks = [
            (name, NotedLR(one) if isinstance(one, LRScheduler) else copy.copy(one)) for name, one in callbacks
        ]
        own = [callback for _, callback in self.callbacks]
        clips = [name for name, callback in net.callbacks_ if Clip.of(callback) is not None]
        self.clips = [(clips.index(name), c) for name, c in self.callbacks if name in clips]
        self.has_steps = whole or any(isinstance(c, PassthroughScoring) and c.on_train for c in own)
        self.has_lrs = any(isinstance(callback, LRSchedule) for callback in own)
        twin = self._twin(net)
        for callback in own:
            if not isinstance(callback, LRSchedule):  # it is another candidate's: `hand_over` begins the run's own
                callback.on_train_begin(twin, X=None, y=None)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "best": best_weights(self.callbacks)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({name: value for name, value in state.items() if name != "best"})
        remember_best(self.callbacks, state["best"])

    def end_epoch(
        self, net: NeuralNet, module: RunModule, steps: StepRows, held: HeldEpoch | None, seconds: float
    ) -> bool:
        """Write an epoch down, and tell the callbacks; return whether one of them ends the training.

        Parameters
        ----------
        net : NeuralNet
            Of the run's cell.
        module : RunModule
            The run's, with the weights of now.
        steps : StepRows
        held : HeldEpoch or None
            None without held-out rows, or where nobody reads what becomes of them.
        seconds : float
            How long the epoch took.
        """
        self.last = steps
        self.history.new_epoch()
        self.history.record("epoch", len(self.history))
        self._write_steps(steps, self._twin(net))
        if held is not None:
            self._write_held(held)
        self._ready_callbacks(steps, held, seconds)
        rows = None if held is None else np.empty((sum(held.n_rows), 0))  # never read: the outputs for them are known
        try:
            self._twin(net, module).notify("on_epoch_end", dataset_train=None, dataset_valid=rows)
        except KeyboardInterrupt as error:
            if not raised_by_callback(error):
                raise
            return True
        return False

    def end_training(self, net: NeuralNet, module: RunModule) -> None:
        """Tell the callbacks that the training is over; one may load the weights of an earlier epoch."""
        self._twin(net, module).notify("on_train_end", X=None, y=None)

    def hand_over(self, net: NeuralNet) -> None:
        """Give a net that has been set up for the run what the run has come to, but for the weights."""
        net.history_ = History({**row, "batches": [dict(batch) for batch in row["batches"]]} for row in self.history)
        known = dict(self.callbacks)
        for name, callback in net.callbacks_:
            if isinstance(callback, LRSchedule):
                if self.last is not None:
                    callback.on_train_begin(net)
                    callback.lr_ = float(self.last.lr[-1])
            elif isinstance(callback, LRScheduler):
                self._catch_up(callback, net, known[name].n_epochs)
            elif name in known:
                vars(callback).update(vars(known[name]))
            if isinstance(callback, GradientClipping):
                callback.on_train_begin(net)  # with a list of norms of its own

    def _catch_up(self, callback: LRScheduler, net: NeuralNet, n_epochs: int) -> None:
        """Step a scheduler on its net's optimizer, which is at its peak lrs, as often as the training has."""
        rows, net.history_ = net.history_, History()
        callback.on_train_begin(net)
        net.history_ = rows
        by_batch, is_plateau = callback.step_every == "batch", callback.policy_ is ReduceLROnPlateau
        for row in rows if by_batch else rows[:n_epochs]:
            n_times = row["train_batch_count"] if by_batch else 1
            for _ in range(n_times):
                net.optimizer_.step()  # without gradients: schedulers warn if there was none
                callback.lr_scheduler_.step(*[row[callback.monitor]] * is_plateau)
            callback.batch_idx_ += n_times * by_batch

    def _write_steps(self, steps: StepRows, twin: NeuralNet) -> None:
        history, noted = (
            self.history,
            [c for _, c in self.callbacks if isinstance(c, NotedLR) and c.by_batch and c.name],
        )
        for _, callback in self.callbacks:
            if isinstance(callback, BatchSizeSchedule):
                callback.on_epoch_begin(twin)
        columns = [*(rows.tolist() for rows in steps[:3]), steps.group_lrs[:, 0].tolist(), steps.norms.tolist()]
        for loss, n_rows, lr, first_lr, norms in zip(*columns, strict=True) if self.has_steps else ():
            history.new_batch()
            row = {"lr": lr} if self.has_lrs else {}
            events = {callback.name: first_lr for callback in noted}
            for name, value in {**row, "train_loss": loss, "train_batch_size": n_rows, **events}.items():
                history.record_batch(name, value)
            for i, callback in self.clips:
                callback.repeat(twin, norms[i])
        history.record("train_batch_count", len(steps.loss))

    def _write_held(self, held: HeldEpoch) -> None:
        for loss, n_rows in zip(held.loss, held.n_rows, strict=True):
            self.history.new_batch()
            self.history.record_batch("valid_loss", loss)
            self.history.record_batch("valid_batch_size", n_rows)
        self.history.record("valid_batch_count", len(held.loss))

    def _ready_callbacks(self, steps: StepRows, held: HeldEpoch | None, seconds: float) -> None:
        """Let the callbacks know what they would have heard during the epoch."""
        for _, callback in self.callbacks:
            if isinstance(callback, EpochTimer):
                callback.epoch_start_time_ = time.time() - seconds
            elif isinstance(callback, LRSchedule):
                callback.lr_ = float(steps.lr[-1])
            elif isinstance(callback, NotedLR):
                callback.lr = float(steps.group_lrs[-1, 0])
            elif isinstance(callback, EpochScoring) and held is not None:
                callback.y_trues_, callback.y_preds_ = [held.targets], [held.outputs]

    def _twin(self, net: NeuralNet, module: RunModule | None = None) -> NeuralNet:
        """Return what stands for the run's net."""
        twin = object.__new__(type(net))
        vars(twin).update(vars(net))
        twin.history_, twin.callbacks_ = self.history, self.callbacks
        if module is not None:
            vars(twin)["module_"] = module
        return twin
