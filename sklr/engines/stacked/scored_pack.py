"""A pack whose runs are scored: after each epoch if a pruner or a user follows them, and at the end."""

from __future__ import annotations

import pickle
import time
from collections.abc import Container, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from sklr.engines.scoring import Scored, ScorerError, returned_no_number
from sklr.engines.sequential.run import error_scores
from sklr.engines.stacked.checks.transforms import as_inferred
from sklr.engines.stacked.data.cell_rows import PackRows
from sklr.engines.stacked.data.index_batches import Rows, map_tensors
from sklr.engines.stacked.kernels.attention import attention_as_usual
from sklr.engines.stacked.kernels.module_call import ROWS, has_rows, in_blocks
from sklr.engines.stacked.model.group import Group
from sklr.engines.stacked.model.pack import Pack
from sklr.engines.stacked.scoring.scorer import CellScorer
from sklr.engines.stacked.setup.packing import out_of_memory, release, step_flops, work_of
from sklr.engines.stacked.unstack import fitted_estimator
from sklr.exceptions import TrainingDiverged
from sklr.experiment.experiment import Experiment
from sklr.results import DIVERGED, OK, STOPPED, EpochRow, Outcome

FEWEST_ROWS = 8  # to predict at once when memory is short


class PackProgress(NamedTuple):
    """The state of a pack without its data, small enough to be sent back by a worker."""

    chosen: list[int]
    pack: dict[str, Any]
    outcomes: dict[tuple[int, int], Outcome]
    score_seconds: float
    cached: tuple[Any, Rows]


