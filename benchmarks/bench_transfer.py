"""Do the transfer rules hold? Slopes of the best lr against batch size and width, with intervals.

Batch size: digits, an MLP 64-32-10, the same number of epochs at every batch size, constant lr. The labels of 30 % of
the rows are randomized, so that gradients stay noisy until the end of training, as the rules assume. The original
digits, which a net fits within a few epochs, are swept, too. Expected: slope 1 for SGD, 1/2 for Adam.

Width: an MLP with three hidden layers and Adam, on rows labelled by a random teacher, two epochs. Expected: slope -1
with PyTorch's own parametrization (one lr for all, initial weights of 1 / sqrt(fan_in)), 0 with muP.

The best lr is the optimum of a curve fitted to the cross-validated score, which is minus the log of the log loss. All
learning rates x folds x seeds of a size are one stack. Pass --quick for a short run whose numbers mean nothing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from _common import environment, print_environment, table, tell, threads, write_json
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss
from sklearn.model_selection import ShuffleSplit, StratifiedKFold

from sklr import MLP, NeuralNetClassifier
from sklr.scaling import Transfer, mup_param_groups, transfer_lr
from sklr.transfer import TransferCheck, verify_transfer

N_CLASSES = 10
N_INPUTS = 32  # features of the rows that the teacher labels
DEPTH = 3


@dataclass(frozen=True)
class Plan:
    """One rule: the slope it expects, and the sweep that checks it."""

    name: str
    expected: float
    sizes: tuple[int, ...]
    run: Callable[[], TransferCheck]


def neg_log_log_loss(estimator: Any, X: Any, y: Any) -> float:
    """Return minus the log of the log loss, whose basin is closer to a parabola than that of the log loss itself."""
    return -float(np.log(log_loss(y, estimator.predict_proba(X), labels=np.arange(N_CLASSES))))


def digits(random_labels: float, n_rows: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the digits, with randomized labels for a share of the rows."""
    X, y = load_digits(return_X_y=True)
    generator = np.random.default_rng(0)
    drawn = generator.integers(N_CLASSES, size=len(y))
    y = np.where(generator.random(len(y)) < random_labels, drawn, y)
    return X[:n_rows] / 16, y[:n_rows]


