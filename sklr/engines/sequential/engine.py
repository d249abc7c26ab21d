"""The reference engine: one run after another in skorch's own training loop, spread over workers by joblib."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from joblib import hash as joblib_hash
from sklearn.utils.parallel import Parallel, delayed

from sklr.engines.base import Engine, EpochReport, Training
from sklr.engines.sequential.run import Run
from sklr.engines.verbose import Label
from sklr.engines.workers import Call, spread
from sklr.experiment.cell_data import Head, cell_data, fit_head, seeded_clone
from sklr.experiment.experiment import Cell, Experiment
from sklr.experiment.wrappers import around_net, is_wrapped
from sklr.results import Outcome


class SequentialEngine(Engine):
    """Trains one run after another, each exactly as ``estimator.fit`` would; works with any scikit-learn estimator."""

    name = "sequential"

    def unsupported(self, experiment: Experiment, candidates: Sequence[dict]) -> list[str]:
        """Return no reasons: this engine can train whatever scikit-learn can fit."""
        return []

    def start(
        self,
        experiment: Experiment,
        candidates: Sequence[dict],
        contexts: Sequence | None = None,
        chosen: Sequence[int] | None = None,
    ) -> SequentialTraining:
        """Clone the estimator for every run, and fit the pipeline steps around the net, once per fold.

        `chosen` are the numbers of the candidates to train, None for all; `contexts` are those of all candidates.
        """
        chosen, n_cells = range(len(candidates)) if chosen is None else chosen, len(experiment.cells)
        pairs = list(product(chosen, range(n_cells)))
        estimators = [seeded_clone(experiment, candidates[c], experiment.cells[k]) for c, k in pairs]
        cells = [experiment.cells[k] for _, k in pairs]
        contexts = [None if contexts is None else contexts[c * n_cells + k] for c, k in pairs]
        heads = fit_heads(experiment, estimators, cells) if contexts[0] is None else [None] * len(pairs)
        n_splits = max(cell.fold for cell in experiment.cells) + 1
        labels = [Label(candidates[c], experiment.cells[k].fold, n_splits, c, len(candidates)) for c, k in pairs]
        runs = map(Run, [experiment] * len(pairs), cells, estimators, labels, heads, contexts)
        return SequentialTraining(experiment, list(runs), len(chosen))


_LAST: WeakKeyDictionary[Experiment, dict[Any, Head | None]] = WeakKeyDictionary()  # the last heads of each search


def fit_heads(experiment: Experiment, estimators: Sequence[Any], cells: Sequence[Cell]) -> list[Head | None]:
    """Fit each distinct head (the pipeline steps around a net) once per fold; return one per estimator.

    None stands for a head that could not be fitted: its runs will fit it again, and record the error. Heads that the
    same search fitted last, for another engine or an earlier batch of candidates, are used again.
    """
    keys = [
        (cell.fold, _identity(around_net(estimator))) if is_wrapped(estimator) else None
        for estimator, cell in zip(estimators, cells, strict=True)
    ]
    known = _LAST.get(experiment, {})
    tasks: dict[Any, tuple[Any, Cell]] = {}
    for key, estimator, cell in zip(keys, estimators, cells, strict=True):
        if key is not None and key not in known:
            tasks.setdefault(key, (estimator, cell))
    parallel = Parallel(n_jobs=experiment.n_jobs, pre_dispatch=experiment.pre_dispatch)
    fitted = parallel(delayed(_fit_one_head)(experiment, *task) for task in tasks.values()) if tasks else []
    heads = {key: known[key] for key in keys if key in known} | dict(zip(tasks, fitted, strict=True))
    if heads:
        _LAST[experiment] = heads
    shares = {key: _share_of(head, keys.count(key)) for key, head in heads.items()}
    return [shares.get(key) for key in keys]


def _identity(settings: list) -> Any:
    """Return a key that is equal for equal settings; settings that cannot be pickled are equal to no others."""
    try:
        return joblib_hash(settings)
    except Exception:
        return object()


def _fit_one_head(experiment: Experiment, estimator: Any, cell: Cell) -> Head | None:
    try:
        return fit_head(estimator, cell_data(experiment, cell, estimator))
    except Exception:
        return None


def _share_of(head: Head | None, n_runs: int) -> Head | None:
    """Return a head whose fit time is divided among the runs that use it."""
    return None if head is None else head._replace(seconds=head.seconds / n_runs)


class SequentialTraining(Training):
    """The runs of `SequentialEngine`, ordered by candidate, then by cell."""

    def __init__(self, experiment: Experiment, runs: list[Run], n_candidates: int):
        self.experiment, self.runs = experiment, runs
        self.shape = (n_candidates, len(experiment.cells))
        self.epoch = 0
        self.ended: Callable[[int, list[Outcome]], None] = lambda candidate, outcomes: None
        self.expired: Callable[[], bool] = lambda: False

    def listen(self, ended: Callable[[int, list[Outcome]], None], expired: Callable[[], bool]) -> bool:
        """Call `ended` when a candidate finishes; begin no candidate but the first once `expired` returns True."""
        self.ended, self.expired = ended, expired
        return True

    @property
    def done(self) -> bool:
        """Whether no run has an epoch left."""
        return all(run.done for run in self.runs)

    def advance(self, n_epochs: int | None = None) -> EpochReport:
        """Continue every unfinished run; workers return the runs."""
        live = [i for i, run in enumerate(self.runs) if not run.done]
        begun: list[int] = []
        experiment = self.experiment
        results = spread(self._calls(live, begun, n_epochs), experiment.n_jobs, experiment.pre_dispatch)
        for place, run in results:
            self._take(begun[place], run)
        return self._report(n_epochs)

    def _calls(self, live: Sequence[int], begun: list[int], n_epochs: int | None) -> Iterator[Call]:
        """Yield calls that continue the unfinished runs, until time is up; the first candidate is always trained."""
        n_cells = self.shape[1]
        for i in live:
            if i >= n_cells and i % n_cells == 0 and self.expired():
                return
            begun.append(i)
            yield delayed(self.runs[i].advance)(n_epochs)

    def _take(self, i: int, run: Run) -> None:
        """Store a run that a worker returned; call `ended` if its candidate has finished in all cells."""
        self.runs[i] = run
        candidate = i // self.shape[1]
        row = self.runs[candidate * self.shape[1] : (candidate + 1) * self.shape[1]]
        if all(run.done for run in row):
            self.ended(candidate, [run.outcome for run in row if run.outcome is not None])

    def _report(self, n_epochs: int | None) -> EpochReport:
        histories = [run.history for run in self.runs]
        longest = max((len(history) for history in histories), default=0)
        n_new = longest - self.epoch if n_epochs is None else n_epochs
        table = np.full((len(self.runs), n_new, 2), np.nan)
        for row, history in zip(table, histories, strict=True):
            for epoch in history[self.epoch : self.epoch + n_new]:
                row[epoch.epoch - self.epoch] = epoch.train_loss, epoch.valid_score
        self.epoch += n_new
        train_loss, valid_score = np.moveaxis(table.reshape(*self.shape, n_new, 2), -1, 0)
        return EpochReport(train_loss, valid_score)

    def stop(self, mask: np.ndarray, reason: str) -> None:
        """Stop the runs marked in `mask`."""
        for run, marked in zip(self.runs, np.ravel(mask), strict=True):
            if marked and not run.done:
                run.stop(reason)

    def finish(self) -> list[list[Outcome]]:
        """Train the epochs that are left and return the outcomes."""
        if not self.done:
            self.advance()
        return list(self.finished().values())  # of all candidates, unless time ran out

    def finished(self) -> dict[int, list[Outcome]]:
        """Return the outcomes of the candidates that have finished in all cells, by number."""
        n_candidates, n_cells = self.shape
        rows = [[run.outcome for run in self.runs[c * n_cells : (c + 1) * n_cells]] for c in range(n_candidates)]
        return {c: [o for o in row if o is not None] for c, row in enumerate(rows) if None not in row}
