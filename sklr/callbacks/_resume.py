"""A callback that saves the state of a training after every epoch, and resumes the training from it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from skorch.callbacks import Callback, PassthroughScoring
from skorch.history import History

from sklr._utils.random import global_state, set_global_state
from sklr._utils.validation import check_count, must_be
from sklr.callbacks._epochs import finished_epochs

_FREE = {"max_epochs", "verbose", "device", "callbacks", "warm_start"}  # may differ when a training is resumed


class Resume(Callback):
    """Save the training to a file after every epoch; a `fit` that finds the file resumes from it.

    A training that was interrupted and is started again, in the same or another process, ends exactly as if it had
    not been interrupted: weights, optimizer, schedule, history, batch order and dropout are restored, bit for bit if
    the net has a `random_state`. Only the missing epochs are trained. Put this callback last, so that the values that
    other callbacks write into the history are saved too.

    Parameters
    ----------
    path : str or path-like
        The file, one per training. It is replaced atomically, so a crash while saving does not damage it. Delete it to
        start from the beginning.
    every : int, default=1
        Save after every so many epochs.

    Raises
    ------
    ValueError
        When training begins, if the file was saved with other parameters or other data; `max_epochs`, `device`,
        `callbacks`, `verbose` and `warm_start` may differ. So the runs of a search cannot share a file by accident.
    TypeError
        If the net is not one of sklr's nets.

    Notes
    -----
    skorch's `Checkpoint` and `LoadInitState` also restore weights, optimizer and history, and thus the position in a
    `schedule`, but batch order and dropout start again from the seed, and all of `max_epochs` is trained again.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from sklr import MLP, NeuralNetRegressor
    >>> path = Path(tempfile.mkdtemp()) / "training.pt"
    >>> X, y = np.eye(4), np.arange(4.0)
    >>> net = NeuralNetRegressor(MLP, max_epochs=2, random_state=0, callbacks=[Resume(path)]).fit(X, y)
    >>> len(net.set_params(max_epochs=5).fit(X, y).history_)  # the last three are new
    5
    >>> net.set_params(lr=0.5).fit(X, y)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: the training saved in '...' must be one with the same parameters and data, got others: lr. ...
    """

    def __init__(self, path: Any, every: int = 1):
        self.path = path
        self.every = every

    def load(self, net: Any, X: Any, y: Any) -> int:
        """Load the saved training if there is one and `net` has not been trained; return its number of epochs.

        The nets call this before all other callbacks, which read the history when training begins.
        """
        check_count("every of Resume", self.every)
        self.settings_ = _settings(net, X, y)
        if finished_epochs(net) or not Path(self.path).exists():
            return 0
        saved = torch.load(self.path, map_location="cpu", weights_only=True)
        self._compare(saved["settings"])
        for part in ("module_", "criterion_", "optimizer_"):
            getattr(net, part).load_state_dict(saved[part])
        net.history = History(json.loads(saved["history"]))
        _set_streams(net, saved["streams"])
        _remember_best(net)
        return len(finished_epochs(net))

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Raise a TypeError for nets that do not call `load`."""
        if not hasattr(net, "random_stream"):
            advice = "For others there are skorch's Checkpoint and LoadInitState."
            raise TypeError(must_be("the net of Resume", "one of sklr's nets", type(net).__name__, advice))

    def on_epoch_end(self, net: Any, dataset_train: Any = None, dataset_valid: Any = None, **kwargs: Any) -> None:
        """Save everything that the rest of the training depends on."""
        if len(net.history) % self.every:
            return
        parts = {part: getattr(net, part).state_dict() for part in ("module_", "criterion_", "optimizer_")}
        saved = {
            **parts,
            "history": json.dumps(net.history.to_list()),
            "streams": _streams(net),
            "settings": self.settings_,
        }
        unfinished = Path(f"{self.path}.unfinished")
        torch.save(saved, unfinished)
        os.replace(unfinished, self.path)

    def _compare(self, saved: dict[str, str]) -> None:
        differing = sorted(name for name, value in self.settings_.items() if saved.get(name, value) != value)
        if differing:
            raise ValueError(
                f"the training saved in {os.fspath(self.path)!r} must be one with the same parameters and data, "
                f"got others: {', '.join(differing)}. Delete the file to start again, or use one file per training."
            )


def _settings(net: Any, X: Any, y: Any) -> dict[str, str]:
    """Return a fingerprint of each parameter and of the data; the type's name for values that have none."""
    params = {name: value for name, value in net.get_params(deep=False).items() if name not in _FREE}
    return {name: _fingerprint(value) for name, value in {**params, "X": X, "y": y}.items()}


def _fingerprint(value: Any) -> str:
    if isinstance(value, torch.nn.Module | torch.utils.data.Dataset | np.random.RandomState):
        return type(value).__name__  # their state changes during training, or by drawing from them
    try:
        return joblib.hash(value)
    except Exception:  # not picklable, such as a lambda
        return type(value).__name__


def _remember_best(net: Any) -> None:
    """Restore the best value of skorch's `PassthroughScoring`, the only callback that does not read it from history."""
    for _, callback in net.callbacks_:
        if isinstance(callback, PassthroughScoring):
            values = [row[callback.name] for row in net.history if callback.name in row]
            if values and callback.lower_is_better is not None:
                callback.best_score_ = min(values) if callback.lower_is_better else max(values)


def _streams(net: Any) -> dict[str, Any]:
    """Return the state of the net's random streams; called inside the stream, whose state is then the global one."""
    if net.random_state is None:
        return {}
    cpu, cuda, (kind, keys, *rest) = global_state()
    order = net._batch_order.get_state()
    return {"cpu": cpu, "cuda": cuda, "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), *rest], "order": order}


def _set_streams(net: Any, streams: dict[str, Any]) -> None:
    if not streams:
        return
    kind, keys, *rest = streams["numpy"]
    set_global_state((streams["cpu"], streams["cuda"], (kind, keys.numpy().astype(np.uint32), *rest)))
    net._batch_order.set_state(streams["order"])
