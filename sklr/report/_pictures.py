"""The plots of the report as inline SVG, in colours that are readable on white and on black."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from io import StringIO
from typing import Any, NamedTuple

import numpy as np

from sklr._utils.optional import require
from sklr.plotting._axes import candidate_lrs, diverged, mean_scores
from sklr.plotting._lr_curve import LRCurveDisplay, searched_curve_data
from sklr.plotting._params import ParamsData, new_panels, panel_rows, params_data, plot_params
from sklr.plotting._rounds import plot_rounds, rounds_data
from sklr.plotting._training import (
    TrainingCurvesData,
    best_epochs_data,
    plot_best_epochs,
    plot_training_curves,
    training_curves_data,
)

INK = "#010203"  # placeholder colour, replaced by `currentColor`, the page's text colour
MAX_CURVES = 40  # training curves, evenly selected from the candidates in order of lr
MAX_EPOCHS = 150  # points of a training curve
MAX_MARKS = 300  # candidates in a plot of scores
MAX_PANELS = 9
WIDTH, FULL_WIDTH = 5.4, 8.0  # inches; at the former, text is large enough on a phone
LISTS = ("lr", "mean", "se", "diverged", "unfinished", "off_scale")  # arrays of an LRCurveData, one value per lr
STYLE = {
    "svg.fonttype": "path",  # text looks the same whatever fonts the reader has
    "svg.hashsalt": "sklr",  # ids are the same for the same plot
    "font.size": 10,
    "axes.facecolor": "none",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.color": INK,
}
SERIES = "#3f7fd8"


class Picture(NamedTuple):
    """A plot of the page: its title, a caption, its SVG, and whether it takes the full width of the page."""

    title: str
    caption: str
    svg: str
    is_wide: bool


class Drawing(NamedTuple):
    """A plot before it is drawn: `draw` takes a matplotlib figure of the given size, in inches."""

    title: str
    caption: str
    draw: Callable[[Any], Any]
    height: float = 3.3
    width: float = WIDTH


def pictures(search: Any) -> list[Picture]:
    """Draw all plots that the data of a search allows.

    Raises
    ------
    ImportError
        If matplotlib is missing.
    """
    return [Picture(d.title, d.caption, _svg(d, f"p{i}-"), d.width > WIDTH) for i, d in enumerate(_drawings(search))]


def _drawings(search: Any) -> Iterator[Drawing]:
    if hasattr(search, "lr_curve_"):
        yield Drawing("The LR curve", _about_curve(search), partial(_draw_lr_curve, search))
    yield from _trainings(search)
    yield from _search_order(search)
    yield from _parameters(search)


def _about_curve(search: Any) -> str:
    curve, unknown = search.lr_curve_, search.lr_choice_.unknown
    shown = (
        "Mean score of each learning rate" if curve.joined else "Mean score of the best candidate of each learning rate"
    )
    noise = " with its paired standard error" if curve.has_noise else ""
    return f"{shown}{noise}; " + (f"no interval: {unknown}." if unknown else "the interval of the best one is shaded.")


def _draw_lr_curve(search: Any, figure: Any) -> None:
    data = searched_curve_data(search)
    kept = {name: getattr(data, name)[_spread(len(getattr(data, name)), MAX_MARKS)] for name in LISTS}
    LRCurveDisplay(data._replace(**kept)).plot(ax=figure.subplots())


def _trainings(search: Any) -> Iterator[Drawing]:
    if not len(search.history_["epoch"]):
        return
    for what, title in (("train_loss", "Training loss"), ("valid_score", "Validation score")):
        if not np.isfinite(search.history_[what]).any():
            continue  # the scorer was only called at the end of each training
        data = _thin_curves(training_curves_data(search, what))
        if np.isfinite(data.values).any():
            caption = "One curve per candidate, averaged over its cells."
            yield Drawing(title, caption, partial(_draw_curves, data))
    if hasattr(search, "best_index_") and np.isfinite(search.history_["valid_score"]).any():
        best = best_epochs_data(search)
        if np.isfinite(best.cells).any():
            shaded = (
                " in each cell; the range over cells is shaded." if len(best.cells) > 1 else ", which has one cell."
            )
            caption = f"The validation score of the best candidate{shaded}"
            yield Drawing("The best candidate", caption, lambda figure: plot_best_epochs(best, ax=figure.subplots()))


def _draw_curves(data: TrainingCurvesData, figure: Any) -> None:
    plot_training_curves(data, ax=figure.subplots())


def _thin_curves(data: TrainingCurvesData) -> TrainingCurvesData:
    rows = np.argsort(data.lr, kind="stable")[_spread(len(data.lr), MAX_CURVES)]
    epochs = _spread(len(data.epochs), MAX_EPOCHS)
    return data._replace(
        lr=data.lr[rows],
        epochs=data.epochs[epochs],
        values=data.values[np.ix_(rows, epochs)],
        diverged=data.diverged[rows],
    )


def _spread(n: int, limit: int) -> np.ndarray:
    """Return at most `limit` of the indices below `n`, evenly spaced, including the first and the last.

    >>> _spread(3, 5).tolist(), _spread(9, 5).tolist()
    ([0, 1, 2], [0, 2, 4, 6, 8])
    """
    return np.unique(np.linspace(0, max(n - 1, 0), min(n, limit)).round().astype(int))


def _search_order(search: Any) -> Iterator[Drawing]:
    """Yield the plot of the rounds, unless the learning rates were tried in ascending order or in a single round."""
    lrs = candidate_lrs(search)
    if not np.isfinite(lrs).all() or (np.diff(lrs) >= 0).all() or len(getattr(search, "rounds_", ())) == 1:
        return
    data = rounds_data(search)
    keep = _spread(len(lrs), MAX_MARKS)
    data = data._replace(lr=data.lr[keep], score=data.score[keep], diverged=data.diverged[keep], round=data.round[keep])
    caption = f"The order in which the learning rates were tried.{_left_out(search)}"
    yield Drawing("The course of the search", caption, lambda figure: plot_rounds(data, ax=figure.subplots()))


def _parameters(search: Any) -> Iterator[Drawing]:
    """Yield the plot of the parameters, if others than the learning rate were searched."""
    candidates = search.cv_results_["params"]
    others = {name for params in candidates for name in params} - {getattr(search, "lr_param_", None)}
    if not others or len(candidates) < 2:
        return
    data = _thin_params(params_data(search))
    long_ticks = any(len(tick) > 8 for panel in data.panels for tick in panel.ticks)
    height = (3.0 if long_ticks else 2.4) * panel_rows(len(data.panels)) + 0.6
    caption = (
        "Score against each parameter. Parameters vary together, so a pattern may be the effect of another one."
        f"{_left_out(search)}"
    )

    def draw(figure: Any) -> None:
        plot_params(data, axes=new_panels(len(data.panels), figure))

    yield Drawing("Parameters", caption, draw, height, FULL_WIDTH)


def _left_out(search: Any) -> str:
    """Return a sentence on candidates that have no place in a plot of scores, "" if there are none."""
    n = int((np.isnan(mean_scores(search)) & ~diverged(search)).sum())
    return f" Not shown: {n} stopped or failed." if n else ""


def _thin_params(data: ParamsData) -> ParamsData:
    keep = _spread(len(data.score), MAX_MARKS)
    best = data.best
    if best is not None:
        keep = np.union1d(keep, [best])
        best = int(np.searchsorted(keep, best))
    panels = [panel._replace(at=panel.at[keep]) for panel in data.panels[:MAX_PANELS]]
    return data._replace(panels=panels, score=data.score[keep], diverged=data.diverged[keep], best=best)


def _svg(drawing: Drawing, prefix: str) -> str:
    matplotlib = require("matplotlib", extra="plot")
    figures = require("matplotlib.figure", extra="plot")
    cycler = require("cycler", extra="plot").cycler
    text = StringIO()
    with matplotlib.rc_context({**STYLE, "axes.prop_cycle": cycler(color=[SERIES])}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # drawn as a box
        figure = figures.Figure(figsize=(drawing.width, drawing.height), layout="constrained")
        drawing.draw(figure)
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return _inline(text.getvalue(), drawing.title, prefix)


def _inline(svg: str, title: str, prefix: str) -> str:
    """Convert an SVG file for inlining: unique ids, the page's text colour, no headers, two decimals."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{prefix}", svg)
    svg = re.sub(r' (d|x|y)="([^"]*)"', lambda m: f' {m[1]}="{_two_decimals(m[2])}"', svg)
    svg = svg.replace(INK, "currentColor")
    label = f'<svg role="img" aria-label="{title}" '
    svg = re.sub(r'^<svg [^>]*?(viewBox="[^"]*")[^>]*>', lambda m: f"{label}{m[1]} {_NAMESPACES}>", svg)
    return re.sub(r"\s*\n\s*", "\n", svg)


_NAMESPACES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'


def _two_decimals(numbers: str) -> str:
    """Truncate the numbers of a path to two decimals.

    >>> _two_decimals("M 1.23456 -0.5 L 7 8.1")
    'M 1.23 -0.5 L 7 8.1'
    """
    return re.sub(r"(\.\d\d)\d+", r"\1", numbers)
