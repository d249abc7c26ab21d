"""The interface of engines: `Engine.start` makes an experiment a `Training`, which advances epoch by epoch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from sklr.experiment.experiment import Experiment
from sklr.results import Outcome


class EpochReport(NamedTuple):
    """The results of the epochs just trained, arrays of shape (n_candidates, n_cells, n_epochs).

    NaN where a run did not train.
    """

    train_loss: np.ndarray
    valid_score: np.ndarray


class Training(ABC):
    """A training in progress of every candidate in every cell, all at the same epoch."""

    @abstractmethod
    def advance(self, n_epochs: int | None = None) -> EpochReport:
        """Train for `n_epochs` more epochs (None: all that are left) and report their results."""

    @abstractmethod
    def stop(self, mask: np.ndarray, reason: str) -> None:
        """Stop the runs marked in `mask`, shape (n_candidates, n_cells); they are scored as they are."""

    @property
    @abstractmethod
    def done(self) -> bool:
        """Whether no run has an epoch left."""

    @abstractmethod
    def finish(self) -> list[list[Outcome]]:
        """Train the epochs that are left, score all runs and return the outcomes, (n_candidates, n_cells)."""

    def listen(self, ended: Callable[[int, list[Outcome]], None], expired: Callable[[], bool]) -> bool:
        """Register callbacks: `ended` is called per finished candidate; none is begun once `expired` returns True.

        Returns whether this training supports that. One in lockstep does not: all candidates finish together, and the
        caller ends it by `stop`.
        """
        return False

    def finished(self) -> dict[int, list[Outcome]]:
        """Return the outcomes of candidates that have finished in all cells, by number; they are kept after Ctrl-C.

        Empty by default: in lockstep no candidate finishes before the others.
        """
        return {}

    def reasons(self) -> dict[int, list[str]]:
        """Return, by candidate number, why some candidates are trained one by one while others are stacked."""
        return {}

    def leave_out(self) -> None:
        """Leave the candidates in `reasons` to the caller: `finish` then returns no outcomes for them."""
        return


class Engine(ABC):
    """Trains every candidate in every cell; subclasses differ in how."""

    name: str

    @abstractmethod
    def unsupported(self, experiment: Experiment, candidates: Sequence[dict]) -> list[str]:
        """Return the reasons why this engine cannot train these candidates; empty if it can."""

    def refusals(self, experiment: Experiment, candidates: Sequence[dict]) -> dict[int, list[str]]:
        """Return the reasons of `unsupported` per candidate, by number, for those that this engine cannot train.

        If it can train at least one, `start` may be called with all: the others are then trained one by one. By
        default every candidate has the reasons of all.
        """
        reasons = self.unsupported(experiment, candidates)
        return {i: list(reasons) for i in range(len(candidates))} if reasons else {}

    @abstractmethod
    def start(self, experiment: Experiment, candidates: Sequence[dict], contexts: Sequence | None = None) -> Training:
        """Prepare every candidate in every cell; no epoch is trained yet.

        `contexts` are scikit-learn's callback contexts, one per candidate and cell, or None.
        """
