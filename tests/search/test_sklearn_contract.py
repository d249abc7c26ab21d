"""What scikit-learn promises of a search object, behavior for behavior, where its own tests do not reach ours."""

import pickle
import re

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone, is_classifier, is_regressor
from sklearn.exceptions import FitFailedWarning, NotFittedError, UnsetMetadataPassedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, make_scorer
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, ShuffleSplit, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.utils import get_tags
from strategies import CV, X, Y, bayes, grid, net

from sklr import MLP, NeuralNetRegressor

FEW = {"values": [0.01, 0.03], "cv": CV, "random_state": 0}


def short(**params):
    return net(**{"max_epochs": 2, **params})


class Failing(ClassifierMixin, BaseEstimator):
    """Fails to fit where `fail` says so."""

    def __init__(self, fail=False):
        self.fail = fail

    def fit(self, X, y):
        if self.fail:
            raise RuntimeError("asked to fail")
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return np.zeros(len(X), dtype=int)


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


@pytest.mark.one_fast
@pytest.mark.usefixtures("routing")
def test_routing_brings_weights_and_groups_where_they_were_asked_for(make):
    weight, groups = np.where(Y == 0, 1.0, 1e-6), np.arange(len(X)) % 5
    scorer = make_scorer(accuracy_score).set_score_request(sample_weight=True)
    estimator = net(max_epochs=10).set_fit_request(sample_weight=True)
    search = make(estimator, values=[0.01, 0.03], cv=GroupKFold(5), scoring=scorer, random_state=0)
    search.fit(X, Y, sample_weight=weight, groups=groups)
    for cell in search.cells_:
        assert not set(groups[cell.train]) & set(groups[cell.test])
    assert search.best_score_ > 0.99  # only class 0 counts
    assert (search.predict(X[Y == 0]) == 0).all()
    assert search.score(X, Y, sample_weight=weight) > 0.99 > search.score(X, Y)


@pytest.mark.usefixtures("routing")
def test_routing_refuses_metadata_that_nobody_has_decided_on(make):
    with pytest.raises(UnsetMetadataPassedError, match="sample_weight"):
        make(LogisticRegression(), "C", [0.1, 1.0]).fit(X, Y, sample_weight=np.ones(len(X)))


@pytest.mark.usefixtures("routing")
@pytest.mark.parametrize(("make", "n_jobs"), [(grid, 2), (bayes, 1)])
def test_routing_goes_through_a_pipeline_and_into_workers(make, n_jobs):
    class Scaler(StandardScaler):
        def fit(self, X, y=None, sample_weight=None):
            assert sample_weight is not None
            return super().fit(X, y, sample_weight)

    scaler = Scaler().set_fit_request(sample_weight=True)
    pipeline = make_pipeline(scaler, short(max_epochs=8).set_fit_request(sample_weight=True))
    search = make(pipeline, "neuralnetclassifier__lr", cv=CV, random_state=0, n_jobs=n_jobs, error_score="raise")
    search.fit(X, Y, sample_weight=np.where(Y == 2, 1.0, 1e-6))
    assert (search.predict(X) == 2).all()


@pytest.mark.usefixtures("routing")
def test_routing_leaves_a_generator_of_folds_alone(make):
    search = make(short(), **{**FEW, "cv": iter(list(CV.split(X, Y)))}).fit(X, Y)
    assert search.n_splits_ == 3


def test_a_scorer_that_takes_no_weights_is_warned_of_in_scikit_learns_words():
    scorer = make_scorer(lambda y, y_pred: accuracy_score(y, y_pred))
    weight = np.ones(len(X))
    with pytest.warns(UserWarning, match="does not support sample_weight, which may lead to statistically incorrect"):
        grid(LogisticRegression(max_iter=999), "C", [1.0], scoring=scorer).fit(X, Y, sample_weight=weight)


def test_folds_come_from_the_splitter_once_and_a_generator_is_read_once(make):
    class Counting(KFold):
        calls = 0

        def split(self, X, y=None, groups=None):
            Counting.calls += 1
            return super().split(X, y, groups)

    make(short(), **{**FEW, "cv": Counting(2, shuffle=True)}).fit(X, Y)
    assert Counting.calls == 1
    folds = list(CV.split(X, Y))
    search = make(short(), **{**FEW, "cv": (fold for fold in folds)}).fit(X, Y)
    for cell, (train, test) in zip(search.cells_, folds, strict=True):
        np.testing.assert_array_equal(cell.train, train)
        np.testing.assert_array_equal(cell.test, test)


