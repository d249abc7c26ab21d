"""The learning rate over the steps of a training, from a schedule or from a fitted net."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sklr.plotting._axes import get_axes
from sklr.plotting._sources import wrong_source
from sklr.schedules import resolve_schedule


class ScheduleData(NamedTuple):
    """The learning rate of every step of a training.

    Attributes
    ----------
    epochs : ndarray of shape (n_steps,)
        The time at the start of each step, in epochs.
    lrs : ndarray of shape (n_steps,)
        The learning rate of each step.
    """

    epochs: np.ndarray
    lrs: np.ndarray


def schedule_data(
    source: Any, *, n_epochs: int = 10, steps_per_epoch: int = 50, lr: float = 1.0, warmup_epochs: float = 0
) -> ScheduleData:
    """Return the learning rate of every step of a training, from a schedule or from a fitted net.

    Parameters
    ----------
    source : schedule or fitted net
        A schedule, in any form that `sklr.schedules.resolve_schedule` accepts, is evaluated with the arguments below.
        Of a fitted net with the callback `LRSchedule`, the recorded learning rates are used, and the arguments below
        are ignored.
    n_epochs : int, default=10
        The horizon in epochs.
    steps_per_epoch : int, default=50
        Number of optimizer steps per epoch.
    lr : float, default=1.0
        The peak lr; 1 shows the multipliers.
    warmup_epochs : float, default=0
        Number of epochs of warmup before the schedule.

    Returns
    -------
    data : ScheduleData

    Raises
    ------
    ValueError
        If the net has recorded no lr.
    TypeError
        If it is neither.

    Examples
    --------
    >>> schedule_data("linear", n_epochs=1, steps_per_epoch=4, lr=0.1).lrs
    array([0.1  , 0.075, 0.05 , 0.025])
    """
    if hasattr(source, "history"):
        return _used_lrs(source.history or [])
    if hasattr(source, "get_params") or hasattr(source, "suggestions") or hasattr(source, "change_slopes"):
        raise wrong_source("a schedule, or a fitted net", source, "Pass search.best_estimator_, or the schedule.")
    schedule = resolve_schedule(source, warmup_epochs)
    lrs = [lr * schedule.epoch_multipliers(e, steps_per_epoch, n_epochs, lr=lr) for e in range(n_epochs)]
    return ScheduleData(np.arange(n_epochs * steps_per_epoch) / steps_per_epoch, np.concatenate(lrs))


def _used_lrs(history: Any) -> ScheduleData:
    epochs: list[float] = []
    lrs: list[float] = []
    for epoch, row in enumerate(history):
        used = [batch["lr"] for batch in row["batches"] if "lr" in batch]
        epochs += [epoch + i / len(used) for i in range(len(used))]
        lrs += used
    if not lrs:
        raise ValueError(
            f"history must hold the lr of at least one batch, got {len(history)} epochs without. "
            "Fit the net first, with sklr.callbacks.LRSchedule among its callbacks."
        )
    return ScheduleData(np.array(epochs), np.array(lrs))


def plot_schedule(source: Any, *, ax: Any = None, **options: Any) -> Any:
    """Plot the learning rate over the epochs of a training, from a schedule or from a fitted net.

    Parameters
    ----------
    source : ScheduleData, schedule or fitted net
        As in `schedule_data`, or its result.
    ax : matplotlib Axes, optional
        Axes to plot on; a new figure by default.
    **options
        Passed to `schedule_data`.

    Returns
    -------
    ax : matplotlib Axes
    """
    data = source if isinstance(source, ScheduleData) else schedule_data(source, **options)
    ax = get_axes(ax)
    ax.plot(data.epochs, data.lrs, drawstyle="steps-post")  # the lr is constant until the next step
    ax.set_xlabel("training time (epochs)")
    ax.set_ylabel("learning rate")
    ax.set_ylim(bottom=0)
    return ax
