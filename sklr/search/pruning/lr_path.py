"""The cumulative sum of a schedule's multipliers at the end of each epoch, computed before training."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any

import numpy as np
from sklearn.base import clone
from skorch.callbacks import LRScheduler

from sklr.experiment.wrappers import net_of, trains_nets
from sklr.schedules import resolve_schedule

PATH = "lr_path"  # user attribute of a trial


def lr_path(estimator: Any, params: Mapping[str, Any], n_rows: int) -> np.ndarray | None:
    """Return the sum of the schedule's multipliers up to the end of each epoch, in epochs at the peak lr.

    Parameters
    ----------
    estimator : estimator
        A net, or a Pipeline or TransformedTargetRegressor around one.
    params : dict
        Parameters of a candidate.
    n_rows : int
        Number of rows in a training fold.

    Returns
    -------
    path : ndarray of shape (n_epochs,) or None
        None if the estimator does not train in epochs, or if skorch's `LRScheduler` changes the lr, because its
        multipliers are not known in advance.

    Examples
    --------
    >>> from sklr import MLP, NeuralNetClassifier
    >>> net = NeuralNetClassifier(MLP, max_epochs=4, batch_size=25)
    >>> lr_path(net, {}, 100).tolist(), lr_path(net, {"warmup_epochs": 1}, 100).tolist()
    ([1.0, 2.0, 3.0, 4.0], [0.625, 1.625, 2.625, 3.625])
    >>> lr_path(net, {"schedule": "linear"}, 100).round(2).tolist()
    [0.91, 1.56, 1.97, 2.12]
    """
    if not trains_nets(estimator):
        return None
    net = net_of(clone(estimator).set_params(**clone(dict(params), safe=False)))
    if any(_is_scheduler(callback) for callback in net.callbacks or []):
        return None
    schedule = resolve_schedule(getattr(net, "schedule", None), getattr(net, "warmup_epochs", 0))
    n_steps = ceil(n_rows / net.batch_size) if net.batch_size > 0 else 1
    horizon = getattr(net, "schedule_epochs", None) or net.max_epochs
    epochs = [schedule.epoch_multipliers(e, n_steps, horizon, lr=net.lr) for e in range(net.max_epochs)]
    path = np.cumsum([multipliers.mean() for multipliers in epochs])
    return path if len(path) and path[-1] > 0 else None


def _is_scheduler(callback: Any) -> bool:
    """Return whether a callback, or a (name, callback) pair, is skorch's `LRScheduler`, an instance or the class."""
    found = callback[-1] if isinstance(callback, tuple) else callback
    return isinstance(found, LRScheduler) or found is LRScheduler
