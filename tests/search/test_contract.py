"""What all three searches promise, one suite over the three."""

import gc
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import skorch
import torch
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.model_selection import GridSearchCV, GroupKFold, ShuffleSplit, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from strategies import CV, LRS, X, Y, grid, net
from torch import nn

from sklr import MLP, AllDivergedError, BayesSearchCV, DivergedWarning, LRGridSearchCV, OptunaSearchCV
from sklr.engines.stacked.setup import prepare, stack_setup


def scores_by_lr(search, name="param_lr"):
    lrs = np.asarray(search.cv_results_[name], dtype=float)
    return {lr: search.cell_scores_[i] for i, lr in enumerate(lrs)}


def assert_same_scores(a, b):
    shared = a.keys() & b.keys()
    assert shared
    for lr in shared:
        np.testing.assert_array_equal(a[lr], b[lr])


def test_same_candidates_score_the_same_under_every_strategy(make):
    search = make(net(), cv=CV, random_state=0).fit(X, Y)
    reference = grid(net(), cv=CV, random_state=0).fit(X, Y)
    assert_same_scores(scores_by_lr(search), scores_by_lr(reference))
    assert search.best_lr_ == search.best_params_["lr"]
    assert search.score(X, Y) > 0.6


def test_results_have_gridsearchcvs_keys_shapes_and_dtypes(make):
    search = make(net(), cv=CV, random_state=0, return_train_score=True).fit(X, Y)
    theirs = GridSearchCV(net(random_state=0), {"lr": LRS}, cv=CV, return_train_score=True).fit(X, Y)
    assert theirs.cv_results_.keys() <= search.cv_results_.keys()
    for key, column in theirs.cv_results_.items():
        ours = search.cv_results_[key]
        assert type(ours) is type(column), key
        if key != "params":
            assert (ours.dtype, ours.ndim) == (column.dtype, column.ndim), key
    assert {"status", "n_epochs"} <= search.cv_results_.keys()
    assert len(pd.DataFrame(search.cv_results_)) == len(search.cv_results_["params"])


def test_scores_equal_gridsearchcvs_where_the_net_has_a_seed():
    ours = grid(net(random_state=3), cv=CV, random_state=0).fit(X, Y)
    theirs = GridSearchCV(net(random_state=3), {"lr": LRS}, cv=CV).fit(X, Y)
    for key in ("mean_test_score", "std_test_score", "split0_test_score", "rank_test_score"):
        np.testing.assert_array_equal(ours.cv_results_[key], theirs.cv_results_[key])
    assert ours.best_params_ == theirs.best_params_
    np.testing.assert_array_equal(ours.predict_proba(X), theirs.predict_proba(X))


def test_no_learning_rate_need_be_searched(make):
    search = make(SVC(), "C", [0.01, 1.0, 100.0], cv=CV, random_state=0).fit(X, Y)
    theirs = GridSearchCV(SVC(), {"C": [0.01, 1.0, 100.0]}, cv=CV).fit(X, Y)
    assert search.best_score_ == theirs.best_score_
    assert not hasattr(search, "best_lr_")
    assert search.lr_param_ is None


def test_skorchs_own_nets_work_unchanged(make):
    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

        def forward(self, X):
            return self.layers(X)

    plain = skorch.NeuralNetClassifier(Module, criterion=nn.CrossEntropyLoss, max_epochs=4, train_split=None)
    X32 = X.astype(np.float32)
    searches = [make(plain.set_params(verbose=0), cv=CV, random_state=0).fit(X32, Y) for _ in range(2)]
    assert_same_scores(*map(scores_by_lr, searches))
    assert len(searches[0].history_["epoch"]) == searches[0].cell_scores_.size * 4


@pytest.mark.one_fast
def test_nested_cross_validation_starts_afresh_each_time(make):
    search = make(net(max_epochs=2), cv=2, random_state=0)
    scores = cross_val_score(search, X, Y, cv=CV)
    np.testing.assert_array_equal(scores, cross_val_score(search, X, Y, cv=CV))
    assert not hasattr(search, "cv_results_")
    n_trials = len(search.fit(X, Y).study_.trials)
    assert len(search.fit(X, Y).study_.trials) == n_trials


