"""Helpers shared by all plots: axes, colours of learning rates, names of scores."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import is_classifier, is_regressor

from sklr._utils.optional import require
from sklr._utils.validation import must_be
from sklr.plotting._sources import check_search

# blue, teal, gold: distinguishable for the colour-blind, of increasing brightness, readable on white and on black
LR_COLORS = ("#3f6fd8", "#1f9e9a", "#dca01e")
DIVERGED_COLOR = "#e5383b"
MARKERS = "osD^vP*X"
LABEL_ROOM = 44.0  # points, the space that a tick label needs, including its distance to the next one
LABEL_WIDTH = 24  # characters; longer values are truncated


def get_axes(ax: Any) -> Any:
    """Return `ax`, or the axes of a new figure if it is None."""
    return require("matplotlib.pyplot", extra="plot").subplots(layout="constrained")[1] if ax is None else ax


def lr_colors(lrs: np.ndarray) -> Any:
    """Return a matplotlib `ScalarMappable` that maps learning rates to colours on a logarithmic scale.

    Parameters
    ----------
    lrs : ndarray of shape (n_candidates,)
        Above 0.
    """
    colors = require("matplotlib.colors", extra="plot")
    low, high = float(lrs.min()), float(lrs.max())
    scale = colors.LogNorm(low, high) if low < high else colors.LogNorm(low / 2, high * 2)
    return _mappable(scale)


def order_colors(n: int) -> Any:
    """Return a matplotlib `ScalarMappable` that maps the numbers 1 to `n` to colours."""
    colors = require("matplotlib.colors", extra="plot")
    return _mappable(colors.Normalize(1, max(n, 2)))


def _mappable(scale: Any) -> Any:
    colors = require("matplotlib.colors", extra="plot")
    cm = require("matplotlib.cm", extra="plot")
    return cm.ScalarMappable(scale, colors.LinearSegmentedColormap.from_list("sklr", LR_COLORS))


def label_log_axis(ax: Any) -> None:
    """Set the ticks of a logarithmic x axis so that there are at least two labels, and none overlap.

    Matplotlib labels up to eight numbers per decade, even if they overlap. Here a decade has three, two or one label,
    depending on the width of the axis; an axis of less than a decade may have any round numbers. Call it after the
    limits of the axis are set.
    """
    low, high = ax.get_xlim()
    decades = np.log10(high / low)
    ticker = require("matplotlib.ticker", extra="plot")
    room = 0.85 * ax.bbox.width * 72 / ax.figure.dpi  # points; the layout engine will still shrink the axes
    digits: tuple[int, ...]
    for digits, closest in (((1, 2, 5), np.log10(2)), ((1, 3), np.log10(3)), ((1,), 1.0)):
        shown = sum(low <= digit * 10.0**power <= high for digit in digits for power in _powers(low, high))
        if room * closest / decades >= LABEL_ROOM and shown >= 2:
            break
    else:
        digits = ()
    if digits == (1,) or (not digits and decades > 2):
        ax.xaxis.set_minor_formatter(ticker.NullFormatter())
        return
    if digits:
        ax.xaxis.set_major_locator(ticker.LogLocator(subs=digits, numticks=100))
    else:
        ax.xaxis.set_major_locator(ticker.MaxNLocator(max(2, int(room / LABEL_ROOM / 1.5))))
    ax.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:.3g}"))
    ax.xaxis.set_minor_formatter(ticker.NullFormatter())


def _powers(low: float, high: float) -> range:
    return range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)


def label_epoch_axis(ax: Any) -> None:
    """Label the x axis as epochs, with ticks at integers."""
    ax.xaxis.set_major_locator(require("matplotlib.ticker", extra="plot").MaxNLocator(integer=True))
    ax.set_xlabel("training time (epochs)")


def add_legend(ax: Any, **place: Any) -> None:
    """Add a legend with the scores first, if there is anything with a label."""
    entries = list(zip(*ax.get_legend_handles_labels(), strict=True))
    entries.sort(key=lambda entry: not entry[1].startswith(("mean", "best mean")))
    if entries:
        ax.legend(*zip(*entries, strict=True), fontsize="small", **place)


def mark_diverged(ax: Any, x: Any, y: Any, label: str = "diverged") -> None:
    """Draw a red cross at each point."""
    if len(x):
        ax.plot(x, y, "x", color=DIVERGED_COLOR, markersize=7, markeredgewidth=2, label=label, zorder=4, clip_on=False)


def marker_height(scores: np.ndarray) -> float:
    """Return the height for marks of candidates without a score: just below the lowest finite score.

    >>> marker_height(np.array([0.5, np.nan, 1.5])), marker_height(np.array([np.nan]))
    (0.4, 0.0)
    """
    known = scores[np.isfinite(scores)]
    return float(known.min() - max(0.1 * np.ptp(known), 1e-3)) if len(known) else 0.0


def metric_key(search: Any) -> str:
    """Return the name of the metric by which candidates are compared, as in the keys of ``cv_results_``."""
    check_search(search)
    if not getattr(search, "multimetric_", False):
        return "score"
    if isinstance(search.refit, str):
        return search.refit
    return next(key for key in search.cv_results_ if key.startswith("mean_test_")).removeprefix("mean_test_")


def score_name(search: Any) -> str:
    """Return the name of this metric in words, such as ``"accuracy"`` or ``"neg log loss"``."""
    key = metric_key(search)
    if key != "score":
        return key.replace("_", " ")
    if isinstance(search.scoring, str):
        return search.scoring.replace("_", " ")
    if search.scoring is not None:
        return "score"
    if is_classifier(search.estimator):
        return "accuracy"
    return "R²" if is_regressor(search.estimator) else "score"


def mean_scores(search: Any) -> np.ndarray:
    """Return the mean score of every candidate, shape (n_candidates,); NaN if its status is not "ok"."""
    key = metric_key(search)
    scores = np.array(search.cv_results_[f"mean_test_{key}"], dtype=float)
    return np.where(search.cv_results_["status"] == "ok", scores, np.nan)


def diverged(search: Any) -> np.ndarray:
    """Return which candidates diverged, a boolean array of shape (n_candidates,)."""
    return np.array([status.startswith("diverged") for status in search.cv_results_["status"]], dtype=bool)


def candidate_lrs(search: Any) -> np.ndarray:
    """Return the peak lr of every candidate, shape (n_candidates,); NaN if it has none.

    If the search did not vary the lr, it is that of the estimator.
    """
    name = getattr(search, "lr_param_", None)
    if name is None:
        return np.full(len(search.cv_results_["params"]), np.nan)
    default = search.estimator.get_params().get(name)
    lrs = [params.get(name, default) for params in search.cv_results_["params"]]
    return np.array([lr if isinstance(lr, float | int) and lr > 0 else np.nan for lr in lrs], dtype=float)


def same_others(candidates: list[dict[str, Any]], lr_param: Any) -> bool:
    """Whether every lr was tried with the same values of the other parameters.

    >>> grid = [{"lr": lr, "batch_size": size} for lr in (0.1, 1.0) for size in (8, 16)]
    >>> same_others(grid, "lr"), same_others(grid[:3], "lr")
    (True, False)
    """
    others: dict[Any, set[str]] = {}
    for params in candidates:
        others.setdefault(params.get(lr_param), set()).add(_others(params, lr_param))
    return len(set(map(frozenset, others.values()))) == 1


def vary_in_others(candidates: list[dict[str, Any]], lr_param: Any) -> bool:
    """Whether candidates differ in other parameters than the lr.

    >>> vary_in_others([{"lr": 0.1}, {"lr": 1.0}], "lr"), vary_in_others([{"lr": 0.1}, {"lr": 0.1, "width": 8}], "lr")
    (False, True)
    """
    return len({_others(params, lr_param) for params in candidates}) > 1


def _others(params: dict[str, Any], lr_param: Any) -> str:
    return repr(sorted((item for item in params.items() if item[0] != lr_param), key=lambda item: item[0]))


def recorded_history(search: Any) -> dict[str, np.ndarray]:
    """Return the history of a search; raise a ValueError if it has no epochs."""
    check_search(search, of_sklr=True)
    columns = search.history_
    if not len(columns["epoch"]):
        advice = "Only estimators that train in epochs, such as sklr's nets, have curves to draw."
        raise ValueError(must_be("history_", "of at least one epoch", 0, advice))
    return columns


def tick_label(value: Any) -> str:
    """Return a parameter's value as a tick label, with dollar signs escaped so that matplotlib renders no formula.

    >>> tick_label(0.00031622776), tick_label("a$b"), tick_label(None), tick_label("x" * 30)
    ('0.000316', 'a\\\\$b', 'None', 'xxxxxxxxxxxxxxxxxxxxxxx…')
    """
    text = f"{value:.3g}" if isinstance(value, float) else getattr(value, "__name__", None) or str(value)
    text = " ".join(text.split())
    text = text if len(text) <= LABEL_WIDTH else text[: LABEL_WIDTH - 1] + "…"
    return text.replace("$", r"\$")
