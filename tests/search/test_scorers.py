"""Scorers that cannot score: found before training where that is certain, and told of once where it is not."""

import warnings

import numpy as np
import pytest
from sklearn.metrics import make_scorer
from sklearn.model_selection import GridSearchCV
from strategies import X, Y, net

import sklr
from sklr import LRGridSearchCV, NeuralNetRegressor, NoScoreError

ENGINES = ["stacked", "sequential"]


def search(estimator=None, **params):
    return LRGridSearchCV(estimator or net(), **{"lrs": [0.01, 0.1], "cv": 2, "random_state": 0, **params})


def raising(estimator, X, y):
    raise RuntimeError("cannot score")


def share(y_true, y_pred):
    return float((y_true == y_pred).mean())


def in_words(estimator, X, y):
    return "good"


def caught_in(train):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(NoScoreError) as error:
            train()
    return [str(w.message) for w in caught if str(w.message).startswith("Scoring failed")], str(error.value)


class Untrainable(sklr.NeuralNetClassifier):
    def train_step(self, *args, **params):
        raise AssertionError("trained, though the scorer is bad")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("scoring", ["roc_auc", ["roc_auc", "accuracy"]])
def test_a_metric_that_is_not_for_these_targets_is_refused_before_training(engine, scoring, monkeypatch):
    monkeypatch.setattr(sklr.NeuralNetClassifier, "train_step", Untrainable.train_step)
    labels = np.arange(len(X)) % 3
    refit = "roc_auc" if isinstance(scoring, list) else True
    with pytest.raises(ValueError, match=r"scoring must be a scorer for the predictions of .* got 'roc_auc_score'"):
        search(scoring=scoring, refit=refit, engine=engine, error_score="raise").fit(X, labels)


def test_a_metric_that_positive_predictions_satisfy_is_left_to_the_training():
    y = np.linspace(1, 2, len(X)).astype("float32")
    regressor = NeuralNetRegressor(sklr.MLP, max_epochs=1)
    found = search(regressor, scoring="neg_mean_squared_log_error", error_score=-9.0, lrs=[1e-6], refit=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found.fit(X, y)
    assert np.isfinite(found.cell_scores_).all()


def test_a_metric_that_one_fold_cannot_have_is_left_to_the_training():
    labels = np.zeros(len(X), dtype=int)
    labels[:3] = 1
    halves = np.array_split(np.arange(len(X)), 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = search(scoring="neg_log_loss", refit=False, cv=[(halves[0], halves[1]), (halves[0], halves[0])])
        found.fit(X, labels)
    assert np.isnan(found.cell_scores_[:, 0]).all()
    assert np.isfinite(found.cell_scores_[:, 1]).all()


def test_a_metric_as_a_scorer_is_refused_with_what_to_write():
    with pytest.raises(ValueError, match=r"got 'share\(y_true, y_pred\)'. .* write sklearn.metrics.make_scorer\(share"):
        search(scoring={"a": share}, refit="a").fit(X, Y)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("several", [False, True])
def test_a_scorer_that_raises_is_told_of_once(engine, several):
    scoring, refit = ({"bad": raising, "good": "accuracy"}, "bad") if several else (raising, True)
    said, error = caught_in(lambda: search(scoring=scoring, refit=refit, engine=engine).fit(X, Y))
    assert len(said) == 1
    assert "every other run in which this happens: RuntimeError: cannot score\n" in said[0]
    assert "Traceback (most recent call last)" in said[0]
    assert error.endswith("It raised RuntimeError: cannot score")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_score_that_is_no_number_ends_the_search_without_another_training(engine):
    with pytest.raises(ValueError, match=r"scoring must return a number, got good .*in_words"):
        search(scoring=in_words, engine=engine).fit(X, Y)


def test_a_metric_of_the_users_is_called_once_a_run():
    calls = []

    def counted(y_true, y_pred):
        calls.append(1)
        return share(y_true, y_pred)

    search(scoring=make_scorer(counted)).fit(X, Y)
    assert len(calls) == 4


def test_in_scikit_learns_own_search_a_scorer_that_raises_is_told_of_once():
    with warnings.catch_warnings(record=True) as caught, sklr.stacked():
        warnings.simplefilter("always")
        GridSearchCV(net(), {"lr": [0.01, 0.1]}, scoring=raising, cv=2, refit=False).fit(X, Y)
    assert len([w for w in caught if str(w.message).startswith("Scoring failed")]) == 1