class CountingScaler(TransformerMixin, BaseEstimator):
    fits: list = []  # noqa: RUF012 - shared on purpose: clones count together

    def fit(self, X, y=None):
        self.fits.append(np.asarray(X).copy())
        self.mean_ = X.mean(axis=0)
        return self

    def transform(self, X):
        return X - self.mean_


def test_a_pipelines_head_is_fitted_once_per_fold_on_its_training_rows(make):
    CountingScaler.fits.clear()
    pipeline = Pipeline([("scale", CountingScaler()), ("net", net(random_state=0))])
    search = make(pipeline, "net__lr", cv=CV, random_state=0, refit=False)
    search.fit(X, Y)
    assert len(CountingScaler.fits) == 3, "one for each fold, whatever batches the strategy asks for"
    train_rows = [X[train] for train, _ in CV.split(X, Y)]
    for fitted, rows in zip(CountingScaler.fits, train_rows, strict=True):
        np.testing.assert_array_equal(fitted, rows)
    theirs = GridSearchCV(pipeline, {"net__lr": LRS}, cv=CV).fit(X, Y)
    expected = dict(zip(LRS, np.array([theirs.cv_results_[f"split{k}_test_score"] for k in range(3)]).T, strict=True))
    assert_same_scores(scores_by_lr(search, "param_net__lr"), expected)
    assert search.lr_param_ == "net__lr"


def test_batches_share_what_is_set_up_and_a_search_leaves_none_of_it(monkeypatch):
    place, cells = stack_setup._group_cell, []
    monkeypatch.setattr(stack_setup, "_group_cell", lambda *args: cells.append(args[1]) or place(*args))
    gc.collect()
    before = len(prepare._LAST)
    BayesSearchCV(net(), n_iter=6, cv=CV, refit=False, random_state=0, engine="stacked").fit(X, y=Y)
    gc.collect()
    assert len(cells) == CV.get_n_splits()
    assert len(prepare._LAST) == before


def test_a_scorer_that_looks_into_the_pipeline_sees_the_pipeline():
    def scorer(pipeline, X, y):
        assert X.shape[1] == 4
        assert isinstance(pipeline, Pipeline)
        assert pipeline["scale"].mean_.shape == (4,)
        return pipeline.score(X, y)

    pipeline = Pipeline([("scale", StandardScaler()), ("net", net(random_state=0))])
    ours = grid(pipeline, "net__lr", cv=CV, scoring=scorer, error_score="raise").fit(X, Y)
    plain = grid(pipeline, "net__lr", cv=CV).fit(X, Y)
    np.testing.assert_array_equal(ours.cell_scores_, plain.cell_scores_)


def test_several_metrics(make):
    scoring = {"acc": "accuracy", "loss": "neg_log_loss"}
    search = make(net(), cv=CV, random_state=0, scoring=scoring, refit="loss").fit(X, Y)
    assert search.best_score_ == search.cv_results_["mean_test_loss"].max()
    assert search.multimetric_
    assert search.scorer_.keys() == scoring.keys()
    assert np.isfinite(search.cv_results_["mean_test_acc"]).all()
    np.testing.assert_allclose(search.cell_scores_.mean(axis=1), search.cv_results_["mean_test_loss"])
    with pytest.raises(ValueError, match="refit must be set to a scorer key"):
        make(net(), cv=CV, scoring=scoring).fit(X, Y)


def test_several_metrics_without_refit(make):
    search = make(net(), cv=CV, random_state=0, scoring=["accuracy", "neg_log_loss"], refit=False).fit(X, Y)
    assert not hasattr(search, "best_index_")
    assert "rank_test_neg_log_loss" in search.cv_results_


def test_a_callable_chooses(make):
    search = make(net(), cv=CV, random_state=0, refit=lambda results: len(results["params"]) - 1).fit(X, Y)
    assert search.best_index_ == len(search.cv_results_["params"]) - 1
    assert not hasattr(search, "best_score_")
    with pytest.raises(IndexError, match="best_index_ index out of range"):
        make(net(), cv=CV, refit=lambda results: 1000).fit(X, Y)


