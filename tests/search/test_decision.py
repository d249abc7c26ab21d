"""From a search to a decision: the curve, `select`, edges, `extend`, and the summary."""

import re
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.datasets import load_digits, load_iris
from sklearn.model_selection import KFold, PredefinedSplit, ShuffleSplit, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklr import (
    MLP,
    BayesSearchCV,
    DivergedWarning,
    EdgeOfRangeWarning,
    LRGridSearchCV,
    NeuralNetClassifier,
    NoScoreError,
    NoScoreWarning,
    OptunaSearchCV,
)

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


class Table(Basin):
    """A score looked up by the lr; what is not in the table scores 0."""

    def __init__(self, lr=0.1, scores=()):
        self.lr, self.scores = lr, scores

    def score(self, X, y):
        return dict(self.scores).get(self.lr, 0.0) + 0.01 * self.first_

    def fit(self, X, y):
        self.first_ = X[0, 0] > 0
        if not np.isfinite(dict(self.scores).get(self.lr, 0.0)):
            raise ValueError("no luck")
        return self


TIES = {  # scores of the lrs 0.01, 0.1 and 1 -> the edge, and the words of the warning
    (0.5, 0.4, 0.5): ("both", "2 learning rates share .* the lowest and the highest .*0.01 and 1: .* below or above"),
    (0.5, 0.5, 0.4): ("low", "2 learning rates share the best score, among them the lowest .*, 0.01: .* below"),
    (0.4, 0.5, 0.5): ("high", "2 learning rates share the best score, among them the highest .*, 1: .* above"),
}


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
@pytest.mark.parametrize("scores", TIES)
def test_ties_at_an_end_are_warned_of_and_searched_beyond(scores, order):
    lrs = [0.01, 0.1, 1.0]
    side, words = TIES[scores]
    search = LRGridSearchCV(Table(scores=tuple(zip(lrs, scores, strict=True))), lrs=[lrs[i] for i in order], cv=CV)
    with pytest.warns(EdgeOfRangeWarning, match=words):
        search.fit(X, Y)
    assert search.lr_edge_ == side
    assert f"search {TIES_IN_WORDS[side]} (extend=True)" in search.summary()
    extended = search.set_params(extend=True).fit(X, Y)
    assert extended.lr_edge_ is None
    beyond = {"low": [0.001], "high": [10.0], "both": [0.001, 10.0]}[side]
    assert [params["lr"] for params in extended.cv_results_["params"][3:]] == beyond


TIES_IN_WORDS = {"low": "lower", "high": "higher", "both": "lower and higher"}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.FitFailedWarning", "ignore:One or more of the test scores")
@pytest.mark.filterwarnings("ignore::sklr.EdgeOfRangeWarning")
@pytest.mark.parametrize("select", ["best", "one_se", "fit"])
@pytest.mark.parametrize("scores", [(np.nan, 0.5, np.nan), (0.5, np.nan, np.nan), (np.nan, np.nan, 0.5), (0.5,)])
def test_a_single_score_gives_no_interval(scores, select):
    lrs = [0.01, 0.1, 1.0][: len(scores)]
    search = LRGridSearchCV(Table(scores=tuple(zip(lrs, scores, strict=True))), lrs=lrs, cv=CV, select=select)
    text = search.fit(X, Y).summary()
    assert np.isnan(search.lr_interval_).all()
    assert "no interval" in text
    assert "a single learning rate has a score" in text
    assert not re.findall("lies between|% confidence|settled", text)


def test_the_summary_says_what_to_do_next():
    text = grid(n_lrs=5).fit(X, Y).summary()
    assert text.startswith("Chosen: lr 0.01")
    assert "Edge: none" in text
    assert "refine around 0.01," in text


def test_the_best_of_equal_candidates_is_corrected():
    noisy = grid(basin=Basin(noise=0.05, width=1e6), n_lrs=21).fit(X, Y)
    assert noisy.best_score_ > 0.91
    assert noisy.best_score_corrected_ < noisy.best_score_