class ScoredPack:
    """Some members of a group in one stack, with their scores.

    Parameters
    ----------
    experiment : Experiment
    candidates : sequence of dict
        All candidates of the training; members know their number among them.
    group : Group
    chosen : sequence of int
        Which of the group's members are in this pack.
    parks : bool, default False
        Whether the stack is moved to the host's memory while it is not training, to free the device for other packs.

    Attributes
    ----------
    outcomes : dict from (candidate, cell) to Outcome
        The outcomes of the runs that have ended, by their numbers among all candidates and all cells.
    """

    def __init__(
        self,
        experiment: Experiment,
        candidates: Sequence[dict],
        group: Group,
        chosen: Sequence[int],
        *,
        parks: bool = False,
    ):
        self.experiment, self.candidates, self.group_cells = experiment, candidates, group.group_cells
        self.group, self.chosen, self.parks = group, list(chosen), parks
        self._parked: bytes | None = None
        members = [group.members[i] for i in chosen]
        pack_cells = [group_cell.pack_cell for group_cell in group.group_cells]
        self.pack = Pack(group.build(chosen), members, pack_cells, group.max_epochs)
        self.step_flops = step_flops(group, self.pack.stack)
        self._work_of_one = work_of(group, 1)
        self.test_rows = PackRows([group_cell.x_test for group_cell in group.group_cells])
        self.n_test = [len(group_cell.cell.test) for group_cell in group.group_cells]
        self.scorers = [
            CellScorer(experiment, group_cell.cell, group_cell.pack_cell.net, group_cell.subject, group_cell.score_data)
            for group_cell in group.group_cells
        ]
        self.from_outputs = self.scorers[0].from_outputs  # the same in all cells
        if self.pack.streams and experiment.return_train_score:
            self.from_outputs = False  # a stream's training rows are not in memory: each run's own net must read them
        self.pack.keeps_records = experiment.keep_estimators or not self.from_outputs
        self.outcomes: dict[tuple[int, int], Outcome] = {}
        self.score_seconds = 0.0
        self._rows_at_once = ROWS  # to predict
        self._cached: tuple[Any, Rows] = (None, None)  # outputs for the validation rows, and the state they are of

    def train_epoch(self, *, own_stream: bool = True, scoring: AbstractContextManager | None = None) -> None:
        """Train an epoch, record its validation scores if they are wanted, and score the runs that end with it.

        Parameters
        ----------
        own_stream : bool
            As for `Pack.train_epoch`.
        scoring : context manager, optional
            Scorers are called within it, such as a lock: they are the user's code, and may not be thread-safe.
        """
        self._unpark()
        self.pack.train_epoch(own_stream=own_stream)
        if self.scorers[0].follows:
            self._follow_epoch(scoring)
        ended = self.pack.close()
        if ended.any() and self.pack.epoch < self.pack.max_epochs:  # after the last epoch `finish` scores
            with scoring or nullcontext(), attention_as_usual():
                self._score(ended, OK, "")
            self.pack.alive &= ~ended

    def _follow_epoch(self, scoring: AbstractContextManager | None) -> None:
        start = time.time()
        outputs = self._test_outputs() if self.scorers[0].follows_from_outputs else None
        self.score_seconds += time.time() - start
        with scoring or nullcontext(), attention_as_usual():
            start = time.time()
            self._follow(outputs)
            self.score_seconds += time.time() - start

    def _follow(self, outputs: Rows | None) -> None:
        for cell, scorer in enumerate(self.scorers):
            known = None if outputs is None else scorer.follow(self._rows_of(outputs, cell, self.n_test))
            for i, m in enumerate(self.pack.in_stack):
                history = self.pack.history[m][cell]
                if len(history) == self.pack.epoch:  # a run that has diverged or ended has no row for this epoch
                    score = scorer.follow_own(self._estimator(m, cell)) if known is None else known[i]
                    history[-1] = history[-1]._replace(valid_score=float(score))

    def _estimator(self, m: int, cell: int) -> Any:
        """Turn a run into its own fitted estimator."""
        candidate = self.candidates[self.pack.members[m].candidate]
        return fitted_estimator(self.experiment, candidate, self.pack, m, cell, self.group_cells[cell])

    def _outputs(self, rows: PackRows) -> Rows:
        """Return what the nets' `infer` returns, shape (n_in_stack, n_cells, n_rows, ...).

        If memory runs out, it is for fewer rows at once, from then on: training is over, and is not to be lost.
        """
        outputs = None
        while outputs is None:
            try:
                outputs = in_blocks(self.pack.stack.outputs, rows, self._rows_at_once)
            except Exception as error:
                if not out_of_memory(error) or self._rows_at_once <= FEWEST_ROWS:
                    raise
            if outputs is None:  # after the handler, as in `advance`
                release(self.group.device)
                self._rows_at_once //= 4
        return as_inferred(self.group_cells[0].pack_cell.net, outputs)

    def _test_outputs(self) -> Rows:
        """Return the outputs for the validation rows, cached: scores after an epoch and at its end need the same."""
        # a callback that restores earlier weights at the end of a run changes the outputs without a new epoch
        (known, outputs), now = self._cached, (self.pack.epoch, self.pack.n_restored)
        if known != now:
            outputs = self._outputs(self.test_rows)
            self._cached = (now, outputs) if _is_small(outputs) else (None, None)
        return outputs

    def _rows_of(self, outputs: Rows, cell: int, n_rows: Sequence[int]) -> Rows:
        def of_cell(t: Tensor) -> Tensor:
            return t[:, cell, : n_rows[cell]] if has_rows(t, max(n_rows)) else t[:, cell]

        return map_tensors(of_cell, outputs)

    def rows_since(self, epoch: int) -> Iterator[tuple[int, int, EpochRow]]:
        """Yield candidate, cell and row of every epoch that a run has completed, from `epoch` on."""
        for member, cells in zip(self.pack.members, self.pack.history, strict=True):
            for group_cell, history in zip(self.group_cells, cells, strict=True):
                for row in history[epoch:]:
                    yield member.candidate, group_cell.number, row

    @property
    def work(self) -> float:
        """The work of an epoch, relative to other packs: only members that are still training count."""
        return self._work_of_one * float(self.pack.alive.any(axis=1).sum())

    @property
    def still_training(self) -> list[int]:
        """The group's members in this pack that still have a run to train."""
        return [i for i, alive in zip(self.chosen, self.pack.alive, strict=True) if alive.any()]

    def drop_stack(self) -> list[int]:
        """Release the stack's memory; return the members that were training. Only `restarted` may be called then."""
        self._record_diverged()
        going = self.still_training
        del self.pack, self._cached
        release(self.group.device)
        return going

    def restarted(self, chosen: Sequence[int]) -> ScoredPack:
        """Return a new pack of some members, before their first epoch, without the runs that have been stopped."""
        new = ScoredPack(self.experiment, self.candidates, self.group, chosen, parks=self.group.device.type == "cuda")
        for m, member in enumerate(new.pack.members):
            for cell, group_cell in enumerate(self.group_cells):
                ended = self.outcomes.get((member.candidate, group_cell.number))
                new.pack.alive[m, cell] = ended is None or ended.status != STOPPED
        new.outcomes.update(self.outcomes)
        return new

    def park(self) -> None:
        """Move the stack to the host's memory, if the pack parks and the stack can be pickled."""
        if not self.parks or self._parked is not None:
            return
        try:
            self._parked = pickle.dumps(self.pack.stack)
        except Exception:  # the user's module may not be picklable: its stack then stays on the device
            self.parks = False
            return
        del self.pack.stack
        self._cached = (None, None)
        release(self.group.device)

    def _unpark(self) -> None:
        """Move a parked stack back to its device."""
        if self._parked is not None:
            self.pack.stack, self._parked = pickle.loads(self._parked), None

    def progress(self) -> PackProgress:
        """Return the state of this pack, which updates the original of which it is a copy."""
        self._unpark()
        return PackProgress(self.chosen, self.pack.progress(), self.outcomes, self.score_seconds, self._cached)

    def updated(self, progress: PackProgress) -> ScoredPack:
        """Return this pack, or a new one of some of its members, with the progress of a worker's copy."""
        same = progress.chosen == self.chosen
        pack = self if same else ScoredPack(self.experiment, self.candidates, self.group, progress.chosen)
        pack.pack.load_progress(progress.pack)
        pack.outcomes, pack.score_seconds, pack._cached = progress.outcomes, progress.score_seconds, progress.cached
        return pack

    def stop(self, mask: np.ndarray, reason: str) -> None:
        """End the runs marked in `mask`, shape (n_candidates, n_cells), with their current scores."""
        candidates = [member.candidate for member in self.pack.members]
        stopping = mask[np.ix_(candidates, [group_cell.number for group_cell in self.group_cells])] & self.pack.alive
        if stopping.any() and not self.pack.done:
            self._score(stopping, STOPPED, reason)
            self.pack.alive &= ~stopping
            self.park()

    def give_up(self, candidates: Container[int]) -> None:
        """End the runs of these candidates without a score: they will be trained one by one in all cells."""
        for m, member in enumerate(self.pack.members):
            if member.candidate in candidates:
                self.pack.alive[m] = False

    def finish(self) -> dict[tuple[int, int], Outcome]:
        """Score the runs that have completed all epochs; return the outcomes of all runs."""
        self._score(self.pack.alive, OK, "")
        self._record_diverged()
        self.park()
        return self.outcomes

    def _record_diverged(self) -> None:
        for (m, cell), (step, loss) in self.pack.diverged.items():
            scores = error_scores(self.experiment)
            self._record(m, cell, DIVERGED, str(TrainingDiverged(step, loss)), Scored(scores), Scored(scores), 0.0)

    def _score(self, mask: np.ndarray, status: str, reason: str) -> None:
        if not mask.any():
            return
        start = time.time()
        self._unpark()
        tests, trains = (self._test_outputs(), self._train_outputs()) if self.from_outputs else (None, None)
        quick = [
            None if tests is None else s.exact(self._rows_of(tests, k, self.n_test)) for k, s in enumerate(self.scorers)
        ]
        # what was computed for all runs at once counts for each of them in equal shares
        shared = (time.time() - start + self.score_seconds) / self.pack.alive.size
        n_train = [len(group_cell.cell.train) for group_cell in self.group_cells]
        for m, cell in np.argwhere(mask).tolist():
            i, known, kept = self.pack.in_stack.index(m), quick[cell], None
            if self.experiment.keep_estimators or not self.from_outputs:
                kept = self._estimator(m, cell)
            start = time.time()
            test = self._scores(cell, kept, i, tests, self.n_test) if known is None else Scored(float(known[i]))
            seconds = shared + time.time() - start
            train = None
            if self.experiment.return_train_score:
                train = self._scores(cell, kept, i, trains, n_train, train=True)
            self._record(m, cell, status, reason, test, train, seconds, kept)

    def _scores(
        self, cell: int, own: Any, i: int, outputs: Rows | None, n_rows: Sequence[int], train: bool = False
    ) -> Scored:
        """Score a run: from its outputs at place `i` of the stack, or without outputs by its `own` estimator."""
        try:
            if outputs is None:
                return self.scorers[cell].score_own(own, train)
            return self.scorers[cell].score(map_tensors(lambda t: t[i], self._rows_of(outputs, cell, n_rows)), train)
        except Exception as error:
            # the user wants it, or the score is no number: no reason to train one by one
            if self.experiment.error_score == "raise" or returned_no_number(error):
                raise ScorerError from error
            raise

    def _train_outputs(self) -> Rows | None:
        return self._outputs(self.pack.fold[0]) if self.experiment.return_train_score else None

    def _record(
        self,
        m: int,
        cell: int,
        status: str,
        reason: str,
        test: Scored,
        train: Scored | None,
        score_time: float,
        estimator: Any = None,
    ) -> None:
        self.outcomes[self.pack.members[m].candidate, self.group_cells[cell].number] = Outcome(
            test_scores=test.scores,
            status=status,
            reason=reason,
            train_scores=train.scores if train and self.experiment.return_train_score else None,
            fit_time=self.pack.seconds / self.pack.alive.size + self.group_cells[cell].seconds,
            score_time=score_time,
            n_test_samples=self.n_test[cell],
            score_error=test.error or (train and train.error),
            history=self.pack.history[m][cell],
            estimator=estimator if self.experiment.keep_estimators else None,
        )


def _is_small(outputs: Rows) -> bool:
    """Whether outputs are small enough (16 MiB in float32) to cache, and to send from a worker."""
    return isinstance(outputs, Tensor) and outputs.numel() <= 2**22
