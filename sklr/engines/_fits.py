"""Two ways to fit an estimator: at once, as scikit-learn does, or a net epoch by epoch; nets are watched in both."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from skorch import NeuralNet

from sklr._callback_bridge import raised_by_callback
from sklr._divergence import exploded
from sklr._random import RandomStream
from sklr.callbacks import StopOnDivergence
from sklr.engines._data import CellData, is_net
from sklr.exceptions import TrainingDiverged
from sklr.results import EpochRow


class Watcher(StopOnDivergence):
    """Write down lr, training loss and validation score of every epoch, and end the training if it diverges.

    Parameters
    ----------
    score : callable
        Returns the present score on the validation rows; it may fail.
    """

    def __init__(self, score: Callable[[], float]):
        self.score = score
        self.history: list[EpochRow] = []
        self.seconds = 0.0  # spent here, and no part of the training's time
        self.lr = np.nan
        self.interrupted = False  # by Ctrl-C while scoring

    def on_grad_computed(self, net: NeuralNet, named_parameters: Any, **kwargs: Any) -> None:
        """Read the lr just before the optimizer uses it: schedulers change it before and after."""
        self.lr = net.optimizer_.param_groups[0]["lr"]

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        """Add the epoch's row, without drawing from the training's random stream."""
        start = time.time()
        row = EpochRow(len(self.history), float(self.lr), _train_loss(net), self._score_now())
        self.history.append(row)
        self.seconds += time.time() - start

    def _score_now(self) -> float:
        with RandomStream(0), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is wrong with the scorer is said once, at the end
            try:
                return float(self.score())
            except KeyboardInterrupt:
                self.interrupted = True
                raise
            except Exception:
                return float("nan")

    def on_train_end(self, net: NeuralNet, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Raise if the very last step blew the net up, which no training loss has seen."""
        losses = [row["train_loss"] for epoch in net.history_ for row in epoch["batches"] if "train_loss" in row]
        if not losses:
            return
        with RandomStream(0):
            batch = next(iter(net.get_iterator(net.get_dataset(X, y), training=False)))
            loss = float(net.validation_step(batch)["loss"])
        if exploded(loss, losses[0]):
            raise TrainingDiverged(len(losses), loss)


def _train_loss(net: NeuralNet) -> float:
    batches = [row for row in net.history_[-1]["batches"] if "train_loss" in row]
    if not batches:
        return float("nan")
    sizes = [row["train_batch_size"] for row in batches]
    return float(np.average([row["train_loss"] for row in batches], weights=sizes))


class WholeFit:
    """Any estimator, fitted by one call of its own `fit`."""

    def __init__(self, estimator: Any, data: CellData, seed: int, score: Callable[[], float]):
        self.estimator, self.data, self.done = estimator, data, False
        self.watcher = Watcher(score)
        nets = [value for value in estimator.get_params().values() if is_net(value)]
        self.world: AbstractContextManager = RandomStream(seed) if nets or is_net(estimator) else nullcontext()
        last = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
        if is_net(last) and last.callbacks != "disable":
            last.set_params(verbose=0, callbacks=[*(last.callbacks or []), ("watcher", self.watcher)])

    def advance(self, n_epochs: int | None = None) -> None:
        """Fit; there is nothing to pause for."""
        X, y, params = self.data.X_train, self.data.y_train, self.data.fit_params
        with self.world:
            _ = self.estimator.fit(X, **params) if y is None else self.estimator.fit(X, y, **params)
        self.done = True


class EpochFit:
    """A skorch net, trained by its own loop and its own callbacks, paused between epochs where asked.

    skorch's ``fit`` is ``initialize``, ``on_train_begin``, the epochs, ``on_train_end``; so is this, but Ctrl-C is not
    swallowed on the way, and a pause restarts no schedule.
    """

    def __init__(self, net: NeuralNet, data: CellData, seed: int, score: Callable[[], float]):
        self.net, self.data, self.done = net, data, False
        self.watcher = Watcher(score)
        self.world: AbstractContextManager = RandomStream(seed)
        self.began = False

    def advance(self, n_epochs: int | None = None) -> None:
        """Train `n_epochs` more epochs, or all that are left."""
        if not self.began:
            self._begin()
        left = self.net.max_epochs - len(self.net.history_)
        epochs = left if n_epochs is None else min(n_epochs, left)
        self._train(epochs)
        if self.done or epochs == left:
            self._end()

    def _begin(self) -> None:
        net = self.net
        net.set_params(verbose=0)
        self.X, self.y = self.data.X_train, self.data.y_train
        if hasattr(net, "start_fit"):
            self.X, self.y = net.start_fit(self.X, self.y)
            self.world = net.random_world()
        else:
            with self.world:
                net.initialize()
        net.callbacks_.append(("watcher", self.watcher.initialize()))
        with self.world:
            net.notify("on_train_begin", X=self.X, y=self.y)
        self.began = True

    def _train(self, epochs: int) -> None:
        try:
            with self.world:
                self.net.fit_loop(self.X, self.y, epochs=epochs, **self.data.fit_params)
        except KeyboardInterrupt as error:
            if self.watcher.interrupted or not raised_by_callback(error):
                raise
            self.done = True  # the user's own early stopping

    def _end(self) -> None:
        self.done = True
        with self.world:
            self.net.notify("on_train_end", X=self.X, y=self.y)
        self.net.callbacks_.pop()
