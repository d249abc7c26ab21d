"""The cost of the audit: what share of a stacked search's time does it take to compare first steps with plain nets?

    python benchmarks/bench_audit.py             # a minute or two; prints a table
    python benchmarks/bench_audit.py --quick     # does it work? a few seconds, on fewer rows
    python benchmarks/bench_audit.py --json FILE # writes the numbers to a file

Each search is fitted a few times in this process, and the audits within it are timed, so that both numbers of a row
come from the same fits. Goals: at most 10 % of the search of 55 small runs, and 2 % of a search of ten seconds or more.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from _common import environment, print_environment, table, threads, write_json
from sklearn.datasets import load_digits, make_classification
from sklearn.model_selection import StratifiedKFold
from torch import nn

from sklr import MLP, LRGridSearchCV, NeuralNetClassifier
from sklr.engines.stacked.setup import prepare


class LeNet(nn.Module):
    """Two convolutions on flattened images of 28 x 28 pixels."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Unflatten(1, (1, 28, 28)), nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(400, 84), nn.ReLU(),
            nn.Linear(84, 10),
        )  # fmt: skip

    def forward(self, X):
        return self.layers(X)


def searches(quick: bool) -> dict[str, Callable[[], Any]]:
    """Return functions that fit a search, by name."""
    few = 20 if quick else 1
    n_lrs, n_epochs = (3, 1) if quick else (8, 10)
    digits, labels = load_digits(return_X_y=True)
    wide, wide_labels = make_classification(30_000 // few, 100, n_informative=20, random_state=0)
    pictures = np.random.default_rng(0).random((6_000 // few, 784), dtype="float32")
    picture_labels = np.arange(len(pictures)) % 10
    momentum = {"optimizer__momentum": 0.9, "iterator_train__shuffle": True}
    small = NeuralNetClassifier(MLP, module__hidden=(32, 32), batch_size=32, max_epochs=n_epochs, **momentum)
    large = NeuralNetClassifier(MLP, module__hidden=(128, 128), batch_size=128, max_epochs=n_epochs, **momentum)
    lenet = NeuralNetClassifier(LeNet, batch_size=64, max_epochs=min(3, n_epochs), **momentum)
    return {
        "digits, MLP, 55 runs": partial(_fit, small, digits / 16, labels, n_lrs=3 if quick else 11, n_folds=5),
        "30,000 x 100, MLP 128, 24 runs": partial(_fit, large, wide, wide_labels, n_lrs=n_lrs, n_folds=3),
        "28 x 28, LeNet, 24 runs": partial(_fit, lenet, pictures, picture_labels, n_lrs=n_lrs, n_folds=3),
    }


def _fit(net: Any, X: Any, y: Any, n_lrs: int, n_folds: int) -> LRGridSearchCV:
    folds = StratifiedKFold(n_folds, shuffle=True, random_state=0)
    search = LRGridSearchCV(net, lr_range=(1e-3, 0.5), n_lrs=n_lrs, cv=folds, refit=False, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the best lr is at an edge does not matter here
        return search.fit(np.asarray(X, dtype="float32"), y)


def measure(fit: Callable[[], LRGridSearchCV], repeat: int) -> dict[str, list[float]]:
    """Return the seconds of the search, and of the audits in it, for each of `repeat` fits."""
    audit, spent = prepare.audit, [0.0]

    def timed(*args: Any) -> None:
        start = time.perf_counter()
        audit(*args)
        spent[0] += time.perf_counter() - start

    found: dict[str, list[float]] = {"search": [], "audit": []}
    prepare.audit = timed
    try:
        for i in range(repeat + 1):  # the first one warms up
            spent[0], start = 0.0, time.perf_counter()
            search = fit()
            assert search.engine_ == "stacked", search.engine_reasons_
            assert spent[0] > 0
            if i:
                found["search"].append(time.perf_counter() - start)
                found["audit"].append(spent[0])
    finally:
        prepare.audit = audit
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="on fewer rows, once")
    parser.add_argument("--repeat", type=int, default=3, help="fits of each search")
    parser.add_argument("--json", help="a file to keep the numbers in")
    args = parser.parse_args()
    found = environment()
    print_environment(found)
    rows, results = [], {}
    with threads(1):
        for name, fit in searches(args.quick).items():
            results[name] = measure(fit, 1 if args.quick else args.repeat)
            search, audit = (statistics.median(results[name][side]) for side in ("search", "audit"))
            shares = [100 * a / s for a, s in zip(results[name]["audit"], results[name]["search"], strict=True)]
            spread = f"{min(shares):.1f}..{max(shares):.1f}"
            rows.append([name, f"{search:.2f}", f"{audit:.3f}", f"{statistics.median(shares):.1f}", spread])
    print(table(["search", "seconds", "audit, seconds", "%", "spread"], rows))
    if args.json:
        write_json(args.json, {**found, "results": results})


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
