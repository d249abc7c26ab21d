"""A dense table of real trainings, and an engine that looks runs up in it, so that a search takes milliseconds.

The stacked engine trains the table once per task: 49 learning rates in many cells (folds, each with its own seed),
scored after every epoch. A search draws three cells. The score of a run at any lr is the mean curve of all cells,
interpolated in log lr, plus the deviation of the run's cell from it at the nearest learning rate of the table. The
public searches run on this engine unchanged, pruners included. A search is judged by the mean of the cells it did not
draw.
"""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _tasks import N_FOLDS, Task
from optuna.pruners import NopPruner

from sklr import LRGridSearchCV
from sklr.engines.base import Engine, EpochReport, Training
from sklr.exceptions import DivergedWarning, EdgeOfRangeWarning
from sklr.experiment.experiment import Experiment
from sklr.results import DIVERGED, OK, STOPPED, EpochRow, Outcome

LOG_RANGE = (-5.0, 1.0)
TIMED = (1, 4, 16, 32)  # numbers of candidates of the stacks that are timed


def quietly(function: Callable[[], Any]) -> Any:
    """Call the function without the warnings that a wide range of learning rates causes."""
    with warnings.catch_warnings():
        for category in (DivergedWarning, EdgeOfRangeWarning):
            warnings.simplefilter("ignore", category)
        return function()


@dataclass(frozen=True, eq=False)
class Table:
    """Scores by learning rate, cell and epoch, and the cost of training.

    Attributes
    ----------
    log_lr : ndarray of shape (n_lrs,)
        Ascending log10 lr.
    scores : ndarray of shape (n_lrs, n_cells, n_epochs)
        Score after each epoch; NaN from the epoch in which a run diverged.
    guess : ndarray of shape ()
        The score without training.
    n_runs, set_up, per_epoch : ndarray of shape (n_sizes,)
        Numbers of runs of the timed stacks, the CPU seconds of their setup, and those of training and scoring an epoch.
    """

    name: str
    log_lr: np.ndarray
    scores: np.ndarray
    guess: np.ndarray
    n_runs: np.ndarray
    set_up: np.ndarray
    per_epoch: np.ndarray

    @cached_property
    def _mean(self) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # mean of an empty slice, if all cells diverged
            return np.nanmean(self.scores, axis=1)

    def at(self, log_lr: np.ndarray, cells: np.ndarray) -> np.ndarray:
        """Return the scores of runs, shape (n_candidates, n_cells, n_epochs)."""
        u = np.clip(log_lr, self.log_lr[0], self.log_lr[-1])
        nearest = np.abs(u[:, None] - self.log_lr).argmin(axis=1)
        right = np.clip(np.searchsorted(self.log_lr, u), 1, len(self.log_lr) - 1)
        share = ((u - self.log_lr[right - 1]) / (self.log_lr[right] - self.log_lr[right - 1]))[:, None]
        between = (1 - share) * self._mean[right - 1] + share * self._mean[right]
        curve = np.where(np.isfinite(between), between, self._mean[nearest])
        own = self.scores[nearest][:, cells] - self._mean[nearest][:, None]
        return curve[:, None] + own

    def truth(self, without: Sequence[int] | np.ndarray = (), log_lr: np.ndarray | None = None) -> np.ndarray:
        """Return the expected final score at each learning rate, by default at those of the table.

        It is the mean over the cells that are not in `without`; a diverged run has the score of a guess.
        """
        cells = np.setdiff1d(np.arange(self.scores.shape[1]), without)
        return np.fmax(self.at(self.log_lr if log_lr is None else log_lr, cells)[..., -1], self.guess).mean(axis=1)

    def noise(self) -> float:
        """Return the standard deviation of the mean score of three cells at the best lr; 0 if there is one cell."""
        if self.scores.shape[1] < 2:
            return 0.0
        best = int(self.truth().argmax())
        return float(np.nanstd(self.scores[best, :, -1], ddof=1) / np.sqrt(N_FOLDS))

    def seconds(self, n_runs: float) -> tuple[float, float]:
        """Return the seconds of setting up a stack of `n_runs` runs, and of training it for an epoch."""
        return tuple(float(np.interp(n_runs, self.n_runs, cost)) for cost in (self.set_up, self.per_epoch))  # type: ignore[return-value]


@dataclass
class Bill:
    """The cost of the trainings of a search."""

    evaluations: int = 0
    epochs: int = 0  # summed over the runs
    seconds: float = 0.0


class TableEngine(Engine):
    """An engine that looks scores up in a table instead of training, and records the cost of the trainings."""

    name = "table"

    def __init__(self, table: Table, cells: np.ndarray, lr_param: str = "lr"):
        self.table, self.cells, self.lr_param, self.bill = table, cells, lr_param, Bill()

    def unsupported(self, experiment: Experiment, candidates: Sequence[dict]) -> list[str]:
        """Return no reasons: everything is supported."""
        return []

    def start(self, experiment: Experiment, candidates: Sequence[dict], contexts: Any = None) -> TableTraining:
        """Look up all runs."""
        lrs = np.array([candidate[self.lr_param] for candidate in candidates], dtype=float)
        return TableTraining(self.table, lrs, self.table.at(np.log10(lrs), self.cells), self.bill)


