"""The sides of the engine benchmark: each trains the runs of a task and returns their scores.

Scores are accuracies on the held-out rows of each fold, shape (n_lrs, n_folds).
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import joblib
import numpy as np
import torch
from _common import clock
from _workloads import OPTIMIZERS, Task, build_module
from sklearn.base import clone
from sklearn.metrics import check_scoring
from sklearn.model_selection import GridSearchCV
from torch import Tensor, nn

from sklr import LRGridSearchCV
from sklr.engines import Engine
from sklr.engines.base import Training
from sklr.exceptions import EdgeOfRangeWarning
from sklr.experiment.experiment import Cell, Experiment


class Found(NamedTuple):
    """Scores (n_lrs, n_folds), and training losses (n_lrs, n_folds, n_epochs), which only sklr's engines report."""

    scores: np.ndarray
    losses: np.ndarray


def by_engine(task: Task, engine: str, n_jobs: int = 1) -> Found:
    """Train with one of sklr's engines, through the public search."""
    search = LRGridSearchCV(
        task.net(), lrs=task.lrs, cv=task.folds, refit=False, engine=engine, n_jobs=n_jobs, random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EdgeOfRangeWarning)  # the grid ends below the first lr that diverges
        search.fit(task.X, task.y)
    status = search.cv_results_["status"].tolist()
    if set(status) != {"ok"}:
        raise AssertionError(f"all runs must be trained to the end, or the sides do different work, got {status}")
    return Found(search.cell_scores_, search.history_["train_loss"].reshape(*search.cell_scores_.shape, -1))


def stacked(task: Task, n_jobs: int = 1) -> Found:
    """Train all runs as one stack, or as one per worker."""
    return by_engine(task, "stacked", n_jobs)


def sequential(task: Task) -> Found:
    """Train one run after another with the sequential engine, the reference."""
    return by_engine(task, "sequential")


def grid_search(task: Task, n_jobs: int = 1) -> np.ndarray:
    """Train with scikit-learn's GridSearchCV over skorch's own net."""
    search = GridSearchCV(task.net(), {"lr": task.lrs}, cv=task.folds, refit=False, n_jobs=n_jobs)
    results = search.fit(task.X, task.y).cv_results_
    return np.stack([results[f"split{k}_test_score"] for k in range(task.n_folds)], axis=1)


def one_training(task: Task) -> None:
    """Train the net once, on the first fold with the middle learning rate, without scoring."""
    rows = task.folds[0][0]
    clone(task.net(lr=task.lrs[len(task.lrs) // 2])).fit(task.X[rows], task.y[rows])


def plain_loop(task: Task) -> np.ndarray:
    """Train one run after another with a hand-written loop: no DataLoader, no skorch, no history."""
    X, y = torch.as_tensor(task.X, device=task.device), torch.as_tensor(task.y, device=task.device)
    folds = [[torch.as_tensor(rows, device=task.device) for rows in fold] for fold in task.folds]
    return np.array([[_train(task, lr, X[a], y[a], X[b], y[b]) for a, b in folds] for lr in task.lrs])


def _train(task: Task, lr: float, x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor) -> float:
    module, criterion = build_module(task.workload.name, task.dtype).to(task.device), nn.CrossEntropyLoss()
    kind, arguments, _ = OPTIMIZERS[task.optimizer]
    optimizer = kind(module.parameters(), lr=lr, **arguments)
    for _ in range(task.max_epochs):
        for rows in _shuffled(len(y)).to(task.device).split(task.workload.batch_size):
            optimizer.zero_grad()
            criterion(module(x[rows]), y[rows]).backward()
            optimizer.step()
    module.eval()
    with torch.no_grad():
        return (module(x_test).argmax(1) == y_test).sum().item() / len(y_test)


def _shuffled(n: int) -> Tensor:
    """Return the order in which PyTorch's DataLoader visits `n` rows: it draws two seeds and uses the second."""
    _, seed = (int(torch.empty((), dtype=torch.int64).random_()) for _ in range(2))
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def experiment(task: Task, keep_estimators: bool = False) -> Experiment:
    """Return the task as an `Experiment`, to run an engine directly: searches do not expose weights and stopping."""
    net = task.net()
    cells = [Cell(k, 0, k, train, test) for k, (train, test) in enumerate(task.folds)]
    return Experiment(net, task.X, task.y, cells, check_scoring(net), keep_estimators=keep_estimators)


def start(task: Task, engine: Engine, keep_estimators: bool = False) -> Training:
    """Set up a task's runs in an engine without training them."""
    candidates = [{"lr": lr} for lr in task.lrs]
    return engine.start(experiment(task, keep_estimators), candidates)


def start_workers(task: Task, n_jobs: int) -> float:
    """Start joblib's worker processes, let each train briefly, and return the seconds this took; call it once."""
    return clock(lambda: warm_workers(task, n_jobs))


def warm_workers(task: Task, n_jobs: int) -> None:
    """Let every worker import what a training needs, so that no timing includes it; joblib stops idle workers."""
    little = task.but(max_epochs=1, n_rows=100)
    joblib.Parallel(n_jobs)(joblib.delayed(_train_little)(little) for _ in range(2 * n_jobs))


def _train_little(task: Task) -> Any:
    return sequential(task.but(lrs=task.lrs[:1], n_folds=1)).scores
