"""The stacked engine: candidates x folds x seeds trained as a few batched models, each exactly as if alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sklr.engines._base import Engine, EpochReport, Experiment, Training
from sklr.engines._prepare import Group, Unstackable, prepare
from sklr.engines._scored import ScoredPack
from sklr.engines._verbose import Label, print_end
from sklr.exceptions import EngineError
from sklr.results import Outcome


class StackedEngine(Engine):
    """Train all runs as one batched model through `torch.func`, with stock optimizer semantics.

    What can be stacked is found out before any training: `unsupported` sets the nets up, probes module, optimizer
    and loss on one batch, and `start` goes on from there.
    """

    name = "stacked"

    def __init__(self) -> None:
        self._ready: tuple[Experiment, Sequence[dict], list[Group]] | None = None

    def unsupported(self, experiment: Experiment, candidates: Sequence[dict]) -> list[str]:
        """Return the reasons why these candidates cannot be stacked; empty if they can."""
        try:
            self._ready = experiment, candidates, prepare(experiment, candidates)
        except Unstackable as refusal:
            return list(refusal.args)
        except Exception as error:  # whatever it is, the sequential engine meets it in its runs and records it
            return [f"setting the nets up raised {type(error).__name__}: {error}"]
        return []

    def start(
        self, experiment: Experiment, candidates: Sequence[dict], contexts: Sequence | None = None
    ) -> StackedTraining:
        """Stack the nets that `unsupported` has set up."""
        if self._ready is None or self._ready[0] is not experiment or self._ready[1] is not candidates:
            reasons = self.unsupported(experiment, candidates)
            if reasons:
                raise EngineError(f"engine='stacked' cannot train these candidates: {'; '.join(reasons)}.")
        assert self._ready is not None
        groups, self._ready = self._ready[2], None
        return StackedTraining(experiment, candidates, groups, contexts)


class StackedTraining(Training):
    """The packs of `StackedEngine`, epoch by epoch."""

    def __init__(
        self, experiment: Experiment, candidates: Sequence[dict], groups: Sequence[Group], contexts: Sequence | None
    ):
        self.experiment, self.candidates, self.contexts = experiment, candidates, contexts
        seed = experiment.cells[0].seed
        self.packs = [ScoredPack(experiment, candidates, group, range(len(group.members)), seed) for group in groups]
        self.epoch = 0

    @property
    def done(self) -> bool:
        """Whether no run has an epoch left."""
        return all(scored.pack.done for scored in self.packs)

    def advance(self, n_epochs: int | None = None) -> EpochReport:
        """Train every pack on."""
        if n_epochs is None:
            n_epochs = max(scored.pack.max_epochs for scored in self.packs) - self.epoch
        shape = (len(self.candidates), len(self.experiment.cells), n_epochs)
        report = EpochReport(np.full(shape, np.nan), np.full(shape, np.nan))
        for scored in self.packs:
            for i in range(n_epochs):
                if scored.pack.done:
                    break
                scored.train_epoch()
                for member, cell, row in scored.latest():
                    report.train_loss[member, cell, i] = row.train_loss
                    report.valid_score[member, cell, i] = row.valid_score
        self.epoch += n_epochs
        return report

    def stop(self, mask: np.ndarray, reason: str) -> None:
        """End the runs marked in `mask`."""
        for scored in self.packs:
            scored.stop(mask, reason)

    def finish(self) -> list[list[Outcome]]:
        """Train what is left, score it, and return the outcomes."""
        if not self.done:
            self.advance()
        outcomes = [list[Any]([None] * len(self.experiment.cells)) for _ in self.candidates]
        for scored in self.packs:
            for (candidate, cell), outcome in scored.finish().items():
                outcomes[candidate][cell] = outcome
        self._tell(outcomes)
        return outcomes

    def _tell(self, outcomes: list[list[Outcome]]) -> None:
        """Print a line per run, and open and close its task for scikit-learn's callbacks."""
        cells = self.experiment.cells
        n_splits = cells[-1].fold + 1
        for c, row in enumerate(outcomes):
            for k, outcome in enumerate(row):
                label = Label(self.candidates[c], cells[k].fold, n_splits, c, len(outcomes))
                print_end(label, outcome, self.experiment.verbose)
                if self.contexts is not None:
                    context = self.contexts[c * len(cells) + k]
                    context.call_on_fit_task_begin(estimator=self.experiment.caller)
                    context.call_on_fit_task_end(estimator=self.experiment.caller)
