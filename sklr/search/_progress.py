"""Progress of a search, shown on request: a bar (rich), and in a notebook the LR curve so far (Matplotlib).

An error while something is drawn never ends a search: it is logged, and nothing more is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from threading import Lock
from types import TracebackType
from typing import Any

import numpy as np

from sklr._utils.log import LOGGER
from sklr._utils.optional import require
from sklr.search._live_curve import LiveCurve, can_draw


class Progress:
    """The progress bar of one search, in a terminal or in Jupyter; rich detects which one it is.

    Parameters
    ----------
    shown : bool
        If False nothing is shown, and rich is not needed.
    total : int or None
        How many trials there will be; None if that is not known in advance.

    Raises
    ------
    ImportError
        If rich is not installed.

    Examples
    --------
    >>> with Progress(False, 10) as progress:
    ...     progress.update(3, best=0.9)
    """

    def __init__(self, shown: bool, total: int | None):
        self._bar: Any = _make_bar() if shown else None
        self.curve = LiveCurve() if shown and can_draw(_console_of_rich()) else None
        self._draws, self._lock = shown, Lock()
        self.total = total

    @property
    def shown(self) -> bool:
        """Whether progress is to be shown."""
        return self._bar is not None

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        """Log the first error raised inside, and draw nothing more: the search goes on without a display."""
        with self._lock:  # stacks that train side by side report from threads of their own
            try:
                yield
            except Exception as error:  # rich, Matplotlib and the notebook's front end may raise anything
                if self._draws:
                    self._draws = False
                    name = type(error).__name__
                    LOGGER.warning("progress=True stops drawing, the search goes on: %s: %s", name, error)

    def __enter__(self) -> Progress:
        if self._draws:
            with self._drawing():
                self._bar.start()
                self._task = self._bar.add_task("trials", total=self.total, epoch="", best="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.shown:
            with self._drawing():
                self._bar.stop()
        if self._draws and self.curve is not None and self.curve.ended:
            with self._drawing():
                self.curve.draw(at_once=True)

    def update(self, trials: int, best: float | None = None) -> None:
        """Show how many trials have finished, and the best score."""
        if self._draws:
            said = {} if best is None or not np.isfinite(best) else {"best": f"best {best:.4g}"}
            with self._drawing():
                self._bar.update(self._task, completed=trials, epoch="", **said)

    def epoch(self, n_epochs: int, scores: np.ndarray) -> None:
        """Show after how many epochs the current trials are, and their scores, shape (n_trials, n_cells, n_new)."""
        if self._draws:
            with self._drawing():
                self._bar.update(self._task, epoch=f"epoch {n_epochs}")
                if self.curve is not None and scores.shape[-1]:
                    self.curve.follow(n_epochs, scores[..., -1].mean(axis=1))

    def start_training(self, lrs: Sequence[float]) -> None:
        """Take over the learning rates of the trials that are now trained together, NaN where there is none."""
        if self.curve is not None:
            self.curve.in_training = lrs

    def end_training(self, points: list[tuple[float, float]]) -> None:
        """Add the learning rates and scores of trials that have ended to the curve."""
        if self._draws and self.curve is not None:
            with self._drawing():
                self.curve.end(points)


def _make_bar() -> Any:
    rich = require("rich.progress", extra="progress")
    console = _console()
    return rich.Progress(
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TextColumn("{task.fields[epoch]}"),
        rich.TextColumn("{task.fields[best]}"),
        rich.TimeRemainingColumn(),
        console=console,
        refresh_per_second=1 if console is not _console_of_rich() else 10,  # an executed notebook keeps every refresh
    )


def _console() -> Any:
    """Return the console to draw on; in a notebook without ipywidgets, which rich needs, a plain-text one."""
    console = _console_of_rich()
    if console.is_jupyter and find_spec("ipywidgets") is None:
        return type(console)(force_jupyter=False, force_terminal=True, width=100)
    return console


def _console_of_rich() -> Any:
    return require("rich", extra="progress").get_console()