ONE_FOLD = {
    "ShuffleSplit(1)": ShuffleSplit(1, test_size=0.5, random_state=0),
    "a pair of rows": [(np.arange(30), np.arange(30, 60))],
    "PredefinedSplit": PredefinedSplit(np.repeat([-1, 0], 30)),
}


@pytest.mark.parametrize("select", ["best", "one_se", "fit"])
@pytest.mark.parametrize("fold", ONE_FOLD)
def test_one_fold_with_one_seed_gives_no_interval(fold, select):
    search = grid(basin=Basin(noise=0.001), select=select, extend=True, rounds=2).set_params(cv=ONE_FOLD[fold])
    text = search.fit(X, Y).summary()
    assert np.isnan([*search.lr_interval_, search.lr_choice_.se, *search.lr_curve_.se]).all()
    assert np.isnan(search.best_score_corrected_)
    assert abs(np.log10(search.best_lr_ / 0.03)) < 0.3
    assert "more folds (cv=5) or more seeds (n_seeds=3)" in text
    assert not re.findall(r"lies between|% confidence|standard error of|settled|luck", text)


def test_seeds_that_change_nothing_are_no_cells():
    search = grid(basin=Basin(noise=0.001), n_seeds=3).set_params(cv=ONE_FOLD["a pair of rows"]).fit(X, Y)
    assert search.cell_scores_.shape == (9, 3)
    assert np.isnan(search.lr_interval_).all()
    assert "the 3 seeds of a fold gave the same scores and count as one" in search.summary()
    folds = grid(basin=Basin(noise=0.001), n_seeds=3).fit(X, Y)
    np.testing.assert_allclose(folds.lr_interval_, grid(basin=Basin(noise=0.001)).fit(X, Y).lr_interval_)


@pytest.mark.parametrize("select", ["best", "one_se", "fit"])
def test_the_interval_is_that_of_the_chosen_other_parameters(select):
    lrs = np.logspace(-4, 0, 9).tolist()
    basin = Basin(best=0.02, noise=0.001)
    both = LRGridSearchCV(basin, {"lr": lrs, "width": [0.5, 1.0, 2.0]}, cv=CV, select=select).fit(X, Y)
    width = both.best_params_["width"]
    alone = LRGridSearchCV(clone(basin).set_params(width=width), {"lr": lrs}, cv=CV, select=select).fit(X, Y)
    np.testing.assert_allclose(both.lr_interval_, alone.lr_interval_)
    assert both.best_lr_ == alone.best_lr_
    assert {params["width"] for params in np.take(both.cv_results_["params"], both.lr_curve_.candidate)} == {width}
    assert both.summary().startswith(f"Chosen: lr {both.best_lr_:.3g}, width {width:.3g}, ")
    assert "with these other values the best lr lies between" in both.summary()


MIXED = {
    "two lrs": lambda **params: LRGridSearchCV(Basin(), {"lr": [0.01, 0.1], "width": [0.5, 1, 2]}, cv=CV, **params),
    "optuna": lambda **params: OptunaSearchCV(
        Basin(), {"lr": (1e-4, 1.0, "log-uniform"), "width": (0.5, 2.0)}, n_trials=12, cv=CV, random_state=0, **params
    ),
    "bayes": lambda **params: BayesSearchCV(
        Basin(), {"lr": (1e-4, 1.0, "log-uniform"), "width": (0.5, 2.0)}, n_iter=5, cv=CV, random_state=0, **params
    ),
}