def test_cells_are_the_same_for_every_strategy(make):
    cv = ShuffleSplit(2, test_size=0.3)
    ours = make(short(), values=[0.01], cv=ShuffleSplit(2, random_state=0), n_seeds=2, random_state=5).fit(X, Y)
    grids = grid(short(), values=[0.01], cv=ShuffleSplit(2, random_state=0), n_seeds=2, random_state=5).fit(X, Y)
    assert [cell.seed for cell in ours.cells_] == [cell.seed for cell in grids.cells_]
    assert len({cell.seed for cell in ours.cells_}) == 4
    assert make(short(), values=[0.01], cv=cv, refit=False).fit(X, Y).n_splits_ == 2


def test_tags_are_the_estimators(make):
    classifier, regressor = make(net()), make(NeuralNetRegressor(MLP))
    assert is_classifier(classifier)
    assert not is_regressor(classifier)
    assert is_regressor(regressor)
    assert get_tags(classifier).input_tags.sparse == get_tags(net()).input_tags.sparse
    assert get_tags(make(LinearSVC())).classifier_tags == get_tags(LinearSVC()).classifier_tags


def test_methods_are_there_where_the_estimator_has_them(make):
    methods = ["predict", "predict_proba", "predict_log_proba", "decision_function", "transform", "score_samples"]
    for estimator in (net(), LinearSVC(), StandardScaler()):
        assert [hasattr(make(estimator), m) for m in methods] == [hasattr(estimator, m) for m in methods]
    search = make(net())
    with pytest.raises(NotFittedError, match=f"This {type(search).__name__} instance is not fitted yet"):
        search.predict(X)
    for attribute in ("n_features_in_", "classes_", "feature_names_in_"):
        assert not hasattr(search, attribute)


def test_a_fitted_search_knows_features_and_classes(make):
    frame, labels = pd.DataFrame(X, columns=list("abcd")), np.array(["x", "y", "z"])[Y]
    search = make(short(), **FEW).fit(frame, labels)
    assert search.n_features_in_ == 4
    assert search.feature_names_in_.tolist() == list("abcd")
    assert search.classes_.tolist() == ["x", "y", "z"]
    assert set(search.predict(frame)) <= {"x", "y", "z"}
    with pytest.raises(ValueError, match="feature names should match"):
        search.predict(frame.rename(columns={"a": "A"}))


def test_without_refit_there_is_a_choice_but_no_estimator(make):
    search = make(short(), **FEW, refit=False).fit(X, Y)
    assert search.best_params_ == {"lr": search.best_lr_}
    assert search.best_score_ == search.cv_results_["mean_test_score"][search.best_index_]
    for attribute in ("best_estimator_", "refit_time_", "n_features_in_", "classes_"):
        assert not hasattr(search, attribute)
    with pytest.raises(AttributeError, match="has no attribute 'predict'"):
        search.predict(X)
    with pytest.raises(AttributeError, match="refit=False"):
        search.score(X, Y)


def test_nothing_of_an_earlier_fit_stays(make):
    search = make(short(), **FEW).fit(X, Y)
    again = search.set_params(refit=False).fit(X, Y)
    assert not hasattr(again, "best_estimator_")


@pytest.mark.filterwarnings("ignore:One or more of the test scores are non-finite")
@pytest.mark.parametrize("error_score", [np.nan, -1.0])
def test_some_fits_fail_with_scikit_learns_warning(make, error_score):
    kwargs = {"cv": 3, "error_score": error_score}
    with pytest.warns(FitFailedWarning) as theirs:
        expected = GridSearchCV(Failing(), {"fail": [False, True]}, **kwargs).fit(X, Y)
    with pytest.warns(FitFailedWarning) as ours:
        search = make(Failing(), "fail", [False, True], random_state=0, **kwargs).fit(X, Y)
    said = [str(w.message) for w in ours if w.category is FitFailedWarning]
    n_failed = 3 * sum(params["fail"] for params in search.cv_results_["params"])
    assert len(said) == 1
    n_fits = 3 * len(search.cv_results_["params"])
    assert said[0].startswith(f"{n_failed} fits failed out of a total of {n_fits}: RuntimeError: asked to fail\n")
    assert f"will be set to {error_score}." in said[0]
    if make is grid:
        assert f"\n{n_failed} fits failed out of a total of {n_fits}." in str(theirs[0].message)
        for key in ("mean_test_score", "rank_test_score"):
            np.testing.assert_array_equal(search.cv_results_[key], expected.cv_results_[key])
    failed = np.array([params["fail"] for params in search.cv_results_["params"]])
    np.testing.assert_array_equal(search.cv_results_["mean_test_score"][failed], error_score)
    assert (search.cv_results_["rank_test_score"][failed] > search.cv_results_["rank_test_score"][~failed].max()).all()
    assert set(search.cv_results_["status"][failed]) == {"failed (3 of 3 runs)"}


