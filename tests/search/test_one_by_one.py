"""Searches whose candidates are partly stacked, or fall out of their stack: results, reasons, pruners, Ctrl-C."""

import os
import re
import signal

import numpy as np
import pytest
import sklearn.model_selection
import skorch
import torch
from strategies import CV, X, Y, net

import sklr
from sklr import BayesSearchCV, LRGridSearchCV, OptunaSearchCV, StackFallbackWarning, lr_range_test
from sklr.engines.stacked.engine import StackedEngine
from sklr.engines.stacked.model.pack import Pack
from sklr.engines.stacked.scored_pack import ScoredPack
from sklr.engines.stacked.setup import prepare
from sklr.recipes._sweep import sweep

LRS = [0.001, 0.003, 0.01, 0.03]
NET = net(module__dtype=torch.float64, batch_size=50, random_state=0)
MIXED = {"lr": LRS[:2], "optimizer": ["adam", "rprop"]}
FALLS = pytest.warns(StackFallbackWarning, match="ArithmeticError: out of luck")


def search(estimator=NET, grid=None, **params):
    given = {"cv": CV, "random_state": 0, "refit": False, "scoring": "neg_log_loss", **params}
    return LRGridSearchCV(estimator, grid or {"lr": LRS}, **given)


@pytest.fixture
def unforeseen(monkeypatch):
    """What goes wrong is what no audit has foreseen."""
    monkeypatch.setattr(prepare, "audit", lambda *args: None)


@pytest.fixture
def luckless(monkeypatch):
    """Have the packs fail that one of these learning rates is in, in some epoch."""

    def break_at(epoch, lrs):
        usual = Pack.steps

        def steps(pack, *args):
            if pack.epoch >= epoch and {member.lrs[0] for member in pack.members} & set(lrs):
                raise ArithmeticError("out of luck")
            return usual(pack, *args)

        monkeypatch.setattr(Pack, "steps", steps)

    return break_at


def assert_same_results(found, reference):
    for name in ("mean_test_score", "std_test_score"):
        np.testing.assert_allclose(found.cv_results_[name], reference.cv_results_[name], rtol=1e-9)
    assert list(found.cv_results_["status"]) == list(reference.cv_results_["status"])
    for name, column in reference.history_.items():
        if name != "valid_score" or reference.pruner is not None:  # one by one nobody else asks for it
            np.testing.assert_allclose(found.history_[name], column, rtol=1e-9)


@pytest.mark.parametrize("pruner", [None, "median"])
def test_a_search_falls_back_for_the_pack_that_failed(pruner, luckless):
    reference = search(pruner=pruner, engine="sequential").fit(X, Y)
    luckless(2, LRS[1:2])
    with FALLS as caught:
        found = search(pruner=pruner, engine=StackedEngine(max_stack=6)).fit(X, Y)
    (warned,) = (w for w in caught if w.category is StackFallbackWarning)
    assert warned.filename == __file__
    assert found.engine_ == "stacked and sequential"
    (reason,) = found.engine_reasons_
    assert reason.startswith("training in a stack raised ArithmeticError: out of luck (candidates {'lr': ")
    assert_same_results(found, reference)


def test_all_of_it_may_fall_back(luckless, unforeseen):
    luckless(0, LRS)
    with FALLS:
        found = search(engine="stacked").fit(X, Y)
    assert (found.engine_, found.engine_reasons_) == (
        "sequential",
        ["training in a stack raised ArithmeticError: out of luck"],
    )
    assert_same_results(found, search(engine="sequential").fit(X, Y))


@pytest.fixture
def n_stacks(monkeypatch):
    """The learning rates of every pack that has begun to train."""
    begun = []
    usual = Pack.steps

    def steps(pack, *args):
        if pack.epoch == 0:
            begun.append([member.lrs[0] for member in pack.members])
        return usual(pack, *args)

    monkeypatch.setattr(Pack, "steps", steps)
    return begun


