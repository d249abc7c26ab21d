"""The workloads of the engine benchmark: five small models on scikit-learn's digits, and the grids of runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import skorch
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold
from torch import Tensor, nn

SEED = 0


class Transformer(nn.Module):
    """A transformer over the pixel rows of an image: 8 tokens of 8 numbers, one encoder layer of width 32, mean."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 32)
        self.position = nn.Parameter(torch.zeros(8, 32))
        self.encoder = nn.TransformerEncoderLayer(32, 4, dim_feedforward=64, dropout=0.0, batch_first=True)
        self.head = nn.Linear(32, 10)

    def forward(self, X: Tensor) -> Tensor:
        """Return logits, shape (n_rows, 10), for pictures of shape (n_rows, 64)."""
        return self.head(self.encoder(self.embed(X.unflatten(1, (8, 8))) + self.position).mean(1))


def mlp(*widths: int) -> nn.Sequential:
    """Return a multi-layer perceptron with ReLU between its layers."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def cnn_8() -> nn.Sequential:
    """Return two convolutions of 3 x 3 over 8 x 8 pixels, and a linear layer."""
    return nn.Sequential(
        *(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 10)),
    )


def cnn_28() -> nn.Sequential:
    """Return two convolutions of 5 x 5 over 28 x 28 pixels, and a linear layer."""
    return nn.Sequential(
        *(nn.Unflatten(1, (1, 28, 28)), nn.Conv2d(1, 8, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 10)),
    )


@dataclass(frozen=True)
class Workload:
    """A model and how it is trained; `widths` are the layer sizes of an MLP, `pixels` the side length of the images."""

    name: str
    title: str
    build: Callable[[], nn.Module]
    batch_size: int
    max_epochs: int = 10
    widths: tuple[int, ...] = ()
    pixels: int = 8


def _mlp_workload(name: str, batch_size: int, *widths: int) -> Workload:
    title = f"MLP {'-'.join(map(str, widths))}, batch {batch_size}"
    return Workload(name, title, lambda: mlp(*widths), batch_size, widths=widths)


WORKLOADS = {
    workload.name: workload
    for workload in (
        _mlp_workload("mlp-small", 32, 64, 32, 32, 10),
        _mlp_workload("mlp-wide", 64, 64, 128, 128, 10),
        Workload("cnn-8x8", "CNN 8-16 on 8x8, batch 64", cnn_8, 64, max_epochs=5),
        Workload("cnn-28x28", "CNN 8-16 on 28x28, batch 64", cnn_28, 64, max_epochs=2, pixels=28),
        Workload("transformer", "transformer, 8 tokens, width 32, batch 64", Transformer, 64, max_epochs=3),
    )
}

OPTIMIZERS: dict[str, tuple[type, dict[str, Any], tuple[float, float]]] = {  # class, arguments, lowest and highest lr
    "sgd": (torch.optim.SGD, {"momentum": 0.9}, (1e-4, 0.05)),
    "adam": (torch.optim.Adam, {}, (1e-5, 0.01)),
}

SHAPES = {1: (1, 1), 8: (4, 2), 40: (8, 5), 50: (10, 5), 160: (32, 5)}  # runs: learning rates x folds


def build_module(workload: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Return a workload's module, and seed PyTorch's global generator.

    The batch order, which skorch draws afterwards, is then the same on all sides: GridSearchCV, whose runs have no
    seeds, the hand-written loop, and the engines. Therefore all sides must give the same scores.
    """
    torch.manual_seed(SEED)
    return WORKLOADS[workload].build().to(dtype)


@dataclass(frozen=True, eq=False)
class Task:
    """A workload with learning rates and folds, the same for every side.

    Attributes
    ----------
    X, y : ndarray of shape (n_samples, n_pixels) and (n_samples,)
    folds : list of (train, test)
    """

    workload: Workload
    optimizer: str
    lrs: list[float]
    n_folds: int
    max_epochs: int
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    n_rows: int = 1797
    X: np.ndarray = field(init=False)
    y: np.ndarray = field(init=False)
    folds: list[tuple[np.ndarray, np.ndarray]] = field(init=False)

    def __post_init__(self) -> None:
        pictures, labels = load_digits(return_X_y=True)
        X = torch.as_tensor(pictures[: self.n_rows] / 16).to(self.dtype)
        if self.workload.pixels != 8:
            size = (self.workload.pixels,) * 2
            X = nn.functional.interpolate(X.view(-1, 1, 8, 8), size, mode="bilinear").flatten(1)
        y = labels[: self.n_rows].astype(np.int64)
        folds = list(StratifiedKFold(5, shuffle=True, random_state=SEED).split(pictures[: self.n_rows], y))
        for name, value in {"X": X.numpy(), "y": y, "folds": folds[: self.n_folds]}.items():
            object.__setattr__(self, name, value)

    @property
    def n_runs(self) -> int:
        return len(self.lrs) * self.n_folds

    def but(self, **changes: Any) -> Task:
        """Return a copy of this task with some fields replaced."""
        return replace(self, **changes)

    def net(self, **params: Any) -> skorch.NeuralNetClassifier:
        """Return skorch's own net, which all sides that take a net use."""
        optimizer, arguments, _ = OPTIMIZERS[self.optimizer]
        return skorch.NeuralNetClassifier(
            build_module,
            module__workload=self.workload.name,
            module__dtype=self.dtype,
            criterion=nn.CrossEntropyLoss,
            optimizer=optimizer,
            **{f"optimizer__{name}": value for name, value in arguments.items()},
            batch_size=self.workload.batch_size,
            max_epochs=self.max_epochs,
            iterator_train__shuffle=True,
            train_split=None,
            device=self.device,
            verbose=0,
            **params,
        )


def make_task(workload: Workload, optimizer: str, n_runs: int, device: str, quick: bool = False) -> Task:
    """Return the task with `n_runs` runs: learning rates evenly spaced on a log scale, and up to five folds."""
    n_lrs, n_folds = SHAPES.get(n_runs) or _shape(n_runs)
    low, high = OPTIMIZERS[optimizer][2]
    lrs = np.geomspace(low, high, n_lrs).tolist() if n_lrs > 1 else [10 * low]
    epochs, rows = (2, 300) if quick else (workload.max_epochs, 1797)
    return Task(workload, optimizer, lrs, n_folds, epochs, device, n_rows=rows)


def _shape(n_runs: int) -> tuple[int, int]:
    n_folds = next(n for n in (5, 2, 1) if n_runs % n == 0)
    return n_runs // n_folds, n_folds
