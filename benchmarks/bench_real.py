"""The cost of a search on realistic tasks, with 8 lrs x 3 folds each.

    python benchmarks/bench_real.py --quick                    # does it work? a minute or two, numbers mean nothing
    python benchmarks/bench_real.py --tasks mlp-32 lenet       # some tasks; all take an hour on two cores
    python benchmarks/bench_real.py --data FOLDER              # real files: table.csv, numbers.npz, pictures-images
    python benchmarks/bench_real.py --sides stack --without mlp replay   # the benefit of an optimization
    python benchmarks/bench_real.py --tasks mlp-128 --sides stack sequential modelbatch   # needs modelbatch

Each side runs in its own process, with PyTorch's default threads: the stack, the sequential engine, scikit-learn's
GridSearchCV with two workers, and one training; on request also ModelBatch in a loop of its own. *Price* is the time of
a search divided by that of one training. Before anything is printed, the sides must have computed the same.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import Timing, environment, in_own_process, print_environment, table, tell, write_json
from _lanes import LANES, switched_off
from _modelbatch import by_modelbatch
from _real_tasks import OPTIMIZERS, SEED, TASKS, Job, job
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from sklr import LRGridSearchCV
from sklr.experiment.lr_param import find_lr_param

STACK, SEQUENTIAL, GRID, ONE, MODELBATCH = "stack", "sequential", "grid", "one", "modelbatch"
ONE_THREAD = "sequential, one thread"  # as GridSearchCV's two workers have: asked for where the two differ
CALM = 1e-3  # relative difference of last training losses up to which a run has not amplified the engines' rounding
ONE_ROW = 0.005  # one row in two hundred: scores that differ by less count as equal


def by_engine(asked: Job, engine: str) -> dict[str, Any]:
    """Search with one of sklr's engines; return the scores (n_lrs, n_folds) and the last training losses."""
    search = LRGridSearchCV(
        asked.estimator(), lrs=asked.lrs, cv=asked.folds, refit=False, engine=engine, random_state=SEED
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the best lr is at an edge does not matter here
        search.fit(asked.data.X, asked.data.y)
    last = np.diff(search.history_["epoch"], append=0) <= 0  # of each run: its next row is another's first
    losses = search.history_["train_loss"][last].reshape(search.cell_scores_.shape)
    found = {"scores": search.cell_scores_.tolist(), "losses": losses.tolist()}
    return {**found, "engine": search.engine_, "reasons": search.engine_reasons_}


def grid_search(asked: Job) -> dict[str, Any]:
    """Search with scikit-learn's GridSearchCV over the same estimator, in two processes."""
    estimator = asked.estimator()
    search = GridSearchCV(estimator, {find_lr_param(estimator): asked.lrs}, cv=asked.folds, refit=False, n_jobs=2)
    found = search.fit(asked.data.X, asked.data.y).cv_results_
    return {"scores": np.stack([found[f"split{k}_test_score"] for k in range(len(asked.folds))], axis=1).tolist()}


def one_training(asked: Job) -> dict[str, Any]:
    """Train once, on the first fold, at the middle learning rate."""
    rows = asked.folds[0][0]
    clone(asked.estimator(lr=asked.lrs[len(asked.lrs) // 2])).fit(asked.data.X[rows], asked.data.y[rows])
    return {}


SIDES: dict[str, Callable[[Job], dict[str, Any]]] = {
    STACK: lambda asked: by_engine(asked, "auto"),
    SEQUENTIAL: lambda asked: by_engine(asked, "sequential"),
    GRID: grid_search,
    ONE: one_training,
    MODELBATCH: by_modelbatch,
}
USUAL = [STACK, SEQUENTIAL, GRID, ONE]


def run_side(name: str, task: str, optimizer: str, folder: Path | None, quick: bool, without: Sequence[str]) -> None:
    """Run a side in this process, and print its results, time and peak memory as JSON."""
    side, asked = SIDES[name], job(task, optimizer, folder, quick)
    with switched_off(without):
        side(job(task, optimizer, None, quick=True))  # warm up imports, workers and caches
        gc.collect()
        before, start = _status("VmRSS", os.getpid()), time.perf_counter()
        found = side(asked)
    found["seconds"] = time.perf_counter() - start
    found["peak"] = _highest() - before
    print(json.dumps(found))


def _highest() -> int:
    """Return the peak memory so far of this process and its children, in bytes."""
    started = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return sum(
        _status("VmHWM", pid) for pid in [os.getpid(), *(int(p) for file in started for p in file.read_text().split())]
    )


def _status(name: str, pid: int) -> int:
    path = Path(f"/proc/{pid}/status")
    lines = path.read_text().splitlines() if path.exists() else []  # Linux only
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(name)), 0)


def ask(
    side: str,
    task: str,
    optimizer: str,
    options: argparse.Namespace,
    without: Sequence[str] = (),
    n_threads: int | None = None,
) -> dict[str, Any]:
    """Run a side in its own process; return the results that it printed."""
    command = ["--side", side, "--tasks", task, "--optimizers", optimizer]
    command += ["--without", *without] if without else []
    command += ["--threads", str(n_threads)] if n_threads else []
    command += ["--quick"] if options.quick else []
    command += ["--data", str(options.data)] if options.data else []
    return in_own_process(__file__, *command)


def agree(asked: Job, found: dict[str, dict[str, Any]]) -> str:
    """Assert that the sides have computed the same; return a description of the agreement.

    GridSearchCV and the sequential engine compute the same steps, but sums may be rounded differently in workers with
    fewer threads, and the stack rounds differently. Large learning rates amplify this. So most scores of GridSearchCV
    must be equal up to one row in two hundred, if not to the sequential engine's then to its scores with one thread.
    Where they are, runs of the stack with the same last training loss up to `CALM` must have scores that are equal up
    to one row in two hundred. These must be most runs, or the scores of all must be no further from one by one than
    twice as far as GridSearchCV's are. With dropout, whose masks differ in a stack, only the mean scores must agree.
    """
    scores = {name: np.array(side["scores"]) for name, side in found.items() if name != ONE}
    apart = {name: np.abs(scores[name] - scores[SEQUENTIAL]) for name in (GRID, STACK, MODELBATCH) if name in scores}
    if MODELBATCH in scores and not asked.task.draws and not _are_equal(scores[MODELBATCH], scores[SEQUENTIAL]):
        raise AssertionError(f"{asked.task.name}: ModelBatch and the sequential engine differ:\n{apart[MODELBATCH]}")
    if GRID in scores and not _are_equal(scores[GRID], scores.get(ONE_THREAD, scores[SEQUENTIAL])):
        raise AssertionError(f"{asked.task.name}: GridSearchCV and the sequential engine differ:\n{apart[GRID]}")
    if STACK not in found:
        return ""
    if found[STACK]["engine"] != "stacked":
        return f"not stacked: {'; '.join(found[STACK]['reasons'])}"
    if asked.task.draws:
        return _means_agree(asked.task.name, scores)
    calm = np.abs(np.array(found[STACK]["losses"]) / found[SEQUENTIAL]["losses"] - 1) < CALM
    calm &= apart[GRID] <= ONE_ROW if GRID in scores else True
    rounding = apart[GRID].mean() if GRID in scores else 0.0
    if apart[STACK][calm].max(initial=0) > ONE_ROW or (calm.mean() < 0.5 and apart[STACK].mean() > 2 * rounding):
        raise AssertionError(
            f"{asked.task.name}: stack and sequential engine differ:\n{apart[STACK]}\nequal losses: {calm}\n"
            f"mean difference {apart[STACK].mean():.2g}, that of GridSearchCV {rounding:.2g}"
        )
    most = apart[STACK][calm].max(initial=0)
    words = f"{calm.sum()} of {calm.size} runs alike, their scores differ by {most:.4f} at most"
    if GRID in scores:
        words += f"; all scores by {apart[STACK].mean():.1e} in the mean, those of GridSearchCV by {rounding:.1e}"
    return words


def _are_equal(some: Any, others: Any) -> bool:
    """Say whether most scores are equal up to one row in two hundred."""
    return bool((np.abs(np.subtract(some, others)) <= ONE_ROW).mean() >= 0.5)


def _means_agree(name: str, scores: Mapping[str, np.ndarray]) -> str:
    gap = np.abs((scores[STACK] - scores[SEQUENTIAL]).mean())
    if gap > 0.02:
        raise AssertionError(f"{name}: mean scores differ by {gap:.3f}, and only dropout should")
    return f"mean scores differ by {gap:.4f} (dropout masks differ)"


def measure(task: str, optimizer: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run all sides of a task in turns, and return the result."""
    asked = job(task, optimizer, options.data, options.quick)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in options.sides}
    for i in range(options.repeat):
        for name in options.sides:
            tell(f"{task}, {optimizer}: {name}, {i + 1} of {options.repeat}")
            runs[name].append(ask(name, task, optimizer, options, options.without if name == STACK else ()))
    first = {name: found[0] for name, found in runs.items()}
    if {GRID, SEQUENTIAL} <= first.keys() and not _are_equal(first[GRID]["scores"], first[SEQUENTIAL]["scores"]):
        first[ONE_THREAD] = ask(SEQUENTIAL, task, optimizer, options, n_threads=1)
    words = agree(asked, first) if SEQUENTIAL in first else "not compared"
    seconds = {name: Timing(tuple(run["seconds"] for run in found)) for name, found in runs.items()}
    peak = {name: statistics.median(run["peak"] for run in found) for name, found in runs.items()}
    return {
        "task": task,
        "optimizer": optimizer,
        "seconds": seconds,
        "peak": peak,
        "data": asked.data.X.nbytes,
        "agreement": words,
    }


def line(found: dict[str, Any]) -> list[str]:
    """Return the row of a task in the table."""
    seconds = {name: timing.median for name, timing in found["seconds"].items()}
    stack = seconds.get(STACK, float("nan"))
    peak = found["peak"].get(STACK, 0) / 2**20
    return [
        f"{found['task']}, {found['optimizer']}",
        *(f"{seconds[name]:.2f}" if name in seconds else "-" for name in SIDES),
        f"{stack / seconds[ONE]:.1f}" if ONE in seconds else "-",
        f"{seconds[GRID] / stack:.1f}" if GRID in seconds else "-",
        f"{seconds[SEQUENTIAL] / stack:.1f}" if SEQUENTIAL in seconds else "-",
        f"{peak:.0f}",
        f"{found['data'] / 2**20:.0f}",
    ]


HEADER = ["task", *(f"{name} s" for name in SIDES), "price", "GridSearchCV / stack", "sequential / stack"]
HEADER += ["stack's peak MiB", "data MiB"]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the selected tasks, print a table, and write the numbers to a file if asked to."""
    options = parse(argv)
    if options.side:
        torch.set_num_threads(options.threads or torch.get_num_threads())
        run_side(options.side, options.tasks[0], options.optimizers[0], options.data, options.quick, options.without)
        return
    found = environment()
    print_environment(found)
    results: list[dict[str, Any]] = []
    differ: list[str] = []
    for task, optimizer in itertools.product(options.tasks, options.optimizers):
        try:
            results.append(measure(task, optimizer, options))
        except AssertionError as error:  # the other tasks are measured all the same
            print(error)
            differ.append(task)
            continue
        tell("")
        print(f"{task}, {optimizer}: {results[-1]['agreement']}")
        print(table(HEADER, [line(results[-1])]))
        if options.json:
            write_json(options.json, {**found, "without": options.without, "results": results})
    print(table(HEADER, [line(result) for result in results]))
    if differ:
        raise AssertionError(f"the sides differ: {', '.join(differ)}")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=["sgd"])
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=USUAL)
    parser.add_argument(
        "--without", nargs="+", choices=LANES, default=[], help="optimizations of the stack to switch off"
    )
    parser.add_argument("--repeat", type=int, default=1, help="runs of each side; the median is used")
    parser.add_argument("--data", type=Path, help="a folder with real data")
    parser.add_argument("--quick", action="store_true", help="few rows, learning rates and folds")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
