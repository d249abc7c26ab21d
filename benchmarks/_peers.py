"""The same job written for each library as its user would: find the lr between `LOW` and `HIGH` with `n` candidates.

Each function takes a `Job`, the number of candidates and a seed, and returns the learning rate it would train with.
Its lines are counted. Imports are therefore inside the function, and only the net, which all sides share, is defined
elsewhere.
"""

from __future__ import annotations

import ast
import copy
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import skorch
import torch
from _tasks import Task, log_likelihood
from sklearn.metrics import make_scorer

from sklr import MLP, NeuralNetClassifier

LOW, HIGH, CORES = 1e-5, 10.0, 2
WORST = -10.0  # score of a diverged net, because several peers treat NaN as an error


def bounded_log_likelihood(y: np.ndarray, probabilities: np.ndarray) -> float:
    """Return minus the log loss, but at least -10, also for a diverged net.

    >>> bounded_log_likelihood(np.array([0]), np.array([[np.nan]]))
    -10.0
    """
    score = log_likelihood(y, probabilities)
    return max(score, WORST) if np.isfinite(score) else WORST


@dataclass(frozen=True, eq=False)
class Job:
    """The data, folds and net that every side gets."""

    task: Task

    @property
    def X(self) -> np.ndarray:
        """The features."""
        return self.task.X

    @property
    def y(self) -> np.ndarray:
        """The labels."""
        return self.task.y

    @property
    def cv(self) -> list:
        """The folds."""
        return self.task.folds(0)

    @property
    def scoring(self) -> Any:
        """The score, the same for all sides; sklr would not need its lower bound."""
        return make_scorer(bounded_log_likelihood, response_method="predict_proba")

    @property
    def shape(self) -> dict[str, Any]:
        """The parameters of the module, an `MLP`."""
        return {"n_inputs": self.X.shape[1], "n_outputs": len(np.unique(self.y)), "hidden": (32, 32)}

    def net(self, **params: Any) -> skorch.NeuralNetClassifier:
        """Return skorch's net, for the other libraries."""
        return skorch.NeuralNetClassifier(MLP, **{**self._settings, **params})

    def our_net(self) -> NeuralNetClassifier:
        """Return the same net as an instance of sklr's class."""
        return NeuralNetClassifier(MLP, **self._settings)

    @property
    def _settings(self) -> dict[str, Any]:
        settings = {"criterion": torch.nn.CrossEntropyLoss, "train_split": None, "verbose": 0, "device": "cpu"}
        settings |= {"optimizer": torch.optim.SGD, "optimizer__momentum": 0.9, "iterator_train__shuffle": True}
        settings |= {f"module__{name}": value for name, value in self.shape.items()}
        return settings | {"max_epochs": self.task.epochs, "batch_size": 32}


def sklr_bayes(job: Job, n: int, seed: int) -> float:
    """sklr's default strategy."""
    from sklr import BayesSearchCV

    search = BayesSearchCV(
        job.our_net(), lr_range=(LOW, HIGH), n_iter=n, cv=job.cv, scoring=job.scoring, random_state=seed
    )
    return search.fit(job.X, job.y).best_lr_


def sklr_grid(job: Job, n: int, seed: int) -> float:
    """sklr's grid, with the optimum fitted to its scores."""
    from sklr import LRGridSearchCV

    search = LRGridSearchCV(
        job.our_net(), lr_range=(LOW, HIGH), n_lrs=n, select="fit", cv=job.cv, scoring=job.scoring, random_state=seed
    )
    return search.fit(job.X, job.y).best_lr_


def sklr_range_test(job: Job, n: int, seed: int) -> float:
    """sklr's range test; it does not use `n`."""
    from sklr import lr_range_test

    return lr_range_test(job.our_net(), job.X, job.y, lr_range=(1e-7, HIGH), random_state=seed).suggestions["minimum"]


def scikit_learn(job: Job, n: int, seed: int) -> float:
    """scikit-learn's grid search."""
    from sklearn.model_selection import GridSearchCV

    torch.manual_seed(seed)
    lrs = {"lr": np.geomspace(LOW, HIGH, n).tolist()}
    search = GridSearchCV(job.net(), lrs, cv=job.cv, scoring=job.scoring, n_jobs=CORES)
    return search.fit(job.X, job.y).best_params_["lr"]


def skopt_bayes(job: Job, n: int, seed: int) -> float:
    """scikit-optimize's search; by default it proposes one candidate at a time, so only the folds run in parallel."""
    from skopt import BayesSearchCV

    space = {"lr": (LOW, HIGH, "log-uniform")}
    search = BayesSearchCV(job.net(), space, n_iter=n, cv=job.cv, scoring=job.scoring, n_jobs=CORES, random_state=seed)
    return search.fit(job.X, job.y).best_params_["lr"]


def optuna_search(job: Job, n: int, seed: int) -> float:
    """optuna-integration's search; its jobs are threads."""
    from optuna.distributions import FloatDistribution
    from optuna_integration.sklearn import OptunaSearchCV

    space = {"lr": FloatDistribution(LOW, HIGH, log=True)}
    search = OptunaSearchCV(
        job.net(), space, n_trials=n, cv=job.cv, scoring=job.scoring, n_jobs=CORES, random_state=seed
    )
    return search.fit(job.X, job.y).best_params_["lr"]


