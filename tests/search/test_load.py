"""A search read from its study is the search that wrote it, but for the estimator; what is not finished says so."""

import pickle

import numpy as np
import optuna
import pytest
from killable import Slow, X, Y, comparable, search_of
from optuna.storages import InMemoryStorage
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, ShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skopt.space import Real
from strategies import CV, net
from torch import nn

import sklr
from sklr import (
    BayesSearchCV,
    DivergedWarning,
    LRGridSearchCV,
    OptunaSearchCV,
    StorageError,
    StorageWarning,
    StudyError,
)

WITH_TUPLES = {"lr": [0.01, 0.1], "module__hidden": [(4,), (8, 4)], "optimizer": ["sgd"]}
WRITTEN = {
    "grid": lambda: LRGridSearchCV(net(max_epochs=2), WITH_TUPLES, n_seeds=2, cv=CV),
    "rounds": lambda: LRGridSearchCV(Slow(), lr_range=(1e-3, 1.0), n_lrs=4, rounds=2, select="one_se", refit=False),
    "bayes": lambda: BayesSearchCV(net(max_epochs=2), WITH_TUPLES, n_iter=3, cv=CV, return_train_score=True),
    "optuna": lambda: OptunaSearchCV(net(max_epochs=4), n_trials=5, cv=CV, pruner="median", refit=False),
    "two scores": lambda: LRGridSearchCV(
        LogisticRegression(max_iter=999),
        {"C": [0.1, 1.0]},
        cv=CV,
        scoring=["accuracy", "neg_log_loss"],
        refit="neg_log_loss",
    ),
    "a function": lambda: LRGridSearchCV(Slow(), lrs=[0.01, 0.1, 1.0], cv=CV, scoring=lambda e, X, y: e.score(X, y)),
}
OPEN_NAMES = {  # skorch passes them on without listing them among the net's parameters
    "lr": (0.01, 0.1, "log-uniform"),
    "optimizer__weight_decay": (1e-6, 0.01, "log-uniform"),
    "module__dropout": (0.0, 0.5),
}
WRITTEN |= {
    "grid of open names": lambda: LRGridSearchCV(net(), {n: list(v[:2]) for n, v in OPEN_NAMES.items()}, cv=CV),
    "bayes of open names": lambda: BayesSearchCV(net(max_epochs=2), OPEN_NAMES, n_iter=3, cv=CV),
    "optuna of open names": lambda: OptunaSearchCV(net(max_epochs=2), OPEN_NAMES, n_trials=3, cv=CV),
}
SAME = ["best_index_", "best_params_", "best_score_", "best_lr_", "lr_interval_", "lr_edge_", "max_stable_lr_"]
SAME += ["n_splits_", "n_seeds", "engine_", "multimetric_", "lr_param_", "select", "confidence"]
FILES = {"grid": "s.db", "bayes": "s.log"}


def test_a_search_of_ones_own_is_loaded_where_its_class_is_known():
    class Own(LRGridSearchCV):
        pass

    storage = InMemoryStorage()
    search = Own(net(max_epochs=2), [{"lr": [0.01, 0.1, 1.0]}], cv=CV, storage=storage, study_name="s").fit(X, Y)
    again = sklr.load_search(storage)
    assert type(again) is Own
    assert again.best_lr_ == search.best_lr_
    Own.__name__ = "Renamed"
    with pytest.raises(StudyError, match=r"written by the search Own, which is not known here\. Import the module"):
        sklr.load_search(storage)


@pytest.mark.parametrize("kind", WRITTEN)
def test_all_that_follows_from_the_scores_is_there(tmp_path, kind):
    storage = tmp_path / FILES[kind] if kind in FILES else InMemoryStorage()
    search = WRITTEN[kind]().set_params(random_state=0, storage=storage, study_name="s").fit(X, Y)
    again = sklr.load_search(storage)
    assert type(again) is type(search)
    assert repr(comparable(again.cv_results_)) == repr(comparable(search.cv_results_))
    assert again.cv_results_["mean_fit_time"].tolist() == search.cv_results_["mean_fit_time"].tolist()
    np.testing.assert_array_equal(again.cell_scores_, search.cell_scores_)
    assert {k: repr(v) for k, v in again.history_.items()} == {k: repr(v) for k, v in search.history_.items()}
    for name in SAME:
        assert getattr(again, name, None) == getattr(search, name, None), name
    assert again.summary() == search.summary()
    assert list(map(list, getattr(again, "rounds_", []))) == list(map(list, getattr(search, "rounds_", [])))
    assert len(again.study_.trials) == len(search.study_.trials)
    assert type(search.estimator).__name__ in again.report(tmp_path / "r.html").read_text()
    if kind != "two scores":
        sklr.plot_lr_curve(again)
        sklr.plot_rounds(again)
    assert pickle.loads(pickle.dumps(again.estimator)).get_params() == again.estimator.get_params()
    for predict in (again.predict, again.predict_proba, again.score):
        with pytest.raises((NotFittedError, AttributeError), match=r"set_params\(estimator=net\).fit\(X, y\)|predict"):
            predict(X)
    with pytest.raises(NotFittedError, match=r"Give it one, search.set_params\(estimator=net\).fit\(X, y\)"):
        again.best_estimator_  # noqa: B018


