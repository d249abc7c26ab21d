"""Ctrl-C, a real one, ends the search at once and keeps what is finished."""

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import skorch
from optuna.trial import TrialState
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.compose import TransformedTargetRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from strategies import X, Y, bayes, grid, net, optuna
from torch import nn

from sklr import LRGridSearchCV

pytestmark = pytest.mark.slow

X32 = X.astype("float32")


class PressesCtrlC(skorch.callbacks.Callback):
    """Presses Ctrl-C, from another thread, in the training number `at` and waits for it to arrive."""

    trainings = 0

    def __init__(self, at):
        self.at = at

    def on_train_begin(self, net, **kwargs):
        PressesCtrlC.trainings += 1

    def on_grad_computed(self, net, named_parameters, **kwargs):
        if PressesCtrlC.trainings == self.at:
            PressesCtrlC.trainings += 1
            thread = threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGINT))
            thread.start()
            thread.join()


@pytest.fixture(autouse=True)
def _count_from_zero():
    PressesCtrlC.trainings = 0


def pressing(at, **params):
    return net(callbacks=[("ctrl_c", PressesCtrlC(at))], max_epochs=2, **params)


def own(at, **params):
    return skorch.NeuralNetClassifier(
        nn.Linear,
        criterion=nn.CrossEntropyLoss,
        module__in_features=4,
        module__out_features=3,
        max_epochs=2,
        train_split=None,
        callbacks=[("ctrl_c", PressesCtrlC(at))],
        **params,
    )


def interrupted(search, X=X32):
    with pytest.raises(KeyboardInterrupt):
        search.fit(X, Y)
    return search


@pytest.mark.parametrize("model", [pressing, own], ids=["ours", "skorch's own"])
def test_finished_candidates_are_kept(make, model):
    # three folds: the 8th training is in the third candidate
    search = interrupted(make(model(8), cv=3, random_state=0, engine="sequential"))
    assert PressesCtrlC.trainings == 9  # no training began after it; the pressing counts one
    assert len(search.cv_results_["params"]) == 2
    assert len(search.cv_results_["mean_test_score"]) == 2
    assert set(search.history_["candidate"]) == {0, 1}
    assert search.best_params_ == search.cv_results_["params"][search.best_index_]
    assert search.best_lr_ == search.best_params_["lr"]
    assert not hasattr(search, "best_estimator_")
    complete = search.study_.get_trials(states=(TrialState.COMPLETE,))
    assert [trial.value for trial in complete] == search.cv_results_["mean_test_score"].tolist()
    assert {trial.state for trial in search.study_.trials} == {TrialState.COMPLETE, TrialState.FAIL}


def test_batches_before_are_kept():
    search = interrupted(bayes(pressing(8), cv=3, random_state=0).set_params(n_points=1))
    assert len(search.cv_results_["params"]) == 2
    search = interrupted(optuna(pressing(8 + 9), cv=3, random_state=0).set_params(n_points=1))
    assert len(search.cv_results_["params"]) == 2


def test_it_may_come_between_two_batches():
    def press(study, trial):
        if trial.number == 1:
            os.kill(os.getpid(), signal.SIGINT)

    search = interrupted(optuna(net(max_epochs=1), cv=3, random_state=0).set_params(n_points=1, callbacks=[press]))
    assert search.engine_ == "stacked"
    assert len(search.cv_results_["params"]) == 2


class Hangs(ClassifierMixin, BaseEstimator):
    """Fits at once, unless its `depth` is above 2: then it says so in a file, and never ends."""

    def __init__(self, path, depth=1):
        self.path, self.depth = path, depth

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        if self.depth > 2:
            time.sleep(1)  # for what the other worker has finished to arrive
            Path(self.path).touch()
            time.sleep(60)
        return self

    def predict(self, X):
        return np.full(len(X), self.classes_[0])


def test_what_workers_have_finished_is_kept(tmp_path):
    begun = tmp_path / "begun"

    def press_once_it_hangs():
        while not begun.exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press_once_it_hangs, daemon=True).start()
    search = interrupted(grid(Hangs(str(begun)), "depth", [1, 2, 3, 4], cv=2, n_jobs=2))
    assert [params["depth"] for params in search.cv_results_["params"]] == [1, 2]


def test_nothing_finished_leaves_the_search_without_results(make):
    search = interrupted(make(pressing(1), cv=3, random_state=0, engine="sequential"))
    assert not hasattr(search, "cv_results_")
    assert not hasattr(search, "best_params_")


def test_nothing_of_an_earlier_fit_stands_beside_it():
    search = grid(pressing(99), values=[0.01, 0.03], cv=3, random_state=0, engine="sequential").fit(X, Y)
    PressesCtrlC.trainings = 99 - 5
    interrupted(search)
    assert len(search.cv_results_["params"]) == 1
    assert not hasattr(search, "best_estimator_")


@pytest.mark.parametrize("model", [pressing, own], ids=["ours", "skorch's own"])
def test_it_comes_through_whatever_is_around_the_net(model):
    pipeline = make_pipeline(StandardScaler(), model(2))
    interrupted(LRGridSearchCV(pipeline, n_lrs=3, cv=2, engine="sequential"))
    assert PressesCtrlC.trainings == 3
    PressesCtrlC.trainings = 0
    wrapped = TransformedTargetRegressor(model(2), check_inverse=False, func=np.abs, inverse_func=np.abs)
    search = LRGridSearchCV(wrapped, n_lrs=3, cv=2, scoring="accuracy")
    with pytest.raises(KeyboardInterrupt):
        search.fit(X32, Y)
    assert PressesCtrlC.trainings == 3


def test_it_comes_through_the_refit_of_skorchs_own_net():
    with pytest.raises(KeyboardInterrupt):
        grid(own(7), values=[0.01, 0.03], cv=3, random_state=0, engine="sequential").fit(X32, Y)
    assert PressesCtrlC.trainings == 8
