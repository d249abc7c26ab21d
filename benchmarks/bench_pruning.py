"""How many epochs does each pruner save, and how often does it change the chosen learning rate?

All candidates of a search are trained to the end once. Each pruner is then asked, epoch by epoch, which of them it
would stop; this is valid because stopping a candidate does not change the scores of the others. A choice has moved if
the best of the remaining candidates is more than 0.2 decades from the best of all. There are two sources of
trainings: scikit-learn's digits with warmup and cosine, trained here by the stacked engine; and, if a file is given,
recorded curves of constant learning rates in the layout that `bench_replay.py` describes, each cut into several ranges
and spacings. The rule of "lr" was chosen on every second pair of problem and optimizer; --half reports its numbers
separately for these and the others. Pass --quick for one small search.
"""

from __future__ import annotations

import argparse
import gzip
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from _common import environment, print_environment, table, tell, write_json
from optuna.distributions import FloatDistribution
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold

from sklr import MLP, LRGridSearchCV, NeuralNetClassifier
from sklr._utils.quiet_optuna import quiet_study
from sklr.exceptions import DivergedWarning, EdgeOfRangeWarning
from sklr.search.pruning.lr_path import PATH, lr_path
from sklr.search.pruning.pruners import ask_pruner, make_pruner

PRUNERS = ("lr", "median", "halving", "hyperband")
MOVED = 0.2  # decades
GOALS = {"fewer": 3.0, "moved": 5.0}  # times, percent


@dataclass(frozen=True)
class Recorded:
    """A completely trained search: ascending log10 lr, scores by candidate and epoch (NaN after divergence), lrs."""

    name: str
    log_lr: np.ndarray
    scores: np.ndarray
    path: np.ndarray

    @property
    def trained(self) -> np.ndarray:
        """Which candidates were trained for all epochs."""
        return np.isfinite(self.scores[:, -1])

    def choice(self, left: np.ndarray) -> int:
        """Return the best final candidate among those in `left`."""
        return int(np.where(left & self.trained, self.scores[:, -1], -np.inf).argmax())


@dataclass(frozen=True)
class Pruned:
    """Result of pruning: candidate epochs without and with the pruner, decades moved, share of progress lost."""

    full: int
    trained: int
    moved: float
    lost: float


def prune(name: str, search: Recorded) -> Pruned:
    """Ask a pruner after each epoch of a search, and drop the candidates that it stops."""
    study = quiet_study()
    study.pruner = make_pruner(name, "lr", search.path)
    trials = [study.ask({"lr": FloatDistribution(lr, lr, log=True)}) for lr in (10**search.log_lr).tolist()]
    for trial in trials:
        trial.set_user_attr(PATH, search.path.tolist())
    left, n_trained = np.ones(len(trials), dtype=bool), 0
    for epoch in range(search.scores.shape[1]):
        now = left & np.isfinite(search.scores[:, epoch])
        for i in np.flatnonzero(now):
            trials[i].report(float(search.scores[i, epoch]), epoch)
        n_trained += int(now.sum())
        left &= ~(now & (ask_pruner(study, trials) != ""))
    return _compared(search, left, n_trained)


def _compared(search: Recorded, left: np.ndarray, n_trained: int) -> Pruned:
    best, chosen = search.choice(np.ones_like(left)), search.choice(left)
    end, start = search.scores[:, -1], np.nanmedian(search.scores[:, 0])
    lost = (end[best] - end[chosen]) / max(end[best] - start, 1e-12) if left[chosen] else 1.0
    moved = search.log_lr[chosen] - search.log_lr[best]
    return Pruned(int(np.isfinite(search.scores).sum()), n_trained, float(moved), float(lost))


def an_epoch_earlier(search: Recorded) -> Pruned:
    """Return the result of a search without pruning if the last epoch is ignored, to show the effect of noise."""
    n_full = int(np.isfinite(search.scores).sum())
    before = np.where(search.trained, search.scores[:, -2], -np.inf).argmax()
    left = np.arange(len(search.log_lr)) == before
    return _compared(search, left, n_full)


def read_searches(path: str | Path) -> Iterator[Recorded]:
    """Yield parts of recorded curves: five decades, shifted by a decade, and all; each lr, and every second one."""
    path = Path(path)
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt") as file:
        runs = json.load(file)["runs"]
    curves: dict[str, dict[float, np.ndarray]] = {}
    for run in runs:
        for key, sign in (("test_losses", -1), ("test_accuracies", 1)):
            if run.get(key):
                curve = curves.setdefault(f"{run['problem']} {run['optimizer']} {key}", {})
                curve.setdefault(float(np.log10(run["lr"]).round(6)), _scores(run, key, sign))
    for name, curve in sorted(curves.items()):
        log_lr = np.array(sorted(curve))
        yield from _cut(name, log_lr, np.array([curve[u] for u in log_lr]))


