"""Which strategy finds the best learning rate, after how many evaluations, epochs and seconds?

Every strategy searches on digits, breast cancer, wine, diabetes, synthetic images, and any CSV (with a header, target
last) or npz file (`X`, `y`) that is given, with SGD and Adam, with a constant lr and with cosine. The searches are the
public ones. Unless stated otherwise, their trainings are looked up ("tabulated"): `_tabulated.py` trains 49 learning
rates x 24 cells per task, keeps them in --cache, and looks up scores in them, including their noise. A search draws
three of the cells and its own range of learning rates, and is judged by the other cells. Range tests are really
trained. At the end some searches are trained, too, to check the tabulated results.

Regret is (best - found) / (best - guess) of true scores, in percent; `guess` is the score without training, `found` the
score at the lr that the search chose. Pass --quick for one task and tiny budgets.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from _common import environment, print_environment, table, tell, threads, write_json
from _contest import Contest, Key, as_numbers, by_group, hold, show_standings, standings
from _contest_pictures import draw_contest, draw_curves
from _strategies import ONCE, OURS, STRATEGIES, Bill, Found, default_lr, draw_world, judge, test_range
from _tabulated import Table, quietly, train_table
from _tasks import OPTIMIZERS, SOURCES, Task, make_tasks
from joblib import Parallel, delayed

CACHE = Path.home() / ".cache" / "sklr-benchmarks"
BUDGETS, TOLD = (4, 8, 16), (8, 16)
CHECKED = ("digits sgd constant", "wine sgd constant", "diabetes adam cosine")
GROUPS = {
    **{kind: lambda name, kind=kind: f" {kind} " in name for kind in OPTIMIZERS},
    **{kind: lambda name, kind=kind: name.endswith(kind) for kind in ("constant", "cosine")},
    **{kind: lambda name, kind=kind: name.startswith(kind) for kind in SOURCES},
}


def make_tables(tasks: Sequence[Task], given: argparse.Namespace) -> list[Table]:
    """Return the tables of all tasks; those that are not in the cache are trained."""
    return Parallel(n_jobs=given.jobs)(delayed(_one_table)(task, given) for task in tasks)


def _one_table(task: Task, given: argparse.Namespace) -> Table:
    with threads(1):
        return train_table(task, given.lrs, given.worlds, given.cache)


def without_search(tasks: Sequence[Task], tables: Sequence[Table], given: argparse.Namespace) -> dict[Key, list]:
    """Return results of range tests and of the default lr; a range test has no schedule, so it serves two tasks."""
    rows = Parallel(n_jobs=given.jobs)(
        delayed(_tests)(task, same, given.seeds) for task, same in _by_training(tasks, tables)
    )
    by_name = {name: found for row in rows for name, found in row.items()}
    rules = list(next(iter(by_name.values()))[0])
    found: dict[Key, list] = {(rule, 0): [[f[rule] for f in by_name[t.name]] for t in tables] for rule in rules}
    pairs = zip(tasks, tables, strict=True)
    return found | {("lr of the optimizer", 0): [[default_lr(*pair)] * given.seeds for pair in pairs]}


def _by_training(tasks: Sequence[Task], tables: Sequence[Table]) -> list[tuple[Task, list[Table]]]:
    kinds: dict[Any, tuple[Task, list[Table]]] = {}
    for task, found in zip(tasks, tables, strict=True):
        kinds.setdefault((task.source.name, task.optimizer), (task, []))[1].append(found)
    return list(kinds.values())


def _tests(task: Task, tables: list[Table], seeds: int) -> dict[str, list[dict[str, Found]]]:
    with threads(1):
        by_seed = [test_range(task, tables, seed) for seed in range(seeds)]
    return {t.name: [found[i] for found in by_seed] for i, t in enumerate(tables)}


def check_tables(tasks: Sequence[Task], tables: Sequence[Table], contest: Contest, n: int, seeds: int) -> list[dict]:
    """Train some searches in cells that the table does not have; return a comparison with tabulated ones."""
    pairs = [(task, t) for task, t in zip(tasks, tables, strict=True) if t.name in CHECKED]
    rows = []
    for task, t in pairs:
        for strategy in [s for s in (OURS, "grid", "coarse to fine") if (s, n) in contest.found]:
            tell(f"{task.name}, {strategy}, trained")
            real = [_train_search(task, t, strategy, n, seed) for seed in range(seeds)]
            looked_up = contest.found[strategy, n][list(tables).index(t)][:seeds]
            row: dict[str, Any] = {"task": t.name, "strategy": strategy, "evaluations": n}
            for what in ("regret", "distance", "seconds"):
                row[what] = [float(np.mean([getattr(f, what) for f in found])) for found in (real, looked_up)]
            rows.append(row)
    return rows


def _train_search(task: Task, t: Table, strategy: str, n: int, seed: int) -> Found:
    rest = {"estimator": task.net(), "lr_range": draw_world(t, seed).lr_range, "cv": task.folds(1000 + seed)}
    rest |= {"scoring": task.scoring, "engine": "stacked", "refit": False}
    start = time.process_time()
    search = quietly(lambda: STRATEGIES[strategy](n, seed, rest).fit(task.X, task.y))
    return judge(t, (), float(search.best_lr_), Bill(n, 0, time.process_time() - start), 0.0)


def describe(tables: Sequence[Table]) -> tuple[list[dict], str]:
    """Return a description of the true curves, as numbers and as text."""
    rows = []
    for t in tables:
        truth, gain = t.truth(), float(t.truth().max() - t.guess)
        good = t.log_lr[truth >= truth.max() - 0.01 * gain]
        row = {"task": t.name, "best_lr": 10 ** t.log_lr[truth.argmax()], "score": truth.max(), "guess": float(t.guess)}
        rows.append(row | {"within_1_percent": (10 ** good[[0, -1]]).tolist(), "noise": 100 * t.noise() / gain})
    cells = [
        [
            r["task"],
            f"{r['best_lr']:.2g}",
            "{:.2g}..{:.2g}".format(*r["within_1_percent"]),
            f"{r['score']:.3f}",
            f"{r['guess']:.3f}",
            f"{r['noise']:.2f}",
        ]
        for r in rows
    ]
    return rows, table(["true curves", "best lr", "within 1 %", "score", "guess", "noise of a search, %"], cells)


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", help="CSV or npz files to search on as well")
    parser.add_argument("--data", nargs="*", choices=SOURCES, default=list(SOURCES), metavar="NAME")
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS))
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES), metavar="NAME")
    parser.add_argument("--evaluations", type=int, nargs="+", default=list(BUDGETS))
    parser.add_argument("--seeds", type=int, default=20, help="searches of each kind")
    parser.add_argument("--lrs", type=int, default=49, help="learning rates of a table")
    parser.add_argument("--worlds", type=int, default=8, help="partitions into three folds of a table")
    parser.add_argument("--trained", type=int, default=5, help="searches of each kind trained for real")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes, of one thread each")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of trained tables")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--pictures", type=Path, help="folder to draw the pictures in")
    parser.add_argument("--quick", action="store_true", help="one task, coarse tables, few searches")
    given = parser.parse_args()
    given.epochs = None
    if given.quick:
        given.data, given.optimizers = [] if given.files else ["wine"], ["sgd"]
        given.strategies = [name for name in given.strategies if name not in ONCE]
        given.evaluations, given.seeds, given.lrs, given.worlds, given.trained = [8], 2, 13, 2, 1
        given.epochs, given.jobs, given.cache = 9, 1, None
    return given


def main() -> None:
    """Print versions, machine and tables; write the numbers and the plots."""
    given, start = arguments(), time.perf_counter()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found = environment()
    print_environment(found)
    tasks = list(make_tasks(given.data, given.files, given.optimizers, given.epochs))
    tables = make_tables(tasks, given)
    curves, text = describe(tables)
    print(f"\n{len(tasks)} tasks, {given.seeds} searches each; tables: {time.perf_counter() - start:.0f} s\n\n{text}")
    contest = Contest(
        tables,
        hold(tables, given.strategies, given.evaluations, given.seeds, given.jobs, whole=False)
        | without_search(tasks, tables, given),
    )
    told = [n for n in TOLD if n in given.evaluations] or given.evaluations[-1:]
    rows = {n: standings(contest, n) for n in told}
    for n in told:
        print(f"\n{n} evaluations; epochs and seconds as shares of a grid's; p, wins against {OURS}\n")
        print(show_standings(rows[n]) + "\n\n" + by_group(contest, n, GROUPS))
    with threads(1):
        checked = check_tables(tasks, tables, contest, max(told), given.trained)
    show_check(checked)
    if given.pictures:
        draw_contest(contest, given.pictures / "strategies.png")
        draw_curves(contest, given.pictures / "strategies_curves.png")
    settings = {name: getattr(given, name) for name in ("seeds", "lrs", "worlds", "evaluations", "trained")}
    numbers = {"curves": curves, "standings": rows, "checked": checked, "by task": as_numbers(contest)}
    if given.json:
        write_json(given.json, {**found, "settings": settings, **numbers})
    print(f"\n{time.perf_counter() - start:.0f} s")


def show_check(checked: Sequence[dict]) -> None:
    """Print trained searches next to tabulated ones."""
    cells = [
        [
            f"{r['task']}, {r['strategy']}",
            *(f"{a:.2f} / {b:.2f}" for a, b in (r["regret"], r["distance"], r["seconds"])),
        ]
        for r in checked
    ]
    print("\ntrained / tabulated\n\n" + table(["task, strategy", "regret %", "decades", "seconds"], cells))


if __name__ == "__main__":
    main()
