"""The history of one run of a pack, and its callbacks, as if the run were trained by its own net.

The callbacks are skorch's own objects, copied for each run. They are notified by a stand-in for the run's net, which
has the run's history and module, and everything else from the net of the run's cell.
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

# The callbacks that a pack notifies. The others that a stack can have (see `checks.callbacks`) only look on, or the
# stack does their work.
NOTIFIED = (
    BatchSizeSchedule,
    GradientClipping,
    EarlyStopping,
    EpochScoring,
    EpochTimer,
    LRSchedule,
    LRScheduler,
    PassthroughScoring,
)


class StepRows(NamedTuple):
    """The steps of one epoch of one run.

    Parameters
    ----------
    loss, n_rows, lr : ndarray, shape (n_steps,)
        Training loss, number of rows and learning rate of each step.
    group_lrs : ndarray, shape (n_steps, n_groups)
        The learning rates of the parameter groups.
    norms : ndarray, shape (n_steps, n_clips)
        The gradient norms before each clipping.
    """

    loss: np.ndarray
    n_rows: np.ndarray
    lr: np.ndarray
    group_lrs: np.ndarray
    norms: np.ndarray


class NotedLR(Callback):
    """Stand-in for skorch's `LRScheduler` that only records learning rates: the pack has computed them beforehand."""

    def __init__(self, scheduler: LRScheduler):
        self.name, self.by_batch = scheduler.event_name, scheduler.step_every == "batch"
        self.lr, self.n_epochs = float("nan"), 0

    def on_epoch_end(self, net: NeuralNet, dataset_train: Any = None, dataset_valid: Any = None, **kwargs: Any) -> None:
        """Record the learning rate of the first parameter group."""
        self.n_epochs += 1
        if self.name is not None and not self.by_batch:
            net.history.record(self.name, self.lr)


def written_by(callback: Callback) -> tuple[str, ...]:
    """Return the columns of the history into which a callback of skorch writes scores."""
    if isinstance(callback, PassthroughScoring | EpochScoring):
        name = callback.name if isinstance(callback, PassthroughScoring) else callback.name_
        return name, f"{name}_best"
    return ()


def listeners(net: NeuralNet, read: Iterable[str], *, whole: bool) -> list[tuple[str, Callback]]:
    """Return the callbacks to notify after each epoch, with their names.

    Parameters
    ----------
    net : NeuralNet
        Initialized.
    read : iterable of str
        Columns of the history that something other than a callback reads.
    whole : bool
        Whether the history must be complete. If not, scores that nothing reads are left out. Scoring callbacks that
        the user has added stay in any case: an exception that they raise must end the training.
    """
    known = [(name, callback) for name, callback in net.callbacks_ if isinstance(callback, NOTIFIED)]
    if whole:
        return known
    wanted = {*read, *(callback.monitor for _, callback in known if isinstance(callback, EarlyStopping))}

    def is_needed(callback: Callback) -> bool:
        # skorch's classifiers add accuracy by default; any other score is the user's
        is_own = isinstance(callback, EpochScoring) and callback.scoring != "accuracy"
        return isinstance(callback, EarlyStopping) or is_own or not wanted.isdisjoint(written_by(callback))

    return [(name, callback) for name, callback in known if is_needed(callback)]


