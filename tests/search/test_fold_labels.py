"""Labels in test rows that no training row has."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.model_selection import KFold
from strategies import X, net
from torch.utils.data import TensorDataset

from sklr import LRGridSearchCV, NeuralNetRegressor
from sklr.exceptions import SettingsWarning
from sklr.modules import MLP

ROWS = X.astype("float32")
Y = np.arange(len(ROWS)) % 3
OLD, NEW = np.flatnonzero(Y < 2), np.flatnonzero(Y == 2)
ENGINES = ["stacked", "sequential"]


def search(**params):
    return LRGridSearchCV(net(), lrs=[0.01, 0.1], random_state=0, **params)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("names", [None, ["a", "b", "c"]])
def test_validation_rows_with_no_known_label_are_refused(engine, names):
    y = Y if names is None else np.array(names)[Y]
    with pytest.raises(ValueError, match=r"must be labels of the training rows, .*, got \[('c'|2)\]\."):
        search(engine=engine).fit(ROWS[OLD], y[OLD], validation=(ROWS[NEW], y[NEW]))


def test_so_are_those_of_a_dataset():
    train, valid = (TensorDataset(torch.tensor(ROWS[rows]), torch.tensor(Y[rows])) for rows in (OLD, NEW))
    with pytest.raises(ValueError, match=r"labels of the training rows, 0, 1, got \[2\]\."):
        search().fit(train, validation=valid)


@pytest.mark.parametrize("engine", ENGINES)
def test_some_unknown_labels_are_warned_of(engine):
    rows = np.arange(len(ROWS))
    with pytest.warns(
        SettingsWarning, match=rf"^The labels 2 are in {len(NEW)} of {len(rows)} test or validation rows"
    ):
        search(engine=engine).fit(ROWS[OLD], Y[OLD], validation=(ROWS, Y))


def test_sorted_rows_in_folds_that_do_not_shuffle_are_warned_of():
    order = np.argsort(Y, kind="stable")
    thirds = np.array_split(order, 3)
    cv = [(np.setdiff1d(order, third), third) for third in thirds]
    with pytest.warns(SettingsWarning, match=rf"^The labels 0, 1, 2 are in {len(Y)} of {len(Y)} test"):
        search(cv=cv).fit(ROWS, Y)


def test_known_labels_and_other_targets_are_left_alone():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        search(cv=KFold(2)).fit(ROWS, Y)
        net = NeuralNetRegressor(MLP, max_epochs=1)
        LRGridSearchCV(net, lrs=[1e-4], cv=2).fit(ROWS, np.arange(len(ROWS), dtype="float32"))
