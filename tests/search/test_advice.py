"""Settings without effect, and values that mean another thing than they seem to, are said at the user's line."""

import re
import warnings

import numpy as np
import pytest
import torch
from optuna.samplers import BruteForceSampler, GridSampler
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from skorch.dataset import Dataset
from strategies import X, Y, net

from sklr import BayesSearchCV, LRGridSearchCV, OptunaSearchCV
from sklr._utils.quiet_optuna import quiet_study

G, B, T = LRGridSearchCV, BayesSearchCV, OptunaSearchCV
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


def small(kind, *args, **params):
    size = {} if kind is G else {"n_iter" if kind is B else "n_trials": 2}
    return kind(net(max_epochs=1), *args, cv=2, refit=False, random_state=0, **size, **params)


def warnings_of(search):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        search.fit(X, Y)
    ours = [w for w in caught if re.search("has no effect|two choices|linear scale", str(w.message))]
    assert all(w.filename == __file__ for w in ours), "they point at the user's line"
    return [str(w.message) for w in ours]


@pytest.mark.parametrize("kind", [B, T])
@pytest.mark.parametrize(
    ("given", "warned"),
    [
        ({"lr": [1e-4, 1e-2]}, "write (0.0001, 0.01, 'log-uniform')"),
        ({"lr": np.array([1e-2, 1e-4])}, "write (0.0001, 0.01, 'log-uniform')"),
        ({"optimizer__weight_decay": [1e-5, 1e-2]}, "write (1e-05, 0.01)"),
        ({"module__dropout": [0.0, 0.5]}, None),
        ({"batch_size": [8, 128]}, "write (8, 128)"),
        ({"batch_size": [32, 64]}, None),
        ({"lr": [1e-4, 1e-3, 1e-2]}, None),
        ({"lr": [0.1]}, None),
        ({"lr": (1e-4, 1e-2)}, None),
        ({"lr": (1e-5, 0.1)}, "nine of ten values are above 0.01, and those near 1e-05 are hardly tried. For a log"),
        ({"lr": (1e-5, 0.1, "log-uniform")}, None),
        ({"optimizer__weight_decay": (1e-5, 0.1)}, None),
        ({"optimizer": ["sgd", "adam"]}, None),
        ({"iterator_train__shuffle": [True, False]}, None),
    ],
    ids=str,
)
def test_a_list_of_two_numbers_and_a_linear_range_of_lrs_are_said_to_be_so(kind, given, warned):
    said = warnings_of(small(kind, given))
    assert len(said) == (warned is not None)
    assert warned is None or warned in said[0]


@pytest.mark.parametrize(
    ("search", "idle"),
    [
        (small(G, {"batch_size": [32, 64]}, lr_range=(1e-3, 0.1), n_lrs=3), []),
        (small(G, {"batch_size": [32, 64]}, n_lrs=3), ["n_lrs=3"]),
        (small(G, {"lr": [0.1]}, lr_range=(1e-3, 0.1), n_lrs=3), ["lr_range=", "n_lrs=3"]),
        (small(G, [{"lr": [0.1]}, {"batch_size": [32]}], lr_range=(1e-3, 0.1), n_lrs=3), []),
        (small(G, {"lr": [0.1]}, n_lrs=3), ["n_lrs=3"]),
        (small(G, {"lr": (1e-3, 0.1, "log-uniform")}, n_lrs=3), []),
        (small(G, lrs=[0.1], lr_range=(1e-3, 0.1)), ["lr_range="]),
        (small(G, lr_range=(1e-3, 0.1), n_lrs=2), []),
        (small(B, {"batch_size": [16, 32]}, lr_range=(1e-3, 0.1)), []),
        (small(T, {"batch_size": [16, 32]}, lr_range=(1e-3, 0.1)), []),
        (small(B, {"lr": (1e-3, 0.1)}, lr_range=(1e-3, 0.1)), ["lr_range="]),
        (small(T, {"lr": (1e-3, 0.1)}, lr_range=(1e-5, 1.0)), ["lr_range="]),
        (small(T, lr_range=(1e-3, 0.1)), []),
    ],
)
def test_a_range_that_nothing_uses_is_said(search, idle):
    said = warnings_of(search)
    assert len(said) == len(idle)
    assert all(text.startswith(what) and "has no effect if" in text for text, what in zip(said, idle, strict=True))


@pytest.mark.parametrize("kind", [G, B, T])
@pytest.mark.parametrize("given", [(1e-3, 0.1), (1e-5, 1.0), None])
def test_a_range_that_is_given_is_searched_along_with_a_space_that_has_no_learning_rate(kind, given):
    """Only then: without a range the spaces of scikit-learn, skopt and optuna-integration mean what they mean there."""
    search = small(kind, {"optimizer__weight_decay": [0.0, 0.1]}, lr_range=given).fit(X, Y)
    searched = [set(candidate) for candidate in search.cv_results_["params"]]
    assert all(names == {"optimizer__weight_decay"} | ({"lr"} if given else set()) for names in searched)
    if given:
        lrs = search.cv_results_["param_lr"].astype(float)
        assert (lrs >= given[0]).all()
        assert (lrs <= given[1]).all()
        assert len(set(lrs)) > 1
        assert search.lr_param_ == "lr"


def test_a_range_is_added_only_to_the_grids_without_a_learning_rate():
    grids = [{"lr": [0.2]}, {"batch_size": [16, 32]}]
    found = small(G, grids, lr_range=(1e-3, 0.1), n_lrs=2).fit(X, Y).cv_results_["params"]
    assert [candidate["lr"] for candidate in found] == [0.2, 1e-3, 0.1, 1e-3, 0.1]