@pytest.mark.parametrize("file", ["s.db", "s.log"])
def test_with_its_estimator_and_data_it_trains_the_best_alone(tmp_path, file, monkeypatch):
    search = search_of("optuna", storage=tmp_path / file, study_name="s").fit(X, Y)
    monkeypatch.setattr("sklr.search._evaluator.pick_engine", None)
    again = sklr.load_search(str(tmp_path / file), "s")
    assert again.set_params(estimator=Slow()).fit(X, Y).best_estimator_.lr == search.best_lr_
    with pytest.raises(StudyError, match="data: X has other values"):
        again.fit(X + 1, Y)


DECAY = optuna.distributions.FloatDistribution(1e-6, 0.5, log=True)
GIVEN_AS_OBJECTS = {
    "an array": lambda: LRGridSearchCV(net(max_epochs=1), lrs=np.geomspace(0.01, 1, 3)),
    "a splitter": lambda: LRGridSearchCV(net(max_epochs=1), lrs=[0.01, 0.1], cv=ShuffleSplit(2, random_state=0)),
    "distributions": lambda: OptunaSearchCV(
        net(max_epochs=1), {"lr": DECAY, "optimizer__weight_decay": DECAY}, n_trials=3
    ),
    "dimensions": lambda: BayesSearchCV(net(max_epochs=1), {"lr": Real(0.01, 0.1, prior="log-uniform")}, n_iter=2),
}


@pytest.mark.parametrize("kind", GIVEN_AS_OBJECTS)
def test_splitters_arrays_and_spaces_are_stored(kind, monkeypatch):
    storage = InMemoryStorage()
    search = GIVEN_AS_OBJECTS[kind]().set_params(random_state=0, storage=storage, study_name="s").fit(X, Y)
    again = sklr.load_search(storage)
    assert again.summary() == search.summary()
    assert again.param_edges_ == search.param_edges_
    monkeypatch.setattr("sklr.search._evaluator.pick_engine", None)  # that no candidate is trained
    again.set_params(estimator=search.estimator).fit(X, Y)
    assert len(again.cv_results_["params"]) == len(search.cv_results_["params"])


class Halves(KFold):
    """A splitter that the study cannot store."""


def test_what_is_not_stored_has_to_be_given_before_a_fit(monkeypatch):
    storage, grid = InMemoryStorage(), {"lr": [0.01, 0.1], "module__activation": [nn.ReLU, nn.Tanh]}
    estimator = net(max_epochs=1)
    LRGridSearchCV(
        estimator, grid, cv=Halves(2, shuffle=True, random_state=0), random_state=0, storage=storage, study_name="s"
    ).fit(X, Y)
    again = sklr.load_search(storage)
    with pytest.raises(StudyError, match=r"^estimator, cv and param_grid must be set .* not store them\. Write"):
        again.fit(X, Y)
    with pytest.raises(StudyError, match=r"^param_grid must be .* it\. Write search.set_params\(param_grid=\.\.\.\)"):
        again.set_params(estimator=estimator, cv=Halves(2, shuffle=True, random_state=0)).fit(X, Y)
    monkeypatch.setattr("sklr.search._evaluator.pick_engine", None)
    assert len(again.set_params(param_grid=grid).fit(X, Y).cv_results_["params"]) == 4


def test_folds_given_as_row_numbers_do_not_fill_the_study():
    storage, estimator = InMemoryStorage(), DummyClassifier()
    rows, y = np.zeros((6000, 1)), np.arange(6000) % 2
    folds = list(KFold(3, shuffle=True, random_state=0).split(rows))
    LRGridSearchCV(
        estimator, {"strategy": ["prior", "uniform"]}, cv=folds, storage=storage, study_name="s", random_state=0
    ).fit(rows, y)
    stored = storage.get_study_user_attrs(storage.get_all_studies()[0]._study_id)
    assert len(str(stored)) < 10_000
    with pytest.raises(StudyError, match=r"^estimator and cv must be set"):
        sklr.load_search(storage).fit(rows, y)


