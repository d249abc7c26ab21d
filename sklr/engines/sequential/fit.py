"""Two ways to fit an estimator: at once, as scikit-learn does, or a net epoch by epoch; nets are watched in both."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from skorch import NeuralNet
from skorch.callbacks import Callback

from sklr._utils.random import RandomStream
from sklr.callbacks._stop import best_weights, remember_best
from sklr.engines.sequential.monitor import CatchUp, Guard, Watcher, ctrl_c_comes_through
from sklr.exceptions import SettingsWarning
from sklr.experiment.cell_data import CellData
from sklr.experiment.wrappers import is_net, net_in_place
from sklr.nets._sklearn_callbacks import raised_by_callback

WATCHER = "sklr_watcher"  # its name among the net's callbacks, which must not be one of the user's


class WholeFit:
    """Any estimator, fitted by one call of its own `fit`.

    The net it is, or ends in as a pipeline does, is watched; others, wherever they are in it, are only guarded.
    """

    def __init__(self, estimator: Any, data: CellData, seed: int, score: Callable[[], float] | None):
        self.estimator, self.data, self.done = estimator, data, False
        self.watcher = Watcher(score)
        nets = [value for value in (estimator, *estimator.get_params().values()) if is_net(value)]
        # skorch's own nets draw from the global generators; ours have a stream each, and perhaps a thread each
        seedless = [net for net in nets if not hasattr(net, "random_state")]
        self.random_stream: AbstractContextManager = RandomStream(seed) if seedless else nullcontext()
        watched = net_in_place(estimator)
        for net in nets:
            # a net that its owner clones must not take the watcher along, nor the data behind it
            _add_callbacks(net, *([CatchUp(self.watcher), self.watcher] if net is watched else [Guard()]))

    def advance(self, n_epochs: int | None = None) -> None:
        """Fit; there is nothing to pause for."""
        X, y, params = self.data.X_train, self.data.y_train, self.data.fit_params
        with self.random_stream, ctrl_c_comes_through(), warnings.catch_warnings():
            warnings.simplefilter("ignore", SettingsWarning)  # said once for a search, not for each of its fits
            _ = self.estimator.fit(X, **params) if y is None else self.estimator.fit(X, y, **params)
        self.done = True


def _add_callbacks(net: NeuralNet, *callbacks: Callback) -> None:
    """Add one callback after the net's own, or one before and one after them."""
    if net.callbacks != "disable":
        *before, after = ((f"{WATCHER}_{i}", callback) for i, callback in enumerate(callbacks))
        net.set_params(verbose=0, callbacks=[*before, *(net.callbacks or []), after])


def start_net(net: NeuralNet, data: CellData, seed: int) -> tuple[Any, Any, AbstractContextManager]:
    """Set a net up for a new training, as its own `fit` does.

    Returns
    -------
    X, y
        As the net's `fit_loop` takes them.
    stream : context manager
        The random numbers of this training.
    """
    if hasattr(net, "start_fit"):
        X, y = net.start_fit(data.X_train, data.y_train, data.fit_params.get("sample_weight"))
        return X, y, net.random_stream()
    stream = RandomStream(seed)
    with stream:
        net.initialize()
    net.check_data(data.X_train, data.y_train)  # skorch's own classifiers find their classes in it
    return data.X_train, data.y_train, stream


class EpochFit:
    """A skorch net, trained by its own loop and its own callbacks, paused between epochs where asked.

    skorch's ``fit`` is ``initialize``, ``on_train_begin``, the epochs, ``on_train_end``; so is this, but Ctrl-C is not
    swallowed on the way, and a pause restarts no schedule.
    """

    def __init__(self, net: NeuralNet, data: CellData, seed: int, score: Callable[[], float] | None):
        self.net, self.data, self.done = net, data, False
        self.watcher = Watcher(score)
        self.seed, self.began = seed, False
        self.parts: tuple[Any, Any] | None = None  # what `train_split` has made of the rows

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "best": best_weights(getattr(self.net, "callbacks_", []))}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({name: value for name, value in state.items() if name != "best"})
        remember_best(getattr(self.net, "callbacks_", []), state["best"])

    def advance(self, n_epochs: int | None = None) -> None:
        """Train `n_epochs` more epochs, or all that are left."""
        if not self.began:
            self.begin()
        left = self.net.max_epochs - len(self.net.history_)
        epochs = left if n_epochs is None else min(n_epochs, left)
        self._train(epochs, paused=epochs < left)
        if self.done or epochs == left:
            self._end()

    def begin(self) -> None:
        """Initialise the net, and tell its callbacks that training begins."""
        net = self.net
        self.verbose = net.verbose
        net.set_params(verbose=0)
        self.X, self.y, self.random_stream = start_net(net, self.data, self.seed)
        net.callbacks_.append((WATCHER, self.watcher.initialize()))
        with self.random_stream:
            net.notify("on_train_begin", X=self.X, y=self.y)
        self.began = True

    def _train(self, epochs: int, *, paused: bool) -> None:
        if self.net.train_split and (paused or self.parts is not None):
            vars(self.net)["get_split_datasets"] = self._split
        try:
            with self.random_stream:
                self.net.fit_loop(self.X, self.y, epochs=epochs, **self.data.fit_params)
        except KeyboardInterrupt as error:
            if self.watcher.interrupted or not raised_by_callback(error):
                raise
            self.done = True  # the user's own early stopping
        finally:
            vars(self.net).pop("get_split_datasets", None)

    def _split(self, *data: Any, **params: Any) -> tuple[Any, Any]:
        """Split the rows once: a split that draws would hold others out after each pause."""
        if self.parts is None:
            self.parts = type(self.net).get_split_datasets(self.net, *data, **params)
        return self.parts

    def _end(self) -> None:
        self.done = True
        self.watcher.catch_up(self.net)
        with self.random_stream:
            self.net.notify("on_train_end", X=self.X, y=self.y)
        self.net.callbacks_.pop()
        self.net.set_params(verbose=self.verbose)
