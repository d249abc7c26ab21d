"""The LR curve: score against learning rate with error bars, the chosen lr, its interval, and diverged runs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sklr._utils.validation import must_be
from sklr.plotting._axes import (
    add_legend,
    get_axes,
    label_log_axis,
    mark_diverged,
    marker_height,
    score_name,
    vary_in_others,
)
from sklr.plotting._sources import check_search
from sklr.selection import Choice, LRCurve
from sklr.selection._fit import Top, find_top

FITTED = ("quadratic", "neighbours")
N_FIT_POINTS = 101
OFF_SCALE = 100  # a score that would compress all others to a hundredth of the axis is marked at the bottom instead
INTERVAL_COLOR, CHOICE_COLOR, FIT_COLOR = "#dca01e", "#c97b00", "#1f9e9a"


class FittedCurve(NamedTuple):
    """The fitted curve from which an lr was chosen, with a band of one standard error; arrays of shape (n_points,).

    With a single cell the noise is unknown, and the band has zero width.
    """

    lr: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


class LRCurveData(NamedTuple):
    """The data of an LR-curve plot.

    Attributes
    ----------
    lr, mean, se : ndarray of shape (n_trained,)
        Learning rates that were trained to the end, their mean scores and paired standard errors; the latter are 0 if
        there is only one cell.
    diverged, unfinished : ndarray of shape (n_diverged,), (n_unfinished,)
        Learning rates that diverged, and those that failed or were stopped.
    floor : float
        The height at which these are marked: just below the lowest mean score.
    n_cells : int
        Number of cells over which scores are averaged.
    score : str
        Name of the score.
    choice : Choice or None
        The chosen learning rate, and its interval if the scores determine one.
    fit : FittedCurve or None
        The fitted curve from which the lr was chosen, if there is one.
    off_scale : ndarray of shape (n_off_scale,)
        Learning rates whose score is far below all others; they are not in `lr`.
    joined : bool
        Whether neighbours differ only in their learning rate, so that a line through them is meaningful.
    others_varied : bool
        Whether the search also varied other parameters; the curve only has candidates with the chosen values of them.
    """

    lr: np.ndarray
    mean: np.ndarray
    se: np.ndarray
    diverged: np.ndarray
    unfinished: np.ndarray
    floor: float
    n_cells: int
    score: str = "score"
    choice: Choice | None = None
    fit: FittedCurve | None = None
    off_scale: np.ndarray = np.empty(0)
    joined: bool = True
    others_varied: bool = False


def lr_curve_data(
    curve: LRCurve,
    choice: Choice | None = None,
    score: str = "score",
    joined: bool = True,
    others_varied: bool = False,
) -> LRCurveData:
    """Return the data of an LR-curve plot: trained and diverged learning rates, and the fitted curve if there is one.

    Parameters
    ----------
    curve : LRCurve
        ``search.lr_curve_``.
    choice : Choice, optional
        ``search.lr_choice_``.
    score : str, default="score"
        Name of the score.
    joined : bool, default=True
        Whether neighbours differ only in their learning rate; ignored if ``curve.joined`` is False.
    others_varied : bool, default=False
        Whether the search also varied other parameters; the curve only has candidates with the chosen values of them.

    Returns
    -------
    data : LRCurveData

    Examples
    --------
    >>> from sklr.selection import lr_curve
    >>> scores = np.array([[0.5, 0.7], [0.8, 0.8], [np.nan, 0.1]])
    >>> data = lr_curve_data(lr_curve([0.01, 0.1, 1.0], scores, ["ok", "ok", "diverged at step 3: loss nan"]))
    >>> data.lr.tolist(), data.mean.round(2).tolist(), data.diverged.tolist(), round(data.floor, 2)
    ([0.01, 0.1], [0.6, 0.8], [1.0], 0.58)
    """
    drawn = curve.usable & ~_far_below(curve.mean)
    return LRCurveData(
        lr=curve.lr[drawn],
        mean=curve.mean[drawn],
        se=np.nan_to_num(curve.se[drawn]),
        diverged=curve.lr[curve.diverged],
        unfinished=curve.lr[~curve.usable & ~curve.diverged],
        floor=marker_height(curve.mean[drawn]),
        n_cells=curve.cell_scores.shape[1],
        score=score,
        choice=choice,
        fit=_fit(curve, choice, drawn) if choice is not None and choice.method in FITTED else None,
        off_scale=curve.lr[curve.usable & ~drawn],
        joined=joined and curve.joined,
        others_varied=others_varied,
    )


def _far_below(mean: np.ndarray) -> np.ndarray:
    """Return which means would compress the rest of the plot to a line, such as an R² of -1e9 just below divergence."""
    known = np.sort(mean[np.isfinite(mean)])
    if not len(known):
        return np.zeros(len(mean), dtype=bool)
    best, upper_half = known[-1], known[len(known) // 2 :]
    spread = max(float(np.ptp(upper_half)), 0.1 * abs(best))  # with the second term no accuracy is ever off scale
    return np.nan_to_num(mean, nan=best) < best - OFF_SCALE * spread


def _fit(curve: LRCurve, choice: Choice, drawn: np.ndarray) -> FittedCurve | None:
    """Return the fitted curve from which the lr was chosen, over the learning rates that were used and are drawn."""
    top = find_top(curve, choice.confidence)
    if not isinstance(top, Top):
        return None
    u, scores = np.log10(curve.lr[drawn]), top.model.scores
    at = np.linspace(max(scores.u[0], u[0]), min(scores.u[-1], u[-1]), N_FIT_POINTS)
    mean, se = top.model.value(at)
    se = se if curve.has_noise else np.zeros_like(se)
    return FittedCurve(10**at, mean, mean - se, mean + se)


def searched_curve_data(search: Any) -> LRCurveData:
    """Return the data of the LR-curve plot of a fitted search."""
    check_search(search, of_sklr=True)
    if not hasattr(search, "lr_curve_"):
        advice = "Draw plot_params(search) instead, or name the parameter with lr_param=."
        raise ValueError(must_be("search", "one that searched a learning rate", type(search).__name__, advice))
    choice = getattr(search, "lr_choice_", None)
    curve = search.lr_curve_
    others_varied = curve.joined and vary_in_others(search.cv_results_["params"], search.lr_param_)
    return lr_curve_data(curve, choice, score_name(search), curve.joined, others_varied)


class LRCurveDisplay:
    """LR-curve visualization, like scikit-learn's display objects: create it with `from_search`, draw it with `plot`.

    Parameters
    ----------
    data : LRCurveData
        The data to plot, see `lr_curve_data`.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    line_ : matplotlib Line2D
        The line of mean scores.
    errorbar_ : matplotlib ErrorbarContainer
        The line with its error bars, paired standard errors.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.ensemble import GradientBoostingClassifier
    >>> from sklr.plotting import LRCurveDisplay
    >>> from sklr.search import LRGridSearchCV
    >>> X, y = load_iris(return_X_y=True)
    >>> model = GradientBoostingClassifier(n_estimators=3, random_state=0)
    >>> search = LRGridSearchCV(model, lr_range=(1e-4, 0.1), n_lrs=4, cv=3).fit(X, y)
    >>> display = LRCurveDisplay.from_search(search)
    >>> display.ax_.get_xlabel(), display.ax_.get_ylabel()
    ('peak learning rate', 'accuracy, mean of 3 cells')
    >>> display.line_.get_xdata().tolist()
    [0.0001, 0.001, 0.01, 0.1]
    >>> plt.close(display.figure_)
    """

    ax_: Any
    figure_: Any
    line_: Any
    errorbar_: Any

    def __init__(self, data: LRCurveData):
        self.data = data

    @classmethod
    def from_search(cls, search: Any, *, ax: Any = None) -> LRCurveDisplay:
        """Plot the LR curve of a fitted search.

        Parameters
        ----------
        search : fitted search
            A search that has `lr_curve_`.
        ax : matplotlib Axes, optional
            Axes to plot on; a new figure by default.

        Returns
        -------
        display : LRCurveDisplay

        Raises
        ------
        ValueError
            If the search has no LR curve.
        """
        return cls(searched_curve_data(search)).plot(ax=ax)

    def plot(self, ax: Any = None) -> LRCurveDisplay:
        """Plot the curve.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Axes to plot on; a new figure by default.

        Returns
        -------
        display : LRCurveDisplay
            The object itself, with its fitted attributes set.
        """
        self.ax_ = ax = get_axes(ax)
        self.figure_ = ax.figure
        ax.set_xscale("log")
        self._draw_interval()
        self._draw_scores()
        self._draw_fit()
        self._draw_choice()
        self._mark_the_rest()
        ax.set_xlabel("peak learning rate" + (", other parameters as chosen" if self.data.others_varied else ""))
        n = self.data.n_cells
        ax.set_ylabel(f"{self.data.score}, mean of {n} cells" if n > 1 else f"{self.data.score}, one cell")
        label_log_axis(ax)
        add_legend(ax)
        return self

    def _draw_interval(self) -> None:
        choice = self.data.choice
        if choice is not None and choice.interval[0] < choice.interval[1]:  # False for NaN
            label = f"{100 * choice.confidence:g} % interval"
            self.ax_.axvspan(*choice.interval, color=INTERVAL_COLOR, alpha=0.18, linewidth=0, zorder=0, label=label)

    def _draw_scores(self) -> None:
        d = self.data
        noise = " ± s.e." if d.se.any() else ""
        style = "-" if d.joined and not d.fit else "none"  # the fit is already a line through the points
        self.errorbar_ = self.ax_.errorbar(
            d.lr, d.mean, yerr=d.se if noise else None, fmt="o", linestyle=style, markersize=5, capsize=3,
            label=f"mean{noise}" if d.joined else f"best mean there{noise}", zorder=3,
        )  # fmt: skip
        self.line_ = self.errorbar_.lines[0]
        if noise and style == "-":
            color = self.line_.get_color()
            self.ax_.fill_between(d.lr, d.mean - d.se, d.mean + d.se, color=color, alpha=0.2, linewidth=0)

    def _draw_fit(self) -> None:
        fit = self.data.fit
        if fit is not None:
            known = (fit.low < fit.high).any()
            if known:
                self.ax_.fill_between(fit.lr, fit.low, fit.high, color=FIT_COLOR, alpha=0.25, linewidth=0)
            self.ax_.plot(fit.lr, fit.mean, color=FIT_COLOR, label="fit ± s.e." if known else "fit")

    def _draw_choice(self) -> None:
        d = self.data
        if d.choice is not None:
            lr, score, name = d.choice.lr, d.choice.score, "chosen"
        elif len(d.lr):
            lr, score, name = d.lr[d.mean.argmax()], d.mean.max(), "best"
        else:
            return
        self.ax_.axvline(lr, color=CHOICE_COLOR, linestyle="--", linewidth=1, zorder=1)
        self.ax_.plot(
            lr, score, marker="*", color=CHOICE_COLOR, markersize=13, linestyle="none", zorder=5,
            markeredgecolor="white", markeredgewidth=0.6, label=f"{name}: {lr:.3g}",
        )  # fmt: skip

    def _mark_the_rest(self) -> None:
        d = self.data
        mark_diverged(self.ax_, d.diverged, np.full(len(d.diverged), d.floor))
        if len(d.unfinished):
            at = np.full(len(d.unfinished), d.floor)
            self.ax_.plot(d.unfinished, at, "x", color="0.5", markeredgewidth=1.5, label="failed or stopped")
        if len(d.off_scale):
            at = np.full(len(d.off_scale), d.floor)
            self.ax_.plot(d.off_scale, at, "v", color=self.line_.get_color(), label="far below")


def plot_lr_curve(source: Any, *, ax: Any = None) -> Any:
    """Plot score against learning rate with error bars; diverged learning rates are red crosses.

    Parameters
    ----------
    source : fitted search, LRCurve or LRCurveData
        The search or curve to plot.
    ax : matplotlib Axes, optional
        Axes to plot on; a new figure by default.

    Returns
    -------
    ax : matplotlib Axes
    """
    if isinstance(source, LRCurve):
        source = lr_curve_data(source)
    if isinstance(source, LRCurveData):
        return LRCurveDisplay(source).plot(ax=ax).ax_
    return LRCurveDisplay.from_search(source, ax=ax).ax_
