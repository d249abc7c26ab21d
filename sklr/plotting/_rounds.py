"""The order in which a search tried its learning rates, by round or by trial."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sklr._utils.validation import must_be
from sklr.plotting._axes import (
    MARKERS,
    add_legend,
    candidate_lrs,
    diverged,
    get_axes,
    label_log_axis,
    mark_diverged,
    marker_height,
    mean_scores,
    order_colors,
    same_others,
    score_name,
)
from sklr.plotting._sources import check_search


class RoundsData(NamedTuple):
    """The data of a plot of a search's rounds.

    Attributes
    ----------
    lr, score : ndarray of shape (n_candidates,)
        Peak learning rate and mean score; NaN if a candidate has none.
    diverged : ndarray of bool of shape (n_candidates,)
        Which candidates diverged.
    round : ndarray of int of shape (n_candidates,)
        Round of each candidate, from 1; the number of the trial if the search has no rounds.
    word : str
        ``"round"`` or ``"trial"``.
    label : str
        Name of the score.
    joined : bool
        Whether neighbours differ only in their learning rate, so that a line through them is meaningful.
    """

    lr: np.ndarray
    score: np.ndarray
    diverged: np.ndarray
    round: np.ndarray
    word: str
    label: str
    joined: bool = True


def rounds_data(search: Any) -> RoundsData:
    """Return every candidate's learning rate and score, and in which round it was tried.

    Parameters
    ----------
    search : fitted search
        A search over learning rates. Its attribute `rounds_` has the candidates of each round; without it, each
        candidate is a trial of its own.

    Returns
    -------
    data : RoundsData

    Raises
    ------
    ValueError
        If a candidate has no learning rate.
    """
    check_search(search, of_sklr=True)
    score, lr = mean_scores(search), candidate_lrs(search)
    if not np.isfinite(lr).all():
        advice = "Draw plot_params(search) instead, or name the parameter with lr_param=."
        raise ValueError(must_be("search", "one that searched a learning rate", type(search).__name__, advice))
    rounds = getattr(search, "rounds_", None)
    number = np.arange(1, len(lr) + 1)
    for i, members in enumerate(rounds or (), start=1):
        number[np.asarray(members, dtype=int)] = i
    joined = same_others(search.cv_results_["params"], search.lr_param_)
    return RoundsData(lr, score, diverged(search), number, "round" if rounds else "trial", score_name(search), joined)


def plot_rounds(source: Any, *, ax: Any = None) -> Any:
    """Plot score against learning rate, with a colour and a marker for each round.

    Parameters
    ----------
    source : fitted search or RoundsData
        The search to plot.
    ax : matplotlib Axes, optional
        Axes to plot on; a new figure by default.

    Returns
    -------
    ax : matplotlib Axes
    """
    data = source if isinstance(source, RoundsData) else rounds_data(source)
    ax = get_axes(ax)
    ax.set_xscale("log")
    if data.joined:
        _draw_envelope(ax, data)
    colors = order_colors(int(data.round.max()))
    if data.word == "round":
        _draw_each(ax, data, colors)
    else:
        ax.scatter(data.lr, data.score, c=colors.to_rgba(data.round), s=40, zorder=3)
        ax.figure.colorbar(colors, ax=ax, label="trial, in the order tried")
    mark_diverged(ax, data.lr[data.diverged], np.full(data.diverged.sum(), marker_height(data.score)))
    ax.set_xlabel("peak learning rate")
    ax.set_ylabel(f"{data.label}, mean over cells")
    label_log_axis(ax)
    add_legend(ax)
    return ax


def _draw_envelope(ax: Any, data: RoundsData) -> None:
    """Draw a thin line through the best score of each learning rate."""
    known = np.isfinite(data.score)
    lrs = np.unique(data.lr[known])
    ax.plot(lrs, [data.score[known & (data.lr == lr)].max() for lr in lrs], color="0.6", linewidth=0.8, zorder=1)


def _draw_each(ax: Any, data: RoundsData, colors: Any) -> None:
    for number in np.unique(data.round):
        inside = data.round == number
        marker = MARKERS[(number - 1) % len(MARKERS)]
        label = f"round {number}, {inside.sum()} candidates"
        ax.scatter(
            data.lr[inside],
            data.score[inside],
            color=colors.to_rgba(number),
            marker=marker,
            s=40,
            label=label,
            zorder=3,
        )
