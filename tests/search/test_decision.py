"""From a search to a decision: the curve, `select`, edges, `extend`, and the summary."""

import warnings

import numpy as np
import pytest
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.datasets import load_digits
from sklearn.model_selection import KFold, StratifiedKFold

from sklr import MLP, BayesSearchCV, EdgeOfRangeWarning, LRGridSearchCV, NeuralNetClassifier, OptunaSearchCV

X, Y = np.arange(60.0).reshape(-1, 1), np.zeros(60)
CV = KFold(5)


class Basin(RegressorMixin, BaseEstimator):
    """A score that is a parabola in log10 lr, with a cliff, and noise that depends on fold and lr alone."""

    def __init__(self, lr=0.1, best=0.03, noise=0.0, cliff=np.inf, width=1.0):
        self.lr, self.best, self.noise, self.cliff, self.width = lr, best, noise, cliff, width

    def fit(self, X, y):
        self.first_ = int(X[0, 0] * 7 + X[-1, 0])
        if self.lr >= self.cliff:
            raise ValueError("over the cliff")
        return self

    def predict(self, X):
        return np.zeros(len(X))

    def score(self, X, y):
        luck = np.random.default_rng([self.first_, int(X[0, 0]), int(1e9 * self.lr)]).normal()
        return 0.9 - (np.log10(self.lr / self.best) / self.width) ** 2 / 20 + self.noise * luck


def grid(low=1e-4, high=1.0, n_lrs=9, **params):
    basin = params.pop("basin", Basin())
    return LRGridSearchCV(basin, lr_range=(low, high), n_lrs=n_lrs, cv=CV, random_state=0, **params)


def test_best_is_scikit_learns():
    search = grid().fit(X, Y)
    assert search.best_index_ == search.cv_results_["rank_test_score"].argmin()
    assert search.lr_choice_.candidate == search.best_index_
    assert search.lr_interval_[0] < search.best_lr_ < search.lr_interval_[1]
    assert search.lr_edge_ is None
    assert search.max_stable_lr_ == 1.0


def test_a_fitted_lr_need_not_have_been_tried():
    search = grid(basin=Basin(best=0.02, noise=1e-4), select="fit").fit(X, Y)
    assert search.best_lr_ not in search.lr_curve_.lr
    assert abs(np.log10(search.best_lr_ / 0.02)) < 0.05
    assert search.best_params_ == {"lr": search.best_lr_}
    assert search.best_estimator_.lr == search.best_lr_
    nearest = search.cv_results_["params"][search.best_index_]["lr"]
    assert nearest == pytest.approx(10**-1.5)
    assert search.best_score_ == search.cv_results_["mean_test_score"][search.best_index_]


def test_other_parameters_stay_with_the_chosen_lr():
    space = {"lr": list(np.logspace(-4, 0, 9)), "width": [0.5, 1.0]}
    search = LRGridSearchCV(Basin(best=0.02), space, cv=CV, select="fit").fit(X, Y)
    assert search.best_params_.keys() == {"lr", "width"}
    assert len(search.lr_curve_) == 9


@pytest.mark.parametrize("make", [grid, pytest.param(None, id="bayes"), pytest.param("tpe", id="optuna")])
def test_the_edge_is_named(make):
    if make is grid:
        search = grid(1e-7, 1e-4)
    elif make is None:
        search = BayesSearchCV(Basin(), lr_range=(1e-7, 1e-4), n_iter=8, cv=CV, random_state=0)
    else:
        search = OptunaSearchCV(Basin(), lr_range=(1e-7, 1e-4), n_trials=8, cv=CV, random_state=0)
    with pytest.warns(EdgeOfRangeWarning, match=r"is the highest that was tried.*above.*extend=True"):
        search.fit(X, Y)
    assert search.lr_edge_ == "high"
    assert "search higher (extend=True)" in search.summary()
    with pytest.warns(EdgeOfRangeWarning, match="is the lowest"):
        search.set_params(lr_range=(0.5, 50.0)).fit(X, Y)


def test_extend_goes_on_until_the_best_is_inside():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        search = grid(1e-7, 1e-4, n_lrs=7, extend=True).fit(X, Y)
    assert search.lr_edge_ is None
    good = grid(1e-4, 1.0).fit(X, Y)
    assert search.best_lr_ == pytest.approx(good.best_lr_)
    assert search.cv_results_["params"][:7] == grid(1e-7, 1e-4, n_lrs=7).fit(X, Y).cv_results_["params"]
    assert len(search.study_.trials) == len(search.cv_results_["params"])
    assert len(set(search.lr_curve_.lr)) == len(search.lr_curve_)


def test_extend_gives_up_far_out():
    class Rising(Basin):
        def score(self, X, y):
            return np.log10(self.lr)

    with pytest.warns(EdgeOfRangeWarning, match="extend=True went on for 8 decades"):
        search = grid(1e-2, 1.0, n_lrs=3, basin=Rising(), extend=True).fit(X, Y)
    assert search.best_lr_ == pytest.approx(1e8)


def test_the_summary_says_what_to_do_next():
    text = grid(n_lrs=5).fit(X, Y).summary()
    assert text.startswith("Chosen: lr 0.01")
    assert "Edge: none" in text
    assert "refine around 0.01," in text


def test_the_best_of_equal_candidates_is_corrected():
    noisy = grid(basin=Basin(noise=0.05, width=1e6), n_lrs=21).fit(X, Y)
    assert noisy.best_score_ > 0.91
    assert noisy.best_score_corrected_ < noisy.best_score_


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"select": "luckiest"}, "select must be one of 'best', 'one_se', 'fit', got 'luckiest'"),
        ({"confidence": 90}, "confidence must be a number between 0 and 1, got 90"),
        ({"extend": "yes"}, "extend must be True or False, got 'yes'"),
    ],
)
def test_bad_input(params, message):
    with pytest.raises(ValueError, match=message):
        grid(**params).fit(X, Y)


def test_digits_in_a_range_placed_too_low_end_where_the_good_range_does():
    X, y = load_digits(return_X_y=True)
    net = NeuralNetClassifier(
        MLP, module__hidden=(32,), optimizer="adam", batch_size=64, max_epochs=5, iterator_train__shuffle=True
    )
    common = {"cv": StratifiedKFold(3, shuffle=True, random_state=0), "random_state": 0, "refit": False}
    low = LRGridSearchCV(net, lr_range=(1e-7, 1e-4), n_lrs=7, **common)
    with pytest.warns(EdgeOfRangeWarning, match="is the highest that was tried"):
        low.fit(X / 16, y)
    extended = low.set_params(extend=True).fit(X / 16, y)
    good = LRGridSearchCV(net, lr_range=(1e-4, 1.0), n_lrs=9, **common).fit(X / 16, y)
    assert good.lr_interval_[0] <= extended.best_lr_ <= good.lr_interval_[1]
    assert extended.lr_edge_ is None
