"""Scores of many runs from their outputs: the net answers with what the stack computed, and the scorer asks the net."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.metrics import accuracy_score, r2_score
from skorch import NeuralNet
from skorch import NeuralNetClassifier as SkorchClassifier
from skorch import NeuralNetRegressor as SkorchRegressor
from torch import nn

from sklr._sklearn import score_estimator
from sklr.engines._batches import Rows, map_tensors
from sklr.engines._data import CellData, looks_only_at_predictions
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


class CellScorer:
    """Score the runs of one cell, as the sequential engine would score each net.

    Parameters
    ----------
    net : NeuralNet
        The cell's net, initialised on its training rows.
    subject : estimator
        What the scorer is given: the net, or the pipeline it ends.
    data : CellData
        The rows for `subject`.
    scorer, error_score
        As in `Experiment`.
    """

    def __init__(self, net: NeuralNet, subject: Any, data: CellData, scorer: Any, error_score: Any):
        self.net, self.subject, self.data = net, subject, data
        self.scorer, self.error_score = scorer, error_score
        own_score = type(net).score in (ClassifierMixin.score, RegressorMixin.score)
        self.by_answers = own_score and looks_only_at_predictions(scorer)

    def score(self, outputs: Rows, load: Callable[[], Any], train: bool = False) -> Scores:
        """Return the scores of a run on the validation rows, or on the training rows; `outputs` are for these.

        `load` copies the run's weights into `net`, for scorers that look at more than predictions.
        """
        data = self.data
        rows = (data.X_train, data.y_train) if train else (data.X_test, data.y_test)
        params = data.score_train if train else data.score_test
        if self.by_answers:
            with answering(self.net, outputs):
                return score_estimator(self.subject, *rows, self.scorer, params, self.error_score)
        load()
        return score_estimator(self.subject, *rows, self.scorer, params, self.error_score)

    def follow(self, outputs: Rows, score_one: Callable[[int, Rows], float]) -> np.ndarray:
        """Return the score of every run on the validation rows, shape (n_members,); NaN where it cannot be had.

        Accuracy and R2, the scores of a net that is not asked for another, are computed for all runs at once;
        otherwise `score_one` is called with each run's position and outputs.
        """
        fast = self.accuracies(outputs)
        fast = self._r2(outputs) if fast is None else fast
        if fast is not None:
            return fast
        return np.array([score_one(i, run) for i, run in enumerate(_runs(outputs))])

    def accuracies(self, outputs: Rows) -> np.ndarray | None:
        """Return every run's accuracy on the validation rows, shape (n_members,), if that is what the scorer computes.

        A share of rows is the same number however it is computed, so this may stand for the scorer's own.
        """
        net, y = self.net, np.asarray(self.data.y_test)
        if not self._computes(accuracy_score, SkorchClassifier) or y.ndim != 1 or not _are_logits(net, outputs):
            return None
        encoded = getattr(net, "_encoded", False)
        columns = outputs[:, :, : len(net.classes_)] if encoded else outputs
        numbers = columns.max(2).indices.cpu().numpy()  # argmax takes five times as long
        return ((net.classes_[numbers] if encoded else numbers) == y).mean(axis=1)

    def _r2(self, outputs: Rows) -> np.ndarray | None:
        y = np.asarray(self.data.y_test)
        if not self._computes(r2_score, SkorchRegressor) or y.ndim != 1 or not isinstance(outputs, torch.Tensor):
            return None
        predicted = outputs.double().cpu().numpy().reshape(len(outputs), -1)
        if predicted.shape[1] != len(y) or len(y) < 2 or np.ptp(y) == 0:
            return None
        return 1 - ((y - predicted) ** 2).sum(axis=1) / ((y - y.mean()) ** 2).sum()

    def _computes(self, metric: Callable, kind: type) -> bool:
        """Say whether the scorer computes `metric` of the net's own predictions, plainly."""
        net, scorer = self.net, self.scorer
        stock = isinstance(net, kind) and type(net).__module__.partition(".")[0] in ("skorch", "sklr")
        plain = getattr(scorer, "_score_func", None) is metric and scorer._sign == 1 and not scorer._kwargs
        asked = plain or type(scorer).__name__ == "_PassthroughScorer"
        return stock and asked and self.by_answers and not self.data.score_test and net.predict_nonlinearity == "auto"


def _are_logits(net: NeuralNet, outputs: Rows) -> bool:
    by_class = isinstance(net.criterion_, nn.CrossEntropyLoss | nn.NLLLoss)
    return by_class and isinstance(outputs, torch.Tensor) and outputs.dim() == 3


def _runs(outputs: Rows) -> Iterator[Rows]:
    for i in range(len(next(_leaves(outputs)))):
        yield map_tensors(lambda t: t[i], outputs)  # noqa: B023 - used at once


def quietly(score: Callable[[], float]) -> float:
    """Return a score that is only followed, not used: NaN where it fails, and no warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return float(score())
        except Exception:
            return float("nan")


def _leaves(rows: Rows) -> Iterator[torch.Tensor]:
    if isinstance(rows, torch.Tensor):
        yield rows
    else:
        for part in rows.values() if isinstance(rows, dict) else rows:
            yield from _leaves(part)
