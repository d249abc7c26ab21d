"""Does `compare` adopt better configurations and no others, on learning rates of real trainings?

Two learning rates of one table serve as two configurations. Three worlds (repetitions of the folds; `bench_truth.py`
describes the tables) serve as three seeds of five folds. The truth is the mean over all other worlds, in percent of the
difference between a guess and the best. If there is not enough evidence and further seeds are recommended, they are
added as long as the table has worlds.

Each world of a table has its own folds, so the tables do not contain the part of a difference that all seeds of a fold
share. --folds adds it in a simulation: differences are drawn from normal distributions, in which folds vary F times as
much as seeds and are correlated by rho (the correction for overlapping folds assumes n_test / n_rows).

False: how often a configuration is adopted that is truly worse, by up to 1 %. Power: how often one is adopted that is
better by 1 to 3 %, and by 3 to 8 %. Advised: for how many of the undecided cases a number of seeds is recommended.
Settled: how often that number of seeds, if the table has it, leads to a verdict. --quick compares each pair once.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _common import environment, print_environment, table, tell, write_json
from bench_truth import TrueTable, read_tables

from sklr.selection import Comparison, compare_scores

N_SEEDS, N_FOLDS = 3, 5
MOST = 9.0  # percent: pairs that are further apart are too easy
BINS = {"false": (-1.0, 0.0), "power, 1 to 3 %": (1.0, 3.0), "power, 3 to 8 %": (3.0, 8.0)}
GOALS = {"false": (2.5, -1), "power, 1 to 3 %": (28, 1), "power, 3 to 8 %": (42, 1), "settled": (60, 1)}
SIZES = {"n_train": 80, "n_test": 20}


def pairs_of(truth: TrueTable, repeats: int, generator: np.random.Generator) -> Iterator[tuple[float, np.ndarray]]:
    """Yield the true gain of one over the other, in percent, and the differences in all worlds, drawn ones first."""
    usable = np.isfinite(truth.scores).all(axis=1)
    scores = truth.scores[usable].reshape(usable.sum(), -1, N_FOLDS)
    mean = scores.mean(axis=(1, 2))
    way = (mean.max() - truth.guess) / 100
    for i, j in np.argwhere(np.abs(mean[:, None] - mean) / way <= MOST):
        for _ in range(repeats if i != j else 0):
            worlds = generator.permutation(scores.shape[1])
            differences = (scores[i] - scores[j])[worlds]
            yield float(differences[N_SEEDS:].mean() / way), differences


def judged(differences: np.ndarray, n_seeds: int) -> Comparison:
    """Compare on the first worlds."""
    new = differences[:n_seeds].T.ravel()
    return compare_scores(new, np.zeros_like(new), n_seeds=n_seeds, **SIZES)


def measure(truth: TrueTable, repeats: int) -> dict[str, Any]:
    """Compare all pairs of a table; rates in percent."""
    found = list(pairs_of(truth, repeats, np.random.default_rng(0)))
    first = [judged(differences, N_SEEDS) for _, differences in found]
    gain, adopted = np.array([gain for gain, _ in found]), np.array([c.verdict == "adopt" for c in first])
    rates = {name: _rate(adopted[(low < gain) & (gain <= high)]) for name, (low, high) in BINS.items()}
    undecided = [(d, c) for (_, d), c in zip(found, first, strict=True) if c.verdict == "not enough evidence"]
    plans = [(d, N_SEEDS + c.more_seeds) for d, c in undecided if c.more_seeds is not None]
    settled = [judged(d, n).verdict != "not enough evidence" for d, n in plans if n <= len(d)]
    rates |= {"advised": _rate([c.more_seeds is not None for _, c in undecided]), "settled": _rate(settled)}
    return {"table": truth.name, **rates, "pairs": len(found), "tried": len(settled)}


def _rate(hits: Any) -> float:
    return float(100 * np.mean(hits)) if len(hits) else np.nan


def shared_folds(n: int) -> str:
    """Return how often a configuration without a true gain is adopted, if the seeds of a fold share a part."""
    generator, rows = np.random.default_rng(0), []
    for n_folds in (3, 5, 10):
        for rho in (-1 / n_folds, 0.0, 1 / n_folds):
            row = [f"{n_folds} folds", f"{rho:+.2f}"]
            covariance = (1 - rho) * np.eye(n_folds) + rho
            for part in (0.0, 0.3, 1.0, 3.0):
                folds = generator.multivariate_normal(np.zeros(n_folds), part * covariance, size=n)
                drawn = folds[:, :, None] + generator.standard_normal((n, n_folds, N_SEEDS))
                row.append(f"{_rate([_adopts(d) for d in drawn]):.1f}")
            rows.append(row)
    return table(["no difference, adopted in %", "rho", "F 0", "F 0.3", "F 1", "F 3"], rows)


def _adopts(differences: np.ndarray) -> bool:
    sizes = {"n_train": len(differences) - 1, "n_test": 1}
    new = differences.ravel()
    return compare_scores(new, np.zeros_like(new), n_seeds=N_SEEDS, **sizes).verdict == "adopt"


def show(results: Sequence[dict[str, Any]]) -> str:
    """Return a table with a row for each table of scores, and their mean."""
    names = [*BINS, "advised", "settled"]
    rows = [[r["table"], *(f"{r[name]:.1f}" for name in names)] for r in results]
    rows.append(["mean", *(f"{mean_of(results, name):.1f}" for name in names)])
    return table(["in percent", *names], rows)


def mean_of(results: Sequence[dict[str, Any]], name: str) -> float:
    """Return the mean of a rate over the tables; "settled" is pooled over all cases, because some tables have few."""
    rates = np.array([r[name] for r in results])
    known = np.isfinite(rates)
    weights = np.array([r["tried"] if name == "settled" else 1 for r in results])
    return float(np.average(rates[known], weights=weights[known])) if known.any() else np.nan


def main() -> None:
    """Print versions, machine, the tables and the goals; write numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", type=Path, help="folder with .npz files")
    parser.add_argument("--repeats", type=int, default=3, help="draws for each pair")
    parser.add_argument("--folds", action="store_true", help="also simulate differences that seeds of a fold share")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--quick", action="store_true", help="one draw for each pair")
    given = parser.parse_args()
    tables, about = read_tables(given.tables), environment()
    print_environment(about)
    start, results = time.perf_counter(), []
    for truth in tables:
        tell(truth.name)
        results.append(measure(truth, 1 if given.quick else given.repeats))
    print(f"\n{show(results)}\n")
    for name, (goal, sign) in GOALS.items():
        found = mean_of(results, name)
        met = "met" if sign * (found - goal) >= 0 else "NOT met"
        print(f"{name}: {found:.1f} %, {'at most' if sign < 0 else 'at least'} {goal} asked for, {met}")
    if given.folds:
        print(f"\n{shared_folds(300 if given.quick else 3000)}")
    print(f"\n{time.perf_counter() - start:.0f} s")
    if given.json:
        write_json(given.json, {**about, "results": results})


if __name__ == "__main__":
    main()
