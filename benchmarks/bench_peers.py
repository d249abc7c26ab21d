"""The same job by sklr and other libraries: how long until an lr near the best one, and with how much code?

The job is to find the learning rate between 1e-5 and 10 of an MLP 64-32-32-10 with SGD with momentum, 10 epochs on
scikit-learn's digits, by log loss over three folds, on two cores with one thread per process, with 8, 16 and 32
candidates. The other libraries train skorch's own net, sklr the same net as an instance of its own class. Each side is
written as in its documentation (`_peers.py`). The reference is the dense table of `bench_strategies.py` (49 learning
rates x 24 cells, kept in --cache); the truth is the mean over its cells. Servers (Ray, Dask, joblib's workers) are
started before the clock.

"s to 0.1 decade" is the time of the smallest search whose result is within 0.1 decades of the best lr. Sides that
cannot run are listed with the reason. Pass --quick for few rows, epochs and candidates.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import psutil
from _common import environment, print_environment, table, tell, threads, write_json
from _peers import CORES, PEERS, Job, Peer
from _tabulated import Table, train_table
from _tasks import SOURCES, make_task
from bench_strategies import CACHE
from joblib import Parallel, delayed

NEAR = 0.1  # decades
LIBRARIES = ("modelbatch", "optuna-integration", "torch-lr-finder", "ray", "dask-ml", "distributed")


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Suppress output and warnings of the other libraries."""
    nowhere = io.StringIO()
    with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def attempt(peer: Peer, job: Job, n: int, seed: int) -> dict[str, Any]:
    """Run one side once; return its lr and seconds, or the error.

    Examples
    --------
    >>> def broken(job, n, seed):
    ...     raise ImportError("No module named 'peer'")
    >>> attempt(Peer("peer", broken), None, 8, 0)
    {'error': "ImportError: No module named 'peer'"}
    """
    start, before = time.perf_counter(), cpu_seconds()
    try:
        with hushed():
            lr = float(peer.search(job, n, seed))
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0][:150]}
    return {"lr": lr, "seconds": time.perf_counter() - start, "cpu": cpu_seconds() - before}


def cpu_seconds() -> float:
    """Return the CPU seconds used by this process and all its descendants, including those that have ended.

    Processes whose parent has ended are not counted, so that a difference of two calls may be negative.
    """
    total = 0.0
    for process in [own := psutil.Process(), *own.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):  # the process has just ended
            total += sum(process.cpu_times()[:4])  # user, system, and both of children that were waited for
    return total


def run_side(peer: Peer, job: Job, budgets: Sequence[int], seeds: int) -> list[dict[str, Any]]:
    """Run one side with every budget and seed, until the first failure."""
    rows: list[dict[str, Any]] = []
    try:
        with hushed():
            stop = peer.start()
    except Exception as error:
        return [{"side": peer.name, "error": f"{type(error).__name__}: {error}".splitlines()[0][:150]}]
    for seed in range(seeds):
        for n in budgets if peer.takes_n else budgets[:1]:
            tell(f"{peer.name}, {n} candidates, seed {seed}")
            rows.append({"side": peer.name, "seed": seed, "candidates": n if peer.takes_n else None})
            rows[-1] |= attempt(peer, job, n, seed)
            if "error" in rows[-1]:
                break
    with hushed():
        stop()
    return rows


def judged(row: dict[str, Any], truth: Table) -> dict[str, Any]:
    """Add the distance of the result from the best lr, and its true score."""
    if "error" in row:
        return row
    curve = truth.truth()
    best = int(curve.argmax())
    u = np.log10(row["lr"])
    score = float(truth.truth(log_lr=np.array([u]))[0])
    regret = 100 * (curve[best] - score) / (curve[best] - float(truth.guess))
    return row | {"decades": float(abs(u - truth.log_lr[best])), "score": score, "regret": float(regret)}