class TableTraining(Training):
    """Runs that are looked up in a table, advancing in lockstep."""

    def __init__(self, table: Table, lrs: np.ndarray, scores: np.ndarray, bill: Bill):
        self.table, self.lrs, self.scores, self.bill, self.epoch = table, lrs, scores, bill, 0
        self.ended_by = np.full(scores.shape[:2], "", dtype=object)  # reasons of the runs that were stopped
        self.n_epochs = np.zeros(scores.shape[:2], dtype=int)
        bill.evaluations += len(lrs)
        bill.seconds += table.seconds(scores.shape[0] * scores.shape[1])[0]

    @property
    def _going(self) -> np.ndarray:
        """Which runs have neither been stopped nor diverged."""
        lost = (
            np.zeros_like(self.n_epochs, dtype=bool) if self.epoch == 0 else np.isnan(self.scores[..., self.epoch - 1])
        )
        return (self.ended_by == "") & ~lost

    @property
    def done(self) -> bool:
        """Whether no run has an epoch left."""
        return self.epoch == self.scores.shape[2] or not self._going.any()

    def advance(self, n_epochs: int | None = None) -> EpochReport:
        """Return the scores of the next epochs."""
        rest = self.scores.shape[2] - self.epoch
        shown = [self._one_epoch() for _ in range(rest if n_epochs is None else min(n_epochs, rest))]
        scores = np.stack(shown, axis=-1) if shown else np.empty((*self.scores.shape[:2], 0))
        return EpochReport(-scores, scores)

    def _one_epoch(self) -> np.ndarray:
        going = self._going
        self.n_epochs += going
        self.bill.epochs += int(going.sum())
        self.bill.seconds += self.table.seconds(going.sum())[1] if going.any() else 0.0
        self.epoch += 1
        return np.where(going, self.scores[..., self.epoch - 1], np.nan)

    def stop(self, mask: np.ndarray, reason: str) -> None:
        """Stop the runs that are marked in `mask`."""
        self.ended_by[mask & self._going] = reason

    def finish(self) -> list[list[Outcome]]:
        """Return the outcomes of all runs."""
        self.advance()
        return [[self._outcome(i, k) for k in range(self.scores.shape[1])] for i in range(len(self.lrs))]

    def _outcome(self, i: int, k: int) -> Outcome:
        seen = self.scores[i, k, : self.n_epochs[i, k]].tolist()
        lr = float(self.lrs[i])
        history = [EpochRow(e, lr, -score, score) for e, score in enumerate(seen)]
        if self.ended_by[i, k]:
            return Outcome(seen[-1], STOPPED, self.ended_by[i, k], history=history)
        if np.isnan(seen[-1]):
            return Outcome(float("nan"), DIVERGED, f"diverged in epoch {len(seen)}", history=history)
        return Outcome(seen[-1], OK, history=history)


def train_table(task: Task, n_lrs: int, n_worlds: int, cache: Path | None) -> Table:
    """Train the table of a task, or read it from the cache."""
    path = None if cache is None else cache / f"{_fingerprint(task, n_lrs, n_worlds)}.npz"
    if path is not None and path.exists():
        with np.load(path) as arrays:
            return Table(task.name, **{f.name: arrays[f.name] for f in fields(Table) if f.name != "name"})
    log_lr = np.linspace(*LOG_RANGE, n_lrs).round(9)
    scores = _train(task, log_lr, [fold for world in range(n_worlds) for fold in task.folds(world)])
    best = log_lr[np.fmax(scores[..., -1], task.guess).mean(axis=1).argmax()]
    table = Table(task.name, log_lr, scores, np.array(task.guess), *_time_stacks(task, 10**best))
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, **{f.name: getattr(table, f.name) for f in fields(Table) if f.name != "name"})
    return table


def _fingerprint(task: Task, n_lrs: int, n_worlds: int) -> str:
    what = (task.source.module, task.epochs, n_lrs, n_worlds, LOG_RANGE, torch.__version__)
    data = hashlib.sha256(np.ascontiguousarray(task.X).tobytes() + np.ascontiguousarray(task.y).tobytes())
    data.update(repr(what).encode())
    return f"{task.name.replace(' ', '-')}-{data.hexdigest()[:16]}"


def _train(task: Task, log_lr: np.ndarray, folds: list) -> np.ndarray:
    search = LRGridSearchCV(
        task.net(),
        {"lr": (10**log_lr).tolist()},
        cv=folds,
        scoring=task.scoring,
        pruner=NopPruner(),  # so that scores are computed after every epoch
        engine="stacked",
        random_state=0,
        refit=False,
    )
    history = quietly(lambda: search.fit(task.X, task.y)).history_
    scores = np.full((len(log_lr), len(folds), task.epochs), np.nan, dtype=np.float32)
    scores[history["candidate"], history["fold"], history["epoch"] - history["epoch"].min()] = history["valid_score"]
    assert np.isfinite(scores).any(), f"no run has a score on {task.name}"
    lost = np.maximum.accumulate(~np.isfinite(scores), axis=2)
    return np.where(lost, np.nan, scores)


def _time_stacks(task: Task, lr: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return numbers of runs, and the CPU seconds of their setup and of an epoch: the faster of two measurements."""
    costs = []
    for n in TIMED:
        short, whole = (min(_clock(task, lr, n, epochs) for _ in range(2)) for epochs in (1, task.epochs))
        per_epoch = max(whole - short, 0.0) / max(task.epochs - 1, 1)
        costs.append((n * N_FOLDS, max(short - per_epoch, 0.0), per_epoch))
    runs, set_up, per_epoch = np.array(costs).T
    return runs, np.maximum.accumulate(set_up), np.maximum.accumulate(per_epoch)


def _clock(task: Task, lr: float, n: int, epochs: int) -> float:
    lrs = (lr * np.geomspace(0.5, 1, n)).tolist()
    rest = {"cv": task.folds(0), "scoring": task.scoring, "engine": "stacked", "random_state": 0, "refit": False}
    search = LRGridSearchCV(task.net(max_epochs=epochs), {"lr": lrs}, **rest)
    start = time.process_time()
    quietly(lambda: search.fit(task.X, task.y))
    return time.process_time() - start
