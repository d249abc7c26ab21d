"""The callback that saves a training after every epoch and takes it up again where it was left."""

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

_FREE = {"max_epochs", "verbose", "device", "callbacks", "warm_start"}  # what may differ when a training is taken up


class Resume(Callback):
    """Save the training to a file after every epoch; a `fit` that finds the file goes on from there.

    A training that was cut off and is started again, be it in another process, ends exactly as if it had never been
    interrupted: weights, optimizer, schedule, history, batch order and dropout, bit for bit if the net has a
    `random_state`. Only the epochs that are missing are trained, none if none is. Put it last among the callbacks, so
    that what the others write into the history is saved too.

    Parameters
    ----------
    path : str or path-like
        The file, one per training. It is replaced at once or not at all, so a crash while saving does no harm. Delete
        it to begin anew.
    every : int, default=1
        Epochs between two savings.

    Raises
    ------
    ValueError
        When training begins, if the file is of a training with other parameters or other data; `max_epochs`,
        `device`, `callbacks` and `verbose` may differ. So the runs of a search cannot share a file by accident.
    TypeError
        If the net is none of sklr's.

    Notes
    -----
    skorch's `Checkpoint` and `LoadInitState` also bring back weights, optimizer and history, and with them the place
    in a `schedule`, but batch order and dropout start over, and all of `max_epochs` is trained again.

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
        """Take the training up if it was saved and `net` is at its beginning; return how many epochs there were.

        The nets call this before all other callbacks, which look at the history when training begins.
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
        """Refuse nets that do not know of it."""
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
                f"got others: {', '.join(differing)}. Delete the file to begin anew, or give each training its own."
            )


def _settings(net: Any, X: Any, y: Any) -> dict[str, str]:
    """Return a fingerprint of each parameter and of the data; of what has none, only the kind."""
    params = {name: value for name, value in net.get_params(deep=False).items() if name not in _FREE}
    return {name: _fingerprint(value) for name, value in {**params, "X": X, "y": y}.items()}


def _fingerprint(value: Any) -> str:
    if isinstance(value, torch.nn.Module | torch.utils.data.Dataset | np.random.RandomState):
        return type(value).__name__  # they change while training, or by being drawn from
    try:
        return joblib.hash(value)
    except Exception:  # a lambda, say
        return type(value).__name__


def _remember_best(net: Any) -> None:
    """Tell skorch's `PassthroughScoring` the best value so far, which it alone does not look up in the history."""
    for _, callback in net.callbacks_:
        if isinstance(callback, PassthroughScoring):
            values = [row[callback.name] for row in net.history if callback.name in row]
            if values and callback.lower_is_better is not None:
                callback.best_score_ = min(values) if callback.lower_is_better else max(values)


def _streams(net: Any) -> dict[str, Any]:
    """Return where the net's random streams stand; called while the training is in its own."""
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