class RunModule:
    """Stand-in for the module of one run of a stack, for callbacks that save its weights or load others.

    Parameters
    ----------
    stack : ModelStack
    i, cell : int
        The run's place in the stack.
    like : nn.Module
        A module of the same structure, used as a buffer for the weights.

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
        """Return the run's weights and buffers; the next call, also for another run, overwrites them."""
        return self.stack.load_run(self.i, self.cell, self.like).state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copy weights and buffers into the stack."""
        self.stack.load_run(self.i, self.cell, self.like).load_state_dict(state)
        self.stack.store_run(self.i, self.cell, self.like)
        self.is_changed = True


class Record:
    """The history of one run, and its callbacks.

    Parameters
    ----------
    net : NeuralNet
        The net of the run's cell, initialized.
    callbacks : sequence of (name, callback)
        As `listeners` returns them; copies of them are notified.
    whole : bool
        Whether the history must also have the steps of each epoch.

    Attributes
    ----------
    history : History
        The epochs that the run has completed.
    last : StepRows or None
        The steps of the last of them.
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
            if not isinstance(callback, LRSchedule):  # this one is another candidate's; `hand_over` starts the run's
                callback.on_train_begin(twin, X=None, y=None)

    def __getstate__(self) -> dict[str, Any]:
        # skorch's EarlyStopping leaves the best weights out of its pickle
        return {**vars(self), "best": best_weights(self.callbacks)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({name: value for name, value in state.items() if name != "best"})
        remember_best(self.callbacks, state["best"])

    def end_epoch(
        self, net: NeuralNet, module: RunModule, steps: StepRows, held: HeldEpoch | None, seconds: float
    ) -> bool:
        """Record an epoch and notify the callbacks; return whether one of them ends the training.

        Parameters
        ----------
        net : NeuralNet
            The net of the run's cell.
        module : RunModule
            The run's module, with its current weights.
        steps : StepRows
        held : HeldEpoch or None
            None without held-out rows.
        seconds : float
            The duration of the epoch.
        """
        self.last = steps
        self.history.new_epoch()
        self.history.record("epoch", len(self.history))
        self._write_steps(steps, self._twin(net))
        if held is not None:
            self._write_held(held)
        self._ready_callbacks(steps, held, seconds)
        # a placeholder, never read: the callbacks know the outputs for these rows
        rows = None if held is None else np.empty((sum(held.n_rows), 0))
        try:
            self._twin(net, module).notify("on_epoch_end", dataset_train=None, dataset_valid=rows)
        except KeyboardInterrupt as error:  # skorch's callbacks stop the training with it, and users do with Ctrl-C
            if not raised_by_callback(error):
                raise
            return True
        return False

    def end_training(self, net: NeuralNet, module: RunModule) -> None:
        """Notify the callbacks that the training has ended; one may load the weights of an earlier epoch."""
        self._twin(net, module).notify("on_train_end", X=None, y=None)

    def hand_over(self, net: NeuralNet) -> None:
        """Give the run's history, and the state of its callbacks, to a net that has been set up for it."""
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
                callback.on_train_begin(net)  # it must not share its list of norms with the record's copy

    def _catch_up(self, callback: LRScheduler, net: NeuralNet, n_epochs: int) -> None:
        """Step a scheduler on its net's optimizer, which is at its peak lrs, as often as the training did."""
        rows, net.history_ = net.history_, History()  # with a history skorch would start it where that ends
        callback.on_train_begin(net)
        net.history_ = rows
        by_batch, is_plateau = callback.step_every == "batch", callback.policy_ is ReduceLROnPlateau
        for row in rows if by_batch else rows[:n_epochs]:
            n_times = row["train_batch_count"] if by_batch else 1
            for _ in range(n_times):
                net.optimizer_.step()  # without gradients nothing moves; schedulers warn if no step came before theirs
                callback.lr_scheduler_.step(*[row[callback.monitor]] * is_plateau)
            callback.batch_idx_ += n_times * by_batch

    def _write_steps(self, steps: StepRows, twin: NeuralNet) -> None:
        history = self.history
        noted = [c for _, c in self.callbacks if isinstance(c, NotedLR) and c.by_batch and c.name]
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
        """Set the state that the callbacks would have gathered during the epoch."""
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
        """Return the stand-in for the run's net: its cell's net with the run's history, callbacks and module."""
        twin = object.__new__(type(net))
        vars(twin).update(vars(net))
        twin.history_, twin.callbacks_ = self.history, self.callbacks
        if module is not None:
            vars(twin)["module_"] = module
        return twin
