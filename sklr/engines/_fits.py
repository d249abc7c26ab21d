"""Two ways to fit an estimator: at once, as scikit-learn does, or a net epoch by epoch; nets are watched in both."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from skorch import NeuralNet

from sklr._callback_bridge import raised_by_callback
from sklr._random import RandomStream
from sklr.engines._data import CellData, is_net
from sklr.engines._watch import Guard, Watcher, ctrl_c_comes_through

WATCHER = "sklr_watcher"  # its name among the net's callbacks, which must not be one of the user's


class WholeFit:
    """Any estimator, fitted by one call of its own `fit`.

    The net it is, or ends in as a pipeline does, is watched; others, wherever they are in it, are only guarded.
    """

    def __init__(self, estimator: Any, data: CellData, seed: int, score: Callable[[], float]):
        self.estimator, self.data, self.done = estimator, data, False
        self.watcher = Watcher(score)
        nets = [value for value in (estimator, *estimator.get_params().values()) if is_net(value)]
        # skorch's own nets draw from the global generators; ours have a stream each, and perhaps a thread each
        seedless = [net for net in nets if not hasattr(net, "random_state")]
        self.world: AbstractContextManager = RandomStream(seed) if seedless else nullcontext()
        last = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
        for net in nets:
            # a net that its owner clones must not take the watcher along, nor the data behind it
            _add_callback(net, self.watcher if net is last else Guard())

    def advance(self, n_epochs: int | None = None) -> None:
        """Fit; there is nothing to pause for."""
        X, y, params = self.data.X_train, self.data.y_train, self.data.fit_params
        with self.world, ctrl_c_comes_through():
            _ = self.estimator.fit(X, **params) if y is None else self.estimator.fit(X, y, **params)
        self.done = True


def _add_callback(net: NeuralNet, callback: Guard) -> None:
    if net.callbacks != "disable":
        net.set_params(verbose=0, callbacks=[*(net.callbacks or []), (WATCHER, callback)])


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
            self.begin()
        left = self.net.max_epochs - len(self.net.history_)
        epochs = left if n_epochs is None else min(n_epochs, left)
        self._train(epochs)
        if self.done or epochs == left:
            self._end()

    def begin(self) -> None:
        """Initialise the net, and tell its callbacks that training begins."""
        net = self.net
        net.set_params(verbose=0)
        self.X, self.y = self.data.X_train, self.data.y_train
        if hasattr(net, "start_fit"):
            self.X, self.y = net.start_fit(self.X, self.y, self.data.fit_params.get("sample_weight"))
            self.world = net.random_world()
        else:
            with self.world:
                net.initialize()
        net.callbacks_.append((WATCHER, self.watcher.initialize()))
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
