"""Pruning stops candidates in lockstep, says why, and keeps what a whole training would choose."""

import re

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.pruners import (
    HyperbandPruner,
    MedianPruner,
    PatientPruner,
    PercentilePruner,
    SuccessiveHalvingPruner,
    ThresholdPruner,
    WilcoxonPruner,
)
from optuna.trial import TrialState
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import LRScheduler
from strategies import CV, X, Y, net

from sklr import BayesSearchCV, LRGridSearchCV, OptunaSearchCV
from sklr._utils.quiet_optuna import quiet_study
from sklr.results import STOPPED, EpochRow, Outcome
from sklr.search._cv_results import Record
from sklr.search._study import Ledger
from sklr.search.pruning.lr_path import PATH, lr_path
from sklr.search.pruning.lr_window import lr_window
from sklr.search.pruning.pruners import PRUNERS, LRPruner, ask_pruner, ends_early, make_pruner

LRS = np.geomspace(1e-4, 10, 11).tolist()
EPOCHS = 18
FIRST = 2  # a ninth of them
NET = net(module__hidden=(16,), optimizer="sgd", optimizer__momentum=0.9, max_epochs=EPOCHS, schedule="cosine")


def grid(pruner, lrs=LRS, **params):
    rest = {"cv": CV, "random_state": 0, "refit": False, **params}
    return LRGridSearchCV(rest.pop("estimator", NET), lrs=lrs, pruner=pruner, **rest)


@pytest.fixture(scope="module")
def fitted():
    with pytest.warns():
        return {name: grid(name).fit(X, Y) for name in (None, *PRUNERS)}


def pruned(search):
    return np.array([status.startswith("pruned") for status in search.cv_results_["status"]])


def replay(log_lr, scores, path, pruner="lr"):
    """Ask a pruner after each epoch; return how many epochs each candidate was trained."""
    study = quiet_study()
    study.pruner = make_pruner(pruner, "lr", path) if isinstance(pruner, str) else pruner
    trials = [study.ask({"lr": optuna.distributions.FloatDistribution(lr, lr)}) for lr in 10**log_lr]
    for trial in trials:
        trial.set_user_attr(PATH, path.tolist())
    left, epochs = np.ones(len(trials), dtype=bool), np.zeros(len(trials), dtype=int)
    for epoch in range(len(path)):
        epochs += left
        for i in np.flatnonzero(left):
            trials[i].report(float(scores[i, epoch]), epoch)
        left &= ask_pruner(study, trials) == ""
    return epochs


def flow(log_lr, path, cliff, noise=0.0, seed=0):
    """Scores of trainings that follow the gradient flow, exactly, up to a cliff."""
    way = 10.0 ** log_lr[:, None] * path
    scores = 1 - 1 / (1 + way / 10**cliff / 9)
    scores[log_lr > cliff] = -0.1
    return scores + noise * np.random.RandomState(seed).randn(*scores.shape)


# ---------------------------------------------------------------------------------------------- the rule
CONSTANT = np.arange(1.0, 28.0)
COSINE = np.cumsum((1 + np.cos(np.pi * (np.arange(27) + 0.5) / 27)) / 2)


def test_the_low_side_is_what_can_still_get_as_far():
    log_lr = np.arange(-4, 1.0, 0.25)
    scores = flow(log_lr, CONSTANT, cliff=0.1)[:, :3]
    low, best, _ = lr_window(log_lr, scores, CONSTANT)
    # the best is lr 1 after 3 epochs of 27: log10(9) decades below it the same way takes the whole training. The noise
    # rule, two standard deviations, lets earlier and lower scores count too, so the end is no higher than that
    assert best == 0.0
    assert low <= -np.log10(9) - 0.1 + 1e-9
    settled = np.tile(scores[:, -1:], 3)  # nothing moves: no noise, and the first epoch is as good as the third
    assert lr_window(log_lr, settled, CONSTANT).low == pytest.approx(-np.log10(27) - 0.1)


