"""Plots of a contest: regret against evaluations, epochs and seconds, and the curves that were searched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _contest import Contest
from _ranking import band
from _strategies import OURS
from _tasks import N_FOLDS

STYLES: dict[str, tuple[str, str]] = {  # colour and line style
    OURS: ("#3f6fd8", "-"),
    "TPE": ("#1f9e9a", "-"),
    "Optuna's GP": ("#dca01e", "-"),
    "skopt's GP": ("#7a4fbf", "-"),
    "TPE as Optuna has it": ("#1f9e9a", ":"),
    "coarse to fine": ("#c2185b", "-"),
    "grid": ("#222222", "-"),
    "grid, fitted top": ("#222222", ":"),
    "grid, lr pruner": ("#222222", "--"),
    "grid, halving": ("#8a8a8a", "--"),
    "grid, Hyperband": ("#8a8a8a", "-."),
    "random": ("#e07b39", ":"),
    "random, twice the budget": ("#e07b39", "-"),
    "Sobol": ("#b0a070", "-"),
    "Sobol, then default": ("#b0a070", "--"),
}
AXES = {
    "evaluations": "candidates tried",
    "epochs": "epochs, in whole trainings",
    "seconds": "CPU seconds / largest grid",
}


def draw_contest(contest: Contest, path: Path, costs: Sequence[str] = tuple(AXES)) -> None:
    """Draw mean regret with bootstrap bands against each cost, one line per strategy."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator

    figure, axes = plt.subplots(1, len(costs), figsize=(5 * len(costs), 6.2), sharey=True, layout="constrained")
    for ax, what in zip(axes, costs, strict=True):
        for strategy in dict.fromkeys(s for s, n in contest.found if n):
            _draw_line(ax, contest, strategy, what)
        for strategy in [s for s, n in contest.found if n == 0]:
            regret = contest.means([(strategy, 0)], "regret").mean()
            ax.annotate(
                strategy, (0.99, regret), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8
            )
            ax.axhline(regret, color="#999999", linewidth=0.8)
        ax.set(xscale="log", yscale="log", xlabel=AXES[what])
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
    axes[0].set_ylabel("mean normalized regret (%)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2 * len(costs), frameon=False)
    _save(figure, path)


def _draw_line(ax: Any, contest: Contest, strategy: str, what: str) -> None:
    budgets = [n for s, n in contest.found if s == strategy]
    color, line = STYLES[strategy]
    regrets = [contest.values((strategy, n), "regret") for n in budgets]
    x = [_cost(contest, strategy, n, what) for n in budgets]
    ax.plot(x, [r.mean() for r in regrets], line, color=color, marker="o", markersize=3, label=strategy)
    low, high = zip(*map(band, regrets), strict=True)
    ax.fill_between(x, low, high, color=color, alpha=0.12, linewidth=0)


def _cost(contest: Contest, strategy: str, n: int, what: str) -> float:
    own = contest.means([(strategy, n)], what)[0]
    if what == "evaluations":
        return float(own.mean())
    if what == "epochs":
        return float((own / [t.scores.shape[2] * min(t.scores.shape[1], N_FOLDS) for t in contest.tables]).mean())
    grid = ("grid", max(contest.budgets()))
    return float((own / contest.means([grid if grid in contest.found else (strategy, n)], what)[0]).mean())


def draw_curves(contest: Contest, path: Path) -> None:
    """Draw the true score of each task against the lr, in percent of the best possible gain over a guess."""
    import matplotlib.pyplot as plt

    n_columns = min(4, len(contest.tables))
    n_rows = -(-len(contest.tables) // n_columns)
    figure, axes = plt.subplots(
        n_rows,
        n_columns,
        figsize=(3.4 * n_columns, 2 * n_rows),
        sharex=True,
        sharey=True,
        layout="constrained",
        squeeze=False,
    )
    for ax in axes.flat[len(contest.tables) :]:
        ax.remove()
    for ax, table in zip(axes.flat, contest.tables, strict=False):
        truth = table.truth()
        gain = 100 * (truth - table.guess) / (truth.max() - table.guess)
        ax.plot(10**table.log_lr, gain, color="#3f6fd8")
        ax.axvline(10 ** table.log_lr[truth.argmax()], color="#dca01e", linewidth=1)
        ax.set(xscale="log")
        ax.set_title(table.name, fontsize=9)
    figure.supxlabel("learning rate")
    figure.supylabel("score (% of what training gains)")
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    import matplotlib.pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    plt.close(figure)
