"""Searches that are run in processes of their own, to be killed there; the benchmark of the ledger uses them too."""

import json
import multiprocessing
import os
import signal
import time
import warnings
from pathlib import Path

import numpy as np
from optuna.trial import TrialState
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.datasets import load_iris
from strategies import net

from sklr import BayesSearchCV, EdgeOfRangeWarning, LRGridSearchCV, OptunaSearchCV

X, Y = load_iris(return_X_y=True)
N = 8
LOG, PAUSE = None, 0.0  # where this process writes what it trains, and how long each training takes at least


class Slow(ClassifierMixin, BaseEstimator):
    """Takes its time, and writes its learning rate into a file once it has been trained."""

    def __init__(self, lr=0.1):
        self.lr = lr

    def fit(self, X, y):
        time.sleep(PAUSE)
        self.classes_, self.mean_ = np.unique(y), float(np.mean(X))
        if LOG is not None:
            with open(LOG, "a") as log:
                log.write(f"{self.lr!r}\n")
        return self

    def predict(self, X):
        return np.full(len(X), self.classes_[0])

    def score(self, X, y):
        return 0.9 - 0.1 * np.log10(self.lr / 0.01) ** 2 + 0.01 * self.mean_


def grid(estimator, **params):
    return LRGridSearchCV(estimator, n_lrs=N, **params)


def bayes(estimator, **params):
    return BayesSearchCV(estimator, n_iter=N, n_points=2, **params)


def optuna(estimator, **params):
    return OptunaSearchCV(estimator, n_trials=N, n_points=2, **params)


def stacked(estimator, **params):
    return BayesSearchCV(net(), n_iter=N, n_points=2, engine="stacked", **params)


SEARCHES = {make.__name__: make for make in (grid, bayes, optuna, stacked)}


def search_of(kind, **params):
    params = {"cv": 3, "random_state": 0, "refit": False, **params}
    return SEARCHES[kind](Slow(), **params)


def comparable(results):
    """Return `cv_results_` without its times, as plain lists."""
    kept = {key: value for key, value in results.items() if "time" not in key}
    return json.loads(json.dumps({key: np.ma.getdata(value).tolist() if hasattr(value, "tolist") else value
                                  for key, value in kept.items()}))  # fmt: skip


def work(kind, log, out, pause, params):
    """Run a search to its end; `out` then holds its results."""
    global LOG, PAUSE
    LOG, PAUSE = log, pause
    warnings.simplefilter("ignore", EdgeOfRangeWarning)
    search = search_of(kind, resume=True, **params).fit(X, Y)
    part = Path(f"{out}.part")
    part.write_text(json.dumps(comparable(search.cv_results_)))
    part.replace(out)


def forkserver():
    """Return a way to start processes that have imported everything already."""
    context = multiprocessing.get_context("forkserver")
    # the folder of the tests is not on the server's path
    context.set_forkserver_preload(["sklr", "sklearn.datasets", "optuna.storages._rdb.models", "alembic.command"])
    return context


def start(kind, folder, name, pause=0.01, **params):
    """Start a search in a process of its own; return the process, its log and its results' path."""
    log, out = Path(folder) / f"{name}.log", Path(folder) / f"{name}.json"
    log.touch()
    process = forkserver().Process(target=work, args=(kind, str(log), str(out), pause, params))
    process.start()
    return process, log, out


def kill(process):
    """Kill as `kill -9` does."""
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def finished(study):
    """Return the learning rates of the trials that are through."""
    ended = study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
    return [trial.user_attrs["params"]["lr"] for trial in ended]


def trained(log, n_folds=3):
    """Return the learning rates that a process has trained on all folds."""
    lrs = [float(line) for line in Path(log).read_text().split()]
    return [lr for lr in dict.fromkeys(lrs) if lrs.count(lr) >= n_folds]
