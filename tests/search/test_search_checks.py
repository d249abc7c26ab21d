"""scikit-learn's own checks of an estimator, all of them, for the three searches over our net and over its own models."""

import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.utils.estimator_checks import parametrize_with_checks

from sklr import MLP, BayesSearchCV, LRGridSearchCV, NeuralNetClassifier, NeuralNetRegressor, OptunaSearchCV

NETS = {
    NeuralNetClassifier: {"optimizer": "adam", "max_epochs": 12, "random_state": 0, "iterator_train__shuffle": True},
    NeuralNetRegressor: {"optimizer": "adam", "max_epochs": 12, "random_state": 0, "iterator_train__shuffle": True},
}
FEW = {"lr_range": (0.01, 0.03), "cv": 2, "random_state": 0}
SPACE = {"C": [0.1, 1.0]}


def over_nets():
    for kind, params in NETS.items():
        net = kind(MLP, **params)
        yield LRGridSearchCV(net, n_lrs=2, **FEW)
        yield BayesSearchCV(net, n_iter=2, **FEW)
        yield OptunaSearchCV(net, n_trials=2, **FEW)


def over_models():
    for model, space in ((LogisticRegression(), {"C": [0.1, 1.0]}), (Ridge(), {"alpha": [0.1, 1.0]})):
        yield LRGridSearchCV(model, space, cv=2, random_state=0)
        yield BayesSearchCV(model, space, n_iter=2, cv=2, random_state=0)
        yield OptunaSearchCV(model, space, n_trials=2, cv=2, random_state=0)


@parametrize_with_checks([*over_models(), *over_nets()])
def test_check(estimator, check):
    check(estimator)