def test_the_window_knows_no_units():
    log_lr, rng = np.arange(-3, 1.0, 0.5), np.random.RandomState(0)
    scores = rng.randn(len(log_lr), 6)
    order = rng.permutation(len(log_lr))
    window = lr_window(log_lr, scores, CONSTANT)
    assert np.allclose(lr_window(log_lr, 7 * scores - 100, CONSTANT), window)
    assert np.allclose(lr_window(log_lr[order], scores[order], CONSTANT), window)
    assert np.allclose(lr_window(log_lr + 2, scores, CONSTANT), np.add(window, 2))
    assert np.allclose(lr_window(log_lr, scores, 5 * CONSTANT), window)


def test_the_window_narrows_from_below_as_epochs_go_by_and_is_wider_above_while_a_decay_lasts():
    log_lr = np.arange(-4, 1.0, 0.2)
    lows = [lr_window(log_lr, flow(log_lr, CONSTANT, 0.1)[:, :done], CONSTANT).low for done in (3, 9, 20)]
    assert lows == sorted(lows)
    highs = [lr_window(log_lr, np.tile(log_lr[:, None], 9), path).high for path in (CONSTANT, COSINE)]
    assert highs[1] > highs[0] + 0.05


@pytest.mark.parametrize("path", [CONSTANT, COSINE], ids=["constant", "cosine"])
@pytest.mark.parametrize("cliff", [-2.6, -1.1, 0.4])
@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_where_trainings_follow_the_flow_the_best_is_kept_for_a_third_of_the_epochs(path, cliff, noise):
    log_lr = np.arange(-5, 2.01, 0.2)
    scores = flow(log_lr, path, cliff, noise=noise)
    epochs = replay(log_lr, scores, path)
    best = int(np.flatnonzero(log_lr <= cliff)[-1])  # the farthest that does not fall, whatever noise says
    assert epochs[best] == len(path), epochs
    assert epochs.sum() < epochs.size * len(path) / 3
    assert epochs.min() == 3  # a ninth of 27
    assert (epochs == len(path)).sum() >= 3
    kept = np.flatnonzero(epochs == len(path))
    assert (np.diff(kept) == 1).all(), kept


def test_an_overtrained_best_draws_the_window_down():
    """Where the best lr has been as good before, lower ones can get there too: they are not pruned."""
    log_lr = np.arange(-4, 0.01, 0.25)
    way = 10.0 ** log_lr[:, None] * CONSTANT
    scores = -((np.log10(way) - np.log10(0.5)) ** 2)  # best after a way of half an epoch at lr 1, then worse
    assert log_lr[scores[:, -1].argmax()] == -1.75  # 0.5 / 27 is 10 ** -1.73
    assert replay(log_lr, scores, CONSTANT)[scores[:, -1].argmax()] == 27


def test_warmup_is_waited_for():
    log_lr = np.arange(-4, 1.01, 0.5)
    path = np.cumsum([0.1, 0.3, 0.5, 0.7, 0.9, *np.ones(13)])
    assert replay(log_lr, flow(log_lr, path, 0.1), path).min() == 6


def test_a_study_that_minimizes_is_the_mirror_image():
    log_lr = np.arange(-4, 1.01, 0.5)
    scores = flow(log_lr, CONSTANT, 0.1)
    answers = []
    for direction, sign in (("maximize", 1), ("minimize", -1)):
        study = optuna.create_study(direction=direction, pruner=LRPruner(n_epochs=27))
        trials = [study.ask({"lr": optuna.distributions.FloatDistribution(lr, lr)}) for lr in 10**log_lr]
        for trial, row in zip(trials, scores, strict=True):
            for epoch in range(4):
                trial.report(sign * row[epoch], epoch)
        answers.append([trial.should_prune() for trial in trials])
    assert answers[0] == answers[1]
    assert any(answers[0])


