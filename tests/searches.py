"""Small fitted searches for the tests of the pictures and the report page, each made once."""

import warnings
from functools import cache

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from sklr import MLP, DivergedWarning, LRGridSearchCV, NeuralNetClassifier, OptunaSearchCV

X, Y = load_iris(return_X_y=True)
X = (X - X.mean(axis=0)) / X.std(axis=0)
CV = StratifiedKFold(3, shuffle=True, random_state=0)


class Remembering(ClassifierMixin, BaseEstimator):
    """A classifier whose score is decided by its parameters; what it is told has no effect."""

    def __init__(self, lr=0.1, note="", skill=0.5):
        self.lr, self.note, self.skill = lr, note, skill

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return np.zeros(len(X), dtype=int)

    def score(self, X, y):
        return self.skill - 0.1 * np.log10(self.lr / 0.1) ** 2


def net():
    return NeuralNetClassifier(MLP, module__hidden=(8,), max_epochs=3, batch_size=32)


def fit(search):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DivergedWarning)
        return search.fit(X, Y)


@cache
def diverging():
    """Five learning rates in 3 folds x 2 seeds; the highest diverges at once."""
    return fit(LRGridSearchCV(net(), lrs=[1e-3, 1e-2, 0.1, 1.0, 1e30], cv=CV, n_seeds=2, random_state=0))


@cache
def in_rounds():
    """Coarse, then fine."""
    return fit(LRGridSearchCV(Remembering(), lr_range=(1e-3, 10.0), n_lrs=5, rounds=2, cv=2))


@cache
def several_params():
    """Trial after trial, over numbers, choices and a learning rate; the notes are not to be believed."""
    space = {
        "lr": (1e-4, 1.0, "log-uniform"),
        "skill": (0.1, 0.9),
        "note": ["<script>alert('x')</script>", "costs $5 & more", None],
    }
    return fit(OptunaSearchCV(Remembering(), space, n_trials=12, cv=2, random_state=0))


@cache
def without_lr():
    """Two scores, and no learning rate."""
    model = LogisticRegression()
    grid = {"C": [0.01, 1.0, 100.0], "fit_intercept": [True, False]}
    return LRGridSearchCV(model, grid, cv=3, scoring=["accuracy", "neg_log_loss"], refit="neg_log_loss").fit(X, Y)
