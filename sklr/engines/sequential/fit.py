"""Two ways to fit an estimator: by one call of `fit`, or a net epoch by epoch. Both monitor the net."""

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

WATCHER = "sklr_watcher"  # name of our callback in the net; must differ from the user's names


class WholeFit:
    """Fits any estimator by one call of its own `fit`.

    The net that it is, or that it ends in, as a pipeline does, gets a `Watcher`. Nets elsewhere in it get a `Guard`.
    """

    def __init__(self, estimator: Any, data: CellData, seed: int, score: Callable[[], float] | None):
        self.estimator, self.data, self.done = estimator, data, False
        self.watcher = Watcher(score)
        nets = [value for value in (estimator, *estimator.get_params().values()) if is_net(value)]
        # skorch's own nets draw from the global generators, which are seeded here; sklr's have a random stream each
        seedless = [net for net in nets if not hasattr(net, "random_state")]
        self.random_stream: AbstractContextManager = RandomStream(seed) if seedless else nullcontext()
        watched = net_in_place(estimator)
        for net in nets:
            # not on nets that a meta-estimator clones: the clones would copy the watcher, and the data it refers to
            _add_callbacks(net, *([CatchUp(self.watcher), self.watcher] if net is watched else [Guard()]))

    def advance(self, n_epochs: int | None = None) -> None:
        """Fit to the end, whatever `n_epochs` is."""
        X, y, params = self.data.X_train, self.data.y_train, self.data.fit_params
        with self.random_stream, ctrl_c_comes_through(), warnings.catch_warnings():
            warnings.simplefilter("ignore", SettingsWarning)  # the search gives it once, not in each fit
            _ = self.estimator.fit(X, **params) if y is None else self.estimator.fit(X, y, **params)
        self.done = True


def _add_callbacks(net: NeuralNet, *callbacks: Callback) -> None:
    """Add one callback after the net's own ones, or two: one before and one after them."""
    if net.callbacks != "disable":
        *before, after = ((f"{WATCHER}_{i}", callback) for i, callback in enumerate(callbacks))
        net.set_params(verbose=0, callbacks=[*before, *(net.callbacks or []), after])


def start_net(net: NeuralNet, data: CellData, seed: int) -> tuple[Any, Any, AbstractContextManager]:
    """Initialise a net for a new training, as its own `fit` does.

    Returns
    -------
    X, y
        As the net's `fit_loop` takes them.
    stream : context manager
        The random stream of this training.
    """
    if hasattr(net, "start_fit"):
        X, y = net.start_fit(data.X_train, data.y_train, data.fit_params.get("sample_weight"))
        return X, y, net.random_stream()
    stream = RandomStream(seed)
    with stream:
        net.initialize()
    net.check_data(data.X_train, data.y_train)  # skorch's own classifiers set `classes_` here
    return data.X_train, data.y_train, stream


class EpochFit:
    """Trains a skorch net by its own `fit_loop` and callbacks, and can pause between epochs.

    It makes the same calls as skorch's ``fit``: ``initialize``, ``on_train_begin``, the epochs, ``on_train_end``. But
    it does not swallow Ctrl-C, and no schedule restarts after a pause, as it would with ``partial_fit``.
    """

    def __init__(self, net: NeuralNet, data: CellData, seed: int, score: Callable[[], float] | None):
        self.net, self.data, self.done = net, data, False
        self.watcher = Watcher(score)
        self.seed, self.began = seed, False
        self.parts: tuple[Any, Any] | None = None  # the datasets that `train_split` returned

    # skorch's EarlyStopping leaves the best weights out when it is pickled, as a paused run on its way to a worker is
    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "best": best_weights(getattr(self.net, "callbacks_", []))}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({name: value for name, value in state.items() if name != "best"})
        remember_best(getattr(self.net, "callbacks_", []), state["best"])

    def advance(self, n_epochs: int | None = None) -> None:
        """Train for `n_epochs` more epochs, or for all that are left."""
        if not self.began:
            self.begin()
        left = self.net.max_epochs - len(self.net.history_)
        epochs = left if n_epochs is None else min(n_epochs, left)
        self._train(epochs, paused=epochs < left)
        if self.done or epochs == left:
            self._end()

    def begin(self) -> None:
        """Initialise the net, and notify its callbacks that training begins."""
        net = self.net
        self.verbose = net.verbose
        net.set_params(verbose=0)
        self.X, self.y, self.random_stream = start_net(net, self.data, self.seed)
        net.callbacks_.append((WATCHER, self.watcher.initialize()))  # last, to record what the others have written
        with self.random_stream:
            net.notify("on_train_begin", X=self.X, y=self.y)
        self.began = True

    def _train(self, epochs: int, *, paused: bool) -> None:
        if self.net.train_split and (paused or self.parts is not None):
            vars(self.net)["get_split_datasets"] = self._split
        try:
            with self.random_stream, warnings.catch_warnings():
                warnings.simplefilter("ignore", SettingsWarning)  # as in `WholeFit.advance`
                self.net.fit_loop(self.X, self.y, epochs=epochs, **self.data.fit_params)
        except KeyboardInterrupt as error:
            if self.watcher.interrupted or not raised_by_callback(error):
                raise
            self.done = True  # a callback of the user's stops early by raising KeyboardInterrupt, as skorch's do
        finally:
            vars(self.net).pop("get_split_datasets", None)

    def _split(self, *data: Any, **params: Any) -> tuple[Any, Any]:
        """Split the rows once: a random split would hold out other rows after each pause."""
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
