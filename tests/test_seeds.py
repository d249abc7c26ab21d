"""The recipes people write by hand, end to end: sweep, Bayes, schedules by epoch, stages, growing batches."""

from functools import partial

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris, make_classification
from sklearn.model_selection import ShuffleSplit, StratifiedKFold, train_test_split
from skorch.dataset import ValidSplit
from torch import nn
from torch.optim import lr_scheduler as tls

from sklr import MLP, BayesSearchCV, LRGridSearchCV, NeuralNetClassifier, NeuralNetRegressor, OptunaSearchCV
from sklr.callbacks import BatchSizeSchedule
from sklr.schedules import Exponential, Steps, Warmup

X, Y = load_iris(return_X_y=True)
FOLDS = StratifiedKFold(3, shuffle=True, random_state=0)
SHARED = {"lr_range": (1e-8, 0.1), "cv": FOLDS, "random_state": 0}
SEARCHES = {
    "sweep": partial(LRGridSearchCV, n_lrs=10),
    "bayes": partial(BayesSearchCV, n_iter=10),
    "optuna": partial(OptunaSearchCV, n_trials=10),
}
GRID = {"lr": [0.1, 0.01, 0.001], "batch_size": [32, 64, 128], "optimizer__weight_decay": [0.0, 0.001, 0.01]}


def net(**params):
    kept = {"module__hidden": (8,), "optimizer": "adam", "max_epochs": 5, "iterator_train__shuffle": True}
    return NeuralNetClassifier(MLP, **kept | params)


@pytest.mark.parametrize("name", SEARCHES)
def test_ten_learning_rates_over_seven_decades_after_a_warmup(name):
    search = SEARCHES[name](net(warmup_epochs=2), **SHARED).fit(X, Y)
    lrs = search.cv_results_["param_lr"].astype(float)
    assert len(lrs) == len(set(lrs)) == len(search.study_.trials) == 10
    assert (lrs.min() >= 1e-8) & (lrs.max() <= 0.1)
    if name == "sweep":
        np.testing.assert_allclose(lrs, np.geomspace(1e-8, 0.1, 10))
    assert dict(zip(search.lr_curve_.lr, search.lr_curve_.mean, strict=True))[search.best_lr_] == search.best_score_
    assert search.best_score_ > 0.6
    # warmup is over after two epochs, on the learning rate itself and not a step short of it
    last = search.history_["epoch"] == 4
    np.testing.assert_allclose(search.history_["lr"][last], lrs[search.history_["candidate"][last]], rtol=1e-12)


def test_warmup_must_be_shorter_than_the_training():
    with pytest.raises(ValueError, match="warmup_epochs must be less than"):
        net(warmup_epochs=5).fit(X, Y)


@pytest.mark.one_fast
@pytest.mark.filterwarnings("ignore::sklr.DivergedWarning")
@pytest.mark.parametrize(
    ("optimizer", "criterion"),
    [(torch.optim.SGD, nn.CrossEntropyLoss), ("rmsprop", nn.MultiMarginLoss), (torch.optim.LBFGS, nn.CrossEntropyLoss)],
    ids=["sgd", "rmsprop", "lbfgs"],
)
def test_any_optimizer_and_any_criterion(optimizer, criterion):
    search = LRGridSearchCV(net(optimizer=optimizer, criterion=criterion), lrs=[0.001, 0.01, 0.1], cv=FOLDS)
    search.set_params(random_state=0, refit=False).fit(X, Y)
    assert search.best_score_ > 0.4


@pytest.mark.one_fast
@pytest.mark.parametrize(
    "search",
    [
        partial(LRGridSearchCV, param_grid=GRID),
        partial(BayesSearchCV, search_spaces=GRID, n_iter=12),
        partial(OptunaSearchCV, param_distributions=GRID, n_trials=27, sampler="random"),
    ],
    ids=["grid", "bayes", "random"],
)
def test_lr_batch_size_and_decay_in_one_grid(search):
    fitted = search(net(max_epochs=2), cv=FOLDS, random_state=0, refit=False).fit(X, Y)
    candidates = [tuple(params[name] for name in GRID) for params in fitted.cv_results_["params"]]
    assert all(value in GRID[name] for values in candidates for name, value in zip(GRID, values, strict=True))
    if not isinstance(fitted, OptunaSearchCV):  # drawing at random draws some twice
        assert len(set(candidates)) == len(candidates) == (27 if isinstance(fitted, LRGridSearchCV) else 12)
    ranks = fitted.cv_results_["rank_test_score"]
    assert (np.diff(fitted.cv_results_["mean_test_score"][np.argsort(ranks)]) <= 0).all()