def test_only_what_differs_by_the_lr_alone_is_compared():
    study = optuna.create_study(direction="maximize", pruner=LRPruner(keep=1, n_epochs=18))
    space = [(1e-4, 8), (0.1, 8), (1e-4, 16)]
    trials = [
        study.ask(
            {
                "lr": optuna.distributions.FloatDistribution(lr, lr),
                "batch": optuna.distributions.IntDistribution(batch, batch),
            }
        )
        for lr, batch in space
    ]
    for epoch in range(2):
        for trial, score in zip(trials, (0.1, 0.9, 0.1), strict=True):
            trial.report(score, epoch)
    assert [trial.should_prune() for trial in trials] == [True, False, False]


# ------------------------------------------------------------------------------------------ in a search
@pytest.mark.one_fast
@pytest.mark.parametrize("name", PRUNERS)
def test_what_is_pruned_is_marked_and_ranks_last(fitted, name):
    search, results = fitted[name], fitted[name].cv_results_
    gone = pruned(search)
    assert 0 < gone.sum() <= len(LRS) - 1
    assert np.isnan(results["mean_test_score"][gone]).all()
    assert np.isnan(results["split0_test_score"][gone]).all()
    assert np.isfinite(np.array(results["last_score"])[gone]).all()
    assert np.isnan(np.array(results["last_score"])[~gone]).all()
    finished = np.array(results["status"]) == "ok"
    assert results["rank_test_score"][gone].min() > results["rank_test_score"][finished].max()
    assert np.isin(search.lr_curve_.candidate[search.lr_curve_.usable], np.flatnonzero(finished)).all()
    states = np.array([trial.state for trial in search.study_.trials])
    assert (states[gone] == TrialState.PRUNED).all()
    assert (states[~gone] == TrialState.COMPLETE).all()
    assert "last_score" not in fitted[None].cv_results_


@pytest.mark.parametrize("name", PRUNERS)
def test_what_is_pruned_was_trained_as_without_a_pruner(fitted, name):
    full, search = fitted[None].history_, fitted[name].history_
    places = [list(zip(*(h[c] for c in ("candidate", "fold", "epoch")), strict=True)) for h in (full, search)]
    known = dict(zip(places[0], full["valid_score"], strict=True))
    calm = np.array(LRS)[search["candidate"]] < 3  # beyond, training amplifies in which stack a run was rounded
    np.testing.assert_allclose(np.array([known[place] for place in places[1]])[calm], search["valid_score"][calm])
    assert len(places[1]) < len(places[0]) * 0.8


def test_lr_prunes_around_the_best_and_says_on_which_side(fitted):
    search = fitted["lr"]
    status, gone = search.cv_results_["status"], pruned(search)
    best = LRS.index(search.best_lr_)
    for i in np.flatnonzero(gone):
        assert status[i].startswith("pruned after ")
        assert f": too {'low' if i < best else 'high'} compared with lr " in status[i], status[i]
    assert search.best_lr_ == fitted[None].best_lr_
    kept = np.flatnonzero(np.array(status) == "ok")
    assert len(kept) >= 3
    assert (np.diff(kept) == 1).all()
    assert np.min(search.cv_results_["n_epochs"]) == FIRST


@pytest.mark.parametrize("name", sorted(PRUNERS.keys() - {"hyperband"}))  # it draws brackets by a trial's number
def test_all_are_judged_at_once_whatever_their_order(fitted, name):
    backwards = grid(name, lrs=LRS[::-1])
    with pytest.warns():
        backwards.fit(X, Y)
    assert np.array_equal(backwards.cv_results_["n_epochs"][::-1], fitted[name].cv_results_["n_epochs"])


@pytest.mark.one_fast
@pytest.mark.parametrize("name", ["lr", "hyperband"])
def test_both_engines_prune_alike_and_every_fit(name):
    short, fold = clone(NET).set_params(max_epochs=9), [(np.arange(0, 150, 2), np.arange(1, 150, 2))]
    searches = [grid(name, LRS[2:8], estimator=short, cv=fold, engine=engine) for engine in ("stacked", "sequential")]
    epochs = [search.fit(X, Y).cv_results_["n_epochs"].tolist() for search in [*searches, searches[0]]]
    assert epochs[0] == epochs[1] == epochs[2]
    assert min(epochs[0]) < 9


