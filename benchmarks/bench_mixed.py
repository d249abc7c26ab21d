"""What thirty trials of TPE over five parameters cost: sizes of layers and of batches differ, so stacks do too.

    python benchmarks/bench_mixed.py          # some minutes
    python benchmarks/bench_mixed.py --quick  # does it work?

The learning rate, momentum, weight decay, the batch size and the width of the hidden layer of an MLP on scikit-learn's
digits, in three folds. Each side runs in a process of its own, with torch's default threads. `OptunaSearchCV` here asks
its sampler for several candidates at a time, optuna-integration's for one, so they try other candidates: before
anything is printed, candidates that optuna-integration has tried must get the same scores here, and the best scores of
both sides are printed beside their seconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from _common import environment, in_own_process, print_environment, table, tell, write_json
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import TPESampler
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold

from sklr import MLP, LRGridSearchCV, NeuralNetClassifier, OptunaSearchCV
from sklr.search import BaseLRSearchCV

SEED = 0
OURS, ALONE, THEIRS, THEIRS_2 = "sklr", "sklr, sequential", "optuna-integration", "optuna-integration, 2 jobs"
SIDES = (OURS, ALONE, THEIRS, THEIRS_2)
FOLDS = StratifiedKFold(3, shuffle=True, random_state=SEED)
N_COMPARED = 6  # candidates of optuna-integration that are trained here, too
ONE_ROW = 1 / 400  # of a test fold: what rounding may turn


def space() -> dict[str, BaseDistribution]:
    """Return the distributions of the five parameters."""
    return {
        "lr": FloatDistribution(1e-3, 1, log=True),
        "optimizer__momentum": FloatDistribution(0, 0.95),
        "optimizer__weight_decay": FloatDistribution(1e-6, 1e-2, log=True),
        "batch_size": CategoricalDistribution([32, 64]),
        "module__hidden": CategoricalDistribution([(32,), (64,)]),
    }


def task(quick: bool) -> tuple[NeuralNetClassifier, np.ndarray, np.ndarray]:
    """Return the net and its data."""
    X, y = load_digits(return_X_y=True)
    net = NeuralNetClassifier(
        MLP, max_epochs=2 if quick else 10, iterator_train__shuffle=True, random_state=SEED, train_split=None
    )
    rows = 400 if quick else len(y)
    return net, (X / 16).astype(np.float32)[:rows], y[:rows]


def run_side(side: str, seed: int, quick: bool) -> dict[str, Any]:
    """Search in this process; return the seconds, and what was tried with its score in each fold."""
    warnings.simplefilter("ignore")  # what is tried, and where its best lies, is not the question
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    net, X, y = task(quick)
    n, sampler = 4 if quick else 30, TPESampler(seed=seed)
    if side in (OURS, ALONE):
        engine = "auto" if side == OURS else "sequential"
        search: Any = OptunaSearchCV(
            net, space(), n_trials=n, sampler=sampler, cv=FOLDS, random_state=SEED, refit=False, engine=engine
        )
    else:
        from optuna_integration.sklearn import OptunaSearchCV as Theirs

        study = optuna.create_study(direction="maximize", sampler=sampler)
        n_jobs = 2 if side == THEIRS_2 else 1
        search = Theirs(net, space(), n_trials=n, study=study, cv=FOLDS, refit=False, n_jobs=n_jobs)
    start = time.perf_counter()
    search.fit(X, y)
    return {"seconds": time.perf_counter() - start, "best": search.best_score_, "tried": tried(search)}


def tried(search: Any) -> list[dict[str, Any]]:
    """Return the parameters of the candidates and their scores in the folds."""
    if isinstance(search, BaseLRSearchCV):
        scores = np.stack([search.cv_results_[f"split{k}_test_score"] for k in range(FOLDS.n_splits)], axis=1)
        return [
            {"params": params, "scores": row.tolist()}
            for params, row in zip(search.cv_results_["params"], scores, strict=True)
        ]
    return [
        {"params": trial.params, "scores": [trial.user_attrs[f"split{k}_test_score"] for k in range(FOLDS.n_splits)]}
        for trial in search.trials_
    ]


def agree(candidates: Sequence[dict[str, Any]], quick: bool) -> str:
    """Assert that candidates of another search get the same scores here; return in words how well."""
    net, X, y = task(quick)
    grid = [{name: [_plain(value)] for name, value in one["params"].items()} for one in candidates]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where the best of these lies is not the question
        search = LRGridSearchCV(net, grid, cv=FOLDS, refit=False, random_state=SEED).fit(X, y)
    apart = np.abs(np.array([one["scores"] for one in tried(search)]) - [one["scores"] for one in candidates])
    calm = apart <= ONE_ROW  # the largest learning rates amplify rounding
    if calm.mean() < 0.8:
        raise AssertionError(f"the same candidates have other scores here:\n{apart}")
    return f"{calm.sum()} of {calm.size} scores of the same candidates within a row of a fold, engine {search.engine_}"


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value  # JSON knows no tuples


def main(argv: Sequence[str] | None = None) -> None:
    """Run all sides in turns, compare them, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rows, trials and epochs")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each side, each with a seed of its own")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.side:
        print(json.dumps(run_side(options.side, options.seed, options.quick)))
        return
    about = environment()
    print_environment(about)
    sides = SIDES if find_spec("optuna_integration") else (OURS, ALONE)
    if sides != SIDES:
        print("optuna-integration is not installed: it is left out")
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for seed in range(1 if options.quick else options.repeat):
        for side in sides:
            tell(f"{side}, {seed + 1} of {options.repeat}")
            command = ["--side", side, "--seed", str(seed), *(["--quick"] if options.quick else [])]
            found[side].append(in_own_process(__file__, *command))
    tell("")
    print(agree(found[sides[-1]][0]["tried"][:N_COMPARED], options.quick))
    ours = statistics.median(one["seconds"] for one in found[OURS])
    print(table(["side", "seconds", "of ours", "best scores"], [_line(side, found[side], ours) for side in sides]))
    if options.json:
        write_json(options.json, {**about, "results": found})


def _line(side: str, runs: Sequence[dict[str, Any]], ours: float) -> list[str]:
    seconds = [one["seconds"] for one in runs]
    middle = statistics.median(seconds)
    spread = f"{middle:.1f} ({min(seconds):.1f}..{max(seconds):.1f})"
    return [side, spread, f"{middle / ours:.1f}", ", ".join(f"{one['best']:.4f}" for one in runs)]


if __name__ == "__main__":
    main()
