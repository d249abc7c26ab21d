"""The three searches over the same few values, and the small net and data they are tested on."""

from sklearn.datasets import load_iris
from sklearn.model_selection import StratifiedKFold

from sklr import MLP, BayesSearchCV, LRGridSearchCV, NeuralNetClassifier, OptunaSearchCV

LRS = [0.003, 0.01, 0.03]
X, Y = load_iris(return_X_y=True)
CV = StratifiedKFold(3, shuffle=True, random_state=0)
DEFAULTS = {
    "module__hidden": (8,),
    "optimizer": "adam",
    "max_epochs": 4,
    "batch_size": 16,
    "iterator_train__shuffle": True,
}


def net(**params):
    return NeuralNetClassifier(MLP, **{**DEFAULTS, **params})


def grid(estimator, name="lr", values=LRS, **params):
    return LRGridSearchCV(estimator, {name: list(values)}, **params)


def bayes(estimator, name="lr", values=LRS, **params):
    return BayesSearchCV(estimator, {name: list(values)}, n_iter=2 * len(values), **params)


def optuna(estimator, name="lr", values=LRS, **params):
    return OptunaSearchCV(estimator, {name: list(values)}, n_trials=4, sampler="random", **params)


STRATEGIES = [grid, bayes, optuna]
