"""The runs of a real task trained by ModelBatch: all learning rates of a fold side by side, in a hand-written loop."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from _real_tasks import OPTIMIZERS, Job, build_module
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

ROWS = 512  # predicted at once


def by_modelbatch(asked: Job) -> dict[str, Any]:
    """Return the scores (n_lrs, n_folds): accuracies, or R^2 of a regression.

    The weights, batches and batch order are those of the other sides. Tasks with estimators around the net, or with
    held-out rows, need more code and are refused.
    """
    if asked.task.params or asked.data.kind == "mixed" or asked.task.name == "scaled targets":
        raise ValueError(f"the loop around ModelBatch has no preprocessing and no held-out rows: {asked.task.name}")
    X, y = torch.as_tensor(asked.data.X), torch.as_tensor(asked.data.y)
    scores = [_fold(asked, X[train], y[train], X[test], y[test]) for train, test in asked.folds]
    return {"scores": np.transpose(scores).tolist()}


def _fold(asked: Job, X: Tensor, y: Tensor, X_test: Tensor, y_test: Tensor) -> list[float]:
    from modelbatch import ModelBatch
    from modelbatch.optimizer import OptimizerFactory

    is_class = asked.data.kind != "numbers"
    n_out = int(asked.data.y.max()) + 1 if is_class else 1
    first = build_module(asked.task.name, X.shape[1], n_out)
    models = ModelBatch([copy.deepcopy(first) for _ in asked.lrs], shared_input=True)
    kind, arguments, _ = OPTIMIZERS[asked.optimizer]
    optimizer = OptimizerFactory(kind, arguments).create_optimizer(models, [{"lr": lr} for lr in asked.lrs])
    loader = DataLoader(TensorDataset(X, y), batch_size=asked.task.batch_size, shuffle=True)
    loss = nn.functional.cross_entropy if is_class else nn.functional.mse_loss
    for _ in range(asked.task.max_epochs):
        for inputs, targets in loader:
            optimizer.zero_grad()
            models.compute_loss(models(inputs), targets, loss, reduction="sum").backward()
            optimizer.step()
    models.eval()
    with torch.no_grad():
        outputs = torch.cat([models(rows) for rows in X_test.split(ROWS)], 1)
    return [_score(each, y_test, is_class) for each in outputs]


def _score(outputs: Tensor, y: Tensor, is_class: bool) -> float:
    if is_class:
        return float((outputs.argmax(1) == y).float().mean())
    return float(1 - (outputs - y).square().sum() / (y - y.mean(0)).square().sum())