def test_one_failing_candidate_in_a_batch_of_its_own_does_not_end_the_search():
    search = bayes(Failing(), "fail", [False, True], cv=2, n_points=1, random_state=0)
    with pytest.warns(FitFailedWarning), pytest.warns(UserWarning, match="non-finite"):
        search.fit(X, Y)
    assert search.best_params_ == {"fail": False}
    assert sorted(params["fail"] for params in search.cv_results_["params"]) == [False, True]


def test_an_error_is_raised_where_asked_for(make):
    with pytest.raises(RuntimeError, match="asked to fail"):
        make(Failing(), "fail", [False, True], cv=2, error_score="raise", random_state=0).fit(X, Y)


def test_all_fits_failing_is_scikit_learns_error(make):
    with pytest.raises(ValueError, match="fits failed") as raised:
        make(Failing(True), "fail", [True], cv=2).fit(X, Y)
    first, second, *_ = str(raised.value).splitlines()
    assert re.fullmatch(r"All the \d+ fits failed: RuntimeError: asked to fail", first)
    assert second == "The first of them has the parameters {'fail': True}."


@pytest.mark.filterwarnings("ignore:One or more of the test scores are non-finite")
def test_a_scorer_that_fails_is_warned_of_once_in_scikit_learns_words(make):
    def scorer(estimator, X, y):
        raise RuntimeError("no score")

    with pytest.warns(UserWarning, match="Scoring failed") as caught:
        search = make(short(), values=[0.01], cv=2, scoring=scorer, refit=False, random_state=0).fit(X, Y)
    said = [str(w.message) for w in caught if "Scoring failed" in str(w.message)]
    assert len(said) == 1
    assert said[0].startswith("Scoring failed. The score on this train-test partition for these parameters will be")
    assert np.isnan(search.cv_results_["mean_test_score"]).all()


def test_parameters_are_kept_as_given_and_a_random_state_instance_is_drawn_from(make):
    state = np.random.RandomState(0)
    search = make(short(), values=[0.01], cv=CV, random_state=state)
    assert search.get_params()["random_state"] is state
    assert clone(search).get_params(deep=False).keys() == search.get_params(deep=False).keys()
    search.set_params(estimator__max_epochs=1, n_seeds=2).fit(X, Y)
    assert search.n_seeds == 2
    assert search.history_["epoch"].max() == 0
    assert state.randint(2**31) != np.random.RandomState(0).randint(2**31)


def test_fit_again_gives_the_same_and_leaves_the_parameters(make):
    search = make(short(), **FEW)
    before = str(search.get_params(deep=False))
    first = search.fit(X, Y).cell_scores_
    np.testing.assert_array_equal(search.fit(X, Y).cell_scores_, first)
    assert str(search.get_params(deep=False)) == before
    assert not getattr(search.estimator, "initialized_", False)


def test_a_fitted_search_is_pickled_with_its_study(make):
    search = make(short(), **FEW).fit(X, Y)
    again = pickle.loads(pickle.dumps(search))
    assert [t.value for t in again.study_.trials] == [t.value for t in search.study_.trials]
    assert again.best_lr_ == search.best_lr_
    np.testing.assert_array_equal(again.history_["valid_score"], search.history_["valid_score"])
    again.fit(X, Y)
    np.testing.assert_array_equal(again.cell_scores_, search.cell_scores_)


def test_the_html_shows_search_and_estimator(make):
    search = make(short(), **FEW)
    for html in (search._repr_html_(), search.fit(X, Y)._repr_html_()):
        assert type(search).__name__ in html
        assert "NeuralNetClassifier" in html


@pytest.mark.one_fast
def test_a_search_within_a_search(make):
    inner = make(short(random_state=0), values=[0.01], cv=2, random_state=0)
    outer = GridSearchCV(inner, {"estimator__batch_size": [16, 64]}, cv=2).fit(X, Y)
    assert outer.best_estimator_.best_lr_ == 0.01
    ours = grid(inner, "estimator__batch_size", [16, 64], cv=2).fit(X, Y)
    np.testing.assert_array_equal(ours.cv_results_["mean_test_score"], outer.cv_results_["mean_test_score"])


def test_folds_of_a_regressor_are_not_stratified(make):
    class Regressor(RegressorMixin, Failing):
        pass

    search = make(Regressor(), "fail", [False], refit=False, scoring="neg_mean_squared_error").fit(X, X[:, 0])
    assert search.n_splits_ == 5
    np.testing.assert_array_equal(search.cells_[0].test, np.arange(30))
    assert len(cross_val_score(search.set_params(refit=True), X, X[:, 0], cv=2)) == 2