def summed_up(peer: Peer, rows: Sequence[dict[str, Any]], budgets: Sequence[int]) -> dict[str, Any]:
    """Return the row of a side: seconds by budget, distance and score at the middle budget, seconds until near."""
    found: dict[str, Any] = {"side": peer.name, "lines": peer.lines}
    errors = [row["error"] for row in rows if "error" in row]
    done = [row for row in rows if "error" not in row]
    if errors:
        found["error"] = errors[0]
    if not done:
        return found
    middle = budgets[len(budgets) // 2] if peer.takes_n else None
    shown = [row for row in done if row["candidates"] == middle] or done
    for what in ("decades", "score", "regret"):
        found[what] = float(np.mean([row[what] for row in shown]))
    for n in budgets if peer.takes_n else [None]:
        for what in ("seconds", "cpu"):
            taken = [row[what] for row in done if row["candidates"] == n]
            found.setdefault(what, {})[str(n)] = float(np.median(taken)) if taken else None
    near = [until_near([row for row in done if row["seed"] == seed]) for seed in sorted({row["seed"] for row in done})]
    return found | {"until near": near}


def until_near(rows: Sequence[dict[str, Any]]) -> float | None:
    """Return the seconds of the smallest search of a seed whose result is near the best lr.

    >>> until_near([{"decades": 0.3, "seconds": 1.0}, {"decades": 0.05, "seconds": 2.0}])
    2.0
    """
    return next((row["seconds"] for row in rows if row["decades"] <= NEAR + 1e-9), None)


def show(lines: Sequence[dict[str, Any]], budgets: Sequence[int]) -> str:
    """Return the table of all sides as text."""
    header = [
        "side",
        *(f"s at {n}" for n in budgets),
        f"s to {NEAR} decade",
        "near",
        "decades",
        "regret %",
        "score",
        "lines",
    ]
    return table(header, [_cells(line, budgets) for line in lines])


def _cells(line: dict[str, Any], budgets: Sequence[int]) -> list[str]:
    if "seconds" not in line:
        return [line["side"], *[""] * len(budgets), "could not run", *[""] * 4, str(line["lines"])]
    times = [tuple(line[what].get(str(n), line[what].get("None")) for what in ("seconds", "cpu")) for n in budgets]
    reached = [s for s in line["until near"] if s is not None]
    cells = [line["side"], *("" if s is None else f"{s:.1f} ({max(cpu, 0):.0f})" for s, cpu in times)]
    cells += [f"{np.median(reached):.1f}" if reached else "-", f"{len(reached)} of {len(line['until near'])}"]
    return [*cells, f"{line['decades']:.2f}", f"{line['regret']:.2f}", f"{line['score']:.4f}", str(line["lines"])]


def draw(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw seconds against distance from the best lr."""
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(8, 5), layout="constrained")
    points = sorted((_middle(line), max(line["decades"], 0.01), line["side"]) for line in lines if "seconds" in line)
    for i, (x, y, side) in enumerate(points):
        color = "#3f6fd8" if side.startswith("sklr") else "#8a8a8a"
        is_crowded = any(1 < other_x / x < 10 and 0.8 < other_y / y < 1.25 for other_x, other_y, _ in points)
        left, below = is_crowded, i % 2  # labels alternate above and below, so that fewer overlap
        beside, align = (-6 if left else 6, -12 if below else 3), "right" if left else "left"
        ax.plot(x, y, "o", color=color)
        ax.annotate(side, (x, y), xytext=beside, textcoords="offset points", fontsize=9, color=color, ha=align)
    ax.axhline(NEAR, color="#dca01e", linewidth=1)
    ax.set(xscale="log", yscale="log", xlabel="seconds of a search", ylabel="mean distance from the best lr (decades)")
    ax.margins(x=0.25)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def _middle(line: dict[str, Any]) -> float:
    seconds = sorted(s for s in line["seconds"].values() if s is not None)
    return float(seconds[len(seconds) // 2])


def installed() -> dict[str, str | None]:
    """Return the versions of the other libraries, None for those that are not installed."""
    found: dict[str, str | None] = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [peer.name for peer in PEERS]
    parser.add_argument("--sides", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--candidates", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of trained tables")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--pictures", type=Path, help="folder to draw the picture in")
    parser.add_argument("--quick", action="store_true", help="few rows, epochs and candidates")
    given = parser.parse_args()
    given.lrs, given.worlds, given.epochs, given.rows = 49, 8, None, None
    if given.quick:
        given.candidates, given.seeds, given.cache = [4], 1, None
        given.lrs, given.worlds, given.epochs, given.rows = 13, 1, 2, 300
    return given


def main() -> None:
    """Run all sides, print the table, and write the numbers and the plot."""
    given = arguments()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the workers of all sides
    os.environ.setdefault("TQDM_DISABLE", "1")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    found = environment() | {"peers": installed()}
    print_environment(found)
    task = make_task(SOURCES["digits"], "sgd", None, given.epochs)
    if given.rows is not None:
        task = replace(task, X=task.X[: given.rows], y=task.y[: given.rows])
    with threads(1):
        truth = train_table(task, given.lrs, given.worlds, given.cache)
        Parallel(n_jobs=CORES)(delayed(attempt)(PEERS[0], Job(task), 4, 0) for _ in range(2 * CORES))  # all imported
        print(f"best lr {10 ** truth.log_lr[truth.truth().argmax()]:.3g}, score {truth.truth().max():.4f}\n")
        rows, lines = [], []
        for peer in [peer for peer in PEERS if peer.name in given.sides]:
            own = [judged(row, truth) for row in run_side(peer, Job(task), given.candidates, given.seeds)]
            rows += own
            lines.append(summed_up(peer, own, given.candidates))
    print(show(lines, given.candidates))
    for line in [line for line in lines if "error" in line]:
        print(f"{line['side']}: {line['error']}")
    if given.pictures:
        draw(lines, given.pictures / "peers.png")
    if given.json:
        write_json(given.json, {**found, "candidates": given.candidates, "sides": lines, "runs": rows})


if __name__ == "__main__":
    main()
