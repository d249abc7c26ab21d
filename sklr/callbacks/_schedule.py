"""A callback that sets the learning rate by a schedule, and records it in the history."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from skorch.callbacks import Callback

from sklr._utils.validation import check_count
from sklr.callbacks._epochs import finished_epochs, no_batches
from sklr.callbacks._net_lr import NetLR, peak_lr
from sklr.schedules import Schedule, resolve_schedule


class LRSchedule(Callback):
    """Set the learning rate of any skorch net by a schedule, and record it in the net's history.

    Before each step, the lr of every parameter group is set to its own peak times the schedule's multiplier. Absolute
    learning rates of a schedule (`max_lr`, `eta_min`, `min_lr`) refer to the net's lr, and groups keep their ratio to
    it. The position in the schedule is read from the net's history, so a training continued by `partial_fit` or from a
    checkpoint (with optimizer and history loaded) continues its schedule as if it had not been interrupted. The peak is
    stored in the group as `initial_lr`, as by torch's schedulers; an lr set by anyone else becomes the new peak.

    Without a schedule or warmup the lr is only recorded, so that skorch's `LRScheduler` can be used.

    Parameters
    ----------
    schedule : None, str, Schedule, torch scheduler class or partial, or callable, default=None
        As in `sklr.schedules.resolve_schedule`; None is a constant lr.
    warmup_epochs : float, default=0
        Number of epochs during which the lr rises, step by step, to exactly its peak. The schedule starts after them.
    schedule_epochs : int, optional
        The horizon of the schedule in epochs, including the warmup; by default the net's `max_epochs`. Set it if a
        training consists of several calls of `partial_fit`. After the horizon most schedules keep their last value.

    Attributes
    ----------
    schedule_ : Schedule
        The resolved schedule, including the warmup.
    horizon_ : int
        The horizon in epochs.
    lr_ : float
        The net's lr at the latest step, not that of a single group. It is also recorded as "lr" in the history, per
        batch, and per epoch for the last step of the epoch.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skorch import NeuralNetRegressor
    >>> net = NeuralNetRegressor(
    ...     torch.nn.Linear, module__in_features=1, module__out_features=1, lr=0.1, batch_size=4, max_epochs=1,
    ...     train_split=None, verbose=0,
    ...     callbacks=[LRSchedule("linear", warmup_epochs=1, schedule_epochs=2)],
    ... )
    >>> X = np.ones((8, 1), dtype="float32")
    >>> net = net.partial_fit(X, X).partial_fit(X, X).partial_fit(X, X)  # the third is past the horizon
    >>> [[batch["lr"] for batch in row["batches"]] for row in net.history]
    [[0.05, 0.1], [0.1, 0.05], [0.0, 0.0]]
    """

    def __init__(self, schedule: Any = None, warmup_epochs: float = 0, schedule_epochs: int | None = None):
        self.schedule = schedule
        self.warmup_epochs = warmup_epochs
        self.schedule_epochs = schedule_epochs

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Resolve the schedule, and check that the training is longer than its warmup."""
        self.schedule_, self.horizon_ = schedule_of(self, net.max_epochs)
        self.net_lr_ = NetLR(net)

    def on_epoch_begin(self, net: Any, dataset_train: Any = None, dataset_valid: Any = None, **kwargs: Any) -> None:
        """Compute the multipliers of the steps of the epoch."""
        self.step_ = 0
        self.multipliers_: np.ndarray | None = None
        self.lr_ = self.net_lr_.now(net)
        if self.schedule is None and not self.warmup_epochs:
            return
        finished = finished_epochs(net)
        self.multipliers_ = self.schedule_.epoch_multipliers(
            len(finished),
            _steps_per_epoch(net, dataset_train),
            self.horizon_,
            lr=self.net_lr_.peak(net),
            losses=_monitored(self.schedule_, finished),
        )

    def on_batch_begin(self, net: Any, batch: Any = None, training: bool | None = None, **kwargs: Any) -> None:
        """Set the lr of every group for the next step."""
        if not training:
            return
        if self.multipliers_ is not None:
            # if a loader yields more batches than its length, the last multiplier of the epoch is kept
            multiplier = float(self.multipliers_[min(self.step_, len(self.multipliers_) - 1)])
            for group in net.optimizer_.param_groups:
                _scale(group, multiplier)
        self.step_ += 1
        self.lr_ = self.net_lr_.now(net)
        net.history.record_batch("lr", self.lr_)

    def on_epoch_end(self, net: Any, dataset_train: Any = None, dataset_valid: Any = None, **kwargs: Any) -> None:
        """Record the lr of the last step of the epoch."""
        net.history.record("lr", self.lr_)


def schedule_of(asking: Any, max_epochs: int) -> tuple[Schedule, int]:
    """Return the schedule of a net or of an `LRSchedule`, including the warmup, and its horizon in epochs.

    Raises
    ------
    ValueError
        If the schedule or horizon is invalid, or the training is not longer than its warmup.

    Examples
    --------
    >>> schedule_of(LRSchedule("cosine", schedule_epochs=5), max_epochs=3)
    (Cosine(), 5)
    """
    warmup, horizon = getattr(asking, "warmup_epochs", 0), getattr(asking, "schedule_epochs", None)
    schedule, name = resolve_schedule(getattr(asking, "schedule", None), warmup), "schedule_epochs"
    if horizon is None:
        horizon, name = max_epochs, "max_epochs"
    else:
        check_count("schedule_epochs", horizon)
    if warmup and warmup >= horizon:
        raise ValueError(
            f"warmup_epochs must be less than {name}, got warmup_epochs={warmup} and {name}={horizon}. "
            "Train longer, or, if a training consists of several partial_fit, set schedule_epochs to all their epochs."
        )
    return schedule, horizon


def _steps_per_epoch(net: Any, dataset_train: Any) -> int:
    batches = net.get_iterator(dataset_train, training=True)
    try:
        n_steps = len(batches)
    except TypeError as error:  # an IterableDataset without a length
        raise TypeError(
            f"the training data must have a length for a schedule or warmup, got {dataset_train!r}. "
            "Add a __len__ to the dataset, or set neither schedule nor warmup_epochs."
        ) from error
    if not n_steps:
        raise no_batches(net, len(net.history), batches)
    return n_steps


def _monitored(schedule: Schedule, finished: list[dict[str, Any]]) -> list[float]:
    name = schedule.monitored()
    if name is None:
        return []
    for row in finished:
        if name not in row:
            known = ", ".join(sorted(key for key, value in row.items() if isinstance(value, int | float)))
            raise ValueError(f"monitor must be a column of the net's history, got {name!r}. Columns are: {known}.")
    return [row[name] for row in finished]


def _scale(group: dict[str, Any], multiplier: float) -> None:
    peak = peak_lr(group)
    if isinstance(group["lr"], torch.Tensor):
        group["lr"].fill_(peak * multiplier)  # in-place: compiled steps and CUDA graphs refer to this tensor
    else:
        group["lr"] = peak * multiplier
    # both are part of the optimizer's state dict, so after loading a checkpoint `peak_lr` still works
    group["initial_lr"], group["scheduled_lr"] = peak, float(group["lr"])
