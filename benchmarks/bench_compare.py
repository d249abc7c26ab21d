"""Does `compare` adopt what is better and nothing else, on learning rates of real trainings?

Two learning rates of one table are two configurations. Three worlds (see `bench_truth.py`, which says what a table has)
are three seeds of five folds; the truth is the mean over all other worlds, in percent of the way from a guess to the
best. Where there is not enough evidence and further seeds are advised, they are added as long as the table has worlds.

The worlds of a table have folds of their own, so that the part of a difference that all seeds of a fold share is not in
the tables. --folds adds it: differences drawn from normal distributions, with folds that vary as much as, or F times as
much as, seeds, and that are correlated by rho (the correction for overlapping folds takes it for n_test / n_rows).

False: how often what is no better in truth is adopted, where it is worse by up to 1 %; power: how often what is better
by 1 to 3 %, and by 3 to 8 %, is; advised: in how many of the undecided cases a number of seeds is advised; settled: how
often that many, where the table has them, end in a verdict. --quick compares each pair once.
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
MOST = 9.0  # percent: pairs that are further apart are no question
BINS = {"false": (-1.0, 0.0), "power, 1 to 3 %": (1.0, 3.0), "power, 3 to 8 %": (3.0, 8.0)}
GOALS = {"false": (2.5, -1), "power, 1 to 3 %": (28, 1), "power, 3 to 8 %": (42, 1), "settled": (60, 1)}
SIZES = {"n_train": 80, "n_test": 20}


def pairs_of(truth: TrueTable, repeats: int, generator: np.random.Generator) -> Iterator[tuple[float, np.ndarray]]:
    """Yield what the one is better by in truth, in percent, and the differences in all worlds, the drawn ones first."""
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
    """Compare by the first worlds."""
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
    """Return how often no difference is adopted, where folds have a part of their own that seeds share."""
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
    """Return a line for each table, and the mean of all."""
    names = [*BINS, "advised", "settled"]
    rows = [[r["table"], *(f"{r[name]:.1f}" for name in names)] for r in results]
    rows.append(["mean", *(f"{mean_of(results, name):.1f}" for name in names)])
    return table(["in percent", *names], rows)


def mean_of(results: Sequence[dict[str, Any]], name: str) -> float:
    """Return the mean of a rate over the tables; how many were settled is that of all cases, as some have few."""
    rates = np.array([r[name] for r in results])
    known = np.isfinite(rates)
    weights = np.array([r["tried"] if name == "settled" else 1 for r in results])
    return float(np.average(rates[known], weights=weights[known])) if known.any() else np.nan


def main() -> None:
    """Print versions, machine, the tables and the goals; write numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", type=Path, help="folder with .npz files")
    parser.add_argument("--repeats", type=int, default=3, help="draws for each pair")
    parser.add_argument("--folds", action="store_true", help="folds that vary as well")
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
