"""The strategies that are compared, and how a search by one of them on a table is run and judged."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import torch
from _tabulated import Bill, Table, TableEngine, quietly
from _tasks import N_FOLDS, Task

from sklr import MLP, BayesSearchCV, LRGridSearchCV, NeuralNetClassifier, OptunaSearchCV, lr_range_test
from sklr.exceptions import AllDivergedError

Make = Callable[[int, int, dict], Any]  # (number of evaluations, seed, other parameters) -> search


def _skopt_gp(n: int, seed: int, rest: dict) -> Any:
    return BayesSearchCV(n_iter=n, optimizer_kwargs={"base_estimator": "GP"}, random_state=seed, **rest)


def _optuna(sampler: Any) -> Make:
    return lambda n, seed, rest: OptunaSearchCV(n_trials=n, sampler=sampler, random_state=seed, **rest)


def _plain_tpe(n: int, seed: int, rest: dict) -> Any:
    return OptunaSearchCV(n_trials=n, sampler=optuna.samplers.TPESampler(seed=seed), random_state=seed, **rest)


@dataclass(frozen=True)
class _InPhases:
    """A space-filling search, and one that continues from it."""

    first: Any
    then: Any

    def fit(self, X: np.ndarray, y: np.ndarray) -> Any:
        return self.then.fit(X, y, start=self.first.fit(X, y))


def _after_sobol(n: int, seed: int, rest: dict) -> Any:
    """Cover the range with half of the evaluations, and continue with the default strategy for the other half."""
    first = OptunaSearchCV(n_trials=n // 2, sampler="sobol", random_state=seed, **rest)
    return _InPhases(first, BayesSearchCV(n_iter=n - n // 2, random_state=seed, **rest))


def _grid(**more: Any) -> Make:
    return lambda n, seed, rest: LRGridSearchCV(n_lrs=n, random_state=seed, **more, **rest)


OURS, TWICE = "default (BayesSearchCV)", "random, twice the budget"
STRATEGIES: dict[str, Make] = {
    OURS: lambda n, seed, rest: BayesSearchCV(n_iter=n, random_state=seed, **rest),
    "grid": _grid(),
    "grid, fitted top": _grid(select="fit"),
    "coarse to fine": lambda n, seed, rest: LRGridSearchCV(n_lrs=n - 4, rounds=2, random_state=seed, **rest),
    "random": _optuna("random"),
    TWICE: lambda n, seed, rest: OptunaSearchCV(n_trials=2 * n, sampler="random", random_state=seed, **rest),
    "Sobol": _optuna("sobol"),
    "Sobol, then default": _after_sobol,
    "TPE": _optuna("tpe"),
    "TPE as Optuna has it": _plain_tpe,
    "Optuna's GP": _optuna("gp"),
    "skopt's GP": _skopt_gp,
    "grid, halving": _grid(pruner="halving"),
    "grid, Hyperband": _grid(pruner="hyperband"),
    "grid, lr pruner": _grid(pruner="lr"),
}
FEWEST = {"coarse to fine": 8}  # minimum number of evaluations; with fewer, its first round is too small
ONCE = {"skopt's GP": 8}  # run only with this number of evaluations, because a proposal takes a second
RULES = ("minimum", "midway", "valley")  # of range tests; "valley" is fastai's


@dataclass(frozen=True)
class World:
    """The cells and the range of learning rates of one search, drawn by its seed.

    On a fixed range, a grid would be equally lucky or unlucky with all seeds.
    """

    cells: np.ndarray
    lr_range: tuple[float, float]


def draw_world(table: Table, seed: int) -> World:
    """Draw the cells and the range, the same for all strategies and budgets."""
    generator = np.random.default_rng((seed, zlib.crc32(table.name.encode())))
    n_cells = table.scores.shape[1]
    cells = generator.choice(n_cells, min(N_FOLDS, n_cells), replace=False)
    low, high = table.log_lr[[0, -1]]
    below, above = generator.uniform(0, 0.5, 2)
    return World(cells, (float(10 ** (low + below)), float(10 ** (high - above))))


@dataclass(frozen=True)
class Found:
    """The result and the cost of one search.

    Attributes
    ----------
    regret : float
        100 (best - found) / (best - guess) of the true scores, from 0 to 100.
    loss : float
        best - found, in units of the score.
    distance : float
        Distance from the best lr, in decades; NaN if the search found none.
    evaluations, epochs : float
        Number of candidates, and number of epochs over all runs.
    seconds, own : float
        CPU seconds with training, and without.
    lr : float
        The chosen lr.
    """

    regret: float
    loss: float
    distance: float
    evaluations: float
    epochs: float
    seconds: float
    own: float
    lr: float


def judge(table: Table, without: Any, lr: float, bill: Bill, own: float) -> Found:
    """Compare a learning rate with the true curve; NaN means that the search found none."""
    truth = table.truth(without)
    best = int(truth.argmax())
    score = float(table.guess) if np.isnan(lr) else float(table.truth(without, np.log10([lr]))[0])
    loss = float(truth[best]) - score
    regret = 100 * min(max(loss / (truth[best] - float(table.guess)), 0.0), 1.0)
    distance = abs(np.log10(lr) - table.log_lr[best])
    return Found(regret, loss, float(distance), bill.evaluations, bill.epochs, bill.seconds + own, own, lr)


def search_once(table: Table, strategy: str, n: int, seed: int, whole: bool = False) -> Found:
    """Search a table once with `n` evaluations.

    With `whole`, the search uses all cells of the table and is judged by all of them: for recorded curves, which have
    one cell each.
    """
    world = draw_world(table, seed)
    cells = np.arange(table.scores.shape[1]) if whole else world.cells
    lr_range = tuple(10.0 ** table.log_lr[[0, -1]]) if whole else world.lr_range
    engine = TableEngine(table, cells)
    rows = np.arange(2 * len(cells))
    rest = {
        "estimator": NeuralNetClassifier(MLP, max_epochs=table.scores.shape[2], batch_size=1),
        "lr_range": lr_range,
        "cv": [(rows, rows)] * len(cells),
        "engine": engine,
        "refit": False,
    }
    search = STRATEGIES[strategy](n, seed, rest)
    torch.set_num_threads(1)
    start = time.process_time()
    try:
        lr = float(quietly(lambda: search.fit(np.zeros((len(rows), 1), dtype=np.float32), rows % 2)).best_lr_)
    except AllDivergedError:
        lr = np.nan
    own = time.process_time() - start
    asked = 2 * n if strategy == TWICE else n
    assert engine.bill.evaluations <= asked, f"{engine.bill.evaluations} evaluations for {asked}"
    return judge(table, () if whole else cells, lr, engine.bill, own)


def test_range(task: Task, tables: Sequence[Table], seed: int) -> list[dict[str, Found]]:
    """Train a range test with three runs, and judge its suggestions; a dict by rule for each of the tables."""
    start = time.process_time()
    test = quietly(lambda: lr_range_test(task.net(schedule=None), task.X, task.y, random_state=seed))
    seconds = time.process_time() - start
    steps_an_epoch = np.ceil(len(task.X) * (1 - 1 / N_FOLDS) / task.net().batch_size)
    bill = Bill(0, round(test.loss.size / steps_an_epoch), 0.0)
    lrs = {f"range test, {rule}": test.suggestions.get(rule, np.nan) for rule in RULES}
    return [{name: judge(table, (), lr, bill, seconds) for name, lr in lrs.items()} for table in tables]


def default_lr(task: Task, table: Table) -> Found:
    """Judge the optimizer's default learning rate."""
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[task.optimizer]
    lr = float(kind([torch.zeros(1, requires_grad=True)]).param_groups[0]["lr"])
    return judge(table, (), lr, Bill(), 0.0)
