"""What `lr_range_test` returns: the curve with its spread, the edge, and what each rule would suggest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sklr._utils.html import ShownAsText
from sklr.plotting import plot_range_test
from sklr.range_test._curve import find_edge, read_runs, smooth, suggest
from sklr.range_test._ramp import Losses

AGREE_WITHIN = 10.0  # a factor; a step of a coarse search, and less than the rules differ on most data
SEARCH_BELOW = (1e4, 3.0)  # the edge, factors: a whole training breaks a little earlier than one that only passes by


@dataclass(frozen=True, eq=False)
class RangeTest(ShownAsText):
    """The result of a range test; `suggestion` is the number, no picture needed.

    Parameters
    ----------
    lr : ndarray of shape (n_steps,)
        The learning rates, ascending.
    loss : ndarray of shape (n_steps, n_runs)
        Training loss of the batch that follows the update with that learning rate, raw; NaN once a run is beyond
        return.
    start_loss : ndarray of shape (n_runs,)
        The loss before the first update.
    mean, spread : ndarray of shape (n_steps,)
        Mean and standard deviation over the runs of their smoothed losses; `spread` is NaN for a single run. A run
        that has blown up counts with as much above its start as it had fallen below.
    unstable_step : ndarray of int of shape (n_runs,)
        The index in `lr` of the first step that broke each run; -1 if none did.
    edge : float or None
        The highest learning rate before half of the runs are broken; None if they never are.
    suggestions : dict from str to float
        By rule: `minimum`, `steep`, `valley`, `slide` as fastai has them, and `midway`, the geometric mean of `minimum`
        and `steep`, at most a quarter of the edge. A rule without an answer is absent; none has one if the loss never
        falls.
    run_suggestions : dict from str to ndarray of shape (n_runs,)
        The same, read off each run alone; NaN without an answer.
    engine : {"stacked", "sequential"}
        How the runs were trained.
    engine_reasons : tuple of str
        Why they could not be stacked.
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
        """The one learning rate to start from, that of the rule `midway`; None if the loss never fell."""
        return self.suggestions.get("midway")

    @property
    def disagreement(self) -> float:
        """The highest suggestion over the lowest; NaN where there are none."""
        found = list(self.suggestions.values())
        return max(found) / min(found) if found else float("nan")

    @property
    def agree(self) -> bool:
        """Whether there are suggestions, all within a factor of 10 of each other."""
        return self.disagreement <= AGREE_WITHIN

    @property
    def search_range(self) -> tuple[float, float]:
        """The learning rates worth searching: from four decades below the edge up to a third of it.

        Without an edge, the four decades up to the highest learning rate that was tried.
        """
        low, high = SEARCH_BELOW
        edge, high = (float(self.lr[-1]), 1.0) if self.edge is None else (self.edge, high)
        return float(f"{edge / low:.3g}"), float(f"{edge / high:.3g}")

    def plot(self, ax: Any = None) -> Any:
        """Draw the curve with its spread, the edge and the suggestions.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        ax : matplotlib Axes
        """
        return plot_range_test(self, ax=ax)

    def summary(self) -> str:
        """Return the result in plain words: the edge, the suggestions, whether they agree, what to search."""
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
        n_broken, n_runs = int((self.unstable_step >= 0).sum()), len(self.unstable_step)
        if self.edge is None:
            return f"Edge: none, {n_broken} of {n_runs} runs broke. Raise the upper end of lr_range to see it."
        lrs = self.lr[np.maximum(self.unstable_step[self.unstable_step >= 0] - 1, 0)]
        return (
            f"Edge: {self.edge:.3g}; {n_broken} of {n_runs} runs broke, just above {lrs.min():.3g} to {lrs.max():.3g}."
        )

    def _about_suggestions(self) -> str:
        if not self.suggestions:
            return "Suggestions: none, the loss never fell by more than its noise."
        found = ", ".join(f"{rule} {lr:.3g}" for rule, lr in self.suggestions.items())
        verdict = "agree" if self.agree else "do not agree"
        apart = f"within a factor of {AGREE_WITHIN:g} ({self.disagreement:.2g} lies between them)"
        return f"Suggestions: {found}. They {verdict} {apart}."

    def _advice(self) -> str:
        low, high = self.search_range
        return f"A range test sees the start of a training, not its end. Search lr_range=({low:g}, {high:g})."


def read(losses: Losses) -> RangeTest:
    """Make the result of a ramp's losses."""
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
