"""Scoring many runs: most scorers only need predictions, which the stack has computed; others need a run's own net."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from skorch import NeuralNet
from torch.utils._pytree import tree_leaves

from sklr.engines.metrics import QuickScores
from sklr.engines.scoring import Scored, final_scores, followed_score, followed_scorer, is_followed
from sklr.engines.stacked.data.index_batches import Rows, map_tensors
from sklr.experiment.cell_data import (
    CellData,
    cell_data,
    looks_only_at_predictions,
    predicts_as_its_library,
)
from sklr.experiment.experiment import Cell, Experiment
from sklr.experiment.wrappers import is_net, is_wrapped, without_pipelines


@contextmanager
def answering(net: NeuralNet, outputs: Rows) -> Iterator[None]:
    """Make a net's `forward_iter`, on which all its predictions rest, yield these outputs only.

    It is set on the instance and deleted afterwards, so that the class's own method is in force again.
    """
    vars(net)["forward_iter"] = lambda X, training=False, device="cpu": iter(
        [map_tensors(lambda t: t.to(device), outputs)]
    )
    try:
        yield
    finally:
        del vars(net)["forward_iter"]


class Unread:
    """Placeholder for rows that nothing reads, because the predictions for them are known.

    >>> len(Unread(3)), Unread(3).shape
    (3, (3,))
    """

    def __init__(self, n_rows: int):
        self.shape = (n_rows,)

    def __len__(self) -> int:
        return self.shape[0]


def unread(data: CellData, cell: Cell, *, scores_train: bool) -> CellData:
    """Return a cell's data with placeholders for its rows, which may be large, and only the targets that are scored."""
    y_train = data.y_train if scores_train else None
    return data._replace(X_train=Unread(len(cell.train)), X_test=Unread(len(cell.test)), y_train=y_train)


class CellScorer:
    """Score the runs of one cell, as the sequential engine would score each net.

    Parameters
    ----------
    experiment : Experiment
    cell : Cell
        The fold and seed of these runs.
    net : NeuralNet
        The cell's net, initialized on its training rows.
    subject : estimator
        What scorers are given: the net or the estimator around it, with or without its pipelines.
    read : callable (rows) -> CellData
        Returns the rows for `subject`; with ``rows=False`` they may be left out, but not their targets.

    Attributes
    ----------
    from_outputs, follows_from_outputs : bool
        Whether scoring at the end, and after each epoch, needs predictions only: the cell's net then returns the run's
        outputs as its own (see `answering`). Otherwise each run is scored by its own net, which costs far more.
    follows : bool
        Whether a score is wanted after each epoch.
    """

    def __init__(self, experiment: Experiment, cell: Cell, net: NeuralNet, subject: Any, read: Callable[..., CellData]):
        self.experiment, self.cell, self.net, self.subject = experiment, cell, net, subject
        self.followed = followed_scorer(experiment)
        plain = predicts_as_its_library(net)
        self.from_outputs = plain and looks_only_at_predictions(experiment.scorer)
        self.follows_from_outputs = plain and looks_only_at_predictions(self.followed)
        self.follows = is_followed(experiment, net)
        reads_rows = not (self.from_outputs and self.follows_from_outputs)
        data = read(rows=reads_rows)
        self.data = data if reads_rows else unread(data, cell, scores_train=experiment.return_train_score)
        quick = self.follows_from_outputs and not data.score_test and is_net(subject)
        self.quick = QuickScores(net, data.y_test, self.followed if quick else None)

    def exact(self, outputs: Rows) -> np.ndarray | None:
        """Return the scores of all runs on the validation rows, shape (n_members,); None if not computable at once."""
        return self.quick.exact(outputs) if self.followed is self.experiment.scorer else None

    def score(self, outputs: Rows, train: bool = False) -> Scored:
        """Return the scores of a run from its outputs for the validation rows, or with `train` the training rows."""
        with answering(self.net, outputs):
            return final_scores(self.experiment, self.cell, self.subject, self.data, train)

    def score_own(self, estimator: Any, train: bool = False) -> Scored:
        """Return the scores of a run that has been turned into its own estimator."""
        return final_scores(self.experiment, self.cell, *self._own(estimator), train)

    def follow(self, outputs: Rows) -> np.ndarray:
        """Return the score of every run on the validation rows, shape (n_members,); NaN where scoring fails."""
        scores = self.quick.rounded(outputs)
        if scores is None:
            scores = np.array([self._follow_one(run) for run in _runs(outputs)])
        return scores

    def _follow_one(self, outputs: Rows) -> float:
        with answering(self.net, outputs):
            return followed_score(self.experiment, self.cell, self.subject, self.data)

    def follow_own(self, estimator: Any) -> float:
        """Return the score, after an epoch, of a run that has been turned into its own estimator."""
        return followed_score(self.experiment, self.cell, *self._own(estimator))

    def _own(self, estimator: Any) -> tuple[Any, CellData]:
        """Return what a scorer is given of a run: its own estimator, perhaps without pipelines, and the rows."""
        if is_wrapped(estimator) and looks_only_at_predictions(self.experiment.scorer):
            return without_pipelines(estimator), self.data
        return estimator, cell_data(self.experiment, self.cell, estimator)  # taken anew: a scorer may change its rows


def _runs(outputs: Rows) -> Iterator[Rows]:
    for i in range(len(tree_leaves(outputs)[0])):
        yield map_tensors(lambda t: t[i], outputs)  # noqa: B023 - used at once
