"""The plot of a range test: training loss against learning rate, the edge, and the suggestion of each rule."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sklr.plotting._axes import DIVERGED_COLOR, MARKERS, add_legend, get_axes, label_log_axis, order_colors
from sklr.plotting._sources import wrong_source

HEADROOM = 0.15  # space above the loss at the start, as a fraction of the height of the curve


class RangeTestData(NamedTuple):
    """The data of a range-test plot.

    Attributes
    ----------
    lr, mean, low, high : ndarray of shape (n_steps,)
        Learning rate, smoothed loss, and smoothed loss minus and plus one standard deviation over runs; `low` and
        `high` are equal to `mean` for a single run.
    runs : ndarray of shape (n_steps, n_runs)
        Raw losses.
    n_runs : int
    edge : float or None
    suggestions : dict from str to (float, float)
        For each rule the suggested learning rate, ascending, and the smoothed loss there.
    ylim : tuple (low, high)
        Limits of the y axis, which exclude the huge losses of diverged runs.
    """

    lr: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    runs: np.ndarray
    n_runs: int
    edge: float | None
    suggestions: dict[str, tuple[float, float]]
    ylim: tuple[float, float]


def range_test_data(result: Any) -> RangeTestData:
    """Return the curve, its band, and the positions of the suggestions on it.

    Parameters
    ----------
    result : RangeTest

    Returns
    -------
    data : RangeTestData

    Raises
    ------
    TypeError
        If `result` is not a `RangeTest`.
    """
    if not hasattr(result, "suggestions"):
        raise wrong_source("what lr_range_test returned", result, "Pass the result of sklr.lr_range_test.")
    spread = np.nan_to_num(result.spread)
    rules = sorted(result.suggestions.items(), key=lambda item: item[1])
    heights = np.interp(np.log([lr for _, lr in rules]), np.log(result.lr), result.mean)
    return RangeTestData(
        lr=result.lr,
        mean=result.mean,
        low=result.mean - spread,
        high=result.mean + spread,
        runs=result.loss,
        n_runs=result.loss.shape[1],
        edge=result.edge,
        suggestions={rule: (lr, float(height)) for (rule, lr), height in zip(rules, heights, strict=True)},
        ylim=_limits(result),
    )


def _limits(result: Any) -> tuple[float, float]:
    """Return the limits of the y axis, from slightly below the lowest loss to slightly above the loss at the start."""
    high, low = float(np.max(result.start_loss)), float(np.nanmin(np.vstack([result.start_loss, result.loss])))
    room = HEADROOM * (high - low) or 1.0
    return low - room / 3, high + room


def plot_range_test(source: Any, *, ax: Any = None) -> Any:
    """Plot the loss against the learning rate: each run, their mean, the edge, and a mark for each suggestion.

    Parameters
    ----------
    source : RangeTest or RangeTestData
        The result of `lr_range_test`.
    ax : matplotlib Axes, optional
        Axes to plot on; a new figure by default.

    Returns
    -------
    ax : matplotlib Axes
    """
    data = source if isinstance(source, RangeTestData) else range_test_data(source)
    ax = get_axes(ax)
    ax.set_xscale("log")
    ax.plot(data.lr, data.runs, color="0.6", linewidth=0.5, alpha=0.6, zorder=1)
    (line,) = ax.plot(data.lr, data.mean, label="mean, smoothed", zorder=2)
    if data.n_runs > 1:
        ax.fill_between(data.lr, data.low, data.high, color=line.get_color(), alpha=0.25, linewidth=0, label="± s.d.")
    if data.edge is not None:
        ax.axvline(data.edge, color=DIVERGED_COLOR, linestyle="--", linewidth=1, label=f"edge: {data.edge:.3g}")
    colors = order_colors(len(data.suggestions))
    for i, (rule, (lr, loss)) in enumerate(data.suggestions.items()):
        style = {"marker": MARKERS[i], "color": colors.to_rgba(i + 1), "markeredgecolor": "white", "linestyle": "none"}
        ax.plot(lr, loss, markersize=9, zorder=4, label=f"{rule}: {lr:.3g}", **style)
    ax.set_ylim(*data.ylim)
    ax.set_xlabel("learning rate of the step")
    ax.set_ylabel("training loss after it" + (f", {data.n_runs} runs" if data.n_runs > 1 else ", one run"))
    label_log_axis(ax)
    add_legend(ax)
    return ax
