"""Realistic tasks: tables, a regression, images and sequences, with nets that are typical for them.

Without real data, synthetic data of similar shape are used: a census table, house prices, images of 28 x 28 pixels, and
sequences of 32 words.
"""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import skorch
import torch
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.datasets import load_digits
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import LabelEncoder, OneHotEncoder, StandardScaler
from skorch.callbacks import EarlyStopping
from skorch.dataset import ValidSplit
from torch import Tensor, nn

from sklr import MLP, NeuralNetClassifier

SEED = 0
N_WORDS, LENGTH = 500, 32
OPTIMIZERS = {"sgd": (torch.optim.SGD, {"momentum": 0.9}, (1e-3, 0.1)), "adamw": (torch.optim.AdamW, {}, (1e-4, 1e-2))}


class Data(NamedTuple):
    """Rows and targets; `kind` says which tasks use them."""

    kind: str
    X: np.ndarray
    y: np.ndarray


def census(rng: np.random.Generator, n_rows: int) -> Data:
    """Return a table of 8 numbers and 92 one-hot columns, with a positive label for a quarter of the rows."""
    numbers = rng.lognormal(size=(n_rows, 8))
    categories = rng.integers(0, (9, 16, 7, 15, 6, 5, 2, 32), size=(n_rows, 8))
    encoder = OneHotEncoder(sparse_output=False, categories=[np.arange(n) for n in (9, 16, 7, 15, 6, 5, 2, 32)])
    X = np.hstack([StandardScaler().fit_transform(numbers), encoder.fit_transform(categories)])
    hidden = np.tanh(X @ rng.normal(size=(X.shape[1], 12)) / 2)
    score = hidden @ rng.normal(size=12) + rng.normal(size=n_rows)
    return Data("table", X.astype(np.float32), (score > np.quantile(score, 0.76)).astype(np.int64))


def mixed(rng: np.random.Generator, n_rows: int) -> Data:
    """Return a similar table with unencoded categories; its last column has rare ones."""
    numbers = rng.lognormal(size=(n_rows, 8))
    categories = rng.integers(0, (9, 16, 7, 15, 6, 5, 2), size=(n_rows, 7))
    rare = rng.zipf(1.8, size=(n_rows, 1)).clip(max=400)
    score = np.sin(categories @ rng.normal(size=7)) + np.log(numbers) @ rng.normal(size=8) / 3 + rng.normal(size=n_rows)
    X = np.hstack([numbers, categories, rare]).astype(np.float32)
    return Data("mixed", X, (score > np.quantile(score, 0.76)).astype(np.int64))


def houses(rng: np.random.Generator, n_rows: int) -> Data:
    """Return 8 numbers per row and a price: a smooth function of them plus noise."""
    X = rng.normal(size=(n_rows, 8))
    price = np.sin(X @ rng.normal(size=(8, 6))) @ rng.normal(size=6) + 0.5 * X[:, 0] + 0.3 * rng.normal(size=n_rows)
    return Data("numbers", X.astype(np.float32), StandardScaler().fit_transform(price[:, None]).astype(np.float32))


def pictures(rng: np.random.Generator, n_rows: int) -> Data:
    """Return scikit-learn's digits as 28 x 28 images, shifted by a few pixels and with noise."""
    small, labels = load_digits(return_X_y=True)
    rows = rng.integers(len(small), size=n_rows)
    large = nn.functional.interpolate(torch.tensor(small[rows] / 16).view(-1, 1, 8, 8), (20, 20), mode="bilinear")
    X = rng.normal(scale=0.1, size=(n_rows, 1, 28, 28))
    for picture, digit, (down, right) in zip(X, large.numpy(), rng.integers(0, 9, size=(n_rows, 2)), strict=True):
        picture[0, down : down + 20, right : right + 20] += digit[0]
    return Data("pictures", X.astype(np.float32), labels[rows].astype(np.int64))


