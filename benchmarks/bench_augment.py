"""The cost of an augmenting dataset in a search: items read and seconds, for GridSearchCV and both engines.

    python benchmarks/bench_augment.py          # some minutes
    python benchmarks/bench_augment.py --quick  # does it work?

A small convolutional network is trained on 28 x 28 images that are shifted and made noisy each time they are read,
with 8 lrs x 3 folds. Each side runs in its own process, one after the other. sklr's engines read test folds without
augmentation, which scikit-learn's search does not support. Before anything is printed, both engines must have had
the same training losses.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import environment, in_own_process, print_environment, table, tell, write_json
from _real_tasks import SEED, lenet, made
from sklearn.model_selection import GridSearchCV
from skorch.helper import SliceDataset
from torch.utils.data import Dataset

from sklr import LRGridSearchCV, NeuralNetClassifier

SIDES = ("GridSearchCV", "sequential", "stacked")


class Pictures(Dataset):
    """Images with labels, optionally augmented; it counts the items that are read."""

    def __init__(self, x: np.ndarray, targets: np.ndarray, augment: bool):
        self.x, self.targets, self.augment, self.n_read = torch.from_numpy(x), targets, augment, 0

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        self.n_read += 1
        picture = self.x[i].reshape(28, 28)
        if self.augment:
            shift = torch.randint(-2, 3, (2,)).tolist()
            picture = picture.roll(shift, (0, 1)) + 0.1 * torch.randn(28, 28)
        return picture[None], int(self.targets[i])


def run_side(side: str, quick: bool) -> dict[str, Any]:
    """Search in this process; return the cost and the result."""
    data = made("pictures", 60 if quick else 6)
    x, y = np.asarray(data.X, dtype=np.float32).reshape(len(data.y), -1), data.y
    train, plain = Pictures(x, y, augment=True), Pictures(x, y, augment=False)
    lrs = np.geomspace(1e-3, 1e-1, 2 if quick else 8).tolist()
    net = NeuralNetClassifier(
        lenet, module__n_out=int(y.max()) + 1, optimizer__momentum=0.9, batch_size=64, max_epochs=1 if quick else 3,
        iterator_train__shuffle=True, random_state=SEED,
    )  # fmt: skip
    start = time.perf_counter()
    losses = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the best lr is at an edge does not matter here
        if side == "GridSearchCV":
            search: Any = GridSearchCV(net, {"lr": lrs}, cv=3, refit=False).fit(SliceDataset(train, 0), y)
        else:
            search = LRGridSearchCV(net, lrs=lrs, cv=3, refit=False, engine=side, random_state=SEED)
            search.fit(train, eval_dataset=plain)
            losses = search.history_["train_loss"].tolist()
    return {
        "seconds": time.perf_counter() - start,
        "augmented": train.n_read,
        "plain": plain.n_read,
        "losses": losses,
        "scores": search.cv_results_["mean_test_score"].tolist(),
    }


def ask(side: str, quick: bool) -> dict[str, Any]:
    """Run a side in its own process; return the numbers that it printed."""
    command = ["--side", side, *(["--quick"] if quick else [])]
    return in_own_process(__file__, *command)


def main(argv: Sequence[str] | None = None) -> None:
    """Run all sides, compare the engines, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rows, learning rates and epochs")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.side:
        print(json.dumps(run_side(options.side, options.quick)))
        return
    about, found = environment(), {}
    print_environment(about)
    for side in SIDES:
        tell(side)
        found[side] = ask(side, options.quick)
    tell("")
    apart = np.abs(np.divide(found["stacked"]["losses"], found["sequential"]["losses"]) - 1)
    if np.median(apart) > 1e-3:
        raise AssertionError(f"the engines had other training losses, {np.median(apart):.2g} apart in the median")
    print(f"training losses of both engines: {np.median(apart):.1g} apart in the median, {apart.max():.1g} at most")
    header = ["side", "seconds", "augmented items read", "plain items read", "best score"]
    lines = [
        [side, f"{one['seconds']:.1f}", f"{one['augmented']:,}", f"{one['plain']:,}", f"{max(one['scores']):.3f}"]
        for side, one in found.items()
    ]
    print(table(header, lines))
    if options.json:
        write_json(options.json, {**about, "results": found})


if __name__ == "__main__":
    main()