def _scores(run: Mapping[str, Any], key: str, sign: int) -> np.ndarray:
    """Return the scores after each epoch, without the one before the first; NaN once a loss is not finite."""
    values, losses = (
        np.array([np.nan if v is None else v for v in run[k]], dtype=float) for k in (key, "train_losses")
    )
    lost = np.logical_or.accumulate(~(np.isfinite(values) & np.isfinite(losses)))
    return np.where(lost, np.nan, sign * values)[1:]


def _cut(name: str, log_lr: np.ndarray, scores: np.ndarray) -> Iterator[Recorded]:
    ranges = {(low, low + 5.0) for low in np.arange(log_lr[0], log_lr[-1] - 4.99)} | {(log_lr[0], log_lr[-1])}
    for low, high in sorted(ranges):
        inside = np.flatnonzero((log_lr > low - 1e-6) & (log_lr < high + 1e-6))
        for chosen in (inside, inside[::2]):
            found = Recorded(name, log_lr[chosen], scores[chosen], np.arange(1.0, scores.shape[1] + 1))
            if found.trained.sum() >= 4:
                yield found


def train_digits(n_lrs: int, n_epochs: int, seeds: int) -> Iterator[Recorded]:
    """Train and yield searches on digits: SGD with momentum and Adam, two batch sizes, accuracy and log loss."""
    X, y = load_digits(return_X_y=True)
    for seed in range(seeds):
        for optimizer, lr_range in (("sgd", (1e-4, 10.0)), ("adam", (1e-5, 1.0))):
            for batch_size in (32, 128):
                for scoring in ("accuracy", "neg_log_loss"):
                    net = digits_net(optimizer, batch_size, n_epochs)
                    folds = StratifiedKFold(3, shuffle=True, random_state=seed)
                    search = LRGridSearchCV(net, lr_range=lr_range, n_lrs=n_lrs, cv=folds, scoring=scoring)
                    search.set_params(random_state=seed, refit=False, engine="stacked")
                    tell(f"digits, {optimizer}, batch {batch_size}, {scoring}, seed {seed}")
                    yield _recorded(f"digits {optimizer} {batch_size} {scoring}", fit_quietly(search, X / 16, y), net)


def digits_net(optimizer: str, batch_size: int, n_epochs: int) -> NeuralNetClassifier:
    """Return a small MLP with two epochs of warmup and cosine."""
    momentum = {"optimizer__momentum": 0.9} if optimizer == "sgd" else {}
    net = NeuralNetClassifier(MLP, module__hidden=(32, 32), optimizer=optimizer, batch_size=batch_size, **momentum)
    return net.set_params(schedule="cosine", warmup_epochs=2, max_epochs=n_epochs, iterator_train__shuffle=True)


def fit_quietly(search: LRGridSearchCV, X: np.ndarray, y: np.ndarray) -> LRGridSearchCV:
    """Fit without the warnings that a wide range causes."""
    with warnings.catch_warnings():
        for category in (DivergedWarning, EdgeOfRangeWarning):
            warnings.simplefilter("ignore", category)
        return search.fit(X, y)


def _recorded(name: str, search: LRGridSearchCV, net: NeuralNetClassifier) -> Recorded:
    history, cells = search.history_, search.cells_
    log_lr = np.log10(np.array([params["lr"] for params in search.cv_results_["params"]]))
    scores = np.full((len(log_lr), len(cells), net.max_epochs), np.nan)
    epochs = history["epoch"] - history["epoch"].min()
    scores[history["candidate"], history["fold"], epochs] = history["valid_score"]
    path = lr_path(net, {}, len(cells[0].train))
    assert path is not None
    return Recorded(name, log_lr, scores.mean(axis=1), path)


