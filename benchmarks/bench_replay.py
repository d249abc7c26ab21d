"""After how many evaluations is each strategy near the optimum of recorded LR curves?

A recorded curve is replayed through the public searches: the estimator looks its score up, interpolated in log lr, and
diverges where the recorded training did. Normalised regret of a search is (best - found) / (best - untrained), in
percent: `best` is the curve's highest score, `found` the highest score the search has seen, `untrained` the score
before the first epoch. Give the path of a file in the layout of the DeepOBS baselines (JSON, gzipped or not): "runs", a
list of dicts with "problem", "optimizer", "lr", "train_losses" and "test_accuracies" or "test_losses" by epoch; runs
with the same three are averaged. Pass --quick for two seeds and the fast strategies.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _common import environment, print_environment, table, tell, write_json
from sklearn.base import BaseEstimator

from sklr import BayesSearchCV, LRGridSearchCV, OptunaSearchCV
from sklr.exceptions import AllDivergedError, DivergedWarning, EdgeOfRangeWarning, TrainingDiverged

EVALUATIONS = (8, 12)
RESULTS = Path(__file__).parent / "results" / "replay.json"


@dataclass(frozen=True)
class Curve:
    """One recorded LR curve: ascending log10 lr, scores (NaN where diverged), the score before training."""

    name: str
    log_lr: np.ndarray
    score: np.ndarray
    untrained: float

    def at(self, lr: float) -> float:
        """Return the score at any lr; NaN next to where training diverged."""
        u = round(np.log10(lr), 9)  # a recorded lr is met, whatever rounding it has been through
        right = int(np.clip(np.searchsorted(self.log_lr, u), 1, len(self.log_lr) - 1))
        share = (u - self.log_lr[right - 1]) / (self.log_lr[right] - self.log_lr[right - 1])
        if share in (0, 1):
            return float(self.score[right - 1 + int(share)])
        return float((1 - share) * self.score[right - 1] + share * self.score[right])

    @property
    def lr_range(self) -> tuple[float, float]:
        """The lowest and the highest lr recorded."""
        return float(10 ** self.log_lr[0]), float(10 ** self.log_lr[-1])

    def regret(self, found: float) -> float:
        """Return the normalised regret in percent; 100 if nothing was found."""
        best = np.nanmax(self.score)
        return 100.0 if np.isnan(found) else float(np.clip(100 * (best - found) / (best - self.untrained), 0, 100))


class Replayed(BaseEstimator):
    """An estimator whose training at `lr` is a look-up; it has the score of the curve, or diverges."""

    def __init__(self, curve: Any = None, lr: float = 0.01):
        self.curve = curve
        self.lr = lr

    def fit(self, X: Any, y: Any) -> Replayed:
        if np.isnan(self.curve.at(self.lr)):
            raise TrainingDiverged(0, np.nan)
        self.fitted_ = True
        return self

    def score(self, X: Any, y: Any) -> float:
        return self.curve.at(self.lr)


def read_curves(path: str | Path) -> list[Curve]:
    """Return the curves of a file, by name."""
    path = Path(path)
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt") as file:
        runs = json.load(file)["runs"]
    by_name: dict[str, list[dict]] = defaultdict(list)
    for run in runs:
        by_name[f"{run['problem']} {run['optimizer']}"].append(run)
    return [_curve(name, found) for name, found in sorted(by_name.items())]


def _curve(name: str, runs: Sequence[Mapping[str, Any]]) -> Curve:
    scores = defaultdict(list)
    for run in runs:
        scores[run["lr"]].append(_scores(run)[-1] if np.isfinite(_numbers(run["train_losses"])).all() else np.nan)
    lrs = sorted(scores)
    means = np.array([np.mean(scores[lr]) for lr in lrs])
    untrained = float(np.median([_scores(run)[0] for run in runs]))
    return Curve(name, np.log10(lrs).round(9), means, untrained)


def _scores(run: Mapping[str, Any]) -> np.ndarray:
    """Return the test scores of a run by epoch, greater is better."""
    accuracies = run.get("test_accuracies")
    return _numbers(accuracies) if accuracies else -_numbers(run["test_losses"])


def _numbers(values: Sequence[Any]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=float)


Make = Callable[[int, int, dict], Any]
STRATEGIES: dict[str, Make] = {  # evaluations, seed and the rest -> search
    "LRGridSearchCV": lambda n, seed, rest: LRGridSearchCV(n_lrs=n, **rest),
    "LRGridSearchCV rounds=2": lambda n, seed, rest: LRGridSearchCV(n_lrs=n - 4, rounds=2, **rest),
    "BayesSearchCV": lambda n, seed, rest: BayesSearchCV(n_iter=n, random_state=seed, **rest),
    "BayesSearchCV n_points=4": lambda n, seed, rest: BayesSearchCV(n_iter=n, n_points=4, random_state=seed, **rest),
    "OptunaSearchCV": lambda n, seed, rest: OptunaSearchCV(n_trials=n, random_state=seed, **rest),
    "OptunaSearchCV gp": lambda n, seed, rest: OptunaSearchCV(n_trials=n, sampler="gp", random_state=seed, **rest),
    "OptunaSearchCV sobol": lambda n, seed, rest: OptunaSearchCV(
        n_trials=n, sampler="sobol", random_state=seed, **rest
    ),
    "OptunaSearchCV random": lambda n, seed, rest: OptunaSearchCV(
        n_trials=n, sampler="random", random_state=seed, **rest
    ),
}


def replay(make: Make, curve: Curve, n: int, seed: int) -> float:
    """Search `curve` once with `n` evaluations; return the normalised regret in percent."""
    X, y = np.zeros((4, 1)), np.arange(4)
    rest = {"lr_range": curve.lr_range, "cv": [([0, 1], [2, 3])], "refit": False, "estimator": Replayed(curve)}
    search = make(n, seed, rest)
    try:
        search.fit(X, y)
    except AllDivergedError:
        return 100.0
    scores = search.cv_results_["mean_test_score"]
    assert len(scores) <= n, f"{len(scores)} evaluations for {n}"
    return curve.regret(float(np.nanmax(scores)))


def regrets(make: Make, curves: Sequence[Curve], n: int, seeds: int) -> np.ndarray:
    """Return the regret of each curve and seed, shape (n_curves, n_seeds)."""
    with warnings.catch_warnings():
        for category in (DivergedWarning, EdgeOfRangeWarning):
            warnings.simplefilter("ignore", category)
        return np.array([[replay(make, curve, n, seed) for seed in range(seeds)] for curve in curves])


def measure(names: Sequence[str], curves: Sequence[Curve], evaluations: Sequence[int], seeds: int) -> list[dict]:
    """Return mean, median and worst regret in percent of each strategy and number of evaluations."""
    results = []
    for name in names:
        for n in evaluations:
            tell(f"{name}, {n} evaluations")
            start = time.perf_counter()
            regret = regrets(STRATEGIES[name], curves, n, seeds)
            row = {"strategy": name, "evaluations": n, "seeds": seeds, "mean": regret.mean()}
            row |= {"median": np.median(regret), "worst": regret.max()}
            results.append({**row, "seconds per search": (time.perf_counter() - start) / regret.size})
    return results


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", help="recorded curves")
    parser.add_argument("--evaluations", type=int, nargs="+", default=EVALUATIONS)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES), metavar="NAME")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where to write the numbers")
    parser.add_argument("--quick", action="store_true", help="two seeds, without the slow strategies")
    given = parser.parse_args()
    if given.quick:
        given.seeds = min(2, given.seeds)
        given.strategies = [name for name in given.strategies if name != "OptunaSearchCV gp"]
    return given


def main() -> None:
    """Print versions, machine and the table; write the numbers."""
    given = arguments()
    curves, found = read_curves(given.path), environment()
    print_environment(found)
    print(f"{len(curves)} curves, {given.seeds} seeds; normalised regret in %")
    results = measure(given.strategies, curves, given.evaluations, given.seeds)
    columns = ("mean", "median", "worst", "seconds per search")
    rows = [[r["strategy"], r["evaluations"], *(f"{r[column]:.2f}" for column in columns)] for r in results]
    print(table(["strategy", "evaluations", *columns], rows))
    write_json(given.json, {**found, "curves": len(curves), "results": results})


if __name__ == "__main__":
    main()
