"""How a batch of candidates is evaluated: an engine trains it, record and ledger store its outcomes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial

from sklr._utils.log import say
from sklr.engines import SequentialEngine, engine_names, pick_engine
from sklr.engines.base import Training
from sklr.engines.scoring import tell_of_scorers
from sklr.engines.stacked.reasons import describe
from sklr.engines.verbose import candidate_line
from sklr.exceptions import StorageError
from sklr.experiment.experiment import Experiment
from sklr.experiment.lr_param import check_names, is_number
from sklr.experiment.settings import check_settings
from sklr.experiment.wrappers import trains_nets
from sklr.results import Outcome
from sklr.search._by_epoch import as_counted, is_cut_short, prune_by_epoch, train_until
from sklr.search._cv_results import Record
from sklr.search._interrupts import Deadline
from sklr.search._progress import Progress
from sklr.search._sklearn_callbacks import SearchTasks
from sklr.search._start import Known
from sklr.search._study import Ledger
from sklr.search.pruning.lr_path import PATH, lr_path
from sklr.search.storage.claims import POLL, Entry
from sklr.search.storage.stored_study import Book


@dataclass
class CandidateBatch:
    """Candidates proposed together, with their ledger entries and the outcomes so far, keyed by position in the batch.

    `in_book` holds the positions that the storage has, `engines` the name of the engine that trained each.
    """

    candidates: list[dict]
    entries: list[Entry] = field(default_factory=list)
    rows: dict[int, list[Outcome]] = field(default_factory=dict)
    in_book: set[int] = field(default_factory=set)
    engines: dict[int, str] = field(default_factory=dict)

    @property
    def missing(self) -> list[int]:
        """Positions without outcomes so far."""
        return [i for i in range(len(self.candidates)) if i not in self.rows]


class Evaluator:
    """Trains batches of candidates in the cells of a search.

    Parameters
    ----------
    experiment : Experiment
        What all runs share.
    engine : str or Engine
        The search's `engine` parameter.
    ledger, record
        Where the outcomes are stored.
    tasks : SearchTasks
        Reports the runs to scikit-learn's callbacks.
    n_seeds : int
        Cells per fold.
    prunes : bool
        Whether the study's pruner is called after every epoch.
    deadline : Deadline
        The time after which no training is started.
    progress : Progress
        Shows the number of trials and epochs.

    Attributes
    ----------
    without_effect : list of str
        One sentence about each searched parameter that has no effect.
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
        deadline: Deadline,
        progress: Progress,
    ):
        self.experiment, self.engine, self.ledger, self.record = experiment, engine, ledger, record
        self.tasks, self.n_seeds, self.prunes, self.deadline = tasks, n_seeds, prunes, deadline
        self.progress = progress
        self.without_effect: list[str] = []
        self._told: set[str] = set()  # causes of scorers' exceptions that have been warned of
        self._engines: set[str] = set()
        self._chosen: list[dict] = []  # candidates trained so far
        self._reasons: dict[int, list[str]] = {}  # by index in `_chosen`: why not with a faster engine

    @property
    def engine_name(self) -> str:
        """Name of the engine, or engines, that trained the candidates so far."""
        return engine_names(self._engines)

    @property
    def reasons(self) -> list[str]:
        """Why a faster engine could not be used; a reason that does not concern all candidates names those it does."""
        return describe(self._reasons, self._chosen)

    def evaluate(self, candidates: list[dict]) -> np.ndarray:
        """Train every candidate in every cell, store the outcomes, return the mean scores; NaN for those without one.

        After Ctrl-C, a timeout or a storage error only the candidates that finished all their cells are stored.
        """
        check_names(self.experiment.estimator, {name for candidate in candidates for name in candidate})
        if not self.record.outcomes:
            self.without_effect = check_settings(self.experiment, candidates, self.n_seeds)
        batch = CandidateBatch(candidates)
        try:
            if self.ledger.book is None:
                self._train(batch, list(range(len(candidates))))
            else:
                self._share(batch, self.ledger.book)
        except (KeyboardInterrupt, StorageError) as end:
            if batch.rows:
                self._write_down(batch)
            if isinstance(end, KeyboardInterrupt):
                self._keep(batch, {})  # in case the interrupt came while outcomes were being written
            raise
        return self._write_down(batch)

    def recall(self, candidates: list[dict], rows: list[list[Outcome]], engine: str, in_study: bool) -> None:
        """Store candidates that another search has trained; `in_study` means that the study already has them."""
        self.without_effect = check_settings(self.experiment, candidates, self.n_seeds)
        if in_study:
            self.record.add(candidates, rows)
            self.ledger.n_opened += len(candidates)
        else:
            batch = CandidateBatch(candidates, engines=dict.fromkeys(range(len(rows)), engine))
            self._open(batch)
            self._keep(batch, dict(enumerate(rows)))
            self._write_down(batch)
        self.ledger.known = Known(candidates, self.record.lessons(len(candidates)))

    def _share(self, batch: CandidateBatch, book: Book) -> None:
        """Read the outcomes in the book, train unclaimed candidates, wait for those that other workers are training."""
        if self.record.outcomes or not book.is_new:
            book.refresh()
        self._open(batch)
        announced = self.experiment.verbose < 1
        while True:
            known = {i: row for i in batch.missing if (row := book.outcomes(batch.entries[i])) is not None}
            batch.rows |= known
            batch.in_book |= known.keys()
            self._engines |= {book.engine(batch.entries[i]) for i in known}
            missing = batch.missing
            if not missing or self._is_over(batch):
                return
            places = [missing[i] for i in book.desk.claim([batch.entries[i] for i in missing], self.prunes)]
            if places:
                self._train(batch, places)
            else:
                if not announced:
                    say(f"waiting for {len(missing)} candidates that other processes are training")
                announced = True
                time.sleep(POLL)
            if batch.missing:
                book.refresh()

    def _train(self, batch: CandidateBatch, places: list[int]) -> None:
        """Train the candidates at these positions of a batch; those that the engine leaves out, one by one."""
        chosen = batch.candidates if len(places) == len(batch.candidates) else [batch.candidates[i] for i in places]
        engine, refused = pick_engine(self.engine, self.experiment, chosen)
        n_runs = len(chosen) * len(self.experiment.cells)
        self._announce(chosen, engine.name, refused)
        self._open(batch)
        self.ledger.follow({i: row for i, row in batch.rows.items() if i not in places})
        contexts = self.tasks.for_runs(n_runs)
        training = engine.start(self.experiment, chosen, contexts)
        if not self.prunes:
            # what cannot be stacked is trained one by one below; only a pruner needs all of it in lockstep
            training.leave_out()
        first, self._chosen = len(self._chosen), [*self._chosen, *chosen]
        try:
            self._follow(training, engine.name, batch, places)
        finally:
            refused |= training.reasons()
            self._reasons |= {first + i: reasons for i, reasons in refused.items()}
        left = [i for i in training.reasons() if places[i] not in batch.rows]
        if left and not self._is_over(batch):
            alone = SequentialEngine().start(self.experiment, chosen, contexts, left)
            self._follow(alone, SequentialEngine.name, batch, [places[i] for i in left])

    def _is_over(self, batch: CandidateBatch) -> bool:
        """Return whether the deadline has passed; it does not count before the first candidate has outcomes."""
        return self.deadline.passed() and bool(self.record.outcomes or batch.rows)

    def _follow(self, training: Training, engine: str, batch: CandidateBatch, places: Sequence[int]) -> None:
        """Run the training and keep its outcomes, those finished before an interrupt included."""

        def keep(done: Mapping[int, list[Outcome]]) -> None:
            alone = training.reasons()
            batch.engines |= {places[i]: SequentialEngine.name if i in alone else engine for i in done}
            self._keep(batch, {places[i]: [as_counted(outcome) for outcome in row] for i, row in done.items()})

        self.progress.start_training([self._lr(batch, i) for i in places])
        done: Mapping[int, list[Outcome]] = {}
        try:
            if not self._run(training, lambda candidate, outcomes: keep({candidate: outcomes})):
                done = {i: row for i, row in enumerate(training.finish()) if row}
        except KeyboardInterrupt:
            keep(training.finished())
            raise
        keep(done)

    def _run(self, training: Training, ended: Callable[[int, list[Outcome]], None]) -> bool:
        """Train to the end, or until the pruner or the deadline stops it; return whether `ended` got all outcomes."""
        if self.prunes:
            prune_by_epoch(training, self.ledger, self.deadline, self.progress, self._verbosity)
        elif training.listen(ended, self.deadline.passed):
            training.finish()
            return True
        else:
            train_until(training, self.deadline, self.progress, self._verbosity)
        return False

    def _open(self, batch: CandidateBatch) -> None:
        if batch.entries:
            return
        batch.entries = self.ledger.open(batch.candidates)
        if self.prunes:
            estimator, n_rows = self.experiment.estimator, len(self.experiment.cells[0].train)
            self.ledger.note(PATH, [lr_path(estimator, candidate, n_rows) for candidate in batch.candidates])

    def _keep(self, batch: CandidateBatch, done: Mapping[int, list[Outcome]]) -> None:
        """Keep outcomes and write those missing from the book, except runs that the timeout cut short."""
        fresh = {i: row for i, row in done.items() if i not in batch.rows}
        tell_of_scorers((o for row in fresh.values() for o in row), self.experiment.error_score, self._told)
        batch.rows |= done
        self._engines |= set(batch.engines.values())
        book = self.ledger.book
        whole = {i: row for i, row in batch.rows.items() if i not in batch.in_book and not is_cut_short(row)}
        if book is not None and whole:
            book.hand_in([(batch.entries[i], self._as_trial(batch, i)) for i in whole])
            batch.in_book |= whole.keys()
        self.progress.update(len(self.record.outcomes) + len(batch.rows), self._best(batch))
        if fresh:
            points = [(self._lr(batch, i), self.record.score(row)) for i, row in fresh.items()]
            self.progress.end_training([(lr, score) for lr, score in points if np.isfinite(lr)])
        if self._verbosity > 0:
            self._tell(batch, fresh)

    @property
    def _verbosity(self) -> int:
        """Verbosity about candidates: 0 for an estimator without epochs and learning rate, as in scikit-learn."""
        return self.experiment.verbose if self.ledger.log_params or trains_nets(self.experiment.estimator) else 0

    def _tell(self, batch: CandidateBatch, fresh: Mapping[int, Sequence[Outcome]]) -> None:
        """Log how candidates ended and which is the best so far."""
        tried = [*self.record.candidates, *(batch.candidates[i] for i in batch.rows if i not in fresh)]
        rows = [*self.record.outcomes, *(row for i, row in batch.rows.items() if i not in fresh)]
        pairs = zip(tried, rows, strict=True)
        scored = [(score, params) for params, row in pairs if (score := self._score(row)) is not None]
        best = max(scored, key=lambda pair: pair[0], default=None)
        for i, row in sorted(fresh.items()):
            params, score = batch.candidates[i], self._score(row)
            if score is not None and (best is None or score > best[0]):
                best = score, params
            say(candidate_line(params, row, best, self.record.metric))

    def _score(self, row: Sequence[Outcome]) -> float | None:
        return score if np.isfinite(score := self.record.score(row)) else None

    def _lr(self, batch: CandidateBatch, i: int) -> float:
        """Return the learning rate of a candidate, NaN if none is searched."""
        lr = batch.candidates[i].get(next(iter(self.ledger.log_params), ""))
        return float(lr) if lr is not None and is_number(lr) else np.nan

    def _best(self, batch: CandidateBatch) -> float:
        rows = [*self.record.outcomes, *batch.rows.values()] if self.progress.shown else []
        return max((score for row in rows if (score := self._score(row)) is not None), default=np.nan)

    def _as_trial(self, batch: CandidateBatch, i: int) -> FrozenTrial:
        row = batch.rows[i]
        return batch.entries[i].trial(**self.ledger.results(row, self.record.score(row), batch.engines[i]))

    def _announce(self, candidates: Sequence[dict], engine: str, refused: Mapping[int, list[str]]) -> None:
        if self.experiment.verbose > 0:
            n_runs = len(candidates) * len(self.experiment.cells)
            n_folds = len(self.experiment.cells) // self.n_seeds
            folds = f"{n_folds} folds" + (f" x {self.n_seeds} seeds" if self.n_seeds > 1 else "")
            print(f"Fitting {folds} for each of {len(candidates)} candidates, totalling {n_runs} fits")
            if trains_nets(self.experiment.estimator):
                names = (SequentialEngine.name if i in refused else engine for i in range(len(candidates)))
                reasons = describe(refused, candidates)
                say(f"engine: {engine_names(names)}" + "".join(f"; {reason}" for reason in reasons))

    def _write_down(self, batch: CandidateBatch) -> np.ndarray:
        ended = dict(sorted(batch.rows.items()))
        scores = self.record.add([batch.candidates[i] for i in ended], list(ended.values()))
        self.ledger.close(ended, scores)
        return self.record.lessons(len(ended))