@pytest.mark.one_fast
@pytest.mark.filterwarnings("ignore::sklr.EdgeOfRangeWarning")
@pytest.mark.parametrize("select", ["best", "one_se", "fit"])
@pytest.mark.parametrize("kind", MIXED)
def test_other_parameters_that_vary_leave_no_interval(kind, select):
    search = MIXED[kind](select=select).fit(X, Y)
    assert np.isnan(search.lr_interval_).all()
    assert not search.lr_curve_.joined
    assert search.best_params_ == search.cv_results_["params"][search.cv_results_["rank_test_score"].argmin()]
    text = search.summary()
    assert text.startswith(f"Chosen: lr {search.best_lr_:.3g}, width {search.best_params_['width']:.3g}, ")
    assert "too few learning rates were tried with the chosen values of the other parameters" in text
    assert "search it alone, with the other parameters as chosen" in text
    assert not re.findall("lies between|% confidence|settled|search lower|search higher|refine|stable up to", text)


def test_a_choice_by_the_users_function_is_the_one_described():
    search = grid(refit=lambda results: 2, n_lrs=5).fit(X, Y)
    assert search.lr_choice_.lr == search.best_lr_ == 0.01
    assert search.summary().startswith("Chosen: lr 0.01, the function given as refit; ")
    tied = LRGridSearchCV(Basin(width=1e9), lrs=[0.1, 0.01, 1.0], cv=CV).fit(X, Y)
    assert tied.lr_choice_.lr == tied.best_lr_ == 0.1, "the first of those that tie, as scikit-learn has it"


@pytest.mark.parametrize("extend", [False, True])
def test_scores_that_do_not_depend_on_the_lr_have_no_edge(extend):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        search = grid(basin=Basin(noise=0.0, width=1e9), extend=extend).fit(X, Y)
    assert search.lr_edge_ is None
    assert np.isnan(search.lr_interval_).all()
    assert len(search.lr_curve_) == 9, "there is nothing to extend to"
    text = search.summary()
    assert "all 9 learning rates score exactly the same: the scores do not depend on the lr" in text
    assert "check whether another setting determines the learning rate" in text
    assert not re.findall("lies between|settled|search lower|search higher", text)


@pytest.mark.one_fast
@pytest.mark.parametrize("select", ["best", "one_se", "fit"])
@pytest.mark.filterwarnings("ignore::sklr.EdgeOfRangeWarning")
def test_the_corrected_score_is_never_above_the_best(select):
    for noise in (0.0, 0.003, 0.03):
        for n_lrs, n_folds in ((1, 2), (3, 2), (9, 2), (9, 5)):
            for seed in range(4):
                basin = Basin(noise=noise, best=0.01 * 1.1**seed)
                search = grid(1e-3, 0.1, n_lrs, basin=basin, select=select).set_params(cv=KFold(n_folds)).fit(X, Y)
                assert search.best_score_corrected_ <= search.best_score_
                assert search.best_score_corrected_ <= search.lr_choice_.score
                if select == "best" and (n_lrs == 1 or not noise):
                    assert search.best_score_corrected_ == pytest.approx(search.best_score_, abs=1e-12)


def test_a_diverged_candidates_error_score_is_no_best():
    X, y = load_iris(return_X_y=True)
    net = NeuralNetClassifier(MLP, max_epochs=2)
    with pytest.warns(DivergedWarning):
        search = LRGridSearchCV(net, lrs=[0.01, 0.1, 1e30], cv=2, error_score=99.0, refit=False).fit(X, y)
    assert search.best_score_corrected_ <= search.best_score_ < 1


class NoSoftmax(torch.nn.Module):
    """A loss that skorch does not know, so that `predict_proba` returns logits, which `neg_log_loss` refuses."""

    def forward(self, outputs, y):
        return torch.nn.functional.cross_entropy(outputs, y)


def nan_scorer(estimator, X, y):
    return float("nan")


SEARCHES = {
    "grid": lambda net, **params: LRGridSearchCV(net, lrs=[0.01, 0.1, 0.3], **params),
    "bayes": lambda net, **params: BayesSearchCV(net, n_iter=3, **params),
    "optuna": lambda net, **params: OptunaSearchCV(net, n_trials=3, **params),
}


