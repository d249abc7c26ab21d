"""A search that starts from another one: what was tried counts, is not trained again, and is learned from."""

import numpy as np
import pytest
from scipy.stats import loguniform
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.datasets import load_iris
from sklearn.model_selection import KFold, ShuffleSplit

from sklr import MLP, BayesSearchCV, LRGridSearchCV, NeuralNetClassifier, OptunaSearchCV, StudyError

X, Y = np.arange(40.0).reshape(-1, 1), np.zeros(40)
FITS: list[float] = []


class Basin(RegressorMixin, BaseEstimator):
    """A parabola in log10 lr, with noise that depends on fold and lr alone; it notes what it is fitted with."""

    def __init__(self, lr=0.1, width=4, cliff=np.inf):
        self.lr, self.width, self.cliff = lr, width, cliff

    def fit(self, X, y):
        FITS.append(self.lr)
        self.first_ = int(X[0, 0] * 7 + X[-1, 0])
        return self

    def predict(self, X):
        return np.zeros(len(X))

    def score(self, X, y):
        luck = np.random.default_rng([self.first_, int(X[0, 0]), int(1e9 * self.lr)]).normal()
        return 0.9 - np.log10(self.lr / 0.03) ** 2 / 20 - (self.width != 8) / 50 + 0.001 * luck


LR = {"lr": (1e-5, 1.0, "log-uniform")}
REST = {"cv": ShuffleSplit(3, random_state=0), "refit": False}
WIDE = {
    "sobol": lambda: OptunaSearchCV(Basin(), LR, sampler="sobol", n_trials=8, random_state=0, **REST),
    "grid": lambda: LRGridSearchCV(Basin(), lrs=[1e-4, 1e-3, 1e-2, 1e-1, 1.0], **REST),
    "bayes": lambda: BayesSearchCV(Basin(), LR, n_iter=5, random_state=0, **REST),
}
FINE = {
    "tpe": lambda **p: OptunaSearchCV(Basin(), LR, n_trials=4, random_state=1, refit=False, **p),
    "several": lambda **p: OptunaSearchCV(
        Basin(), {**LR, "width": [4, 8]}, n_trials=4, random_state=1, refit=False, **p
    ),
    "bayes": lambda **p: BayesSearchCV(Basin(), LR, n_iter=4, random_state=1, refit=False, **p),
    "grid": lambda **p: LRGridSearchCV(Basin(), lrs=[1e-2, 3e-2, 0.1], rounds=2, refit=False, **p),
}


@pytest.fixture(scope="module", params=WIDE.values(), ids=WIDE)
def wide(request):
    return request.param().fit(X, Y)


@pytest.mark.parametrize("make", FINE.values(), ids=FINE)
def test_what_was_tried_counts_and_is_not_trained_again(wide, make, tmp_path):
    for rest in ({}, {"storage": str(tmp_path / "lr.log")}):
        FITS.clear()
        fine = make(**rest).fit(X, Y, start=wide)
        n = wide.n_iter_
        tried = fine.cv_results_["params"]
        assert tried[:n] == wide.cv_results_["params"]
        np.testing.assert_array_equal(fine.cell_scores_[:n], wide.cell_scores_)
        new = [params["lr"] for params in tried[n:]]
        assert len(new) >= 4
        assert sorted(FITS) == sorted(np.repeat(new, len(wide.cells_)).tolist())
        assert fine.cells_ is wide.cells_
        assert len(fine.lr_curve_ if "width" not in tried[-1] else tried) > n
        assert fine.best_score_ >= wide.best_score_
        assert [t.user_attrs["candidate"] for t in fine.study_.trials if t.state.is_finished()] == list(
            range(len(tried))
        )
    FITS.clear()
    assert make(**rest, study_name=fine.study_.study_name, resume=True).fit(X, Y, start=wide).n_iter_ == len(tried)
    assert FITS == []


@pytest.mark.parametrize("make", [FINE["tpe"], FINE["bayes"]], ids=["tpe", "bayes"])
def test_it_is_learned_from(wide, make):
    fine = make().fit(X, Y, start=wide)
    new = np.log10([params["lr"] for params in fine.cv_results_["params"][wide.n_iter_ :]])
    assert np.sum(np.abs(new - np.log10(0.03)) < 0.4) >= 2, new  # four by themselves would cover five decades evenly


def test_it_goes_on_in_the_same_study():
    first = WIDE["sobol"]().fit(X, Y)
    again = OptunaSearchCV(Basin(), LR, study=first.study_, n_trials=2, refit=False).fit(X, Y, start=first)
    assert again.n_iter_ == again.n_trials_ == 10


def test_a_smaller_space_knows_what_lies_in_it():
    first = WIDE["grid"]().fit(X, Y)
    narrow = {"lr": loguniform(0.005, 0.5)}
    for make in (OptunaSearchCV, BayesSearchCV):
        n = {"n_trials" if make is OptunaSearchCV else "n_iter": 3}
        fine = make(Basin(), narrow, random_state=0, refit=False, **n).fit(X, Y, start=first)
        new = [params["lr"] for params in fine.cv_results_["params"][5:]]
        assert len(new) == 3
        assert 0.005 <= min(new) < max(new) <= 0.5
        assert np.abs(np.subtract.outer(np.log10(new), [-2, -1])).min() > 0.02  # both were tried


def test_stacked_nets_go_on():
    X, y = load_iris(return_X_y=True)
    X = X.astype(np.float32)
    net = NeuralNetClassifier(MLP, max_epochs=2)
    wide = OptunaSearchCV(net, sampler="sobol", n_trials=3, cv=2, random_state=0).fit(X, y)
    fine = LRGridSearchCV(net, lrs=[0.02, 0.2]).fit(X, y, start=wide)
    assert fine.engine_ == "stacked"
    assert len(fine.history_["candidate"]) == 5 * 2 * 2
    alone = LRGridSearchCV(net, lrs=[0.02, 0.2], cv=wide.cv, random_state=0).fit(X, y)
    np.testing.assert_allclose(fine.cell_scores_[3:], alone.cell_scores_, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"cv": KFold(7)}, ValueError, "cv must be left out, or that of start"),
        ({"n_seeds": 2}, ValueError, "n_seeds must be 1, as it is in start"),
        ({"scoring": "neg_mean_squared_error"}, StudyError, "search parameters: scoring is"),
        ({"estimator": Basin(cliff=3)}, StudyError, "estimator: cliff is 3, was inf"),
    ],
)
def test_another_matter_is_refused_before_training(change, error, words):
    first = WIDE["grid"]().fit(X, Y)
    FITS.clear()
    with pytest.raises(error, match=words):
        LRGridSearchCV(Basin(), refit=False).set_params(**change).fit(X, Y, start=first)
    with pytest.raises(StudyError, match="data: X"):
        LRGridSearchCV(Basin(), refit=False).fit(X[:20], Y[:20], start=first)
    with pytest.raises(ValueError, match="start must be another search of sklr, fitted"):
        LRGridSearchCV(Basin()).fit(X, Y, start=WIDE["grid"]())
    assert FITS == []
