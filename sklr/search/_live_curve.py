"""The curve of a search in a notebook, drawn again while candidates train."""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

SHARE = 0.05  # of the time goes into drawing, at most


class LiveCurve:
    """Mean test scores over learning rates, in a picture that changes while the cell of the notebook runs.

    Attributes
    ----------
    ended : list of (float, float)
        Learning rate and score of the candidates that have ended; the score may be NaN.
    in_training : sequence of float
        The learning rates of those that train together, NaN where there is none.
    scores : ndarray of shape (n_in_training,) or None
        Their scores after `epoch` epochs.
    """

    def __init__(self) -> None:
        self.ended: list[tuple[float, float]] = []
        self.in_training: Sequence[float] = ()
        self.scores: np.ndarray | None = None
        self.epoch = 0
        self._handle: Any = None
        self._rests_until = -np.inf

    def end(self, points: Iterable[tuple[float, float]]) -> None:
        """Add candidates that have ended; those that trained together end together."""
        self.ended += points
        self.scores = None
        self.draw()

    def follow(self, epoch: int, scores: np.ndarray) -> None:
        """Take over the scores of those in training, shape (n_in_training,)."""
        self.epoch, self.scores = epoch, scores
        self.draw()

    def draw(self, at_once: bool = False) -> None:
        """Show the curve; nothing is done if it has been shown so recently that drawing would take a notable time."""
        start = time.monotonic()
        if start < self._rests_until and not at_once:
            return
        from IPython.display import Image, display

        picture = Image(data=self._as_png(), format="png")
        if self._handle is None:
            self._handle = display(picture, display_id=True)
        else:
            self._handle.update(picture)
        now = time.monotonic()
        self._rests_until = now + (now - start) / SHARE

    def _as_png(self) -> bytes:
        from matplotlib.figure import Figure  # not pyplot, which would show the picture again when the cell has run

        figure = Figure(figsize=(6, 3.2), layout="constrained")
        self.plot(figure.subplots())
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=90)
        return file.getvalue()

    def plot(self, ax: Any) -> None:
        """Draw the points: those in training are hollow, the best that has ended is a star."""
        ended = np.array(sorted(self.ended), dtype=float).reshape(-1, 2)
        if len(ended):
            ax.plot(*ended.T, "o-", markersize=5, color="C0", label="ended")
        if self.scores is not None:
            label = f"after epoch {self.epoch}"
            ax.plot(self.in_training, self.scores, "o", mfc="none", color="C1", label=label)
        if np.isfinite(ended[:, 1]).any():
            lr, score = ended[np.nanargmax(ended[:, 1])]
            ax.plot(lr, score, "*", markersize=13, color="C3", label=f"best so far: {lr:.3g}")
        if not any(lr <= 0 for lr in [*ended[:, 0], *self.in_training]):
            ax.set_xscale("log")
        ax.set(xlabel="learning rate", ylabel="mean test score")
        if ax.lines:
            ax.legend(loc="best", fontsize="small")


def can_draw(console: Any) -> bool:
    """Say whether rich's console is a notebook, and Matplotlib is there to draw."""
    return bool(console.is_jupyter) and find_spec("matplotlib") is not None
