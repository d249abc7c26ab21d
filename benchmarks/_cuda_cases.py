"""The nets that `cuda_check.py` trains, on the first rows of the digits in three folds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import check_scoring
from torch import nn

from sklr import MLP, NeuralNetClassifier
from sklr.engines import StackedEngine
from sklr.experiment.experiment import Cell, Experiment

LRS = [{"lr": lr} for lr in (1e-3, 1e-2, 0.1)]


class Pictures(nn.Module):
    """Convolutions on the digits, optionally with batch normalization and dropout."""

    def __init__(self, normalized: bool = False, dropout: float = 0.0, dtype: torch.dtype = torch.float32):
        super().__init__()
        norm = nn.BatchNorm2d(8) if normalized else nn.Identity()
        self.layers = nn.Sequential(
            *(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3, padding=1), norm, nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Dropout(dropout), nn.Linear(128, 10)),
        ).to(dtype)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Return logits (n_rows, 10) of X (n_rows, 64)."""
        return self.layers(X)


class Attention(nn.Module):
    """Functional attention over the pixel rows of a digit, optionally with a mask created in the forward pass."""

    def __init__(self, masked: bool = False, dropout: float = 0.0, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.embed, self.head = nn.Linear(8, 48), nn.Linear(16, 10)
        self.masked, self.dropout = masked, nn.Dropout(dropout)
        self.to(dtype)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Return logits (n_rows, 10) of X (n_rows, 64)."""
        q, k, v = self.embed(X.unflatten(1, (8, 8))).chunk(3, -1)
        mask = torch.ones(8, 8, dtype=torch.bool, device=X.device).tril() if self.masked else None
        return self.head(self.dropout(nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)).mean(1))


class Recurrent(nn.Module):
    """A GRU of two layers over the pixel rows of a digit, optionally with dropout between them."""

    def __init__(self, dropout: float = 0.0, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.layers, self.head = nn.GRU(8, 16, 2, batch_first=True, dropout=dropout), nn.Linear(16, 10)
        self.to(dtype)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Return logits (n_rows, 10) of X (n_rows, 64)."""
        return self.head(self.layers(X.unflatten(1, (8, 8)))[0][:, -1])


def digits(n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first rows of the digits."""
    pictures, labels = load_digits(return_X_y=True)
    return (pictures[:n_rows] / 16).astype("float32"), labels[:n_rows]


def net(module: Any = MLP, **params: Any) -> NeuralNetClassifier:
    """Return a seeded net of sklr."""
    defaults = {"batch_size": 32, "max_epochs": 3, "iterator_train__shuffle": True, "random_state": 0}
    return NeuralNetClassifier(module, **{**defaults, **params})


def experiment(estimator: Any, n_rows: int = 203, keep: bool = True) -> Experiment:
    """Return an experiment with three folds, which have two sizes unless `n_rows` is a multiple of three."""
    X, y = digits(n_rows)
    folds = np.array_split(np.random.default_rng(0).permutation(n_rows), 3)
    cells = [Cell(k, 0, k, np.setdiff1d(range(n_rows), fold), np.sort(fold)) for k, fold in enumerate(folds)]
    return Experiment(estimator, X, y, cells, check_scoring(estimator), keep_estimators=keep)


def train(estimator: Any, n_rows: int = 203, engine: Any = None, candidates: Sequence[dict] = LRS) -> tuple[Any, int]:
    """Train candidates in three folds; return their outcomes and the number of replayed steps."""
    training = (engine or StackedEngine()).start(experiment(estimator, n_rows), candidates)
    outcomes = training.finish()
    n_replayed = sum(scored.pack.stack._replays.n_replayed for scored in getattr(training, "packs", []))
    return [outcome for row in outcomes for outcome in row], n_replayed


def losses(outcomes: Sequence[Any]) -> np.ndarray:
    """Return training losses, shape (n_runs, n_epochs)."""
    return np.array([[row.train_loss for row in outcome.history] for outcome in outcomes])