BATCHES = {
    "bayes": lambda **params: BayesSearchCV(NET, n_iter=5, n_points=2, **params),
    "optuna": lambda **params: OptunaSearchCV(NET, n_trials=5, n_points=2, **params),
    "rounds": lambda **params: LRGridSearchCV(NET, lrs=LRS, rounds=3, **params),
    "extend": lambda **params: LRGridSearchCV(NET, lrs=[1e-5, 1e-4], extend=True, **params),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklr.EdgeOfRangeWarning", "ignore::sklr.DivergedWarning")
@pytest.mark.parametrize(("engine", "pruner"), [("auto", None), ("stacked", None), (StackedEngine(), "median")])
@pytest.mark.parametrize("batches", BATCHES)
def test_a_stack_that_has_failed_is_not_tried_again_in_later_batches(batches, pruner, engine, n_stacks, monkeypatch):
    given = {"cv": CV, "random_state": 0, "refit": False, "scoring": "neg_log_loss", "pruner": pruner}
    reference = BATCHES[batches](engine="sequential", **given).fit(X, Y)
    usual = Pack.steps

    def steps(pack, *args):
        usual(pack, *args)
        raise ArithmeticError("out of luck")

    monkeypatch.setattr(Pack, "steps", steps)
    monkeypatch.setattr(prepare, "audit", lambda *args: None)
    with FALLS as caught:
        found = BATCHES[batches](engine=engine, **given).fit(X, Y)
    assert [w.category for w in caught].count(StackFallbackWarning) == 1
    assert len(n_stacks) == 1, n_stacks
    assert found.engine_ == "sequential"
    assert found.engine_reasons_ == ["training in a stack raised ArithmeticError: out of luck"]
    assert_same_results(found, reference)


@pytest.mark.parametrize("pruner", [None, "halving"])
def test_candidates_that_cannot_be_stacked_leave_the_others_stacked(pruner, capsys, tmp_path):
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    found = search(grid=MIXED, pruner=pruner, verbose=1, storage=storage, study_name="mixed").fit(X, Y)
    assert "[sklr] engine: stacked and sequential; optimizer Rprop: " in capsys.readouterr().out
    assert found.engine_ == "stacked and sequential"
    assert [re.sub(".* cannot share it", "", reason) for reason in found.engine_reasons_] == [
        " (candidates with optimizer='rprop')"
    ]
    assert_same_results(found, search(grid=MIXED, pruner=pruner, engine="sequential").fit(X, Y))
    by = {trial.user_attrs["engine"] for trial in found.study_.trials}
    assert by == {"stacked", "sequential"}
    again = search(grid=MIXED, pruner=pruner, storage=storage, study_name="mixed", resume=True).fit(X, Y)
    assert again.engine_ == found.engine_


def test_a_plan_says_so():
    plan = search(grid=MIXED).plan(X, Y)
    assert (plan.engine, plan.stacks) == ("stacked and sequential", 1)
    assert plan.reasons[0].endswith("(candidates with optimizer='rprop')")


@pytest.mark.filterwarnings("ignore:One or more of the test scores are non-finite")
@pytest.mark.filterwarnings("ignore:the searched values")
def test_an_invalid_candidate_fails_by_itself_even_where_stacks_are_asked_for():
    grid = [{"lr": LRS}, {"lr": [0.01], "warmup_epochs": [99]}]
    with pytest.warns(sklearn.exceptions.FitFailedWarning, match="3 fits failed out of a total of 15"):
        found = search(grid=grid, engine="stacked").fit(X, Y)
    assert np.isnan(found.cv_results_["mean_test_score"]).tolist() == [False] * 4 + [True]
    assert found.cv_results_["status"][-1].startswith("failed")
    assert found.engine_ == "stacked and sequential"
    assert "candidate {'lr': 0.01, 'warmup_epochs': 99}" in found.engine_reasons_[0]


class PressesCtrlC(skorch.callbacks.Callback):
    def on_batch_begin(self, net, training=False, **kwargs):
        os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_spares_what_the_stack_has_finished():
    grid = [{"lr": LRS}, {"lr": [0.01], "callbacks": [[PressesCtrlC()]]}]
    found = search(grid=grid)
    with pytest.raises(KeyboardInterrupt):
        found.fit(X, Y)
    assert len(found.cv_results_["params"]) == 4
    assert found.engine_ == "stacked"


def test_time_may_be_up_before_the_others_begin():
    found = search(grid=MIXED, timeout=1e-9).fit(X, Y)
    assert len(found.cv_results_["params"]) == 2
    assert all(status.startswith("timeout") for status in found.cv_results_["status"])


def test_a_storage_that_goes_away_is_not_swallowed(monkeypatch):
    from sklr.exceptions import StorageError

    class Gone(StackedEngine):
        def start(self, *args):
            training = super().start(*args)
            training.advance = lambda *args: (_ for _ in ()).throw(StorageError("gone"))
            return training

    with pytest.raises(StorageError, match="gone"):
        search(engine=Gone(), pruner="median").fit(X, Y)


def test_scores_at_the_end_fall_back_too(monkeypatch):
    monkeypatch.setattr(ScoredPack, "finish", lambda scored: (_ for _ in ()).throw(ArithmeticError("out of luck")))
    with FALLS:
        found = search().fit(X, Y)
    assert_same_results(found, search(engine="sequential").fit(X, Y))


def swept(engine):
    """What recipes are made of."""
    candidates = [{"lr": lr} for lr in LRS]
    given = {"n_seeds": 2, "random_state": 0, "engine": engine, "n_jobs": None, "fit_params": {}, "caller": swept}
    return sweep(NET, X, Y, candidates, **given)


def test_range_tests_and_recipes_fall_back(luckless, unforeseen, monkeypatch):
    given = {"n_steps": 20, "n_seeds": 2, "random_state": 0}
    alone = lr_range_test(NET, X, Y, engine="sequential", **given)
    few = swept("sequential")
    monkeypatch.setattr(Pack, "steps", lambda *args: (_ for _ in ()).throw(ArithmeticError("out of luck")))
    for engine in ("auto", "stacked"):
        with FALLS as caught:
            found = lr_range_test(NET, X, Y, engine=engine, **given)
        assert caught[0].filename == __file__
        assert (found.engine, found.engine_reasons) == (
            "sequential",
            ("training in a stack raised ArithmeticError: out of luck",),
        )
        np.testing.assert_allclose(found.loss, alone.loss)
    with FALLS:
        found = swept("auto")
    assert found.engine == "sequential"
    np.testing.assert_allclose(found.loss, few.loss)


def test_plain_searches_run_plainly_what_fell_out(luckless, unforeseen):
    plain = sklearn.model_selection.GridSearchCV(NET, {"lr": LRS}, cv=CV, refit=False)
    reference = plain.fit(X, Y).cv_results_
    luckless(1, LRS[:1])
    with FALLS, sklr.stacked(StackedEngine(max_stack=3)) as stacking:
        found = plain.fit(X, Y).cv_results_
    assert (stacking.n_stacked, stacking.n_single) == (9, 3)
    assert stacking.reasons == ["training in a stack raised ArithmeticError: out of luck (candidate {'lr': 0.001})"]
    np.testing.assert_allclose(found["mean_test_score"], reference["mean_test_score"])
