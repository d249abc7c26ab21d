"""The grid search proposes what GridSearchCV would, in its order, and a logarithmic grid where nothing is given."""

import numpy as np
import pytest
from optuna.distributions import IntDistribution
from scipy.stats import loguniform
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import ParameterGrid
from sklearn.svm import SVC

from sklr.search._grid import LRGridSearchCV


def candidates(estimator, *args, **kwargs):
    search = LRGridSearchCV(estimator, *args, **kwargs)
    (batch,) = search._propose(search._check_space(), None, np.random.RandomState(0))
    assert search._n_candidates(batch) == len(batch)
    return batch


def test_without_a_grid_the_learning_rate_alone_is_searched():
    found = candidates(SGDClassifier(), lr_range=(1e-3, 1.0), n_lrs=4)
    assert found == [{"eta0": 0.001}, {"eta0": 0.01}, {"eta0": 0.1}, {"eta0": 1.0}]


def test_learning_rates_can_be_listed():
    assert candidates(SGDClassifier(), lrs=np.array([0.3, 0.1])) == [{"eta0": 0.3}, {"eta0": 0.1}]


@pytest.mark.parametrize(
    "grid",
    [
        {"C": [1, 10], "kernel": ("linear", "rbf"), "gamma": np.array([0.1, 1.0])},
        [{"C": [1, 10]}, {"kernel": ["linear"], "gamma": range(1, 3)}],
        {"C": (0.1, 10)},
        {"class_weight": [None, {0: 1, 1: 2}]},
        {},
    ],
)
def test_a_grid_gives_the_candidates_of_gridsearchcv_in_its_order(grid):
    assert candidates(SVC(), grid) == list(ParameterGrid(grid))


def test_lrs_multiply_a_grid_that_has_none():
    found = candidates(SGDClassifier(), {"alpha": [1e-4, 1e-3]}, lrs=[0.1, 1.0])
    assert found == list(ParameterGrid({"alpha": [1e-4, 1e-3], "eta0": [0.1, 1.0]}))


def test_a_range_becomes_n_lrs_values_for_the_lr_and_five_for_the_rest():
    grid = {"eta0": loguniform(1e-3, 0.1), "alpha": (1e-5, 1e-1, "log-uniform"), "max_iter": IntDistribution(5, 7)}
    found = candidates(SGDClassifier(), grid, n_lrs=3)
    assert sorted({c["eta0"] for c in found}) == [0.001, 0.01, 0.1]
    assert sorted({c["alpha"] for c in found}) == [1e-5, 1e-4, 1e-3, 1e-2, 1e-1]
    assert sorted({c["max_iter"] for c in found}) == [5, 6, 7]


def test_the_learning_rate_can_be_named():
    assert candidates(SVC(), lr_param="C", lrs=[1.0]) == [{"C": 1.0}]
    assert len(candidates(SVC(), {"C": (1.0, 10.0, "uniform")}, lr_param="C", n_lrs=7)) == 7
