"""Are the chosen learning rate and its interval accurate for freshly trained nets, from the search to the truth?

`bench_truth.py` simulates searches on tables; here the public searches are run with real trainings, on tasks of
`_real_tasks.py` with --rows rows. The truth comes from a dense grid of learning rates over four and a half decades in
--repeats repetitions of five folds. A search tries a quarter of these learning rates, with its own offset, folds and
seeds.

Coverage: how often `lr_interval_` contains the true optimum. Width: median, in decades. Bias: chosen minus optimum, in
decades. Regret: in percent of the difference between a guess (predicting the mean) and the best. Told and real: the
standard deviation of the chosen lr in decades, as estimated by `search_variance_` (median), and over the searches.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _common import environment, print_environment, table, tell, write_json
from _real_tasks import OPTIMIZERS, TASKS, made
from _tabulated import quietly
from bench_truth import top_of
from sklearn.model_selection import KFold, RepeatedKFold
from torch import nn

from sklr import LRGridSearchCV, NeuralNetClassifier, NeuralNetRegressor
from sklr.selection import choose, search_variance

JOBS = (("mlp-32", "sgd"), ("regression", "adamw"), ("dropout", "adamw"))
RANGES = {"sgd": (-3.5, 1.0), "adamw": (-5.0, -0.5)}  # log10 of the learning rates of the truth
STEP = 4  # a search tries every fourth learning rate of the truth
RULES = ("best", "one_se", "fit")


class Fresh(NamedTuple):
    """A net with its data and scoring."""

    name: str
    net: Any
    X: np.ndarray
    y: np.ndarray
    scoring: str
    guess: float
    range: tuple[float, float]


def build(task: str, n_in: int, n_out: int) -> nn.Module:
    """Return a task's module with newly drawn weights."""
    return TASKS[task].build(n_in, n_out)


def fresh(task: str, optimizer: str, rows: int) -> Fresh:
    """Return a task with the given number of rows."""
    data = made(TASKS[task].kind)
    X, y = data.X[:rows], data.y[:rows]
    is_class = data.kind != "numbers"
    kind, arguments, _ = OPTIMIZERS[optimizer]
    net = (NeuralNetClassifier if is_class else NeuralNetRegressor)(
        build,
        module__task=task,
        module__n_in=X.shape[1],
        module__n_out=int(y.max()) + 1 if is_class else 1,
        **({"criterion": nn.CrossEntropyLoss} if is_class else {}),
        optimizer=kind,
        **{f"optimizer__{name}": value for name, value in arguments.items()},
        batch_size=32,
        max_epochs=TASKS[task].max_epochs,
        iterator_train__shuffle=True,
    )
    shares = np.bincount(y) / len(y) if is_class else np.array([1.0])
    guess = float(np.sum(shares * np.log(shares))) if is_class else -float(y.var())
    scoring = "neg_log_loss" if is_class else "neg_mean_squared_error"
    return Fresh(f"{task} {optimizer}", net, X, y, scoring, guess, RANGES[optimizer])


def true_curve(job: Fresh, n_lrs: int, repeats: int) -> tuple[np.ndarray, np.ndarray]:
    """Return log10 of a dense grid and the mean scores there; a diverged run has the score of a guess."""
    u = np.linspace(*job.range, n_lrs)
    folds = RepeatedKFold(n_splits=5, n_repeats=repeats, random_state=12345)
    search = LRGridSearchCV(
        job.net, lrs=(10**u).tolist(), cv=folds, scoring=job.scoring, refit=False, random_state=12345
    )
    scores = np.array(quietly(lambda: search.fit(job.X, job.y)).cell_scores_)
    return u, np.fmax(scores, job.guess).mean(axis=1)


def searches(job: Fresh, u: np.ndarray, n: int) -> list[Any]:
    """Return fitted searches, each with its own folds and seeds."""
    found = []
    for seed in range(n):
        lrs = (10 ** u[seed % STEP :: STEP]).tolist()
        folds = KFold(5, shuffle=True, random_state=seed)
        search = LRGridSearchCV(
            job.net, lrs=lrs, cv=folds, scoring=job.scoring, select="fit", refit=False, random_state=seed
        )
        found.append(quietly(lambda search=search: search.fit(job.X, job.y)))
    return found


def judge(job: Fresh, u: np.ndarray, truth: np.ndarray, found: Sequence[Any]) -> list[dict[str, Any]]:
    """Apply all selection rules to the searches' curves, and compare the choices with the truth."""
    top, way, rows = top_of(u, truth), (truth.max() - job.guess) / 100, []
    for rule in RULES:
        choices = [choose(search.lr_curve_, rule) for search in found]
        low, high = np.log10([choice.interval for choice in choices]).T
        at = np.log10([choice.lr for choice in choices])
        told = [search_variance(search.lr_curve_, rule).decades for search in found]
        rows.append(
            {
                "task": job.name,
                "rule": rule,
                "top": float(10**top),
                "coverage": float(100 * np.mean((low <= top) & (top <= high))),
                "width": float(np.median(high - low)),
                "bias": float(np.mean(at - top)),
                "regret": float(np.mean(truth.max() - np.interp(at, u, truth)) / way),
                "refused": float(100 * np.mean([bool(choice.refused) for choice in choices])),
                "told": float(np.median(told)),
                "real": float(at.std(ddof=1)),
                "engine": found[0].engine_,
            }
        )
    return rows


def show(rows: Sequence[dict[str, Any]]) -> str:
    """Return a table with a row for each task and rule."""
    header = ["task", "rule", "top", "coverage", "width", "bias", "regret", "refused", "told / real"]
    lines = [
        [
            r["task"], r["rule"], f"{r['top']:.3g}", f"{r['coverage']:.0f} %", f"{r['width']:.2f}", f"{r['bias']:+.2f}",
            f"{r['regret']:.2f}", f"{r['refused']:.0f} %", f"{r['told']:.2f} / {r['real']:.2f}",
        ]
        for r in rows
    ]  # fmt: skip
    return table(header, lines)


def main() -> None:
    """Print versions, machine and the table; write numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=600, help="rows of a task")
    parser.add_argument("--searches", type=int, default=20, help="searches of a task")
    parser.add_argument("--repeats", type=int, default=8, help="repetitions of five folds of the truth")
    parser.add_argument("--lrs", type=int, default=41, help="learning rates of the truth")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--quick", action="store_true", help="does it work?")
    given = parser.parse_args()
    if given.quick:
        given.rows, given.searches, given.repeats, given.lrs = 120, 3, 1, 17
    about, start, rows = environment(), time.perf_counter(), []
    print_environment(about)
    for task, optimizer in JOBS:
        job = fresh(task, optimizer, given.rows)
        tell(f"{job.name}: truth")
        u, truth = true_curve(job, given.lrs, given.repeats)
        tell(f"{job.name}: searches")
        rows += judge(job, u, truth, searches(job, u, given.searches))
    print(f"\n{show(rows)}\n\nengine: {', '.join(sorted({r['engine'] for r in rows}))}")
    print(f"{time.perf_counter() - start:.0f} s")
    if given.json:
        write_json(given.json, {**about, "results": rows})


if __name__ == "__main__":
    main()