def check_replay(n_lrs: int, n_epochs: int) -> None:
    """Assert that a search with a pruner trains the same epochs and makes the same choice as its replay."""
    X, y = load_digits(return_X_y=True)
    net = digits_net("sgd", 128, n_epochs)
    rest = {"lr_range": (1e-4, 10.0), "n_lrs": n_lrs, "cv": 3, "random_state": 0, "refit": False}
    full = _recorded("", fit_quietly(LRGridSearchCV(net, **rest), X / 16, y), net)
    for name in PRUNERS:
        search = fit_quietly(LRGridSearchCV(net, pruner=name, **rest), X / 16, y)
        told, pruned = prune(name, full), _recorded("", search, net)
        assert np.isfinite(pruned.scores).sum() == told.trained, name
        assert np.isclose(np.log10(search.best_lr_), full.log_lr[full.choice(pruned.trained)]), name


def summed_up(source: str, name: str, results: Sequence[Pruned]) -> dict[str, Any]:
    """Return a row of the table: searches, factor of epochs saved, and moved and lost in percent."""
    moved = np.array([r.moved for r in results])
    far = np.abs(moved) > MOVED + 1e-6
    return {
        "source": source,
        "pruner": name,
        "searches": len(results),
        "fewer": sum(r.full for r in results) / sum(r.trained for r in results),
        "moved": 100 * far.mean(),
        "down": 100 * (far & (moved < 0)).mean(),
        "up": 100 * (far & (moved > 0)).mean(),
        "lost": 100 * np.mean([r.lost for r in results]),
        "worst": 100 * max(r.lost for r in results),
    }


def measure(searches: Sequence[Recorded], groups: Mapping[str, Sequence[bool]]) -> Iterator[dict[str, Any]]:
    """Yield a row for each group of searches and each pruner, and one for the effect of noise alone."""
    outcomes = {"none, an epoch earlier": [an_epoch_earlier(search) for search in searches]}
    for name in PRUNERS:
        tell(f"{name}, {len(searches)} searches")
        outcomes[name] = [prune(name, search) for search in searches]
    for group, chosen in groups.items():
        for name, results in outcomes.items():
            yield summed_up(group, name, [result for result, inside in zip(results, chosen, strict=True) if inside])


def grouped(searches: Sequence[Recorded], half: bool) -> dict[str, list[bool]]:
    """Return the recorded searches of each group that is reported."""
    pairs = sorted({_pair(search) for search in searches})
    groups = {"recorded": [True] * len(searches)}
    if half:
        groups["recorded, chosen on"] = [_pair(search) in pairs[::2] for search in searches]
        groups["recorded, not seen"] = [_pair(search) in pairs[1::2] for search in searches]
    sizes = sorted({len(search.log_lr) for search in searches})
    return groups | {f"recorded, {n} lrs": [len(search.log_lr) == n for search in searches] for n in sizes}


def results(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the rows of all sources."""
    if given.path is not None:
        recorded = list(read_searches(given.path))
        yield from measure(recorded, grouped(recorded, given.half))
    digits = list(islice(train_digits(given.lrs, given.epochs, given.seeds), 2 if given.quick else None))
    yield from measure(digits, {"digits": [True] * len(digits)})


def _pair(search: Recorded) -> str:
    return search.name.rpartition(" ")[0]


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", nargs="?", help="recorded curves")
    parser.add_argument("--lrs", type=int, default=21, help="learning rates of a search on digits")
    parser.add_argument("--epochs", type=int, default=27, help="epochs on digits")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--half", action="store_true", help="report the pairs that the rule was chosen on separately")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--quick", action="store_true", help="two small searches on digits")
    given = parser.parse_args()
    if given.quick:
        given.lrs, given.epochs, given.seeds = 8, 9, 1
    return given


def main() -> None:
    """Print versions, machine and the table; write the numbers."""
    given = arguments()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found = environment()
    print_environment(found)
    check_replay(given.lrs, given.epochs)
    settings = {name: getattr(given, name) for name in ("lrs", "epochs", "seeds", "half", "quick")}
    rows = list(results(given))
    columns = ("searches", "fewer", "moved", "down", "up", "lost", "worst")
    cells = [[f"{r['source']}: {r['pruner']}", r["searches"], *(f"{r[c]:.2f}" for c in columns[1:])] for r in rows]
    print(table(["fewer epochs (times), moved, lost (%)", *columns], cells))
    print(f"Goal: {GOALS['fewer']:g} times fewer, under {GOALS['moved']:g} % moved.")
    for r in [r for r in rows if r["pruner"] == "lr"]:
        met = r["fewer"] >= GOALS["fewer"] and r["moved"] < GOALS["moved"]
        print(f"{r['source']}: {'met' if met else 'missed'}")
    if given.json:
        write_json(given.json, {**found, "settings": settings, "goals": GOALS, "results": rows})


if __name__ == "__main__":
    main()
