"""How a batch of candidates is tried: an engine trains it, record and ledger write down how it ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sklr.engines import pick_engine, trains_nets
from sklr.engines._base import Experiment, Training
from sklr.results import Outcome
from sklr.search._ledger import Ledger
from sklr.search._record import Record
from sklr.search._space import check_names
from sklr.search._tasks import SearchTasks


class Evaluator:
    """Trains batches of candidates in the cells of a search.

    Parameters
    ----------
    experiment : Experiment
        What all runs share.
    engine : str or Engine
        As the search was given it.
    ledger, record
        Where the outcomes go.
    tasks : SearchTasks
        Tells scikit-learn's callbacks of the runs.
    n_seeds : int
        Cells per fold.
    prunes : bool
        Whether the study's pruner is asked after every epoch.

    Attributes
    ----------
    engine_name : str
        The engine that trained the last batch.
    reasons : list of str
        Why a faster one could not.
    """

    def __init__(
        self,
        experiment: Experiment,
        *,
        engine: Any,
        ledger: Ledger,
        record: Record,
        tasks: SearchTasks,
        n_seeds: int,
        prunes: bool,
    ):
        self.experiment, self.engine, self.ledger, self.record = experiment, engine, ledger, record
        self.tasks, self.n_seeds, self.prunes = tasks, n_seeds, prunes
        self.engine_name, self.reasons = "", list[str]()

    def evaluate(self, candidates: list[dict]) -> np.ndarray:
        """Train every candidate in every cell, write it down, return the mean scores; NaN where there is none.

        After Ctrl-C the candidates that were through all their cells are written down, the others are not.
        """
        training = self._start(candidates)
        try:
            if self.prunes:
                _prune_by_epoch(training, self.ledger)
            ended = dict(enumerate(training.finish()))
        except KeyboardInterrupt:
            if finished := training.finished():
                self._write_down(candidates, finished)
            raise
        return self._write_down(candidates, ended)

    def _start(self, candidates: list[dict]) -> Training:
        check_names(self.experiment.estimator, {name for candidate in candidates for name in candidate})
        engine, self.reasons = pick_engine(self.engine, self.experiment, candidates)
        self.engine_name = engine.name
        n_runs = len(candidates) * len(self.experiment.cells)
        self._announce(len(candidates), n_runs)
        self.ledger.open(candidates)
        return engine.start(self.experiment, candidates, self.tasks.for_runs(n_runs))

    def _announce(self, n_candidates: int, n_runs: int) -> None:
        if self.experiment.verbose > 0:
            n_folds = len(self.experiment.cells) // self.n_seeds
            folds = f"{n_folds} folds" + (f" x {self.n_seeds} seeds" if self.n_seeds > 1 else "")
            print(f"Fitting {folds} for each of {n_candidates} candidates, totalling {n_runs} fits")
            if trains_nets(self.experiment.estimator):
                print(f"[sklr] engine: {self.engine_name}" + "".join(f"; {reason}" for reason in self.reasons))

    def _write_down(self, candidates: Sequence[dict], ended: Mapping[int, list[Outcome]]) -> np.ndarray:
        scores = self.record.add([candidates[i] for i in ended], list(ended.values()))
        self.ledger.close(ended, scores)
        return scores


def _prune_by_epoch(training: Training, ledger: Ledger) -> None:
    """Train epoch by epoch, and stop the candidates whose mean over the cells the study's pruner rejects."""
    epoch = 0
    while not training.done:
        scores = training.advance(1).valid_score
        if scores.shape[-1] == 0:
            continue
        ledger.report(epoch, scores[..., -1].mean(axis=1))
        epoch += 1
        pruned = ledger.should_prune()
        if pruned.any() and not training.done:
            training.stop(np.repeat(pruned[:, None], scores.shape[1], axis=1), f"pruned after {epoch} epochs")