@pytest.fixture
def polynomial():
    """Squares of five columns, weighted and summed."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 5))
    return X, X**2 @ np.array([2, -1, 3, 1, 2]) + 0.01 * rng.standard_normal(300)


def regressor(**params):
    kept = {"module__hidden": (4, 4), "module__activation": nn.Tanh, "module__batch_norm": True, "batch_size": 50}
    kept |= {"lr": 0.03, "max_epochs": 60, "iterator_train__shuffle": True, "random_state": 0}
    return NeuralNetRegressor(MLP, **kept | params)


def test_train_and_test_mse_of_every_epoch(polynomial):
    fitted = regressor(train_split=ValidSplit(3), max_epochs=10).fit(*polynomial)
    losses = np.array(fitted.history_[:, ("train_loss", "valid_loss")])
    assert losses.shape == (10, 2)
    _, held_back = fitted.get_split_datasets(*polynomial)
    rows, targets = (np.stack(part) for part in zip(*[held_back[i] for i in range(len(held_back))], strict=True))
    assert np.mean((fitted.predict(rows) - targets.ravel()) ** 2) == pytest.approx(losses[-1, 1], rel=1e-4)
    assert losses[-1, 0] < losses[0, 0]


@pytest.mark.one_fast
@pytest.mark.parametrize(
    "schedule",
    [
        lambda epoch: 0.95**epoch,
        Exponential(0.95),
        partial(tls.LambdaLR, lr_lambda=lambda epoch: 0.95**epoch),
        partial(tls.ExponentialLR, gamma=0.95),
    ],
    ids=["function", "value", "LambdaLR", "ExponentialLR"],
)
def test_five_percent_less_each_epoch(polynomial, schedule):
    fitted = regressor(lr=0.05, schedule=schedule).fit(*polynomial)
    np.testing.assert_allclose(fitted.history_[:, "lr"], 0.05 * 0.95 ** np.arange(60), rtol=1e-12)


@pytest.mark.slow
def test_stages_by_hand_are_the_stages_of_a_schedule(polynomial):
    by_hand = regressor(lr=0.03, max_epochs=30).fit(*polynomial).set_params(lr=0.01).partial_fit(*polynomial)
    planned = regressor(lr=0.03, schedule=Steps({30: 1 / 3})).fit(*polynomial)
    np.testing.assert_allclose(by_hand.history_[:, "lr"], [0.03] * 30 + [0.01] * 30, rtol=1e-12)
    np.testing.assert_allclose(by_hand.history_[:, "train_loss"], planned.history_[:, "train_loss"], rtol=1e-5)
    np.testing.assert_allclose(by_hand.predict(polynomial[0]), planned.predict(polynomial[0]), rtol=1e-3, atol=1e-3)


def test_a_search_keeps_every_epoch_of_every_way_and_seed(polynomial):
    ways = [{"lr": [0.05], "schedule": [Exponential(0.95)]}, {"lr": [0.01]}]
    split = ShuffleSplit(1, test_size=0.3, random_state=0)
    search = LRGridSearchCV(
        regressor(max_epochs=6, random_state=None),
        ways,
        scoring="neg_mean_squared_error",
        cv=split,
        n_seeds=3,
        refit=False,
        random_state=0,
    )
    search.fit(*polynomial)
    mse = -search.history_["valid_score"].reshape(2, 3, 6)
    np.testing.assert_allclose(-mse[:, :, -1], search.cell_scores_, rtol=1e-5)
    assert len(np.unique(mse[0, :, -1])) == 3, "seeds differ"


def test_plateau_and_cosine_as_torch_has_them():
    cosine = net(schedule=partial(tls.CosineAnnealingLR, T_max=100, eta_min=1e-6), lr=0.01, max_epochs=3).fit(X, Y)
    expected = 1e-6 + (0.01 - 1e-6) * (1 + np.cos(np.pi * np.arange(3) / 100)) / 2
    np.testing.assert_allclose(cosine.history_[:, "lr"], expected, rtol=1e-9)
    unlearnt = {"optimizer": "sgd", "lr": 1e-7}  # the loss stays, so the patience of 10 is used up after 12 epochs
    plateau = net(schedule="plateau", **unlearnt, max_epochs=14, iterator_train__shuffle=False).fit(X, Y)
    np.testing.assert_allclose(plateau.history_[:, "lr"], [1e-7] * 12 + [1e-8] * 2)


def test_a_warmup_begins_where_it_is_told():
    warm = Warmup(2, start=1e-4 / 0.01)
    fitted = net(schedule=warm, lr=0.01, batch_size=50, max_epochs=3).fit(X, Y)
    lrs = [batch["lr"] for row in fitted.history_ for batch in row["batches"]]
    np.testing.assert_allclose(lrs, [*np.linspace(1e-4, 0.01, 6), 0.01, 0.01, 0.01], rtol=1e-9)


def test_batches_grow_by_half_up_to_a_maximum():
    rows, labels = make_classification(600, random_state=0)
    grow = BatchSizeSchedule(1.5, every=1, max_batch_size=256)
    fitted = net(batch_size=32, max_epochs=7, callbacks=[grow]).fit(rows, labels)
    assert fitted.history_[:, "batch_size"] == [32, 48, 72, 108, 162, 243, 256]


def test_validation_rows_are_folded_into_the_last_training():
    rows, test_rows, labels, test_labels = train_test_split(X, Y, stratify=Y, random_state=0)
    split = ShuffleSplit(1, test_size=0.3, random_state=0)
    search = LRGridSearchCV(net(max_epochs=20), lrs=[0.003, 0.03, 0.3], cv=split, random_state=0).fit(rows, labels)
    seen = sum(batch["train_batch_size"] for batch in search.best_estimator_.history_[-1, "batches"])
    assert (seen, len(search.cells_[0].train)) == (112, 78)
    assert search.score(test_rows, test_labels) > 0.85