@pytest.mark.one_fast
@pytest.mark.parametrize("Search", [BayesSearchCV, OptunaSearchCV])
def test_strategies_that_learn_go_on_from_what_was_pruned(Search):
    size = {"n_iter": 8} if Search is BayesSearchCV else {"n_trials": 8}
    search = Search(NET, lr_range=(1e-4, 1.0), pruner="lr", cv=CV, random_state=0, refit=False, **size).fit(X, Y)
    gone = pruned(search)
    assert len(gone) == 8
    assert 0 < gone.sum() <= 5
    assert (np.abs(np.log10(search.best_lr_ / np.array(search.cv_results_["param_lr"][4:], float))) < 1.5).any()


def test_a_refinement_goes_on_around_a_finished_one():
    search = grid("lr", LRS[:9], rounds=2).fit(X, Y)
    first, finer = search.rounds_
    best = min(first[~pruned(search)[first]], key=search.cv_results_["rank_test_score"].__getitem__)
    lrs = np.array(search.cv_results_["param_lr"], float)
    assert (np.abs(np.log10(lrs[finer] / lrs[best])) < 0.51).all()
    assert len(finer) == 4


def test_a_strategy_learns_what_a_pruned_one_had_reached_below_all_finished_ones():
    record = Record(1, None)
    stopped = [[Outcome(score, STOPPED, "pruned")] for score in (0.5, 0.95)]
    record.add([{}] * 2, stopped)
    assert record.lessons(2).tolist() == [0.5, 0.95]  # nothing has finished yet
    record.add([{}] * 2, [[Outcome(0.9)], stopped[1]])
    assert record.lessons(2)[0] == 0.9
    assert 0.9 - 1e-9 < record.lessons(2)[1] < 0.9


def test_whatever_a_pruner_says_one_candidate_is_trained_to_the_end():
    search = grid(ThresholdPruner(lower=2.0), LRS[4:8]).fit(X, Y)  # no accuracy is above 2
    assert np.sort(search.cv_results_["n_epochs"]).tolist() == [1, 1, 1, EPOCHS]
    assert search.best_score_ == np.nanmax(search.cv_results_["mean_test_score"])


def test_an_object_is_asked_too_and_left_as_it_was():
    pruner = SuccessiveHalvingPruner(min_resource=3, reduction_factor=2)
    before = dict(vars(pruner))
    search = clone(grid(pruner, LRS[2:8])).fit(X, Y)
    assert vars(pruner) == before
    assert np.sort(search.cv_results_["n_epochs"])[:3].tolist() == [4, 4, 4]
    assert any("SuccessiveHalvingPruner" in status for status in search.cv_results_["status"])


def test_seeds_pipelines_and_several_scores():
    pipeline = make_pipeline(StandardScaler(), NET)
    search = grid(
        "lr", LRS[:9], estimator=pipeline, cv=2, n_seeds=2, scoring=["accuracy", "neg_log_loss"], refit="accuracy"
    )
    search.fit(X, Y)
    gone = pruned(search)
    assert gone.any()
    assert np.isnan(search.cv_results_["mean_test_neg_log_loss"][gone]).all()
    assert (np.array(search.cv_results_["last_score"])[gone] <= 1).all()
    assert search.predict(X).shape == Y.shape


