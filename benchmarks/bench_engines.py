"""Speed of the stacked engine, compared with GridSearchCV, a hand-written loop, the sequential engine and one training.

    python benchmarks/bench_engines.py --quick               # does it work? about 20 seconds, numbers mean nothing
    python benchmarks/bench_engines.py --models mlp-small    # one model
    python benchmarks/bench_engines.py --grids-only          # all models and numbers of runs, nothing else
    python benchmarks/bench_engines.py --json engines.json   # everything, on a quiet machine

Every comparison first asserts that all sides compute the same. README.md explains what is measured, and how.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import _sides as sides
import numpy as np
import torch
from _anatomy import bmm_rate, mlp_flops, peak_bytes, where_time_goes
from _common import environment, print_environment, table, take_turns, tell, threads, write_json
from _goals import (
    GOAL_RUNS,
    GRID,
    GRID_2,
    LOOP,
    ONE,
    SEQUENTIAL,
    Goal,
    fastest_stack,
    gemm_goals,
    print_goals,
    speed_goals,
    stop_goal,
)
from _workloads import OPTIMIZERS, WORKLOADS, Task, Workload, make_task

from sklr.engines import SequentialEngine, StackedEngine

AMPLIFIED = 1e-4  # relative difference of a training loss in float32 from float64 that rounding alone does not explain
STOP_RUNS = 40


class Agreement(NamedTuple):
    """How the float32 scores of the stacked and the sequential engine compare."""

    n_compared: int
    n_ties: int
    amplified: list[float]
    n_amplified_differ: int

    def __str__(self) -> str:
        text = f"{self.n_compared} scores equal" + (f" but {self.n_ties} by one row" if self.n_ties else "")
        if self.amplified:
            lrs = ", ".join(f"{lr:.2g}" for lr in self.amplified)
            text += f"; {self.n_amplified_differ} differ at lr {lrs}, where rounding is amplified"
        return text


def main(argv: Sequence[str] | None = None) -> None:
    """Run the selected comparisons, print them, and write their numbers to a file if asked to."""
    options = parse(argv)
    torch.set_num_threads(options.threads[0])
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # float32 means float32
    found = environment()
    print_environment(found)
    print(f"medians of {options.repeat} repetitions (3 if one takes over 15 s), the sides in turns; min..max")
    tell("starting workers")
    options.starting = sides.start_workers(make_task(WORKLOADS["mlp-small"], "sgd", 1, options.device), 2)
    print(f"starting 2 worker processes: {options.starting:.1f} s, not included in the timings unless stated\n")
    chosen = {name: value for name, value in vars(options).items() if name != "json"}
    document: dict[str, Any] = {**found, "options": chosen, "results": [], "goals": []}
    goals: list[Goal] = []
    for name in options.models:
        for optimizer in options.optimizers:
            result, reached = compare(WORKLOADS[name], optimizer, options)
            document["results"].append(result)
            goals += reached
            document["goals"] = [goal._asdict() for goal in goals]
            if options.json:
                write_json(options.json, document)
    print_goals(goals, options.quick)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the validated options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=WORKLOADS, help="default: all")
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=["sgd"])
    parser.add_argument("--runs", nargs="+", type=int, help="default: 1 8 40 50 160")
    parser.add_argument("--repeat", type=int, help="repetitions of each side, default 5")
    parser.add_argument(
        "--threads", nargs="+", type=int, help="threads of the stacked sides, default 1 2; other sides use the first"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--grids-only", action="store_true", help="only the grids: no profile, no stopping of half of the runs"
    )
    parser.add_argument("--quick", action="store_true", help="tiny tasks, once: a test of this benchmark")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    options = parser.parse_args(argv)
    options.models = options.models or (["mlp-small", "cnn-8x8"] if options.quick else list(WORKLOADS))
    options.runs = options.runs or ([4] if options.quick else [1, 8, 40, 50, 160])
    options.repeat = options.repeat or (1 if options.quick else 5)
    options.threads = options.threads or ([1] if options.quick else [1, 2])
    if options.device != "cpu":
        options.threads = options.threads[:1]
    return options


def compare(workload: Workload, optimizer: str, options: argparse.Namespace) -> tuple[dict[str, Any], list[Goal]]:
    """Run all measurements for one model and optimizer; print and return the results."""
    make = partial(make_task, workload, optimizer, device=options.device, quick=options.quick)
    print(f"== {workload.title}; {optimizer}; {make(n_runs=1).max_epochs} epochs; {options.device}")
    error = weights_agree(make(n_runs=4).but(max_epochs=2, dtype=torch.float64))
    print(f"float64: weights of stack and sequential engine differ by {error:.0e} at most")
    result: dict[str, Any] = {"model": workload.name, "optimizer": optimizer, "weight_error": error, "grids": []}
    goals: list[Goal] = []
    for n_runs in options.runs:
        task = make(n_runs=n_runs)
        grid, medians = time_grid(task, options)
        result["grids"].append(grid)
        goals += speed_goals(workload.name, optimizer, n_runs, options.device, medians)
    if options.grids_only:
        print()
        return result, goals
    largest = GOAL_RUNS if GOAL_RUNS in options.runs else max(options.runs)
    result["anatomy"], reached = anatomy(make(n_runs=largest))
    goals += reached
    result["stop"], goal = stop_half(make(n_runs=8 if options.quick else STOP_RUNS), options)
    print()
    return result, [*goals, goal]


def weights_agree(task: Task) -> float:
    """Assert that both engines give the same weights and scores in float64; return the largest error.

    The error of a tensor is relative to its largest entry.
    """
    ours, theirs = (
        sides.start(task, engine, keep_estimators=True).finish() for engine in (StackedEngine(), SequentialEngine())
    )
    error = 0.0
    for a, b in ((a, b) for row, other in zip(ours, theirs, strict=True) for a, b in zip(row, other, strict=True)):
        if a.test_scores != b.test_scores:
            raise AssertionError(f"float64 scores must be equal, got {a.test_scores} and {b.test_scores}")
        found, wanted = a.estimator.module_.state_dict(), b.estimator.module_.state_dict()
        error = max([error, *(float((found[n] - t).abs().max() / t.abs().max()) for n, t in wanted.items())])
    if error > 1e-9:
        raise AssertionError(f"float64 weights must agree to 1e-9, got {error:.1e}")
    return error


def scores_agree(task: Task, n_jobs: int) -> Agreement:
    """Assert that all sides give the same scores; this is also their warm-up.

    In float32 on a CPU, the three sides that train one run after another compute the same, so their scores must be
    equal. The stack rounds differently. A learning rate amplifies rounding if, on any fold, float64 changes the
    training loss of an epoch by more than `AMPLIFIED`. At the other learning rates scores must be equal except for
    ties: the prediction for at most one row may differ in a run, and for one row plus one per hundred runs in total.
    If float64 also changes predictions at these learning rates, the total may be larger by as many, and two rows may
    differ in a run.
    """
    alone, stack = sides.sequential(task), sides.stacked(task)
    exact = sides.stacked(task.but(dtype=torch.float64))
    calm = (np.abs(alone.losses / exact.losses - 1) < AMPLIFIED).all(axis=(1, 2))
    if calm.mean() < 0.5:
        raise AssertionError(f"rounding must not matter at most learning rates, got {calm} of {task.lrs}")
    moved = count_rows(task, exact.scores, alone.scores)[calm].sum()
    for name, scores in {GRID: sides.grid_search(task, n_jobs), LOOP: sides.plain_loop(task)}.items():
        rows_apart(task, scores, alone.scores, calm, moved)
        if task.device == "cpu" and not np.array_equal(scores, alone.scores):
            raise AssertionError(f"{name} must give the sequential engine's scores, got\n{scores - alone.scores}")
    ties = rows_apart(task, stack.scores, alone.scores, calm, moved)
    wild = np.array(task.lrs)[~calm].tolist()
    return Agreement(ties.size, int(ties.sum()), wild, int((stack.scores != alone.scores)[~calm].sum()))


def rows_apart(task: Task, scores: np.ndarray, wanted: np.ndarray, calm: np.ndarray, moved: float) -> np.ndarray:
    """Return the numbers of rows by which scores differ at the lrs marked in `calm`; raise if they are not just ties.

    `moved` is the number of rows by which float64 scores differ there.
    """
    rows = count_rows(task, scores, wanted)[calm]
    if rows.max() > 1 + (moved > 0) or rows.sum() > 1 + 0.01 * rows.size + moved:
        raise AssertionError(f"scores must be equal where rounding is not amplified, got differences (rows)\n{rows}")
    return rows


def count_rows(task: Task, scores: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the numbers of validation rows by which accuracies differ, shape (n_lrs, n_folds)."""
    return np.rint(np.abs(scores - others) * [len(test) for _, test in task.folds])


