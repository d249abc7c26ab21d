"""How much do range tests scatter from seed to seed, and how far are their suggestions from a searched optimum?

Four data sets of scikit-learn, an MLP with two hidden layers of 64 units, batch size 32, SGD with momentum 0.9 and
Adam. On each, `lr_range_test` is repeated with 20 seeds, with 100 and 200 steps from 1e-7 to 10 and three runs; the
suggestions of each single run are evaluated as well. torch-lr-finder, if installed (``pip install torch-lr-finder``),
is repeated with 20 seeds and its default settings; its suggestion is taken from its plot. The optimum is the best of 25
learning rates from 1e-5 to 10 by 5-fold cross-validated loss after 20 epochs.

The benchmark first asserts that both compute the same: from the same initial weights and with batches in the same
order, the raw losses of torch-lr-finder equal sklr's, shifted by one step.

Distance: mean over the seeds of log10(suggestion / optimum). Spread: their standard deviation, in decades. Both use
only the seeds with a suggestion; the number without one is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from _common import environment, print_environment, table, tell, write_json
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader, TensorDataset

from sklr import MLP, LRGridSearchCV, NeuralNetClassifier, NeuralNetRegressor, lr_range_test

DATA: dict[str, Callable[..., Any]] = {
    "digits": load_digits,
    "breast cancer": load_breast_cancer,
    "wine": load_wine,
    "diabetes": load_diabetes,
}
OPTIMIZERS: dict[str, dict[str, Any]] = {"sgd": {"optimizer__momentum": 0.9}, "adam": {}}
LOW, HIGH, BATCH = 1e-7, 10.0, 32
THEIRS = "torch-lr-finder"


def load(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return standardized features, and labels or standardized targets."""
    X, y = DATA[name](return_X_y=True)
    X = StandardScaler().fit_transform(X).astype(np.float32)
    return X, ((y - y.mean()) / y.std()).astype(np.float32) if name == "diabetes" else y


def make_net(name: str, optimizer: str, max_epochs: int = 20, **params: Any) -> Any:
    """Return the net for a data set."""
    kind = NeuralNetRegressor if name == "diabetes" else NeuralNetClassifier
    shared = {"module__hidden": (64, 64), "batch_size": BATCH, "iterator_train__shuffle": True, "device": "cpu"}
    return kind(MLP, optimizer=optimizer, max_epochs=max_epochs, **{**shared, **OPTIMIZERS[optimizer], **params})


