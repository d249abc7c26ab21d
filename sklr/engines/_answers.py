"""Scores of many runs from their outputs: the net answers with what the stack computed, and the scorer asks the net."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from sklearn.base import ClassifierMixin, RegressorMixin
from skorch import NeuralNet
from torch import nn

from sklr._sklearn import score_estimator
from sklr.engines._batches import Rows, map_tensors
from sklr.engines._data import CellData, looks_only_at_predictions
from sklr.engines._quick_scores import QuickScores
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
        self.quick = QuickScores(net, data.y_test, scorer if self.by_answers and not data.score_test else None)
        self._spare: nn.Module | None = None

    def score(self, outputs: Rows, load: Callable[[nn.Module], Any], train: bool = False) -> Scores:
        """Return the scores of a run on the validation rows, or on the training rows; `outputs` are for these.

        `load` copies the run's weights into a module, for scorers that look at more than predictions.
        """
        data = self.data
        rows = (data.X_train, data.y_train) if train else (data.X_test, data.y_test)
        params = data.score_train if train else data.score_test
        with answering(self.net, outputs) if self.by_answers else self._being(load):
            return score_estimator(self.subject, *rows, self.scorer, params, self.error_score)

    @contextmanager
    def _being(self, load: Callable[[nn.Module], Any]) -> Iterator[None]:
        """Let the net be a run; its own module, which stacks start from, stays as it is."""
        start = self.net.module_
        if self._spare is None:
            self._spare = copy.deepcopy(start)
        load(self._spare)
        vars(self.net)["module_"] = self._spare
        try:
            yield
        finally:
            vars(self.net)["module_"] = start

    def follow(self, outputs: Rows, score_one: Callable[[int, Rows], float]) -> np.ndarray:
        """Return the score of every run on the validation rows, shape (n_members,); NaN where it cannot be had.

        Where no `QuickScores` are known, `score_one` is called with each run's position and outputs.
        """
        scores = self.quick.rounded(outputs)
        if scores is None:
            scores = np.array([score_one(i, run) for i, run in enumerate(_runs(outputs))])
        return scores


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