def test_what_has_no_epochs_is_trained_in_full():
    model = GradientBoostingClassifier(n_estimators=2, random_state=0)
    with pytest.warns(UserWarning, match="The pruner has no effect: GradientBoostingClassifier is neither") as caught:
        search = LRGridSearchCV(model, n_lrs=5, cv=3, pruner="lr").fit(X, Y)
    assert set(search.cv_results_["status"]) == {"ok"}
    ours = [warning for warning in caught if "pruner" in str(warning.message)]
    assert [warning.filename for warning in ours] == [__file__], "it points at the user's line"
    wrapped = TransformedTargetRegressor(Ridge(), func=np.log1p, inverse_func=np.expm1)
    search = OptunaSearchCV(wrapped, {"regressor__alpha": [1.0]}, n_trials=1, enable_pruning=True, cv=2)
    with pytest.warns(UserWarning, match="The pruner has no effect: TransformedTargetRegressor"):
        search.fit(X, Y)


JUDGES = {
    "median": lambda: MedianPruner(n_startup_trials=5, n_warmup_steps=1),
    "few": lambda: MedianPruner(n_startup_trials=2, n_min_trials=3),
    "percentile": lambda: PercentilePruner(30.0, n_startup_trials=3, interval_steps=2),
    "patient": lambda: PatientPruner(MedianPruner(n_startup_trials=3), patience=1),
    "patient alone": lambda: PatientPruner(None, patience=1),
    "halving": lambda: SuccessiveHalvingPruner(min_resource=1, reduction_factor=2),
    "hyperband": lambda: HyperbandPruner(min_resource=1, max_resource=6, reduction_factor=2),
    "threshold": lambda: ThresholdPruner(lower=0.4, n_warmup_steps=2),
    "wilcoxon": lambda: WilcoxonPruner(p_threshold=0.2, n_startup_steps=1),
}


@pytest.mark.one_fast
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("make", JUDGES.values(), ids=JUDGES)
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_trials_one_at_a_time_are_pruned_as_by_study_optimize(make, seed):
    """Five must have finished before the sixth is judged, not four and itself."""
    scores = np.random.RandomState(seed).rand(12, 6).round(2)
    study = quiet_study()
    study.pruner = make()

    def objective(trial):
        for epoch, score in enumerate(scores[trial.number]):
            trial.report(score, epoch)
            some = ends_early(study.pruner) or study.get_trials(states=(TrialState.COMPLETE,))
            if trial.should_prune() and epoch < 5 and some:
                raise optuna.TrialPruned  # a search, unlike a study, trains the first to the end
        return scores[trial.number, -1]

    study.optimize(objective, n_trials=len(scores))
    expected = [len(trial.intermediate_values) for trial in study.trials]
    ledger = Ledger(quiet_study())
    ledger.study.pruner = make()
    found = []
    for row in scores:
        ledger.open([{"lr": 0.1}])
        for epoch, score in enumerate(row):
            ledger.report(epoch, np.array([score]))
            (reason,) = ledger.should_prune()
            if reason and epoch < 5:
                break
        status = STOPPED if epoch < 5 else "ok"
        history = [EpochRow(e, 0.1, 1.0, s) for e, s in enumerate(row[: epoch + 1])]
        ledger.close({0: [Outcome(float(row[epoch]), status, history=history)]}, np.array([row[epoch]]))
        found.append(epoch + 1)
    assert found == expected


def test_in_a_batch_too_a_trial_is_not_among_those_it_waits_for():
    scores = np.linspace(0, 1, 5)[:, None].repeat(3, axis=1)
    for n_startup, pruned in ((4, True), (5, False)):
        epochs = replay(np.arange(5.0), scores, np.arange(1.0, 4.0), MedianPruner(n_startup_trials=n_startup))
        assert (epochs.min() < 3) == pruned


def test_enable_pruning_asks_the_study_s_own_pruner():
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0), pruner=MedianPruner(2, 3)
    )
    space = {"lr": (1e-4, 1.0, "log-uniform")}
    search = OptunaSearchCV(NET, space, n_trials=6, study=study, enable_pruning=True, cv=CV, refit=False).fit(X, Y)
    assert pruned(search).any()
    assert study.pruner.__class__ is MedianPruner


