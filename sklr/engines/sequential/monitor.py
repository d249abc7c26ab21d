"""Callbacks that monitor a net in training: they record epochs and stop it when it diverges; and Ctrl-C handling."""

from __future__ import annotations

import copy
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from skorch import NeuralNet
from skorch.callbacks import Callback

from sklr._utils.divergence import exploded
from sklr._utils.random import RandomStream
from sklr.callbacks import StopOnDivergence, finished_epochs
from sklr.callbacks._epochs import no_batches
from sklr.callbacks._net_lr import NetLR
from sklr.exceptions import TrainingDiverged
from sklr.experiment.wrappers import fitted_around, fitted_net
from sklr.nets._parts import _WHILE_TRAINING
from sklr.results import EpochRow


class Guard(StopOnDivergence):
    """Stop a training that diverges, even if only its last step does, after which no training loss is computed.

    An epoch without a batch to train on is an error, as in sklr's nets.
    """

    def on_epoch_end(self, net: NeuralNet, dataset_train: Any = None, **kwargs: Any) -> None:
        """Raise if the epoch had no batch to train on."""
        if not net.history[-1].get("train_batch_count"):
            raise no_batches(net, len(net.history), net.get_iterator(dataset_train, training=True))

    def on_train_end(self, net: NeuralNet, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Raise if the loss of a batch has exploded; nothing is drawn from the training's random stream."""
        losses = _losses(net)
        if not losses:
            return
        modes = [getattr(net, f"{name}_").training for name in net._modules]
        with RandomStream(0):
            batch = next(iter(net.get_iterator(net.get_dataset(X, y), training=False)))
            loss = float(net.validation_step(batch)["loss"])
        net._set_training(any(modes))  # as it was: a scorer may read it
        if exploded(loss, losses[0]):
            raise TrainingDiverged(len(losses), loss)


class Watcher(Guard):
    """Record the lr, training loss and validation score of every epoch, and stop the training if it diverges.

    Parameters
    ----------
    score : callable or None
        Returns the current score on the validation rows, or NaN; None for no scores.
    """

    def __init__(self, score: Callable[[], float] | None):
        self.score = score
        self.history: list[EpochRow] = []
        self.seconds = 0.0  # spent in this callback, subtracted from the fit time
        self.lr = np.nan
        self.interrupted = False  # whether Ctrl-C was pressed while scoring

    def on_train_begin(self, net: NeuralNet, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Find which parameter groups use the net's lr, and count the epochs of earlier trainings."""
        self.net_lr, self.n_before = NetLR(net), len(finished_epochs(net))

    def on_grad_computed(self, net: NeuralNet, named_parameters: Any, **kwargs: Any) -> None:
        """Read the net's lr just before the optimizer step: schedulers change it before and after that."""
        self.lr = self.net_lr.now(net)

    def on_epoch_end(self, net: NeuralNet, dataset_train: Any = None, **kwargs: Any) -> None:
        """Record the epoch, without drawing from the training's random stream."""
        super().on_epoch_end(net, dataset_train, **kwargs)
        self._record(net)

    def catch_up(self, net: NeuralNet) -> None:
        """Record the last epoch if this callback was not notified of it, since another one stopped the training."""
        if len(finished_epochs(net)) > self.n_before + len(self.history):
            self._record(net)

    def _record(self, net: NeuralNet) -> None:
        start = time.time()
        row = EpochRow(len(self.history), float(self.lr), _train_loss(net), self._score_now())
        self.history.append(row)
        self.seconds += time.time() - start

    def _score_now(self) -> float:
        if self.score is None:
            return float("nan")
        try:
            return self.score()
        except KeyboardInterrupt:
            self.interrupted = True
            raise


def detached_copy(estimator: Any) -> Any:
    """Return a copy of a net in training, or of the estimator around it, that shares nothing with the net.

    So whatever a scorer does to it does not change the training. The attributes are copied one by one, since copying a
    net pickles it, which fails for modules defined in functions.
    """
    net = fitted_net(estimator)
    parts = {name: _without_guards(value) for name, value in vars(net).items() if name not in _WHILE_TRAINING}
    twin = object.__new__(type(net))
    try:
        vars(twin).update(copy.deepcopy(parts))
    except Exception:  # a user's attribute may not be copyable, such as a stored output that requires a gradient
        return estimator
    return fitted_around(estimator, estimator, twin)


def _without_guards(value: Any) -> Any:
    """Return a list of callbacks without our own, which refer to the training and its data."""
    if not isinstance(value, list):
        return value
    return [one for one in value if not isinstance(one[-1] if isinstance(one, tuple) else one, Guard | CatchUp)]


class CatchUp(Callback):
    """The first callback to be notified that a training has ended: it lets the watcher, the last one, catch up.

    The callbacks in between may load the weights of another epoch, whose score must not be recorded.
    """

    def __init__(self, watcher: Watcher):
        self.watcher = watcher

    def on_train_end(self, net: NeuralNet, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Record the last epoch."""
        self.watcher.catch_up(net)


def is_lost(estimator: Any) -> bool:
    """Say whether the last loss of the net in a fitted estimator has exploded."""
    net = fitted_net(estimator)
    losses = _losses(net) if isinstance(net, NeuralNet) else []
    return bool(losses) and bool(exploded(losses[-1], losses[0]))


def _losses(net: NeuralNet) -> list[float]:
    return [row["train_loss"] for epoch in net.history_ for row in epoch["batches"] if "train_loss" in row]


def _train_loss(net: NeuralNet) -> float:
    batches = [row for row in net.history_[-1]["batches"] if "train_loss" in row]
    if not batches:
        return float("nan")
    sizes = [row["train_batch_size"] for row in batches]
    return float(np.average([row["train_loss"] for row in batches], weights=sizes))


@contextmanager
def ctrl_c_comes_through() -> Iterator[None]:
    """Raise KeyboardInterrupt at the end if a Ctrl-C was swallowed within, as skorch's `fit` does.

    >>> import os
    >>> try:
    ...     with ctrl_c_comes_through():
    ...         try:
    ...             os.kill(os.getpid(), signal.SIGINT)
    ...         except KeyboardInterrupt:
    ...             print("swallowed")
    ... except KeyboardInterrupt:
    ...     print("and back")
    swallowed
    and back
    """
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(usual):
        yield  # only the main thread handles signals, and this one may be ignored
        return
    heard = []

    def hear(*signal_and_frame: Any) -> None:
        heard.append(signal_and_frame)
        usual(*signal_and_frame)

    signal.signal(signal.SIGINT, hear)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
    if heard:
        raise KeyboardInterrupt