def test_groups_go_to_the_splitter(make):
    groups = np.arange(len(X)) % 5
    search = make(net(), cv=GroupKFold(5), random_state=0).fit(X, Y, groups=groups)
    assert search.n_splits_ == 5
    for cell in search.cells_:
        assert not set(groups[cell.train]) & set(groups[cell.test])
    with pytest.raises(ValueError, match="'groups' parameter should not be None"):
        make(net(), cv=GroupKFold(5)).fit(X, Y)


def test_sample_weight_reaches_training_and_score(make):
    weight = np.where(Y == 0, 1.0, 1e-6)
    search = make(net(max_epochs=10), cv=CV, random_state=0, error_score="raise").fit(X, Y, sample_weight=weight)
    assert search.best_score_ > 0.99  # only class 0 counts
    assert (search.predict(X[Y == 0]) == 0).all()


def test_random_folds_are_drawn_once(make):
    search = make(net(), cv=ShuffleSplit(2, test_size=0.3), random_state=0)
    search.fit(X, Y)
    assert len(search.cells_) == 2
    repeated = [scores for lr, scores in scores_by_lr(search).items()]
    assert len(repeated) >= 1
    lrs = np.asarray(search.cv_results_["param_lr"], dtype=float)
    for lr in np.unique(lrs):  # a candidate proposed twice scores the same twice
        assert len({tuple(row) for row in search.cell_scores_[lrs == lr]}) == 1


@pytest.mark.one_fast
@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_workers_change_nothing(backend):
    from joblib import parallel_config

    one = grid(net(), cv=CV, random_state=0, n_seeds=2).fit(X, Y)
    with parallel_config(backend):
        two = grid(net(), cv=CV, random_state=0, n_seeds=2, n_jobs=2).fit(X, Y)
    np.testing.assert_array_equal(one.cell_scores_, two.cell_scores_)
    for column in one.history_:  # products of another number of runs may round differently
        np.testing.assert_allclose(one.history_[column], two.history_[column], rtol=1e-6)


def test_pickle_and_clone(make):
    search = make(net(), cv=CV, random_state=0)
    clone(search).fit(X, Y)
    search.fit(X, Y)
    again = pickle.loads(pickle.dumps(search))
    np.testing.assert_array_equal(again.predict_proba(X), search.predict_proba(X))
    assert not hasattr(clone(search), "cv_results_")


def test_the_same_seed_gives_the_same_search_and_the_global_generators_stay(make):
    torch_state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    first, second = (make(net(), cv=CV, random_state=7).fit(X, Y) for _ in range(2))
    assert first.best_lr_ == second.best_lr_
    np.testing.assert_array_equal(first.cell_scores_, second.cell_scores_)
    np.testing.assert_array_equal(first.predict_proba(X), second.predict_proba(X))
    assert torch.equal(torch_state, torch.random.get_rng_state())
    np.testing.assert_array_equal(numpy_state, np.random.get_state()[1])


def test_seeds_are_averaged_within_a_split(make):
    search = make(net(), cv=CV, random_state=0, n_seeds=3).fit(X, Y)
    assert search.cell_scores_.shape[1] == 9
    for k in range(3):
        expected = search.cell_scores_[:, 3 * k : 3 * k + 3].mean(axis=1)
        np.testing.assert_allclose(search.cv_results_[f"split{k}_test_score"], expected)
    assert "split3_test_score" not in search.cv_results_
    assert len(np.unique(search.cell_scores_[0, :3])) > 1  # the seeds differ
    assert set(search.history_["seed"]) == {0, 1, 2}


def test_candidates_share_their_cells():
    search = grid(net(max_epochs=1), values=[1e-9, 2e-9], cv=CV, random_state=0, n_seeds=2).fit(X, Y)
    np.testing.assert_array_equal(search.cell_scores_[0], search.cell_scores_[1])  # too small to learn: same start
    losses = pd.DataFrame(search.history_).pivot_table(index=["fold", "seed"], columns="candidate", values="train_loss")
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    assert losses[0].nunique() == 6


def test_history_has_a_row_per_run_and_epoch(make):
    search = make(net(warmup_epochs=1), cv=CV, random_state=0).fit(X, Y)
    history = pd.DataFrame(search.history_)
    assert len(history) == search.cell_scores_.size * 4
    last = history[history.epoch == 3].sort_values(["candidate", "fold"]).valid_score.to_numpy()
    np.testing.assert_allclose(last.reshape(search.cell_scores_.shape), search.cell_scores_)
    np.testing.assert_allclose(history.lr, [search.cv_results_["params"][c]["lr"] for c in history.candidate])