def time_grid(task: Task, options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, float]]:
    """Time all sides on one task; return the record and the medians in seconds, by side."""
    agreement = scores_agree(task, 2)
    sides.warm_workers(task, 2)
    timings = take_turns(dict(sides_of(task, options.threads)), options.repeat)
    timings[f"{GRID_2}, and starting them"] = timings[GRID_2].plus(options.starting)
    medians = {name: t.median for name, t in timings.items()}
    best = fastest_stack(medians)
    rows = [(name, t.middle, t.spread, f"{t.median / medians[best]:.1f}") for name, t in timings.items()]
    tell("")
    print(f"\n{task.n_runs} runs: {len(task.lrs)} lrs x {task.n_folds} folds. Agreement: {agreement}.")
    print(table(["side", "median s", "min..max", f"x {best}"], rows))
    record = {"n_runs": task.n_runs, "agreement": agreement._asdict(), "seconds": timings}
    return record, medians


def sides_of(task: Task, thread_counts: Sequence[int]) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield the sides by name; PyTorch uses one thread unless the name says otherwise."""
    for n in thread_counts:
        yield f"stacked, {n} thread{'s' * (n > 1)}", partial(with_threads, n, sides.stacked, task)
    if task.device == "cpu":
        yield "stacked, 2 jobs", partial(sides.stacked, task, n_jobs=2)
    yield SEQUENTIAL, partial(sides.sequential, task)
    yield GRID, partial(sides.grid_search, task)
    yield GRID_2, partial(sides.grid_search, task, n_jobs=2)
    yield LOOP, partial(sides.plain_loop, task)
    yield ONE, partial(sides.one_training, task)


def with_threads(n: int, function: Callable[..., Any], *args: Any) -> Any:
    """Call a function while PyTorch uses `n` threads."""
    with threads(n):
        return function(*args)


def anatomy(task: Task) -> tuple[dict[str, Any], list[Goal]]:
    """Print where one stacked search's time and memory go, with one thread."""
    parts = where_time_goes(partial(sides.stacked, task), task.device)
    total, size = sum(parts.values()), peak_bytes(partial(sides.stacked, task.but(max_epochs=1)), task.device)
    shares = sorted(((seconds, part) for part, seconds in parts.items()), reverse=True)
    print(f"\nTime by part of {total:.3g} s for {task.n_runs} runs, one thread: ", end="")
    print(", ".join(f"{part} {seconds / total:.0%}" for seconds, part in shares))
    print(f"Peak memory of the stack's tensors: {size / 2**20:.1f} MiB, {size / task.n_runs / 1024:.0f} KiB per run")
    found: dict[str, Any] = {"n_runs": task.n_runs, "seconds": parts, "peak_bytes": size}
    if not task.workload.widths:
        return found, []
    found["gemm"] = gemm_shares(task, total, total - parts["set-up"] - parts["search"] - parts["scoring"])
    print(
        "torch.bmm alone in these sizes, one thread: {rate:.1f} GFLOP/s; "
        "{whole:.0%} of it in the whole search, {steps:.0%} in its steps".format(**found["gemm"])
    )
    return found, list(gemm_goals(task.workload.name, task.n_runs, found["gemm"]["whole"]))