@pytest.mark.parametrize(
    ("search", "message"),
    [
        (
            grid("meridian"),
            "must be one of 'halving', 'hyperband', 'lr', 'median', got 'meridian'. Did you mean 'median'?",
        ),
        (grid(MedianPruner), "pruner must be None, a name or an optuna.pruners.BasePruner, got <class"),
        (grid(3), "got 3. Write for example pruner='lr'; names are halving, hyperband, lr, median."),
        (
            OptunaSearchCV(NET, study=quiet_study(), pruner="lr"),
            "pruner must be left out if a study is given, got 'lr'. Give the pruner to optuna.create_study",
        ),
        (LRGridSearchCV(LogisticRegression(), {"C": [1.0]}, pruner="lr"), "lr_param"),
    ],
    ids=["name", "class", "number", "study", "no-lr"],
)
def test_bad_pruners_are_told_before_any_training(search, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        search.fit(X, Y)
    assert not hasattr(search, "cv_results_")


@pytest.mark.parametrize("values", [{"keep": 0}, {"keep": 2.5}, {"n_epochs": 0}, {"n_epochs": "all"}])
def test_lr_pruner_checks_its_numbers(values):
    with pytest.raises(ValueError, match="must be an integer >= 1, got"):
        LRPruner(**values)


# ------------------------------------------------------------------------------------------- the path
def test_the_path_is_what_the_net_then_goes():
    model = net(max_epochs=6, schedule="exponential", warmup_epochs=2, lr=0.01, batch_size=15)
    path = lr_path(model, {"lr": 0.05}, len(X))
    model.set_params(lr=0.05).fit(X, Y)
    steps = [[batch["lr"] for batch in epoch["batches"] if "lr" in batch] for epoch in model.history]
    assert np.allclose(np.diff(path, prepend=0), np.mean(steps, axis=1) / 0.05)


def test_there_is_no_path_where_there_is_no_telling():
    assert lr_path(net(callbacks=[LRScheduler()]), {}, 100) is None
    assert lr_path(net(callbacks=[("fall", LRScheduler)]), {}, 100) is None
    assert lr_path(LogisticRegression(), {}, 100) is None
    assert lr_path(make_pipeline(StandardScaler(), net(max_epochs=3)), {}, 100).tolist() == [1, 2, 3]
    assert lr_path(make_pipeline(StandardScaler(), NET), {"neuralnetclassifier__max_epochs": 2}, 100).shape == (2,)


@pytest.mark.one_fast
@pytest.mark.filterwarnings("ignore::sklr.EdgeOfRangeWarning", "ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("engine", ["stacked", "sequential"])
@pytest.mark.parametrize("resumed", [False, True])
def test_a_trial_that_is_ended_for_getting_no_better_keeps_its_score(engine, resumed, tmp_path):
    lrs = [1e-9, 0.05, 0.1]
    given = {"engine": engine, "estimator": clone(NET).set_params(schedule=None, max_epochs=12)}
    whole = grid(None, lrs, **{**given, "engine": "stacked"}).fit(X, Y)  # whose epochs have scores
    if resumed:
        given |= {"storage": tmp_path / "s.db", "study_name": "s", "resume": True}
        grid(PatientPruner(None, patience=1), lrs, **given).fit(X, Y)
    found = grid(PatientPruner(None, patience=1), lrs, **given).fit(X, Y)
    n_epochs, history = found.cv_results_["n_epochs"], whole.history_
    assert set(found.cv_results_["status"]) == {"ok"}
    assert n_epochs.min() < 12, n_epochs
    for candidate, n in enumerate(n_epochs):
        last = (history["candidate"] == candidate) & (history["epoch"] == n - 1)
        assert found.cv_results_["mean_test_score"][candidate] == pytest.approx(history["valid_score"][last].mean())
    assert [trial.state for trial in found.study_.trials] == [TrialState.COMPLETE] * 3
    np.testing.assert_allclose([t.value for t in found.study_.trials], found.cv_results_["mean_test_score"])
    assert found.best_index_ == found.cv_results_["mean_test_score"].argmax()
    assert len(found.lr_curve_) == found.lr_curve_.usable.sum() == 3
