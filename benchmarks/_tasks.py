"""The tasks of the comparison of strategies: data sets, two optimizers, with and without a schedule.

Features are standardized once, on all rows, so that only the learning rate matters. Scores are negative losses, because
these have an optimum that can be distinguished from its neighbours; the accuracy on small data has many equal ones.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.metrics import make_scorer
from sklearn.model_selection import KFold, StratifiedKFold
from torch import Tensor, nn

from sklr import MLP, NeuralNetClassifier, NeuralNetRegressor

OPTIMIZERS: dict[str, dict[str, Any]] = {"sgd": {"optimizer__momentum": 0.9}, "adam": {}}
SCHEDULES = (None, "cosine")
N_FOLDS, BATCH = 3, 32
N_IMAGES, N_ORIENTATIONS, IMAGE_NOISE = 240, 4, 0.7


class SmallCNN(nn.Module):
    """Two 3 x 3 convolutions with 4 and 8 channels, each followed by pooling, then a linear layer."""

    def __init__(self, n_outputs: int):
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32, n_outputs)),
        )

    def forward(self, X: Tensor) -> Tensor:
        """Return logits for pictures of shape (n_rows, 64)."""
        return self.layers(X)


def gratings(random_state: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return noisy images of waves, shape (n_images, 64), and the direction of each wave (one of four).

    >>> X, y = gratings()
    >>> X.shape, sorted(set(y.tolist()))
    ((240, 64), [0, 1, 2, 3])
    """
    generator = np.random.default_rng(random_state)
    y = np.arange(N_IMAGES) % N_ORIENTATIONS
    angle, phase = np.pi * y / N_ORIENTATIONS, generator.uniform(0, 2 * np.pi, N_IMAGES)
    row, column = np.mgrid[:8, :8]
    along = np.cos(angle)[:, None, None] * row + np.sin(angle)[:, None, None] * column
    waves = np.sin(2 * np.pi * along / 4 + phase[:, None, None])
    return (waves + IMAGE_NOISE * generator.standard_normal(waves.shape)).reshape(N_IMAGES, 64), y


@dataclass(frozen=True)
class Source:
    """A data set: how it is loaded, and for how many epochs a net is trained on it."""

    name: str
    load: Callable[[], tuple[np.ndarray, np.ndarray]]
    epochs: int
    module: type[nn.Module] = MLP


SOURCES = {
    source.name: source
    for source in (
        Source("digits", lambda: load_digits(return_X_y=True), 10),
        Source("breast cancer", lambda: load_breast_cancer(return_X_y=True), 15),
        Source("wine", lambda: load_wine(return_X_y=True), 27),
        Source("diabetes", lambda: load_diabetes(return_X_y=True), 18),
        Source("gratings", gratings, 10, SmallCNN),
    )
}


def file_source(path: str | Path) -> Source:
    """Return the data set in a file: a CSV with a header and the target last, or an npz with `X` and `y`."""
    path = Path(path)
    return Source(path.stem, lambda: _read(path), 15)


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return arrays["X"].reshape(len(arrays["y"]), -1), arrays["y"]
    with path.open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    X, target = np.array([row[:-1] for row in rows], dtype=float), np.array([row[-1] for row in rows])
    try:
        numbers = target.astype(float)
    except ValueError:
        return X, target
    return X, numbers.astype(int) if (numbers == numbers.round()).all() else numbers


def log_likelihood(y: np.ndarray, probabilities: np.ndarray) -> float:
    """Return minus the log loss of labels 0, 1, ...; for two classes, the probabilities of the second are enough.

    `sklearn.metrics.log_loss` is the same, but checking its arguments takes longer than an epoch of a small net.

    >>> round(log_likelihood(np.array([0, 1]), np.array([[0.5, 0.5], [0.0, 1.0]])), 4)
    -0.3466
    """
    if probabilities.ndim == 1:
        probabilities = np.column_stack([1 - probabilities, probabilities])
    p = probabilities[np.arange(len(y)), y]
    return float(np.log(np.maximum(p, np.finfo(p.dtype).eps)).mean())


def minus_squared_error(y: np.ndarray, predicted: np.ndarray) -> float:
    """Return minus the mean squared error, also without checking the arguments.

    >>> minus_squared_error(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
    -2.0
    """
    return -float(np.mean((y - predicted) ** 2, dtype=np.float64))


@dataclass(frozen=True, eq=False)
class Task:
    """A net and a data set for which the learning rate is searched.

    Attributes
    ----------
    X, y : ndarray of shape (n_rows, n_features) and (n_rows,)
        Standardized features; labels from 0 to n_classes - 1, or standardized targets.
    guess : float
        The score of predicting the class frequencies or the mean, which needs no training.
    """

    source: Source
    optimizer: str
    schedule: str | None
    X: np.ndarray
    y: np.ndarray
    epochs: int

    @property
    def name(self) -> str:
        """Its name in tables."""
        return " ".join([self.source.name, self.optimizer, self.schedule or "constant"])

    @property
    def is_regression(self) -> bool:
        """Whether the target is a number."""
        return self.y.dtype.kind == "f"

    @property
    def scoring(self) -> Any:
        """The scorer; greater is better."""
        if self.is_regression:
            return make_scorer(minus_squared_error)
        return make_scorer(log_likelihood, response_method="predict_proba")

    @property
    def guess(self) -> float:
        """The score of predicting the class frequencies or the mean of the targets."""
        if self.is_regression:
            return -float(np.var(self.y))
        share = np.unique(self.y, return_counts=True)[1] / len(self.y)
        return float((share * np.log(share)).sum())

    def net(self, **params: Any) -> Any:
        """Return the net; `params` override its parameters."""
        kind = NeuralNetRegressor if self.is_regression else NeuralNetClassifier
        shape = {"module__hidden": (32, 32)} if self.source.module is MLP else {}
        shared = {"optimizer": self.optimizer, "schedule": self.schedule, "max_epochs": self.epochs}
        rest = {"batch_size": BATCH, "iterator_train__shuffle": True, "device": "cpu"}
        return kind(self.source.module, **{**shared, **rest, **shape, **OPTIMIZERS[self.optimizer], **params})

    def folds(self, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return three folds, shuffled with a seed."""
        kind = KFold if self.is_regression else StratifiedKFold
        return list(kind(N_FOLDS, shuffle=True, random_state=seed).split(self.X, self.y))


def make_task(source: Source, optimizer: str, schedule: str | None, epochs: int | None = None) -> Task:
    """Load and standardize the data."""
    X, y = source.load()
    X = (X - X.mean(axis=0)) / np.where(X.std(axis=0) > 0, X.std(axis=0), 1)
    is_number = y.dtype.kind == "f"
    y = ((y - y.mean()) / y.std()).astype(np.float32) if is_number else np.unique(y, return_inverse=True)[1]
    return Task(source, optimizer, schedule, X.astype(np.float32), y, epochs or source.epochs)


def make_tasks(names: list[str], files: list[str], optimizers: list[str], epochs: int | None = None) -> Iterator[Task]:
    """Yield every data set with every optimizer, with and without a schedule."""
    sources = [*(SOURCES[name] for name in names), *map(file_source, files)]
    for source, optimizer, schedule in product(sources, optimizers, SCHEDULES):
        yield make_task(source, optimizer, schedule, epochs)
