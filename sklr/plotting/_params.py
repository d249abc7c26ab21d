"""Plots of searches over several parameters: the score against each parameter, one panel per parameter."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sklr._utils.optional import require
from sklr._utils.validation import must_be
from sklr.plotting._axes import (
    add_legend,
    diverged,
    label_log_axis,
    mark_diverged,
    marker_height,
    mean_scores,
    score_name,
    tick_label,
)

PANELS_PER_ROW = 3
LOG_RATIO = 30.0  # minimum ratio of the largest to the smallest value for a logarithmic axis
FEW = 6  # up to so many distinct numbers get a tick each, evenly spaced


class ParamPanel(NamedTuple):
    """The panel of one parameter.

    Attributes
    ----------
    name : str
        Name of the parameter.
    at : ndarray of shape (n_candidates,)
        The value of each candidate, or its index in `ticks`; NaN if a candidate does not have the parameter.
    ticks : tuple of str
        Labels of the distinct values in the order drawn, if there are few or they are not numbers; otherwise empty.
    is_log : bool
        Whether the axis is logarithmic.
    """

    name: str
    at: np.ndarray
    ticks: tuple[str, ...]
    is_log: bool


class ParamsData(NamedTuple):
    """The data of a plot of a search over several parameters.

    Attributes
    ----------
    panels : list of ParamPanel
        One panel for each parameter that was varied.
    score : ndarray of shape (n_candidates,)
        Mean scores; NaN if a candidate was not trained to the end.
    diverged : ndarray of bool of shape (n_candidates,)
        Which candidates diverged.
    best : int or None
        Index of the best candidate.
    label : str
        Name of the score.
    """

    panels: list[ParamPanel]
    score: np.ndarray
    diverged: np.ndarray
    best: int | None
    label: str


def params_data(search: Any) -> ParamsData:
    """Return the score of every candidate, and its position on the axis of each parameter that was varied.

    Parameters
    ----------
    search : fitted search

    Returns
    -------
    data : ParamsData

    Raises
    ------
    ValueError
        If all candidates are equal.
    """
    score = mean_scores(search)
    candidates = search.cv_results_["params"]
    names = dict.fromkeys(name for params in candidates for name in params)
    panels = [panel for name in names if (panel := _panel(name, candidates)) is not None]
    if not panels:
        raise ValueError(must_be("search", "one that varied a parameter", f"{len(candidates)} equal candidates"))
    return ParamsData(panels, score, diverged(search), getattr(search, "best_index_", None), score_name(search))


def _panel(name: str, candidates: list[dict[str, Any]]) -> ParamPanel | None:
    """Return the panel of a parameter, None if all its values are equal."""
    has = np.array([name in params for params in candidates])
    values = [params[name] for params in candidates if name in params]
    at = np.full(len(candidates), np.nan)
    if not all(isinstance(v, int | float | np.number) and not isinstance(v, bool) for v in values):
        ticks, at[has] = _places(values)
        return ParamPanel(name, at, ticks, False) if len(ticks) > 1 else None
    if np.ptp(values) == 0:
        return None
    is_log = _looks_logarithmic(np.array(values, dtype=float))
    if len(set(values)) <= FEW and not is_log:
        ticks, at[has] = _places(values, sorted(set(values)))
        return ParamPanel(name, at, ticks, False)
    at[has] = values
    return ParamPanel(name, at, (), is_log)


def _looks_logarithmic(values: np.ndarray) -> bool:
    """Whether numbers span decades, with a median closer to the geometric than to the arithmetic mean of their range.

    >>> _looks_logarithmic(np.array([1e-3, 1e-2, 1e-1])), _looks_logarithmic(np.array([0.02, 0.4, 0.5, 0.9]))
    (True, False)
    """
    low, high = values.min(), values.max()
    if low <= 0 or high <= LOG_RATIO * low:
        return False
    geometric, arithmetic = np.sqrt(low) * np.sqrt(high), low / 2 + high / 2
    middle = np.median(values)
    return bool(abs(np.log(middle / geometric)) < abs(np.log(middle / arithmetic)))


def _places(values: list[Any], order: list[Any] | None = None) -> tuple[tuple[str, ...], list[int]]:
    """Return the labels of the distinct values, in the given order or in order of appearance, and each value's index.

    >>> _places(["relu", None, "relu"])
    (('relu', 'None'), [0, 1, 0])
    >>> _places([64, 32], order=[32, 64])
    (('32', '64'), [1, 0])
    """
    named = {repr(value): value for value in (order or values)}
    words = list(named)
    return tuple(tick_label(value) for value in named.values()), [words.index(repr(value)) for value in values]


def plot_params(source: Any, *, axes: Any = None) -> np.ndarray:
    """Plot the score against each parameter, one panel per parameter; the best is a star, diverged are red crosses.

    Parameters
    ----------
    source : fitted search or ParamsData
        The search to plot.
    axes : array-like of matplotlib Axes, optional
        Axes to plot on, at least one for each panel; a new figure by default.

    Returns
    -------
    axes : ndarray of matplotlib Axes, of shape (n_panels,)
    """
    data = source if isinstance(source, ParamsData) else params_data(source)
    axes = new_panels(len(data.panels)) if axes is None else np.asarray(axes, dtype=object).ravel()
    for ax, panel in zip(axes, data.panels, strict=False):
        _draw_panel(ax, panel, data)
    axes = axes[: len(data.panels)]
    for ax in axes:
        if ax.get_subplotspec() is None or ax.get_subplotspec().is_first_col():
            ax.set_ylabel(f"{data.label}, mean over cells")
    marked = next((ax for ax in axes if len(ax.get_legend_handles_labels()[0]) > 1), axes[0])
    add_legend(
        marked, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False
    )  # above the axes, to hide no points
    return axes


def new_panels(n: int, figure: Any = None) -> np.ndarray:
    """Return axes in rows of up to three with a shared y axis, in a new figure or the given one."""
    n_rows = panel_rows(n)
    n_columns = -(-n // n_rows)
    if figure is None:
        size = (max(3.4 * n_columns, 4.5), 3 * n_rows)
        figure = require("matplotlib.pyplot", extra="plot").figure(figsize=size, layout="constrained")
    grid = figure.subplots(n_rows, n_columns, sharey=True, squeeze=False).ravel()
    for ax in grid[n:]:
        ax.remove()
    return grid[:n]


def panel_rows(n: int) -> int:
    """Return the number of rows for `n` panels.

    >>> [panel_rows(n) for n in (1, 3, 4, 7)]
    [1, 1, 2, 3]
    """
    return -(-n // PANELS_PER_ROW)


def _draw_panel(ax: Any, panel: ParamPanel, data: ParamsData) -> None:
    if panel.is_log:
        ax.set_xscale("log")
    ax.scatter(panel.at, data.score, s=28, alpha=0.55, linewidths=0)
    marked = data.diverged & np.isfinite(panel.at)
    mark_diverged(ax, panel.at[marked], np.full(marked.sum(), marker_height(data.score)))
    if data.best is not None:
        star = {"marker": "*", "markersize": 13, "color": "#c97b00", "markeredgecolor": "white", "linestyle": "none"}
        ax.plot(panel.at[data.best], data.score[data.best], **star, markeredgewidth=0.6, zorder=5, label="best")
    if panel.ticks:
        ax.set_xticks(range(len(panel.ticks)), panel.ticks)
        ax.set_xlim(-0.5, len(panel.ticks) - 0.5)
        if sum(map(len, panel.ticks)) > 30:
            ax.tick_params(axis="x", rotation=30)
    if panel.is_log:
        label_log_axis(ax)
    ax.set_xlabel(panel.name)
