"""Scores of all runs of a cell at once, for the most common scorers; all others are left to scikit-learn.

Scoring the runs one by one, scikit-learn takes up to a millisecond each: more than training a small run for an epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.metrics import (
    accuracy_score,
    log_loss,
    mean_absolute_error,
    mean_squared_error,
    r2_score,
    root_mean_squared_error,
)
from skorch import NeuralNet
from skorch import NeuralNetBinaryClassifier as SkorchBinaryClassifier
from skorch import NeuralNetClassifier as SkorchClassifier
from skorch import NeuralNetRegressor as SkorchRegressor
from torch import nn

from sklr.experiment.cell_data import looks_only_at_predictions, predicts_as_its_library

ERRORS: dict[
    Callable, Callable[[np.ndarray, np.ndarray], np.ndarray]
] = {  # given y - prediction, shape (n_runs, n_rows), and y
    r2_score: lambda error, y: 1 - (error**2).sum(axis=1) / ((y - y.mean()) ** 2).sum(),
    mean_squared_error: lambda error, y: (error**2).mean(axis=1),
    root_mean_squared_error: lambda error, y: np.sqrt((error**2).mean(axis=1)),
    mean_absolute_error: lambda error, y: abs(error).mean(axis=1),
}


class QuickScores:
    """The scores that a scorer would give the runs of one cell on its validation rows.

    Parameters
    ----------
    net : NeuralNet
        The cell's net, initialized on its training rows.
    y : array-like of shape (n_rows,)
        The validation rows' targets.
    scorer : callable or None
        As scikit-learn's `check_scoring` returns it, if it uses predictions alone; None for no quick scores.
    """

    def __init__(self, net: NeuralNet, y: Any, scorer: Any):
        self.net, self.y = net, np.asarray(y)
        self.metric = quick_metric(net, scorer) if self.y.ndim == 1 else None
        self.sign = getattr(scorer, "_sign", 1)

    def exact(self, outputs: Any) -> np.ndarray | None:
        """Return every run's accuracy, shape (n_runs,), if that is what the scorer computes; None otherwise.

        A count of rows has no rounding error, so this equals the scorer's own result and may replace it.
        """
        net = self.net
        if self.metric is not accuracy_score or not _is_exact(outputs):
            return None
        if isinstance(net, SkorchBinaryClassifier):
            return self._binary_accuracy(outputs)
        if not _are_logits(net, outputs):
            return None
        encoded = getattr(net, "_encoded", False)
        columns = outputs[:, :, : len(net.classes_)] if encoded else outputs
        numbers = columns.max(2).indices.cpu().numpy()  # torch's argmax takes five times as long
        return ((net.classes_[numbers] if encoded else numbers) == self.y).mean(axis=1)

    def _binary_accuracy(self, outputs: torch.Tensor) -> np.ndarray | None:
        net = self.net
        if not isinstance(net.criterion_, nn.BCEWithLogitsLoss) or outputs.dim() != 2:
            return None
        above = outputs.sigmoid().cpu().numpy() > net.threshold
        # uint8 as in skorch's own predict
        labels = net.classes_[above.astype(np.uint8)] if getattr(net, "_encoded", False) else above.astype(np.uint8)
        return (labels == self.y).mean(axis=1)

    def rounded(self, outputs: Any) -> np.ndarray | None:
        """Return every run's score up to rounding, shape (n_runs,); None where it takes the scorer itself."""
        if not _is_exact(outputs):
            return None
        if self.metric is log_loss:
            found = self._log_loss(outputs)
        elif self.metric in ERRORS:
            found = self._error(outputs, ERRORS[self.metric])
        else:
            return self.exact(outputs)
        return None if found is None else np.where(np.isfinite(found), self.sign * found, np.nan)

    def _log_loss(self, outputs: Any) -> np.ndarray | None:
        classes = self.net.classes_
        if not _are_logits(self.net, outputs) or outputs.shape[2] != len(classes):
            return None
        if not np.array_equal(
            np.unique(self.y), classes
        ):  # scikit-learn's log_loss takes the classes from y, so all must occur
            return None
        proba = outputs.softmax(2) if isinstance(self.net.criterion_, nn.CrossEntropyLoss) else outputs
        columns = torch.from_numpy(np.searchsorted(classes, self.y)).to(outputs.device)
        picked = proba.gather(2, columns.expand(len(proba), -1).unsqueeze(2)).squeeze(2)
        eps = torch.finfo(proba.dtype).eps  # scikit-learn's log_loss clips by it, too
        return -picked.clamp(eps, 1 - eps).cpu().double().log().mean(1).numpy()

    def _error(self, outputs: Any, metric: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray | None:
        y = self.y
        # of fewer than two rows, and of equal targets, r2_score has definitions of its own
        if not isinstance(outputs, torch.Tensor) or y.dtype.kind not in "fiu" or len(y) < 2 or np.ptp(y) == 0:
            return None
        predicted = outputs.cpu().double().numpy().reshape(len(outputs), -1)
        with np.errstate(over="ignore", invalid="ignore"):  # a run about to diverge overflows
            return metric(y - predicted, y) if predicted.shape[1] == len(y) else None


def quick_metric(net: NeuralNet, scorer: Any) -> Callable | None:
    """Return the metric that a scorer computes from the net's predictions; None if it cannot be computed quickly."""
    if not predicts_as_its_library(net) or net.predict_nonlinearity != "auto":
        return None
    own = {
        SkorchBinaryClassifier: (accuracy_score,),
        SkorchClassifier: (accuracy_score, log_loss),
        SkorchRegressor: tuple(ERRORS),
    }
    metrics = next((found for kind, found in own.items() if isinstance(net, kind)), ())
    if type(scorer).__name__ == "_PassthroughScorer":
        return metrics[0] if metrics else None
    metric = getattr(scorer, "_score_func", None) if looks_only_at_predictions(scorer) else None
    return metric if metric in metrics and not scorer._kwargs else None


def _is_exact(outputs: Any) -> bool:
    """Whether predictions may be read from the logits, without computing probabilities.

    Not in half precision: there different logits may become equal probabilities, and argmax then takes the first.
    """
    return isinstance(outputs, torch.Tensor) and outputs.dtype in (torch.float32, torch.float64)


def _are_logits(net: NeuralNet, outputs: Any) -> bool:
    by_class = isinstance(net.criterion_, nn.CrossEntropyLoss | nn.NLLLoss)
    return by_class and isinstance(outputs, torch.Tensor) and outputs.dim() == 3