def gemm_shares(task: Task, total: float, steps: float) -> dict[str, float]:
    """Return the rate of `torch.bmm` (GFLOP/s), and the shares of it that the whole search and its steps reach."""
    widths, batch = task.workload.widths, task.workload.batch_size
    n_rows = sum(len(train) for train, _ in task.folds) * len(task.lrs) * task.max_epochs
    rate, flops = bmm_rate(widths, task.n_runs, batch, task.device), mlp_flops(widths, n_rows)
    return {"rate": rate / 1e9, "whole": flops / total / rate, "steps": flops / steps / rate}


def stop_half(task: Task, options: argparse.Namespace) -> tuple[dict[str, Any], Goal]:
    """Time a grid of which half of the learning rates stop after two tenths of the epochs, and the complete grid.

    It asserts in float64 that the other runs do not change, because the products of a smaller stack may round
    differently.
    """
    task = task.but(max_epochs=10)
    stopped, nobody = np.arange(len(task.lrs)) % 2 == 1, np.zeros(len(task.lrs), dtype=bool)
    whole, half = (train_and_stop(task.but(dtype=torch.float64), mask) for mask in (nobody, stopped))
    if not np.array_equal(whole[~stopped], half[~stopped]):
        raise AssertionError(f"stopping runs must not change others, got {whole} and {half}")
    timings = take_turns(
        {"all": partial(train_and_stop, task, nobody), "half stopped": partial(train_and_stop, task, stopped)},
        options.repeat,
    )
    share = timings["half stopped"].median / timings["all"].median
    tell("")
    print(f"{task.n_runs} runs, 10 epochs: {timings['all']}; half stopped after 2: {timings['half stopped']}")
    return {"seconds": timings}, stop_goal(task.workload.name, task.optimizer, task.n_runs, share)


def train_and_stop(task: Task, stopped: np.ndarray) -> np.ndarray:
    """Train two epochs, stop the lrs marked in `stopped` (n_lrs,), train on; return the scores (n_lrs, n_folds)."""
    training = sides.start(task, StackedEngine())
    training.advance(2)
    if stopped.any():
        training.stop(np.repeat(stopped[:, None], task.n_folds, axis=1), "half are enough")
    training.advance()
    return np.array([[outcome.test_scores for outcome in row] for row in training.finish()])


if __name__ == "__main__":
    main()
