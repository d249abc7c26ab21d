"""Scores of many runs: a net that answers with what the stack computed is enough for most scorers, but not for all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from skorch import NeuralNet

from sklr.engines.metrics import QuickScores
from sklr.engines.scoring import final_scores, followed_score, followed_scorer, is_followed
from sklr.engines.stacked.data.index_batches import Rows, map_tensors
from sklr.experiment.cell_data import (
    CellData,
    cell_data,
    looks_only_at_predictions,
    predicts_as_its_library,
)
from sklr.experiment.experiment import Cell, Experiment
from sklr.experiment.wrappers import is_net, is_wrapped, without_pipelines
from sklr.results import Scores


@contextmanager
def answering(net: NeuralNet, outputs: Rows) -> Iterator[None]:
    """Let a net's `forward_iter`, which all its predictions come from, yield these outputs and nothing else."""
    vars(net)["forward_iter"] = lambda X, training=False, device="cpu": iter(
        [map_tensors(lambda t: t.to(device), outputs)]
    )
    try:
        yield
    finally:
        del vars(net)["forward_iter"]


class Unread:
    """Stands for rows that nobody reads: the predictions for them are known.

    >>> len(Unread(3)), Unread(3).shape
    (3, (3,))
    """

    def __init__(self, n_rows: int):
        self.shape = (n_rows,)

    def __len__(self) -> int:
        return self.shape[0]


def unread(data: CellData, cell: Cell) -> CellData:
    """Return a cell's data without its rows, which may be large."""
    return data._replace(X_train=Unread(len(cell.train)), X_test=Unread(len(cell.test)))


class CellScorer:
    """Score the runs of one cell, as the sequential engine would score each net.

    Parameters
    ----------
    experiment, cell
        What all runs share, and the fold and seed of these.
    net : NeuralNet
        The cell's net, initialised on its training rows.
    subject : estimator
        What the scorer is given: the net, or what is around it, with or without the pipelines.
    data : CellData
        The rows for `subject`.

    Attributes
    ----------
    by_answers, follows_by_answers : bool
        Whether the cell's net, which answers with a run's outputs, will do for the scorer, and for the part of it that
        is followed. If not, the run's own net is wanted: they look at more than predictions.
    follows : bool
        Whether the score is wanted after each epoch.
    """

    def __init__(self, experiment: Experiment, cell: Cell, net: NeuralNet, subject: Any, data: CellData):
        self.experiment, self.cell, self.net, self.subject = experiment, cell, net, subject
        self.followed = followed_scorer(experiment)
        plain = predicts_as_its_library(net)
        self.by_answers = plain and looks_only_at_predictions(experiment.scorer)
        self.follows_by_answers = plain and looks_only_at_predictions(self.followed)
        self.follows = is_followed(experiment, net)
        self.data = unread(data, cell) if self.by_answers and self.follows_by_answers else data
        quick = self.follows_by_answers and not data.score_test and is_net(subject)
        self.quick = QuickScores(net, data.y_test, self.followed if quick else None)

    def exact(self, outputs: Rows) -> np.ndarray | None:
        """Return the scores of all runs on the validation rows, shape (n_members,), if they can be had at once."""
        return self.quick.exact(outputs) if self.followed is self.experiment.scorer else None

    def score(self, outputs: Rows, train: bool = False) -> Scores:
        """Return the scores of a run whose outputs for the validation rows, or the training rows, these are."""
        with answering(self.net, outputs):
            return final_scores(self.experiment, self.cell, self.subject, self.data, train)

    def score_own(self, estimator: Any, train: bool = False) -> Scores:
        """Return the scores of a run that has been made an estimator of its own."""
        return final_scores(self.experiment, self.cell, *self._own(estimator), train)

    def follow(self, outputs: Rows) -> np.ndarray:
        """Return the score of every run on the validation rows, shape (n_members,); NaN where it cannot be had."""
        scores = self.quick.rounded(outputs)
        if scores is None:
            scores = np.array([self._follow_one(run) for run in _runs(outputs)])
        return scores

    def _follow_one(self, outputs: Rows) -> float:
        with answering(self.net, outputs):
            return followed_score(self.experiment, self.cell, self.subject, self.data)

    def follow_own(self, estimator: Any) -> float:
        """Return the score of a run that has been made an estimator of its own."""
        return followed_score(self.experiment, self.cell, *self._own(estimator))

    def _own(self, estimator: Any) -> tuple[Any, CellData]:
        """Return a run's own estimator as the scorer is given it, with rows of its own, which it may change."""
        if is_wrapped(estimator) and looks_only_at_predictions(self.experiment.scorer):
            return without_pipelines(estimator), self.data
        return estimator, cell_data(self.experiment, self.cell, estimator)


def _runs(outputs: Rows) -> Iterator[Rows]:
    for i in range(len(next(_leaves(outputs)))):
        yield map_tensors(lambda t: t[i], outputs)  # noqa: B023 - used at once


def _leaves(rows: Rows) -> Iterator[torch.Tensor]:
    if isinstance(rows, torch.Tensor):
        yield rows
    else:
        for part in rows.values() if isinstance(rows, dict) else rows:
            yield from _leaves(part)