def sequences(rng: np.random.Generator, n_rows: int) -> Data:
    """Return word sequences of four classes that differ in some words; shorter ones are padded with 0."""
    y = rng.integers(0, 4, size=n_rows)
    words = rng.integers(1, N_WORDS, size=(n_rows, LENGTH))
    telling = rng.random((n_rows, LENGTH)) < 0.2
    words[telling] = (1 + 100 * y[:, None] + rng.integers(0, 40, size=words.shape))[telling]
    words[np.arange(LENGTH) >= rng.integers(LENGTH // 2, LENGTH + 1, size=(n_rows, 1))] = 0
    return Data("sequences", words, y)


MADE: dict[str, tuple[Callable[[np.random.Generator, int], Data], int]] = {
    "table": (census, 30_000),
    "mixed": (mixed, 30_000),
    "numbers": (houses, 20_000),
    "pictures": (pictures, 6_000),
    "sequences": (sequences, 6_000),
}


def made(kind: str, share: int = 1) -> Data:
    """Return synthetic data of a kind, with one in `share` rows."""
    make, n_rows = MADE[kind]
    return make(np.random.default_rng(SEED), n_rows // share)


def read(folder: Path, kind: str, share: int = 1) -> Data | None:
    """Return real data of a kind, from ``KIND.csv``, ``KIND.npz`` or ``KIND-images``; None if the folder has none.

    A CSV file has a header and the target in its last column; non-numeric columns are one-hot encoded. An npz file has
    `X` and `y`. Images are two idx files, ``KIND-images`` and ``KIND-labels``, optionally with ``.gz``.
    """
    for suffix, reader in {".csv": _csv, ".npz": _npz, "-images": _idx_pair, "-images.gz": _idx_pair}.items():
        path = folder / f"{kind}{suffix}"
        if path.exists():
            X, y = reader(path)
            rows = np.random.default_rng(SEED).permutation(len(y))[: len(y) // share]
            is_class = kind != "numbers"
            target = LabelEncoder().fit_transform(y[rows]) if is_class else y[rows].reshape(-1, 1).astype(np.float32)
            return Data(kind, X[rows], target)
    return None


def _csv(path: Path) -> tuple[np.ndarray, np.ndarray]:
    import pandas as pd

    table = pd.read_csv(path)
    columns = pd.get_dummies(table.iloc[:, :-1]).to_numpy(np.float32)
    return StandardScaler().fit_transform(np.nan_to_num(columns)), table.iloc[:, -1].to_numpy()


def _npz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path) as found:
        return found["X"], found["y"]


def _idx_pair(path: Path) -> tuple[np.ndarray, np.ndarray]:
    images, labels = _idx(path), _idx(path.with_name(path.name.replace("-images", "-labels")))
    return (images[:, None] / np.float32(255)).astype(np.float32), labels


def _idx(path: Path) -> np.ndarray:
    """Return the array in an idx file: two zero bytes, a type (8: bytes), the number of axes, the shape, the data."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    n_axes = data[3]
    shape = np.frombuffer(data, ">u4", n_axes, offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * n_axes).reshape(shape)


def mlp(n_in: int, n_out: int, width: int, *between: Callable[[], nn.Module]) -> nn.Sequential:
    """Return an MLP with two hidden layers; `between` creates modules to put after each."""
    sizes = [n_in, width, width]
    hidden = [
        layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU(), *(f() for f in between))
    ]
    return nn.Sequential(*hidden, nn.Linear(width, n_out))


def lenet(n_out: int) -> nn.Sequential:
    """Return two convolutions of 5 x 5 and three linear layers over 28 x 28 pixels."""
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, n_out)),
    )


class Block(nn.Module):
    """A residual block: two convolutions with batch normalization and a skip connection."""

    def __init__(self, n_in: int, n_out: int, stride: int):
        super().__init__()
        self.first, self.second = (
            nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False),
            nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False),
        )
        self.norms = nn.ModuleList([nn.BatchNorm2d(n_out), nn.BatchNorm2d(n_out)])
        self.skip = nn.Identity() if (n_in, stride) == (n_out, 1) else nn.Conv2d(n_in, n_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of shape (n_rows, n_out, height / stride, width / stride)."""
        out = self.norms[1](self.second(self.norms[0](self.first(x)).relu()))
        return (out + self.skip(x)).relu()


def resnet(n_out: int) -> nn.Sequential:
    """Return a small residual network over 28 x 28 pixels."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), Block(8, 8, 1), Block(8, 16, 2)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, n_out)),
    )


class Recurrent(nn.Module):
    """An embedding, a GRU, and a linear layer over its last state."""

    def __init__(self, n_out: int):
        super().__init__()
        self.embed, self.gru, self.head = (
            nn.Embedding(N_WORDS, 32),
            nn.GRU(32, 32, batch_first=True),
            nn.Linear(32, n_out),
        )

    def forward(self, X: Tensor) -> Tensor:
        """Return logits for words of shape (n_rows, length)."""
        return self.head(self.gru(self.embed(X))[0][:, -1])


class Transformer(nn.Module):
    """An embedding with positions, two encoder layers, and a linear layer over the mean of the words."""

    def __init__(self, n_out: int):
        super().__init__()
        self.embed, self.position = nn.Embedding(N_WORDS, 32), nn.Parameter(torch.zeros(LENGTH, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(32, n_out)

    def forward(self, X: Tensor) -> Tensor:
        """Return logits for words of shape (n_rows, length)."""
        return self.head(self.encoder(self.embed(X) + self.position).mean(1))


@dataclass(frozen=True)
class Task:
    """A net for a kind of data; `build` creates the module from the numbers of columns and outputs."""

    name: str
    kind: str
    build: Callable[[int, int], nn.Module]
    batch_size: int = 128
    max_epochs: int = 5
    draws: bool = False  # has dropout, whose masks differ between the engines
    params: dict[str, Any] = field(default_factory=dict)  # of the net
    around: Callable[[skorch.NeuralNet], Any] = lambda net: net


def with_one_hot(net: skorch.NeuralNet) -> Any:
    """Return a pipeline whose folds have different numbers of columns, with a net that adapts to them."""
    given = {"lr", "max_epochs", "batch_size", "optimizer", "optimizer__momentum", "iterator_train__shuffle"}
    own = {name: value for name, value in net.get_params().items() if name in given}
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False, dtype=np.float32)
    head = ColumnTransformer([("numbers", StandardScaler(), slice(0, 8)), ("categories", encoder, slice(8, 16))])
    return make_pipeline(head, NeuralNetClassifier(MLP, module__hidden=(128, 128), random_state=SEED, **own))


def with_targets(net: skorch.NeuralNet) -> Any:
    """Return the net with scaled targets."""
    return TransformedTargetRegressor(net, transformer=StandardScaler())


SPLIT = {"train_split": ValidSplit(5, stratified=True)}
STOPS = {**SPLIT, "callbacks": [EarlyStopping(patience=2)]}

TASKS = {
    task.name: task
    for task in (
        *(
            Task(f"mlp-{w}", "table", lambda n, k, w=w: mlp(n, k, w), max_epochs=3 if w == 512 else 5)
            for w in (32, 128, 512)
        ),
        Task("batch-norm", "table", lambda n, k: mlp(n, k, 128, lambda: nn.BatchNorm1d(128))),
        Task("dropout", "table", lambda n, k: mlp(n, k, 128, lambda: nn.Dropout(0.2)), draws=True),
        Task("regression", "numbers", lambda n, k: mlp(n, k, 64)),
        Task("lenet", "pictures", lambda n, k: lenet(k), 64, 2),
        Task("resnet", "pictures", lambda n, k: resnet(k), 64, 2),
        Task("gru", "sequences", lambda n, k: Recurrent(k), 64, 2),
        Task("transformer", "sequences", lambda n, k: Transformer(k), 64, 2),
        Task("one-hot", "mixed", lambda n, k: mlp(n, k, 128), around=with_one_hot),
        Task("scaled targets", "numbers", lambda n, k: mlp(n, k, 64), around=with_targets),
        Task("own split", "table", lambda n, k: mlp(n, k, 128), params=SPLIT),
        Task("early stopping", "table", lambda n, k: mlp(n, k, 128), max_epochs=15, params=STOPS),
    )
}


def build_module(task: str, n_in: int, n_out: int) -> nn.Module:
    """Return a task's module, and seed PyTorch's global generator, so that all sides use the same batch order."""
    torch.manual_seed(SEED)
    return TASKS[task].build(n_in, n_out)


class Job(NamedTuple):
    """A task with its data, learning rates and folds, the same for every side."""

    task: Task
    data: Data
    optimizer: str
    lrs: list[float]
    folds: list[tuple[np.ndarray, np.ndarray]]

    def estimator(self, **params: Any) -> Any:
        """Return skorch's own net, wrapped as the task requires."""
        kind, arguments, _ = OPTIMIZERS[self.optimizer]
        is_class = self.data.kind != "numbers"
        kind_of_net = skorch.NeuralNetClassifier if is_class else skorch.NeuralNetRegressor
        params = {"train_split": None, **self.task.params, **params}
        net = kind_of_net(
            build_module,
            module__task=self.task.name,
            module__n_in=self.data.X.shape[1],
            module__n_out=int(self.data.y.max()) + 1 if is_class else 1,
            **({"criterion": nn.CrossEntropyLoss} if is_class else {}),
            optimizer=kind,
            **{f"optimizer__{name}": value for name, value in arguments.items()},
            batch_size=self.task.batch_size,
            max_epochs=self.task.max_epochs,
            iterator_train__shuffle=True,
            verbose=0,
            **params,
        )
        return self.task.around(net)


def job(name: str, optimizer: str, folder: Path | None, quick: bool, n_lrs: int = 8, n_folds: int = 3) -> Job:
    """Return a task with data: real data if the folder has some, else synthetic data."""
    task, share = TASKS[name], 20 if quick else 1
    data = (read(folder, task.kind, share) if folder else None) or made(task.kind, share)
    n_lrs, n_folds = (2, 2) if quick else (n_lrs, n_folds)
    split = KFold if task.kind == "numbers" else StratifiedKFold
    folds = list(split(n_folds, shuffle=True, random_state=SEED).split(data.X, data.y))
    return Job(task, data, optimizer, np.geomspace(*OPTIMIZERS[optimizer][2], n_lrs).tolist(), folds)
