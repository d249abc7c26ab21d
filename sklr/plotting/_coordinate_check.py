"""The plot of a coordinate check: the change of each layer's outputs against the width."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sklr.plotting._axes import get_axes, order_colors
from sklr.plotting._sources import wrong_source


class CoordinateCheckData(NamedTuple):
    """The data of a coordinate-check plot.

    Attributes
    ----------
    widths : ndarray of shape (n_widths,)
    names : tuple of str
        Names of the layers with the slopes of their lines.
    changes : ndarray of shape (n_widths, n_layers)
        Mean absolute change of the outputs from before the first to after the last step, averaged over seeds.
    low, high : ndarray of the same shape
        Minimum and maximum over seeds.
    title : str
    """

    widths: np.ndarray
    names: tuple[str, ...]
    changes: np.ndarray
    low: np.ndarray
    high: np.ndarray
    title: str


def coordinate_check_data(check: Any) -> CoordinateCheckData:
    """Return the change of each layer's outputs after the last step.

    Parameters
    ----------
    check : CoordinateCheck

    Returns
    -------
    data : CoordinateCheckData

    Raises
    ------
    TypeError
        If `check` is not a `CoordinateCheck`.
    """
    if not hasattr(check, "change_slopes"):
        raise wrong_source("what coordinate_check returned", check, "Pass the result of sklr.coordinate_check.")
    last = check.changes[:, :, -1]
    names = tuple(f"{n}: {slope:+.2f}" for n, slope in zip(check.modules, check.change_slopes[-1], strict=True))
    title = f"{'muP' if check.mup else 'standard'}: {'passed' if check.passed else 'failed'}"
    return CoordinateCheckData(
        np.array(check.widths), names, last.mean(axis=1), last.min(axis=1), last.max(axis=1), title
    )


def plot_coordinate_check(source: Any, *, ax: Any = None) -> Any:
    """Plot the change of each layer's outputs against the width; with correct muP the lines are horizontal.

    Parameters
    ----------
    source : CoordinateCheck or CoordinateCheckData
    ax : matplotlib Axes, optional
        Axes to plot on; a new figure by default.

    Returns
    -------
    ax : matplotlib Axes
    """
    data = source if isinstance(source, CoordinateCheckData) else coordinate_check_data(source)
    ax = get_axes(ax)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    colors = order_colors(len(data.names)).to_rgba(np.arange(1, len(data.names) + 1))
    for i, name in enumerate(data.names):
        ax.plot(data.widths, data.changes[:, i], "o-", color=colors[i], label=name, markersize=4)
        ax.fill_between(data.widths, data.low[:, i], data.high[:, i], color=colors[i], alpha=0.15, linewidth=0)
    ax.set_xticks(data.widths, [str(width) for width in data.widths])
    ax.minorticks_off()
    ax.set_xlabel("width")
    ax.set_ylabel("mean change of a layer's outputs")
    ax.set_title(data.title)
    ax.legend(title="layer: slope", fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return ax
