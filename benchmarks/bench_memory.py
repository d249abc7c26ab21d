"""How much memory does a stacked search take above its data, with many folds, many columns, many rows, a mapped file?

    python benchmarks/bench_memory.py          # a minute or two
    python benchmarks/bench_memory.py --quick  # does it work?

Each side runs in its own process. *Peak* is the maximum memory of the process and its children, minus their memory
right after loading the data. *Plan* is the peak that `search.plan` predicts.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _common import environment, in_own_process, print_environment, table, tell, write_json
from bench_real import _highest, _status
from sklearn.model_selection import GridSearchCV

from sklr import MLP, LRGridSearchCV, NeuralNetClassifier

LRS = [0.001, 0.01, 0.1]
LIMIT = 2.0  # a stacked search may take this many times the size of the data, above the data


@dataclass(frozen=True)
class Shape:
    """The numbers of rows, columns and folds of a search."""

    n_rows: int
    n_columns: int
    n_folds: int
    mapped: bool = False  # whether the data are read from a memory-mapped file
    batch_size: int = 256

    @property
    def bytes(self) -> int:
        """Size of the data in float32."""
        return 4 * self.n_rows * self.n_columns

    def data(self, folder: str) -> tuple[np.ndarray, np.ndarray]:
        """Return float32 features, and labels of two classes."""
        generator = np.random.default_rng(0)
        X = generator.standard_normal((self.n_rows, self.n_columns), dtype=np.float32)
        y = (X[:, 0] > 0).astype(np.int64)
        if not self.mapped:
            return X, y
        path = Path(folder) / "X.npy"
        np.save(path, X)
        return np.load(path, mmap_mode="r"), y


SHAPES = {
    "wide": Shape(20_000, 3072, 5),
    "wide, 20 folds": Shape(20_000, 3072, 20),
    "wide, mapped": Shape(20_000, 3072, 5, mapped=True),
    "long": Shape(400_000, 30, 3, batch_size=2048),
}
QUICK = {name: Shape(2_000, 64, s.n_folds, s.mapped) for name, s in SHAPES.items()}


def run_side(side: str, shape: Shape) -> dict[str, Any]:
    """Search in this process; return the peak memory above the data, and the predicted one."""
    net = NeuralNetClassifier(
        MLP, module__hidden=(16,), max_epochs=2, batch_size=shape.batch_size, iterator_train__shuffle=True,
        random_state=0,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the best lr is at an edge does not matter here
        _search(side, net, 3).fit(*Shape(64, 8, 3).data(folder))  # load what is loaded only once
        X, y = shape.data(folder)
        X.sum()  # reads the pages of a mapped file, so that the system already counts them for this process
        gc.collect()
        before, search = _status("VmRSS", os.getpid()), _search(side, net, shape.n_folds)
        _forget_highest()
        search.fit(X, y)
        peak = _highest() - before
        planned = search.plan(X, y).memory if side == "stack" else None
    scores = search.cv_results_["mean_test_score"].tolist()
    return {"peak": peak, "planned": planned, "scores": scores}


def _search(side: str, net: Any, n_folds: int) -> Any:
    if side == "grid":
        return GridSearchCV(net, {"lr": LRS}, cv=n_folds, refit=False)
    return LRGridSearchCV(net, lrs=LRS, cv=n_folds, refit=False, engine="auto", random_state=0)


def _forget_highest() -> None:
    """Reset the peak memory that Linux records for this process."""
    Path("/proc/self/clear_refs").write_text("5")


def ask(side: str, name: str, quick: bool) -> dict[str, Any]:
    """Run a side in its own process; return the numbers that it printed."""
    command = ["--side", side, "--shapes", name, *(["--quick"] if quick else [])]
    return in_own_process(__file__, *command)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the selected measurements, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--quick", action="store_true", help="small data")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--side", choices=("stack", "grid"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    shapes = QUICK if options.quick else SHAPES
    if options.side:
        print(json.dumps(run_side(options.side, shapes[options.shapes[0]])))
        return
    about, results, lines = environment(), {}, []
    print_environment(about)
    for name in options.shapes:
        tell(name)
        stack, grid = (ask(side, name, options.quick) for side in ("stack", "grid"))
        if np.abs(np.subtract(stack["scores"], grid["scores"])).max() > 0.01:
            raise AssertionError(f"{name}: the two sides differ: {stack['scores']}, {grid['scores']}")
        results[name], size = {"stack": stack, "grid": grid, "data": shapes[name].bytes}, shapes[name].bytes
        sizes = (size, stack["peak"], stack["planned"], grid["peak"])
        lines.append([name, *(f"{n / 2**20:.0f}" for n in sizes), *(f"{s['peak'] / size:.1f}" for s in (stack, grid))])
    tell("")
    header = ["data", "MiB", "stack: peak above it", "plan", "GridSearchCV", "stack / data", "GridSearchCV / data"]
    print(table(header, lines))
    if options.json:
        write_json(options.json, {**about, "results": results})


if __name__ == "__main__":
    main()