@pytest.mark.filterwarnings("ignore:Scoring failed", "ignore:One or more of the", "ignore:.* fits failed")
def test_without_a_score_the_error_names_the_fits_that_failed():
    X, y = load_iris(return_X_y=True)
    X[0, 0] = np.nan  # in the training rows of two folds, and the test rows of the third
    search = LRGridSearchCV(make_pipeline(StandardScaler(), NeuralNetClassifier(MLP)), lrs=[0.01, 0.1], cv=3)
    with pytest.raises(NoScoreError, match=r"Some fits failed: ValueError: Input X contains NaN"):
        search.fit(X, y)


@pytest.mark.one_fast
@pytest.mark.filterwarnings("ignore:Scoring failed", "ignore:One or more of the")
@pytest.mark.parametrize("engine", ["stacked", "sequential"])
@pytest.mark.parametrize("kind", SEARCHES)
@pytest.mark.parametrize(
    ("scoring", "metric", "name"),
    [
        ("neg_log_loss", True, "scoring='neg_log_loss'"),
        (nan_scorer, True, "the scorer nan_scorer"),
        (["accuracy", "neg_log_loss"], "neg_log_loss", "the scorer 'neg_log_loss'"),
    ],
)
def test_there_is_no_best_among_scores_that_are_nan(kind, engine, scoring, metric, name):
    X, y = load_iris(return_X_y=True)
    net = NeuralNetClassifier(MLP, criterion=NoSoftmax, max_epochs=1)
    common = {"cv": 2, "engine": engine, "return_train_score": True, "random_state": 0}
    search = SEARCHES[kind](net, scoring=scoring, refit=metric, **common)
    with pytest.raises(NoScoreError, match=f"No candidate has a score.*The first of 3 .*by {re.escape(name)}"):
        search.fit(X, y)
    assert not [attribute for attribute in vars(search) if attribute.startswith(("best_", "lr_i", "lr_ch", "lr_ed"))]
    assert set(search.cv_results_["status"]) == {"no score: the score is nan (2 of 2 runs)"}
    assert {trial.user_attrs["status"] for trial in search.study_.trials} == set(search.cv_results_["status"])
    assert search.history_["epoch"].size == 6, "the trainings went well"
    assert search.summary() == f"Chosen: nothing, no candidate has a score; {name} returned nan."
    if metric is True:
        with pytest.warns(NoScoreWarning, match=re.escape(name)):
            search.set_params(refit=False).fit(X, y)
        assert not hasattr(search, "best_lr_")
        assert search.summary() == f"Chosen: nothing, no candidate has a score; {name} returned nan."


@pytest.mark.filterwarnings("ignore:Scoring failed", "ignore:One or more of the")
def test_another_metric_that_is_nan_spoils_nothing():
    X, y = load_iris(return_X_y=True)
    net = NeuralNetClassifier(MLP, criterion=NoSoftmax, max_epochs=2)
    search = LRGridSearchCV(net, lrs=[0.01, 0.1, 0.3], scoring=["neg_log_loss", "accuracy"], refit="accuracy", cv=2)
    assert set(search.fit(X, y).cv_results_["status"]) == {"ok"}
    assert search.best_score_ > 0


@pytest.mark.filterwarnings("ignore:One or more of the", "ignore:invalid value", "ignore::sklr.EdgeOfRangeWarning")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_candidate_without_a_score_is_not_the_best(bad):
    def scorer(estimator, X, y):
        return bad if estimator.lr == 0.1 else estimator.score(X, y)

    search = LRGridSearchCV(Basin(best=0.1), lrs=[0.1, 0.01, 1.0], scoring=scorer, cv=CV).fit(X, Y)
    assert search.cv_results_["status"][0] == f"no score: the score is {bad} (5 of 5 runs)"
    assert search.cv_results_["rank_test_score"][0] == 3
    assert search.best_lr_ == 0.01
    assert np.isfinite(search.best_score_)
    assert 0.1 not in search.lr_curve_.lr[search.lr_curve_.usable]


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
