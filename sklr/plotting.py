"""Pictures, each as a function that returns the data and one that draws them; matplotlib is imported only to draw."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sklr._optional import require
from sklr.schedules import resolve_schedule
from sklr.selection import LRCurve


class ScheduleData(NamedTuple):
    """The learning rate of every step, in the order of training.

    Attributes
    ----------
    epochs : ndarray of shape (n_steps,)
        When each step began, in epochs.
    lrs : ndarray of shape (n_steps,)
        Its learning rate.
    """

    epochs: np.ndarray
    lrs: np.ndarray


def schedule_data(
    source: Any, *, n_epochs: int = 10, steps_per_epoch: int = 50, lr: float = 1.0, warmup_epochs: float = 0
) -> ScheduleData:
    """Return the learning rate of every step of a training, planned or done.

    Parameters
    ----------
    source : schedule or fitted net
        Whatever `sklr.schedules.resolve_schedule` takes is planned with the arguments below; a net with `LRSchedule`
        among its callbacks tells what it used, and the arguments below are not looked at.
    n_epochs : int, default=10
        The horizon.
    steps_per_epoch : int, default=50
        Optimizer steps in one epoch.
    lr : float, default=1.0
        The peak lr; 1 shows the multipliers.
    warmup_epochs : float, default=0
        As the nets take it.

    Returns
    -------
    data : ScheduleData

    Raises
    ------
    ValueError
        If the net has recorded no lr.

    Examples
    --------
    >>> schedule_data("linear", n_epochs=1, steps_per_epoch=4, lr=0.1).lrs
    array([0.1  , 0.075, 0.05 , 0.025])
    """
    if hasattr(source, "history"):
        return _used_lrs(source.history)
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
    """Draw the learning rate over the epochs of a training, planned or done.

    Parameters
    ----------
    source : ScheduleData, schedule or fitted net
        As `schedule_data` takes it, or what it returned.
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.
    **options
        Passed to `schedule_data`.

    Returns
    -------
    ax : matplotlib Axes
    """
    data = source if isinstance(source, ScheduleData) else schedule_data(source, **options)
    if ax is None:
        _, ax = require("matplotlib.pyplot", extra="plot").subplots()
    ax.plot(data.epochs, data.lrs, drawstyle="steps-post")  # an lr holds until the next step
    ax.set_xlabel("training time (epochs)")
    ax.set_ylabel("learning rate")
    ax.set_ylim(bottom=0)
    return ax


class LRCurveData(NamedTuple):
    """What the picture of an LR curve shows.

    Attributes
    ----------
    lr, mean, se : ndarray of shape (n_trained,)
        Learning rates that were trained to the end, their mean scores and paired standard errors.
    diverged : ndarray of shape (n_diverged,)
        Learning rates that diverged.
    floor : float
        Where to mark those: just below the lowest mean score.
    """

    lr: np.ndarray
    mean: np.ndarray
    se: np.ndarray
    diverged: np.ndarray
    floor: float


def lr_curve_data(curve: LRCurve) -> LRCurveData:
    """Separate what was trained from what diverged.

    Parameters
    ----------
    curve : LRCurve
        ``search.lr_curve_``.

    Returns
    -------
    data : LRCurveData
    """
    known = np.isfinite(curve.mean)
    mean = curve.mean[known]
    floor = mean.min() - 0.05 * max(float(np.ptp(mean)), 1e-3) if known.any() else 0.0
    return LRCurveData(curve.lr[known], mean, np.nan_to_num(curve.se[known]), curve.lr[curve.diverged], floor)


def plot_lr_curve(source: Any, *, ax: Any = None) -> Any:
    """Draw score against learning rate, with error bars; diverged learning rates are red crosses.

    Parameters
    ----------
    source : fitted search, LRCurve or LRCurveData
        Whose curve to draw.
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    ax : matplotlib Axes
    """
    curve = getattr(source, "lr_curve_", source)
    data = curve if isinstance(curve, LRCurveData) else lr_curve_data(curve)
    if ax is None:
        _, ax = require("matplotlib.pyplot", extra="plot").subplots()
    ax.errorbar(data.lr, data.mean, yerr=data.se, marker="o", capsize=3, label="mean over cells, paired standard error")
    if len(data.lr):
        best = np.argmax(data.mean)
        ax.axvline(data.lr[best], color="0.6", linestyle="--", zorder=0, label=f"best: {data.lr[best]:.3g}")
    if len(data.diverged):
        ax.plot(data.diverged, np.full_like(data.diverged, data.floor), "x", color="red", label="diverged")
    ax.set_xscale("log")
    ax.set_xlabel("learning rate")
    ax.set_ylabel("cross-validated score")
    ax.legend()
    return ax