def modelbatch_grid(job: Job, n: int, seed: int) -> float:
    """ModelBatch, with all learning rates of a fold side by side; the user writes the loops over folds and epochs."""
    from modelbatch import ModelBatch
    from modelbatch.optimizer import OptimizerFactory
    from torch.utils.data import DataLoader, TensorDataset

    lrs = np.geomspace(LOW, HIGH, n).tolist()
    X, y, scores = torch.as_tensor(job.X), torch.as_tensor(job.y), []
    for train, test in job.cv:
        torch.manual_seed(seed)
        first = MLP(**job.shape)
        models = [copy.deepcopy(first) for _ in lrs]
        batch = ModelBatch(models, shared_input=True)
        factory = OptimizerFactory(torch.optim.SGD, {"momentum": 0.9})
        optimizer = factory.create_optimizer(batch, [{"lr": lr} for lr in lrs])
        loader = DataLoader(TensorDataset(X[train], y[train]), batch_size=32, shuffle=True)
        for _ in range(job.task.epochs):
            for inputs, targets in loader:
                optimizer.zero_grad()
                batch.compute_loss(batch(inputs), targets, torch.nn.functional.cross_entropy).backward()
                optimizer.step()
        with torch.no_grad():
            probabilities = batch(X[test]).softmax(-1).numpy()
        scores.append([bounded_log_likelihood(job.y[test], found) for found in probabilities])
    return lrs[int(np.mean(scores, axis=0).argmax())]


def torch_lr_finder(job: Job, n: int, seed: int) -> float:
    """torch-lr-finder's range test with its defaults; it does not use `n`, and only its plot returns a suggestion."""
    import matplotlib.pyplot as plt
    from torch.utils.data import DataLoader, TensorDataset
    from torch_lr_finder import LRFinder

    torch.manual_seed(seed)
    module = MLP(**job.shape)
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-7, momentum=0.9)
    loader = DataLoader(TensorDataset(torch.as_tensor(job.X), torch.as_tensor(job.y)), batch_size=32, shuffle=True)
    finder = LRFinder(module, optimizer, torch.nn.CrossEntropyLoss())
    finder.range_test(loader, end_lr=HIGH, num_iter=100)
    lr = finder.plot(ax=plt.figure().add_subplot())[1]
    plt.close("all")
    return lr


def ray_asha(job: Job, n: int, seed: int) -> float:
    """Ray Tune with ASHA, which gets the mean over the folds after every epoch."""
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    if not ray.is_initialized():
        raise RuntimeError("start Ray first")
    X, y, cv, epochs, score = job.X, job.y, job.cv, job.task.epochs, job.scoring

    def train(config: dict) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(seed)
        nets = [job.net(lr=config["lr"], max_epochs=1).initialize() for _ in cv]
        for _ in range(epochs):
            for net, (rows, _) in zip(nets, cv, strict=True):
                net.partial_fit(X[rows], y[rows])
            scores = [score(net, X[rows], y[rows]) for net, (_, rows) in zip(nets, cv, strict=True)]
            tune.report({"score": float(np.mean(scores))})

    np.random.seed(seed)
    settings = tune.TuneConfig(metric="score", mode="max", num_samples=n, scheduler=ASHAScheduler(max_t=epochs))
    tuner = tune.Tuner(train, param_space={"lr": tune.loguniform(LOW, HIGH)}, tune_config=settings)
    return tuner.fit().get_best_result().config["lr"]


def dask_hyperband(job: Job, n: int, seed: int) -> float:
    """dask-ml's Hyperband, which chooses the number of candidates itself, with one held-out set instead of folds."""
    from dask_ml.model_selection import HyperbandSearchCV
    from scipy.stats import loguniform

    search = HyperbandSearchCV(
        job.net(max_epochs=1),
        {"lr": loguniform(LOW, HIGH)},
        max_iter=job.task.epochs,
        test_size=1 / 3,
        scoring=job.scoring,
        random_state=seed,
    )
    return search.fit(job.X, job.y).best_params_["lr"]


def start_ray() -> Callable[[], None]:
    """Start Ray on the same number of cores as all sides; return a function that stops it."""
    import logging

    import ray

    ray.init(num_cpus=CORES, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    return ray.shutdown


def start_dask() -> Callable[[], None]:
    """Start Dask's workers; return a function that stops them."""
    from distributed import Client

    client = Client(n_workers=CORES, threads_per_worker=1, dashboard_address=None)
    return client.shutdown


def start_nothing() -> Callable[[], None]:
    """Start nothing; return a function that does nothing."""
    return lambda: None


Side = Callable[[Job, int, int], float]


@dataclass(frozen=True)
class Peer:
    """One side: its function, what to start before the clock, and whether it takes a number of candidates."""

    name: str
    search: Side
    start: Callable[[], Callable[[], None]] = start_nothing
    takes_n: bool = True

    @property
    def lines(self) -> int:
        """The number of lines of code that its user writes.

        >>> Peer("", scikit_learn).lines
        5
        """
        definition = ast.parse(textwrap.dedent(inspect.getsource(self.search))).body[0]
        assert isinstance(definition, ast.FunctionDef)
        body = definition.body[1:] if ast.get_docstring(definition) else definition.body
        lines = inspect.getsource(self.search).splitlines()[body[0].lineno - 1 :]
        return sum(bool(line.strip()) for line in lines)


PEERS = (
    Peer("sklr BayesSearchCV", sklr_bayes),
    Peer("sklr LRGridSearchCV", sklr_grid),
    Peer("sklr lr_range_test", sklr_range_test, takes_n=False),
    Peer("scikit-learn GridSearchCV", scikit_learn),
    Peer("skopt BayesSearchCV", skopt_bayes),
    Peer("Optuna OptunaSearchCV", optuna_search),
    Peer("modelbatch", modelbatch_grid),
    Peer("torch-lr-finder", torch_lr_finder, takes_n=False),
    Peer("Ray Tune ASHA", ray_asha, start_ray),
    Peer("dask-ml Hyperband", dask_hyperband, start_dask, takes_n=False),
)