def teacher(n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return normal rows (n_rows, 32), labelled with the largest of ten standardized outputs of a random net."""
    generator = np.random.default_rng(0)
    X = generator.standard_normal((n_rows, N_INPUTS)).astype(np.float32)
    hidden = np.maximum(X @ generator.standard_normal((N_INPUTS, 64)), 0)
    outputs = hidden @ generator.standard_normal((64, N_CLASSES))
    return X, ((outputs - outputs.mean(axis=0)) / outputs.std(axis=0)).argmax(axis=1)


def batch_check(
    optimizer: str, lr: float, sizes: tuple[int, ...], epochs: int, random_labels: float, quick: bool
) -> TransferCheck:
    """Sweep the lr at every batch size."""
    net = NeuralNetClassifier(
        MLP,
        module__hidden=(32,),
        optimizer=optimizer,
        max_epochs=epochs,
        batch_size=sizes[0],
        iterator_train__shuffle=True,
    )
    rules = [transfer_lr(lr, optimizer=optimizer, batch_size=(sizes[0], size)) for size in sizes[1:]]
    return verify_transfer(
        net,
        *digits(random_labels, 200 if quick else None),
        rules,
        decades=0.75,
        n_lrs=4 if quick else 9,
        scoring=neg_log_log_loss,
        cv=StratifiedKFold(3, shuffle=True, random_state=0),
        n_seeds=1 if quick else 2,
        engine="stacked",
        random_state=0,
    )


def wide(width: int) -> dict[str, Any]:
    return {"module__hidden": (width,) * DEPTH}


def mup_rule(width: int, base: int, lr: float) -> Transfer:
    """Return the rule of muP: parameter groups and initial weights."""
    module, narrow = (MLP(N_INPUTS, N_CLASSES, hidden=(w,) * DEPTH) for w in (width, base))
    return mup_param_groups(module, narrow, lr, "adam").as_transfer(MLP, **wide(width))


def standard_rule(width: int, base: int, lr: float) -> Transfer:
    """Return the rule for one lr for all parameters: the lr is divided by the growth of the width."""
    return Transfer(lr * base / width, lr, width / base, wide(width))


def width_check(rule: Callable[[int, int, float], Transfer], widths: tuple[int, ...], quick: bool) -> TransferCheck:
    """Sweep the lr at every width."""
    lr = 0.006
    net = NeuralNetClassifier(
        MLP,
        optimizer="adam",
        max_epochs=1 if quick else 2,
        batch_size=64,
        iterator_train__shuffle=True,
        **wide(widths[0]),
    )
    return verify_transfer(
        net,
        *teacher(300 if quick else 6000),
        [rule(width, widths[0], lr) for width in widths[1:]],
        n_lrs=4 if quick else 8,
        scoring=neg_log_log_loss,
        cv=ShuffleSplit(1, test_size=1 / 3, random_state=0),
        n_seeds=2 if quick else 3,
        engine="stacked",
        random_state=0,
    )


def plans(quick: bool) -> list[Plan]:
    """Return all sweeps."""
    sizes, tiny = ((8, 16), (8, 16)) if quick else ((2, 4, 8, 16), (1, 2, 4, 8))
    widths = (16, 32) if quick else (64, 128, 256, 512, 1024)
    epochs = 1 if quick else 4
    return [
        Plan("SGD, random labels", 1.0, sizes, lambda: batch_check("sgd", 0.03, sizes, epochs, 0.3, quick)),
        Plan("Adam, random labels", 0.5, sizes, lambda: batch_check("adam", 0.001, sizes, epochs, 0.3, quick)),
        Plan("SGD, digits as they are", 1.0, tiny, lambda: batch_check("sgd", 0.03, tiny, (epochs + 1) // 2, 0, quick)),
        Plan("width, standard", -1.0, widths, lambda: width_check(standard_rule, widths, quick)),
        Plan("width, muP", 0.0, widths, lambda: width_check(mup_rule, widths, quick)),
    ]


def measure(plan: Plan) -> dict[str, Any]:
    """Run one plan; return its numbers."""
    tell(plan.name)
    start = time.perf_counter()
    check = plan.run()
    exponent = check.exponent
    return {
        "name": plan.name,
        "expected": plan.expected,
        "slope": exponent.value,
        "interval": list(exponent.interval),
        "confidence": exponent.confidence,
        "sizes": list(plan.sizes),
        "best_lr": [sweep.choice.lr for sweep in check.sweeps],
        "lr_interval": [list(sweep.interval) for sweep in check.sweeps],
        "refused": [sweep.choice.refused for sweep in check.sweeps],
        "off_by_decades": check.errors.tolist(),
        "seconds": time.perf_counter() - start,
    }


def show(results: list[dict[str, Any]]) -> None:
    """Print the best learning rates, then the slopes."""
    for result in results:
        rows = zip(result["sizes"], result["best_lr"], result["lr_interval"], result["refused"], strict=True)
        print(f"\n{result['name']}")
        for size, lr, (low, high), refused in rows:
            print(
                f"  {size:>5}  best lr {lr:.3g}, between {low:.3g} and {high:.3g}{refused and f' (no fit: {refused})'}"
            )
    print()
    rows = [
        [r["name"], f"{r['expected']:+.1f}", f"{r['slope']:+.2f}", "{:+.2f} .. {:+.2f}".format(*r["interval"])]
        for r in results
    ]
    print(table(["decades of lr per decade of size", "rule", "measured", "90 % interval"], rows))


def main() -> None:
    """Print versions, machine and all slopes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works")
    parser.add_argument("--json", help="write the numbers to this file")
    arguments = parser.parse_args()
    with threads(1):
        found = environment()
        print_environment(found)
        results = [measure(plan) for plan in plans(arguments.quick)]
    show(results)
    print(f"\n{sum(r['seconds'] for r in results):.0f} s")
    if arguments.json:
        write_json(arguments.json, {**found, "results": results})


if __name__ == "__main__":
    main()
