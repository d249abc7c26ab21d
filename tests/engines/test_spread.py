"""A worker process that dies costs what it was training, not the search."""

import os
import signal
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.datasets import load_iris
from sklearn.utils.parallel import delayed
from torch import nn

from sklr import LostWorkerWarning, LRGridSearchCV, NeuralNetClassifier
from sklr.engines.workers import can_travel, spread

pytestmark = pytest.mark.slow

X, Y = load_iris(return_X_y=True)


@pytest.mark.filterwarnings("ignore::sklr.LostWorkerWarning")
def test_a_call_that_kills_every_worker_is_given_up():
    with pytest.raises(BrokenProcessPool):
        list(spread([delayed(os._exit)(1)] * 2, n_jobs=2, pre_dispatch="all"))


class Dies(ClassifierMixin, BaseEstimator):
    """Kills the worker it is trained in, the first time its `lr` is 0.1."""

    def __init__(self, path, lr=0.1):
        self.path, self.lr = path, lr

    def fit(self, X, y):
        if self.lr == 0.1:
            with Path(self.path).open("a") as log:
                log.write("x")
            if Path(self.path).stat().st_size == 1:
                os.kill(os.getpid(), signal.SIGKILL)
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return np.full(len(X), self.classes_[int(self.lr > 0.5)])


def test_a_search_goes_on(tmp_path):
    search = LRGridSearchCV(Dies(str(tmp_path / "n")), lrs=[0.01, 0.1, 1.0], cv=3, n_jobs=2, refit=False)
    with pytest.warns(LostWorkerWarning, match="A worker process died .* start again"):
        search.fit(X, Y)
    assert 4 <= (tmp_path / "n").stat().st_size <= 7  # once to die, three folds; what had not come back, again
    assert list(search.cv_results_["status"]) == ["ok"] * 3


SCRIPT = """
import numpy as np
from torch import nn
from sklr import LRGridSearchCV, NeuralNetClassifier

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, X):
        return self.layer(X)

if __name__ == "__main__":
    X = np.random.default_rng(0).normal(size=(60, 4)).astype("float32")
    net = NeuralNetClassifier(Net, max_epochs=2, random_state=0)
    for engine in ("stacked", "sequential"):
        search = LRGridSearchCV(net, lrs=[0.01, 0.1], cv=2, engine=engine, n_jobs=2, refit=False, random_state=0)
        search.fit(X, np.arange(60) % 3)
        print(search.engine_, search.cv_results_["mean_test_score"])
"""


def test_a_module_that_only_a_script_knows_needs_no_worker(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "script.py"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    stacked, sequential = done.stdout.splitlines()
    assert stacked.removeprefix("stacked ") == sequential.removeprefix("sequential ")


def test_what_can_travel():
    class Local(nn.Linear):
        pass

    nets = [NeuralNetClassifier(m, module__in_features=2, module__out_features=2) for m in (nn.Linear, Local)]
    assert [can_travel(net.initialize()) for net in nets] == [True, False]
