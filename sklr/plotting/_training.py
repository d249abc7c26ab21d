"""Training curves by epoch: those of all candidates, and the best candidate's score with its spread over cells."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from sklearn.utils.validation import check_is_fitted

from sklr._utils.validation import must_be, unknown_name
from sklr.plotting._axes import (
    add_legend,
    candidate_lrs,
    diverged,
    get_axes,
    label_epoch_axis,
    lr_colors,
    mark_diverged,
    order_colors,
    recorded_history,
    score_name,
)
from sklr.plotting._net_curves import NetCurvesData, history_of, net_curves_data, plot_net_curves

WHATS = ("train_loss", "valid_score")
UNFOLLOWED = (  # why there may be no validation scores
    "A scorer that may be slow is called only once, at the end of a training, and so is any scorer of nets that are "
    "trained one by one. For scores after every epoch, search with pruner=optuna.pruners.NopPruner()."
)
WIDE = 20.0  # losses with a larger ratio of maximum to minimum are drawn on a logarithmic axis
HEADROOM = 3.0  # the axis ends at this multiple of the largest loss of the candidates that did not diverge


class TrainingCurvesData(NamedTuple):
    """The training curves of all candidates.

    Attributes
    ----------
    what : str
        ``"train_loss"`` or ``"valid_score"``.
    label : str
        The name of these values in words.
    lr : ndarray of shape (n_candidates,)
        Peak learning rates; NaN if a candidate has none.
    epochs : ndarray of shape (n_epochs,)
        Epoch numbers, from 1.
    values : ndarray of shape (n_candidates, n_epochs)
        Mean over cells. A run that stopped early keeps its last value; a candidate that diverged has NaN from where
        one of its runs ended.
    diverged : ndarray of bool of shape (n_candidates,)
        Which candidates diverged.
    """

    what: str
    label: str
    lr: np.ndarray
    epochs: np.ndarray
    values: np.ndarray
    diverged: np.ndarray


def training_curves_data(search: Any, what: str = "train_loss") -> TrainingCurvesData:
    """Return the training loss or validation score of every candidate at each epoch, averaged over cells.

    Parameters
    ----------
    search : fitted search
        A search that has `history_`.
    what : {"train_loss", "valid_score"}, default="train_loss"
        The values to average.

    Returns
    -------
    data : TrainingCurvesData

    Raises
    ------
    ValueError
        If `what` is unknown, or the search has recorded no epochs, or no validation scores.
    """
    cells = _by_cell(search, what)
    return TrainingCurvesData(
        what=what,
        label="training loss" if what == "train_loss" else f"validation {score_name(search)}",
        lr=candidate_lrs(search),
        epochs=np.arange(1, cells.shape[2] + 1),
        values=_extended(cells, diverged(search)).mean(axis=1),
        diverged=diverged(search),
    )


def _by_cell(search: Any, what: str) -> np.ndarray:
    """Return a column of the history as an array of shape (n_candidates, n_cells, n_epochs), NaN where untrained."""
    if what not in WHATS:
        raise unknown_name("what", what, WHATS)
    columns = recorded_history(search)
    shape = (*search.cell_scores_.shape, int(columns["epoch"].max()) + 1)
    values = np.full(shape, np.nan)
    cell = columns["fold"] * search.n_seeds + columns["seed"]
    with np.errstate(over="ignore"):
        values[columns["candidate"], cell, columns["epoch"]] = columns[what]
    values[~np.isfinite(values)] = np.nan
    if what == "valid_score" and np.isnan(values).all():
        raise ValueError(must_be("history_", "of at least one validation score", 0, UNFOLLOWED))
    return values


def _extended(cells: np.ndarray, lost: np.ndarray) -> np.ndarray:
    """Repeat the last value of each run until the candidate's longest run ends, unless the candidate is `lost`.

    >>> cells = np.array([[[3.0, 2.0, 1.0, np.nan], [3.0, 4.0, np.nan, np.nan]]])
    >>> _extended(cells, np.array([False])).mean(axis=1)
    array([[3. , 3. , 2.5, nan]])
    """
    seen, epochs = np.isfinite(cells), np.arange(cells.shape[2])
    last = np.where(seen, epochs, -1).max(axis=2)
    after = (epochs > last[..., None]) & (epochs <= last.max(axis=1)[:, None, None]) & (last >= 0)[..., None]
    ends = np.take_along_axis(cells, np.maximum(last, 0)[..., None], axis=2)
    return np.where(after & ~lost[:, None, None], ends, cells)


def plot_training_curves(source: Any, what: str = "train_loss", *, ax: Any = None) -> Any:
    """Plot the training curves of all candidates of a search, coloured by learning rate, or those of one fitted net.

    Red crosses mark where candidates diverged.

    Parameters
    ----------
    source : fitted search, fitted net, TrainingCurvesData or NetCurvesData
        The search or net to plot; a net may be inside a Pipeline or a TransformedTargetRegressor.
    what : str, default="train_loss"
        For a search, ``"train_loss"`` or ``"valid_score"``. For a net, any column of its history; with ``"train_..."``
        the matching ``"valid_..."`` is plotted too if it exists, and vice versa.
    ax : matplotlib Axes, optional
        Axes to plot on; a new figure by default.

    Returns
    -------
    ax : matplotlib Axes
    """
    if isinstance(source, NetCurvesData) or history_of(source) is not None:
        return plot_net_curves(source if isinstance(source, NetCurvesData) else net_curves_data(source, what), ax)
    if hasattr(source, "initialize"):  # a net without a history
        check_is_fitted(source, "module_")
    data = source if isinstance(source, TrainingCurvesData) else training_curves_data(source, what)
    ax = get_axes(ax)
    colors, key, name = _coloring(data)
    is_short = len(data.epochs) <= 15
    for lr, curve in zip(key, data.values, strict=True):
        ax.plot(data.epochs, curve, color=colors.to_rgba(lr), linewidth=1.3, marker="." if is_short else None)
    _set_limits(ax, data)
    _mark_ends(ax, data)
    ax.figure.colorbar(colors, ax=ax, label=name)
    label_epoch_axis(ax)
    ax.set_ylabel(f"{data.label}, mean over cells")
    return ax


def _coloring(data: TrainingCurvesData) -> tuple[Any, np.ndarray, str]:
    if np.isfinite(data.lr).all() and np.ptp(data.lr) > 0:
        return lr_colors(data.lr), data.lr, "peak learning rate"
    numbers = np.arange(1, len(data.values) + 1)
    return order_colors(len(numbers)), numbers, "candidate"


def _set_limits(ax: Any, data: TrainingCurvesData) -> None:
    """Keep the curves that did not diverge readable: a logarithmic axis if they span much, diverging losses cut off."""
    sound = data.values[~data.diverged] if not data.diverged.all() else data.values
    sound = sound[np.isfinite(sound)]
    if data.what != "train_loss" or not len(sound):
        return
    low, high = float(sound.min()), float(sound.max())
    if low > 0 and high > WIDE * low:
        ax.set_yscale("log")
    highest = np.nanmax(data.values)
    if low > 0 and highest > HEADROOM * high:
        ax.set_ylim(top=HEADROOM * high)


def _mark_ends(ax: Any, data: TrainingCurvesData) -> None:
    """Put a cross at the last value of each diverged candidate, or at the border of the axes if that is outside."""
    bottom, top = ax.get_ylim()
    ax.set_ylim(bottom, top)
    border = top if data.what == "train_loss" else bottom
    lasts = [np.flatnonzero(np.isfinite(curve)) for curve in data.values[data.diverged]]
    ends = [
        (data.epochs[seen[-1]], np.clip(curve[seen[-1]], bottom, top)) if len(seen) else (data.epochs[0], border)
        for seen, curve in zip(lasts, data.values[data.diverged], strict=True)
    ]
    if ends:
        mark_diverged(ax, *np.transpose(ends))
        add_legend(ax)


class BestEpochsData(NamedTuple):
    """The validation score of the best candidate by epoch.

    Attributes
    ----------
    label : str
        Name of the score in words.
    params : dict
        Parameters of the candidate.
    epochs : ndarray of shape (n_epochs,)
        Epoch numbers, from 1.
    cells : ndarray of shape (n_cells, n_epochs)
        Score in each cell; NaN after a run has ended.
    mean : ndarray of shape (n_epochs,)
        Mean over cells; a run that has ended keeps its last score.
    """

    label: str
    params: dict[str, Any]
    epochs: np.ndarray
    cells: np.ndarray
    mean: np.ndarray


def best_epochs_data(search: Any) -> BestEpochsData:
    """Return the validation score of the best candidate in each cell at each epoch.

    If the chosen lr was not tried, the best candidate is the one closest to it.

    Parameters
    ----------
    search : fitted search
        A search that has `history_` and `best_index_`.

    Returns
    -------
    data : BestEpochsData

    Raises
    ------
    ValueError
        If the search selected no candidate, or has recorded no validation scores.
    """
    cells = _by_cell(search, "valid_score")
    if not hasattr(search, "best_index_"):
        advice = "Set refit to the name of a metric."
        raise ValueError(must_be("search", "one that selected a candidate", f"refit={search.refit!r}", advice))
    best = cells[search.best_index_]
    best = best[:, : np.flatnonzero(np.isfinite(best).any(axis=0)).max(initial=0) + 1]
    params = search.cv_results_["params"][search.best_index_]
    mean = _extended(best[None], np.array([False]))[0].mean(axis=0)
    return BestEpochsData(score_name(search), params, np.arange(1, best.shape[1] + 1), best, mean)


def plot_best_epochs(source: Any, *, ax: Any = None) -> Any:
    """Plot the validation score of the best candidate against the epoch, with its spread over cells.

    Parameters
    ----------
    source : fitted search or BestEpochsData
        The search to plot.
    ax : matplotlib Axes, optional
        Axes to plot on; a new figure by default.

    Returns
    -------
    ax : matplotlib Axes
    """
    data = source if isinstance(source, BestEpochsData) else best_epochs_data(source)
    ax = get_axes(ax)
    several = len(data.cells) > 1
    of_mean = "mean over cells" if several else "one cell"
    (line,) = ax.plot(data.epochs, data.mean, linewidth=2, zorder=3, label=of_mean)
    for i, cell in enumerate(data.cells if several else ()):
        label = f"each of {len(data.cells)} cells" if i == 0 else None
        ax.plot(data.epochs, cell, color=line.get_color(), linewidth=0.7, alpha=0.45, label=label)
    known = np.isfinite(data.cells).any(axis=0)
    low, high = np.nanmin(data.cells[:, known], axis=0), np.nanmax(data.cells[:, known], axis=0)
    ax.fill_between(data.epochs[known], low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    label_epoch_axis(ax)
    ax.set_ylabel(f"validation {data.label}")
    add_legend(ax)
    return ax