def test_a_range_for_an_estimator_without_a_learning_rate_is_refused():
    with pytest.raises(ValueError, match="lr_param must be given if no parameter is called lr"):
        LRGridSearchCV(SVC(), {"C": [1, 2]}, lr_range=(1e-3, 0.1), cv=2).fit(X, Y)


@pytest.mark.parametrize("bad", [0.0, -0.1, float("nan"), float("inf")])
def test_a_learning_rate_in_a_pipeline_is_checked_too(bad):
    search = LRGridSearchCV(make_pipeline(StandardScaler(), net()), {"neuralnetclassifier__lr": [0.1, bad]}, cv=2)
    with pytest.raises(ValueError, match=rf"\['neuralnetclassifier__lr'\] must be learning rates, .* got {bad!r}"):
        search.fit(X, Y)


def test_a_rate_that_is_a_text_is_no_number():
    grid = {"learning_rate": ["optimal", "constant"], "eta0": [0.1]}
    assert LRGridSearchCV(SGDClassifier(), grid, cv=2).fit(X, Y).n_iter_ == 2


def test_more_folds_than_the_smallest_class_has_rows_are_warned_of_as_in_scikit_learn():
    rare = np.where(np.arange(len(Y)) == 0, 2, Y % 2)
    scores = []
    for make in (LRGridSearchCV, GridSearchCV):
        search = make(LogisticRegression(), {"C": [0.1, 1.0]}, cv=3, refit=False)
        with pytest.warns(UserWarning, match="The least populated class in y has only 1 members"):
            search.fit(X, rare)
        scores.append(search.cv_results_["mean_test_score"].tolist())
    assert scores[0] == scores[1]


# ----------------------------------------------------------------------------------------- samplers that come to an end
SPACE = {"lr": [0.01, 0.1, 0.3], "batch_size": [16, 32]}
SAMPLERS = {"grid": lambda: GridSampler(SPACE, seed=0), "brute force": lambda: BruteForceSampler(seed=0)}


@pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("n_trials", [6, 4, 50, None])
@pytest.mark.parametrize("n_points", [None, 2])
def test_a_sampler_that_has_tried_everything_ends_the_search(make, n_trials, n_points):
    timeout = 600 if n_trials is None else None
    search = OptunaSearchCV(SGDClassifier(), {"eta0": SPACE["lr"], "max_iter": SPACE["batch_size"]}, sampler=make(),
                            n_trials=n_trials, n_points=n_points, timeout=timeout, cv=2, error_score=0.0)  # fmt: skip
    if isinstance(search.sampler, GridSampler):
        search.sampler = GridSampler({"eta0": SPACE["lr"], "max_iter": SPACE["batch_size"]}, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of SGDClassifier, that few iterations are not enough
        search.fit(X, Y)
    tried = {tuple(params.values()) for params in search.cv_results_["params"]}
    assert len(tried) == len(search.cv_results_["params"]) == min(6, n_trials or 6)
    assert search.best_estimator_.predict(X).shape == Y.shape


@pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS)
def test_a_stored_one_and_a_study_of_the_users_own_end_too(make, tmp_path):
    space = {"C": [0.1, 1.0, 10.0]}
    sampler = GridSampler(space, seed=0) if isinstance(make(), GridSampler) else make()
    kept = {"storage": tmp_path / "s.db", "study_name": "s", "resume": True}
    for given in (kept, kept, {"study": quiet_study(sampler)}):
        own = {} if "study" in given else {"sampler": sampler}
        search = OptunaSearchCV(SVC(), space, n_trials=9, cv=2, **given, **own).fit(X, Y)
        assert search.n_trials_ == 3


# ----------------------------------------------------------------------------------- a refit that does not come through
class OnlyOnFolds(SVC):
    """Cannot be trained on all rows."""

    error = RuntimeError

    def fit(self, X, y):
        if len(X) == len(Y):
            raise self.error("no refit")
        return super().fit(X, y)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("make", [G, B, T])
def test_a_refit_that_fails_leaves_the_results(make, error):
    OnlyOnFolds.error = error
    search = make(OnlyOnFolds(), {"C": [1.0, 2.0, 3.0]}, cv=2)
    with pytest.raises(error, match="no refit"):
        search.fit(X, Y)
    best = search.cv_results_["params"][search.best_index_]
    assert search.best_params_ == best
    assert search.summary().startswith(f"Chosen: {best}")
    assert not hasattr(search, "best_estimator_")
    for call in (search.predict, lambda X: search.score(X, Y)):
        with pytest.raises(NotFittedError, match=r"has no best_estimator_: the training .* failed, was interrupted"):
            call(X)


# ----------------------------------------------------------------------------------------------- repeatable predictions
class Noisy(Dataset):
    """Augments at prediction, too."""

    def __getitem__(self, i):
        features, target = super().__getitem__(i)
        return features + np.random.randn(*features.shape).astype("float32") + torch.randn(
            features.shape
        ).numpy(), target


@pytest.mark.parametrize("scoring", [None, "neg_log_loss"])
def test_a_dataset_that_augments_at_prediction_is_repeatable(scoring):
    scores = []
    for seed in (1, 2):
        np.random.seed(seed)
        torch.manual_seed(seed)
        search = LRGridSearchCV(net(dataset=Noisy), lrs=[0.01, 0.1], cv=2, scoring=scoring, random_state=0, refit=False)
        scores.append(search.fit(X.astype("float32"), Y).cell_scores_.tolist())
    assert scores[0] == scores[1]