@pytest.mark.parametrize("error_score", [np.nan, 0.5, "raise"])
def test_a_diverged_candidate_never_ranks(make, error_score):
    with pytest.warns(DivergedWarning, match="diverged"):
        search = make(net(), values=[0.01, 1e30], cv=CV, random_state=0, error_score=error_score).fit(X, Y)
    lrs = np.asarray(search.cv_results_["param_lr"], dtype=float)
    diverged = lrs == 1e30
    assert search.best_lr_ == 0.01
    ranks = search.cv_results_["rank_test_score"]
    assert ranks[diverged].min() > ranks[~diverged].max()
    assert all(status.startswith("diverged at step") for status in search.cv_results_["status"][diverged])
    expected = np.nan if error_score == "raise" else error_score
    np.testing.assert_array_equal(search.cv_results_["mean_test_score"][diverged], expected)


def test_the_last_step_can_diverge_too(make):
    one_step = net(max_epochs=1, batch_size=-1)
    with pytest.warns(DivergedWarning):
        search = make(one_step, values=[0.01, 1e30], cv=CV, random_state=0).fit(X, Y)
    assert search.best_lr_ == 0.01


def test_all_diverged_is_an_error_that_says_so(make):
    with pytest.raises(AllDivergedError, match=r"candidates diverged or failed.*Search smaller learning rates"):
        make(net(), values=[1e30, 1e31], cv=CV, random_state=0).fit(X, Y)


class Interrupting(MLP):
    calls = 0

    def forward(self, X):
        Interrupting.calls += 1
        if Interrupting.calls == 20:
            raise KeyboardInterrupt
        return super().forward(X)


def test_ctrl_c_ends_the_search_not_one_training(make):
    Interrupting.calls = 0
    with pytest.raises(KeyboardInterrupt):
        make(net().set_params(module=Interrupting), cv=CV, random_state=0).fit(X, Y)
    assert Interrupting.calls == 20


def test_the_users_early_stopping_ends_a_training_quietly(make):
    stopper = ("stop", skorch.callbacks.EarlyStopping(monitor="train_loss", patience=1, threshold=10))
    search = make(net(callbacks=[stopper], max_epochs=9), cv=CV, random_state=0).fit(X, Y)
    assert search.cv_results_["n_epochs"].max() < 9
    assert (search.cv_results_["status"] == "ok").all()


def test_nothing_is_printed_by_default(make, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(net(), values=[0.01, 0.03], cv=CV, random_state=0).fit(X, Y)
    assert capsys.readouterr() == ("", "")


def test_a_pipeline_made_by_make_pipeline_finds_its_lr(make):
    search = make(make_pipeline(StandardScaler(), net()), "neuralnetclassifier__lr", cv=CV, random_state=0).fit(X, Y)
    assert search.best_lr_ in LRS
    assert search.score(X, Y) > 0.5


def test_every_strategy_searches_the_lr_alone_by_default():
    kwargs = {"lr_range": (1e-2, 1.0), "cv": CV, "random_state": 0}
    for search in (
        LRGridSearchCV(net(), n_lrs=3, **kwargs),
        BayesSearchCV(net(), n_iter=3, **kwargs),
        OptunaSearchCV(net(), n_trials=3, **kwargs),
    ):
        search.fit(X, Y)
        lrs = np.asarray(search.cv_results_["param_lr"], dtype=float)
        assert len(lrs) == 3
        assert ((lrs >= 1e-2) & (lrs <= 1.0)).all()
        assert list(search.cv_results_["params"][0]) == ["lr"]


def test_every_trial_is_in_the_study(make):
    search = make(net(), cv=CV, random_state=0).fit(X, Y)
    trials = search.study_.trials
    assert [t.value for t in trials] == pytest.approx(search.cv_results_["mean_test_score"].tolist())
    assert [t.user_attrs["status"] for t in trials] == search.cv_results_["status"].tolist()
    assert search.study_.best_trial.number == search.best_index_