def searched_optimum(net: Any, X: np.ndarray, y: np.ndarray, n_lrs: int) -> float:
    """Return the best of a grid of learning rates by cross-validated loss."""
    scoring = "neg_mean_squared_error" if y.dtype.kind == "f" else "neg_log_loss"
    search = LRGridSearchCV(net, lr_range=(1e-5, HIGH), n_lrs=n_lrs, cv=5, scoring=scoring, random_state=0, refit=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about diverged runs, which are expected
        return float(search.fit(X, y).best_lr_)


def ours(net: Any, X: np.ndarray, y: np.ndarray, n_steps: int, n_seeds: int) -> dict[str, list[float | None]]:
    """Return the suggestions by rule, with the edge, for every seed; those of single runs are ``"steep, 1 run"``."""
    found: dict[str, list[float | None]] = {}
    for seed in range(n_seeds):
        tell(f"lr_range_test, {n_steps} steps, seed {seed}")
        test = lr_range_test(net, X, y, lr_range=(LOW, HIGH), n_steps=n_steps, random_state=seed)
        for rule in ("minimum", "steep", "valley", "slide", "midway"):
            found.setdefault(rule, []).append(test.suggestions.get(rule))
            alone = test.run_suggestions.get(rule, np.full(test.loss.shape[1], np.nan)).tolist()
            found.setdefault(f"{rule}, 1 run", []).extend(None if np.isnan(lr) else lr for lr in alone)
        found.setdefault("edge", []).append(test.edge)
    return found


def initialized(net: Any, X: np.ndarray, y: np.ndarray, seed: int) -> tuple[Any, Any, Any]:
    """Return the net's module, optimizer and criterion before the first step."""
    started = copy.deepcopy(net).set_params(random_state=seed)
    started.start_fit(X, y)
    module = copy.deepcopy(started.module_).train()
    kwargs = {k: v for k, v in started.get_params_for("optimizer").items() if k not in ("lr", "param_groups")}
    return module, type(started.optimizer_)(module.parameters(), lr=LOW, **kwargs), started.criterion_


def finder(net: Any, X: np.ndarray, y: np.ndarray, seed: int, shuffle: bool, **options: Any) -> Any:
    """Run torch-lr-finder, and return it."""
    from torch_lr_finder import LRFinder

    module, optimizer, criterion = initialized(net, X, y, seed)
    targets = torch.as_tensor(y)[:, None] if y.dtype.kind == "f" else torch.as_tensor(y)
    order = torch.Generator().manual_seed(seed)
    loader = DataLoader(TensorDataset(torch.as_tensor(X), targets), BATCH, shuffle=shuffle, generator=order)
    found = LRFinder(module, optimizer, criterion)
    with quiet():
        found.range_test(loader, end_lr=HIGH, **options)
    return found


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress progress bars and output of other libraries."""
    nowhere = io.StringIO()
    with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def theirs(net: Any, X: np.ndarray, y: np.ndarray, n_steps: int, n_seeds: int) -> list[float | None]:
    """Return torch-lr-finder's suggestions, which only its plot returns."""
    import matplotlib.pyplot as plt

    found: list[float | None] = []
    for seed in range(n_seeds):
        tell(f"{THEIRS}, {n_steps} steps, seed {seed}")
        ax = plt.figure().add_subplot()
        with quiet():
            found.append(finder(net, X, y, seed, shuffle=True, num_iter=n_steps).plot(ax=ax)[1])
        plt.close("all")
    return found


def assert_same_losses(net: Any, X: np.ndarray, y: np.ndarray, n_steps: int) -> float:
    """Assert that torch-lr-finder's raw losses equal sklr's, shifted by one step; return the largest difference."""
    net = copy.deepcopy(net).set_params(iterator_train__shuffle=False, random_state=0)
    raw = finder(net, X, y, 0, shuffle=False, num_iter=n_steps, smooth_f=0, diverge_th=np.inf).history
    mine = lr_range_test(net, X, y, lr_range=(LOW, HIGH), n_steps=n_steps, n_seeds=1, random_state=0)
    np.testing.assert_allclose(raw["lr"], mine.lr, rtol=1e-9)
    calm = n_steps // 2  # up to 1e-3; unstable training amplifies rounding without bound
    before = np.concatenate([mine.start_loss, mine.loss[:, 0]])[:calm]
    np.testing.assert_allclose(raw["loss"][:calm], before, rtol=1e-4)
    return float(np.abs(raw["loss"][:calm] / before - 1).max())


def judged(found: dict[str, list[float | None]], optimum: float) -> dict[str, dict[str, Any]]:
    """Return distance and spread of each rule's suggestions, in decades."""
    judgement = {}
    for rule, lrs in found.items():
        u = np.log10([lr for lr in lrs if lr is not None]) - np.log10(optimum)
        distance, spread = (u.mean(), u.std(ddof=1)) if len(u) > 1 else (np.nan, np.nan)
        judgement[rule] = {"distance": distance, "spread": spread, "absent": len(lrs) - len(u), "of": len(lrs)}
    return judgement


def measure(name: str, optimizer: str, steps: tuple[int, ...], n_seeds: int, n_lrs: int, max_epochs: int) -> dict:
    """Measure one data set with one optimizer."""
    X, y = load(name)
    net = make_net(name, optimizer, max_epochs)
    optimum = searched_optimum(net, X, y, n_lrs)
    result: dict[str, Any] = {"data": name, "optimizer": optimizer, "optimum": optimum, "steps": {}}
    installed = find_spec("torch_lr_finder") is not None
    for n_steps in steps:
        found = ours(net, X, y, n_steps, n_seeds)
        if installed:
            result["loss_difference"] = assert_same_losses(net, X, y, n_steps)
            found[f"{THEIRS}, 1 run"] = theirs(net, X, y, n_steps, n_seeds)
        result["steps"][n_steps] = judged(found, optimum)
    return result


def overall(results: list[dict[str, Any]], n_steps: int) -> list[list[str]]:
    """Return a row per rule: mean absolute distance, mean spread, seeds without a suggestion."""
    rows = []
    for rule in results[0]["steps"][n_steps]:
        cases = [result["steps"][n_steps][rule] for result in results]
        away = np.mean([abs(case["distance"]) for case in cases])
        worst = max(abs(case["distance"]) for case in cases)
        spread = np.mean([case["spread"] for case in cases])
        absent, of = sum(case["absent"] for case in cases), sum(case["of"] for case in cases)
        rows.append([rule, f"{away:.2f}", f"{worst:.2f}", f"{spread:.2f}", f"{absent} of {of}"])
    return sorted(rows, key=lambda row: ("1 run" in row[0], row[1]))


def main() -> None:
    """Measure, print tables, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one data set, one optimizer, 3 seeds, a coarse search")
    parser.add_argument("--json", help="where to write the numbers")
    arguments = parser.parse_args()
    found = environment()
    print_environment(found)
    data, optimizers = (["wine"], ["sgd"]) if arguments.quick else (list(DATA), list(OPTIMIZERS))
    steps, n_seeds, n_lrs, epochs = ((100,), 3, 5, 3) if arguments.quick else ((100, 200), 20, 25, 20)
    if find_spec("torch_lr_finder") is None:
        print(f"{THEIRS} is not installed and is left out")
    results = []
    for name in data:
        for optimizer in optimizers:
            results.append(measure(name, optimizer, steps, n_seeds, n_lrs, epochs))
            print(f"\n{name}, {optimizer}: optimum {results[-1]['optimum']:.3g}; distance (spread) in decades")
            for n_steps in steps:
                judgement = results[-1]["steps"][n_steps]
                cells = [f"{rule} {j['distance']:+.2f} ({j['spread']:.2f})" for rule, j in judgement.items()]
                print(f"{n_steps} steps: " + "; ".join(cells))
    for n_steps in steps:
        print(f"\n{n_steps} steps, all {len(results)} cases, in decades")
        header = ["rule", "mean distance", "largest", "mean spread", "no suggestion"]
        print(table(header, overall(results, n_steps)))
    if arguments.json:
        write_json(arguments.json, {**found, "seeds": n_seeds, "results": results})


if __name__ == "__main__":
    main()
