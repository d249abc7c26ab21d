"""What every engine is asked and answers: an experiment goes in, a training in lockstep epochs comes out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from sklr.experiment.experiment import Experiment
from sklr.results import Outcome


class EpochReport(NamedTuple):
    """What the epochs just trained brought, arrays of shape (n_candidates, n_cells, n_epochs).

    NaN where a run did not train.
    """

    train_loss: np.ndarray
    valid_score: np.ndarray


class Training(ABC):
    """Candidates x cells under way, all at the same epoch."""

    @abstractmethod
    def advance(self, n_epochs: int | None = None) -> EpochReport:
        """Train `n_epochs` more epochs (None: all that are left) and report them."""

    @abstractmethod
    def stop(self, mask: np.ndarray, reason: str) -> None:
        """End the runs marked in `mask`, shape (n_candidates, n_cells); they keep the score they have reached."""

    @property
    @abstractmethod
    def done(self) -> bool:
        """Whether no run has an epoch left."""

    @abstractmethod
    def finish(self) -> list[list[Outcome]]:
        """Train what is left, score everything and return the outcomes, (n_candidates, n_cells)."""

    def listen(self, ended: Callable[[int, list[Outcome]], None], expired: Callable[[], bool]) -> bool:
        """Register what is called when a candidate has finished; nothing is begun once `expired` returns True.

        Returns whether the training can do that by itself. One in lockstep cannot: all get through at once, and it is
        ended by `stop`.
        """
        return False

    def finished(self) -> dict[int, list[Outcome]]:
        """Return the outcomes of the candidates that are through all their cells, by number; Ctrl-C spares these.

        Empty unless an engine knows better: in lockstep none is through before all are.
        """
        return {}

    def reasons(self) -> dict[int, list[str]]:
        """Return why candidates, by number, are trained one by one although the engine trains others together."""
        return {}

    def leave_out(self) -> None:
        """Leave the candidates that `reasons` names to the caller: `finish` returns no outcomes for them."""
        return


class Engine(ABC):
    """A way to train candidates x cells."""

    name: str

    @abstractmethod
    def unsupported(self, experiment: Experiment, candidates: Sequence[dict]) -> list[str]:
        """Return the reasons why this engine cannot train these candidates; empty if it can."""

    def refusals(self, experiment: Experiment, candidates: Sequence[dict]) -> dict[int, list[str]]:
        """Return the same by number of the candidate, for those it cannot train.

        If these are not all of the candidates, `start` may be called nevertheless, and has them trained one by one.
        By default the reasons are those of all candidates.
        """
        reasons = self.unsupported(experiment, candidates)
        return {i: list(reasons) for i in range(len(candidates))} if reasons else {}

    @abstractmethod
    def start(self, experiment: Experiment, candidates: Sequence[dict], contexts: Sequence | None = None) -> Training:
        """Set every candidate up in every cell, trained for no epoch yet.

        `contexts` are scikit-learn's callback contexts, one per candidate and cell, or None.
        """
