"""The result of `lr_range_test`: the curve with its spread, the edge, and the suggestion of each rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sklr._utils.html import ShownAsText
from sklr.plotting import plot_range_test
from sklr.range_test._curve import find_edge, read_runs, smooth, suggest
from sklr.range_test._ramp import Losses

AGREE_WITHIN = 10.0  # factor; the spacing of a coarse grid, and less than the rules differ by on most data
# factors below the edge: a whole training becomes unstable at a slightly lower lr than a single step of the ramp
SEARCH_BELOW = (1e4, 3.0)


@dataclass(frozen=True, eq=False)
class RangeTest(ShownAsText):
    """The result of a learning-rate range test; `suggestion` is the learning rate to start from.

    Parameters
    ----------
    lr : ndarray of shape (n_steps,)
        The learning rates, ascending.
    loss : ndarray of shape (n_steps, n_runs)
        Raw training loss of the next batch after the update with each learning rate; NaN from where a run diverged.
    start_loss : ndarray of shape (n_runs,)
        The loss before the first update.
    mean, spread : ndarray of shape (n_steps,)
        Mean and standard deviation over runs of the smoothed losses; `spread` is NaN for a single run. The losses of a
        run are capped as far above its start as they decreased below it.
    unstable_step : ndarray of int of shape (n_runs,)
        The index in `lr` of the first unstable step of each run; -1 if there is none.
    edge : float or None
        The highest learning rate before half of the runs are unstable; None if fewer ever are.
    suggestions : dict from str to float
        The learning rate suggested by each rule: `minimum`, `steep`, `valley` and `slide` as in fastai, and `midway`,
        the geometric mean of `minimum` and `steep`, at most a quarter of the edge. A rule without a result is absent;
        all are if the loss never falls.
    run_suggestions : dict from str to ndarray of shape (n_runs,)
        The suggestions from each run alone; NaN if a rule has no result.
    engine : {"stacked", "sequential"}
        How the runs were trained.
    engine_reasons : tuple of str
        Why the runs could not be stacked.
    """

    lr: np.ndarray
    loss: np.ndarray
    start_loss: np.ndarray
    mean: np.ndarray
    spread: np.ndarray
    unstable_step: np.ndarray
    edge: float | None
    suggestions: Mapping[str, float]
    run_suggestions: Mapping[str, np.ndarray] = field(repr=False)
    engine: str = "stacked"
    engine_reasons: tuple[str, ...] = ()

    @property
    def suggestion(self) -> float | None:
        """The learning rate to start from, suggested by the rule `midway`; None if the loss never fell."""
        return self.suggestions.get("midway")

    @property
    def disagreement(self) -> float:
        """Ratio of the highest to the lowest suggestion; NaN if there are none."""
        found = list(self.suggestions.values())
        return max(found) / min(found) if found else float("nan")

    @property
    def agree(self) -> bool:
        """Whether there are suggestions, and all are within a factor of 10 of each other."""
        return self.disagreement <= AGREE_WITHIN

    @property
    def search_range(self) -> tuple[float, float]:
        """The range of learning rates to search: from four decades below the edge to a third of it.

        Without an edge, the four decades up to the highest learning rate that was tried.
        """
        low, high = SEARCH_BELOW
        edge, high = (float(self.lr[-1]), 1.0) if self.edge is None else (self.edge, high)
        return float(f"{edge / low:.3g}"), float(f"{edge / high:.3g}")

    def plot(self, ax: Any = None) -> Any:
        """Plot the curve with its spread, the edge and the suggestions.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Axes to plot on; a new figure by default.

        Returns
        -------
        ax : matplotlib Axes
        """
        return plot_range_test(self, ax=ax)

    def summary(self) -> str:
        """Return the result in words: the edge, the suggestions, whether they agree, and the range to search."""
        return "\n".join(
            [self.conclusion(), self._what(), self._about_edge(), self._about_suggestions(), self._advice()]
        )

    def conclusion(self) -> str:
        """Return the first line of the summary: the learning rate to start from."""
        if self.suggestion is None:
            return "No learning rate to start from: the loss never fell."
        return f"Start from lr {self.suggestion:.3g}" + ("." if self.agree else ", though the rules do not agree.")

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        found = ", ".join(f"{rule}={lr:.3g}" for rule, lr in self.suggestions.items())
        edge = None if self.edge is None else float(f"{self.edge:.3g}")
        return f"<RangeTest of {self.loss.shape[1]} runs: edge={edge}, suggestions: {found or 'none'}>"

    def _what(self) -> str:
        n_steps, n_runs = self.loss.shape
        runs = "1 run" if n_runs == 1 else f"{n_runs} runs"
        return (
            f"Range test: {n_steps} learning rates from {self.lr[0]:.3g} to {self.lr[-1]:.3g}, {runs} ({self.engine})."
        )

    def _about_edge(self) -> str:
        n_unstable, n_runs = int((self.unstable_step >= 0).sum()), len(self.unstable_step)
        if self.edge is None:
            unstable = f"{n_unstable} of {n_runs} runs became unstable"
            return f"Edge: none, {unstable}. Raise the upper end of lr_range to find it."
        lrs = self.lr[np.maximum(self.unstable_step[self.unstable_step >= 0] - 1, 0)]
        return (
            f"Edge: {self.edge:.3g}; {n_unstable} of {n_runs} runs became unstable, just above {lrs.min():.3g} to "
            f"{lrs.max():.3g}."
        )

    def _about_suggestions(self) -> str:
        if not self.suggestions:
            return "Suggestions: none, the loss never fell by more than its noise."
        found = ", ".join(f"{rule} {lr:.3g}" for rule, lr in self.suggestions.items())
        verdict = "agree" if self.agree else "do not agree"
        apart = f"within a factor of {AGREE_WITHIN:g} (they differ by a factor of {self.disagreement:.2g})"
        return f"Suggestions: {found}. They {verdict} {apart}."

    def _advice(self) -> str:
        low, high = self.search_range
        return f"A range test only covers the start of a training. Search lr_range=({low:g}, {high:g})."


def read(losses: Losses) -> RangeTest:
    """Return the result of a range test from the losses of its ramp."""
    lr = losses.lr
    runs = read_runs(losses.before, losses.after)
    edge = find_edge(lr, runs.unstable_step)
    curves = smooth(lr, losses.after, runs)
    mean, n_runs = curves.mean(axis=1), curves.shape[1]
    alone = [
        suggest(lr, curves[:, r], type(runs)(*(values[[r]] for values in runs)), find_edge(lr, runs.unstable_step[[r]]))
        for r in range(n_runs)
    ]
    suggestions = suggest(lr, mean, runs, edge)
    return RangeTest(
        lr=lr,
        loss=losses.after,
        start_loss=losses.before,
        mean=mean,
        spread=curves.std(axis=1, ddof=1) if n_runs > 1 else np.full(len(lr), np.nan),
        unstable_step=runs.unstable_step,
        edge=edge,
        suggestions=suggestions,
        run_suggestions={rule: np.array([found.get(rule, np.nan) for found in alone]) for rule in suggestions},
        engine=losses.engine,
        engine_reasons=losses.reasons,
    )