def test_the_function_of_a_refit_is_missed():
    storage = InMemoryStorage()
    search = LRGridSearchCV(Slow(), lrs=[0.01, 0.1], cv=3, refit=lambda results: 1, storage=storage, study_name="s")
    assert search.fit(X, Y).best_index_ == 1
    again = sklr.load_search(storage)
    assert again.best_index_ == 0
    assert "Note: refit was a function, which the study does not store" in again.summary()


def test_a_study_of_ones_own_and_what_diverged(tmp_path):
    storage = f"sqlite:///{tmp_path / 's.db'}"
    study = optuna.create_study(storage=storage, study_name="mine", direction="maximize")
    estimator = net(optimizer="sgd", max_epochs=1)
    space = {"lr": optuna.distributions.FloatDistribution(0.01, 1e30, log=True)}
    for lr in (0.01, 1e30):
        study.enqueue_trial({"lr": lr})
    search = OptunaSearchCV(estimator, space, n_trials=3, study=study, cv=CV, random_state=0)
    with pytest.warns(DivergedWarning):
        search.fit(X, Y)
    with pytest.warns(DivergedWarning):
        again = sklr.load_search(storage)
    assert list(again.cv_results_["status"]) == list(search.cv_results_["status"])
    assert again.summary() == search.summary()


class BreaksOff(Slow):
    def fit(self, X, y):
        if self.lr == 0.3:
            raise KeyboardInterrupt
        return super().fit(X, y)


@pytest.mark.parametrize("file", ["s.db", "s.log"])
def test_what_is_not_finished_says_so(tmp_path, file):
    search = LRGridSearchCV(BreaksOff(), lrs=[0.1, 0.2, 0.3], cv=2, storage=tmp_path / file, study_name="s")
    with pytest.raises(KeyboardInterrupt):
        search.fit(X, Y)
    with pytest.warns(StorageWarning, match="study 's' is not finished: it has 2 of 3 candidates. Continue it with re"):
        again = sklr.load_search(tmp_path / file)
    assert [params["lr"] for params in again.cv_results_["params"]] == [0.1, 0.2]
    assert "Note: The study 's' is not finished: it has 2 of 3 candidates." in again.summary()


def test_a_grid_that_has_grown_has_all_its_candidates():
    kept = {"cv": 2, "storage": InMemoryStorage(), "study_name": "s", "resume": True, "random_state": 0}
    for lrs in ([0.1, 0.3], [0.3, 0.2, 0.1]):
        LRGridSearchCV(Slow(), lrs=lrs, **kept).fit(X, Y)
    again = sklr.load_search(kept["storage"])
    assert sorted(params["lr"] for params in again.cv_results_["params"]) == [0.1, 0.2, 0.3]


def test_what_cannot_be_loaded(tmp_path):
    storage = f"sqlite:///{tmp_path / 's.db'}"
    with pytest.raises(StorageError, match="there is no such file"):
        sklr.load_search(storage)
    assert not (tmp_path / "s.db").exists()
    made = optuna.storages.RDBStorage(storage)
    for name in ("b", "a"):
        optuna.create_study(storage=made, study_name=name)
    made.engine.dispose()  # Python 3.13 warns of connections that are left open
    with pytest.raises(StudyError, match=r"study_name must be given .* got None. It has 'a', 'b'"):
        sklr.load_search(storage)
    with pytest.raises(StudyError, match=r"study_name must be one that the storage has, got 'c'. It has 'a', 'b'"):
        sklr.load_search(storage, "c")
    with pytest.raises(StudyError, match="The study 'a' is not one of sklr's"):
        sklr.load_search(storage, "a")
    with pytest.raises(StudyError, match="It has none"):
        sklr.load_search(InMemoryStorage())
    with pytest.raises(ValueError, match=r"storage must be a path that ends in .db or .log"):
        sklr.load_search("s.txt")


def test_the_repr_of_a_loaded_search_leaves_out_the_parameters_of_callbacks(tmp_path):
    storage = str(tmp_path / "lr.db")
    for name, estimator in (("a", net()), ("b", make_pipeline(StandardScaler(), net()))):
        LRGridSearchCV(estimator, lrs=[0.1], cv=2, storage=storage, study_name=name, resume=True).fit(X, Y)
        found = sklr.load_search(storage, name)
        assert "callbacks__" not in repr(found)
        assert "batch_size=16" in repr(found.estimator), "the value, not its description in quotes"
        assert "'16'" not in found._repr_html_()
        assert any("callbacks__" in name for name in found.estimator.get_params())
