"""The Optuna search asks any sampler, continues a study only when told to, and stops when told to."""

import io
import logging
import time
from contextlib import redirect_stderr

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from scipy.stats import loguniform
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.exceptions import FitFailedWarning, NotFittedError
from sklearn.linear_model import SGDClassifier
from sklearn.svm import SVC

from sklr.search._optuna import OptunaSearchCV
from sklr.search._study import Ledger
from sklr.search.proposals.optuna_samplers import SAMPLERS, with_seed

BEST = 10**-1.7
X, Y = make_classification(60, random_state=0)
MODEL = GradientBoostingClassifier(n_estimators=2, random_state=0)


def hill(candidate):
    return -abs(np.log10(candidate["eta0"] / BEST))


def run(search, score, seed=0):
    """Drive the strategy as the base does, without training; return candidates by batch, and the study."""
    space = search._check_space()
    study = search._make_study(np.random.RandomState(seed))
    ledger, batches = Ledger(study), []
    proposals = search._propose(space, ledger, np.random.RandomState(seed))
    batch = next(proposals)
    while batch:
        batches.append(batch)
        ledger.open(batch)
        scores = np.array([score(c) for c in batch])
        for trial, value in zip(ledger._open, scores, strict=True):
            study.tell(trial, value if np.isfinite(value) else -99.0)
        batch = _send(proposals, scores)
    return batches, [c for b in batches for c in b], study


def _send(proposals, scores):
    try:
        return proposals.send(scores)
    except StopIteration:
        return None


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_by_name_proposes_inside_the_range(sampler):
    search = OptunaSearchCV(SGDClassifier(), n_trials=10, sampler=sampler)
    batches, candidates, study = run(search, hill)
    assert len(candidates) == len(study.trials) == 10
    assert all(type(c["eta0"]) is float and 1e-5 <= c["eta0"] <= 1 for c in candidates)
    assert [len(b) for b in batches] == ([5, 1, 1, 1, 1, 1] if sampler in ("tpe", "gp") else [10])
    assert candidates == run(search, hill)[1]


@pytest.mark.parametrize(("sampler", "sizes"), [("tpe", [6, 4, 2]), ("gp", [6, 1, 1, 1, 1, 1, 1])])
def test_tpe_proposes_several_candidates_at_a_time_where_several_parameters_are_searched(sampler, sizes):
    space = {"eta0": (1e-5, 1.0, "log-uniform"), "alpha": (1e-6, 1e-2, "log-uniform")}
    batches, candidates, _ = run(OptunaSearchCV(SGDClassifier(), space, n_trials=12, sampler=sampler), hill)
    assert [len(batch) for batch in batches] == sizes
    assert len({tuple(candidate.values()) for candidate in candidates}) == 12


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_the_start_is_even_and_nothing_is_repeated(sampler):
    _, candidates, _ = run(OptunaSearchCV(SGDClassifier(), n_trials=20, sampler=sampler), hill)
    lrs = np.log10([c["eta0"] for c in candidates])
    assert (np.floor((np.sort(lrs[:10]) + 5) / 5 * 10) == np.arange(10)).all(), np.sort(lrs[:10])
    assert np.diff(np.sort(lrs)).min() >= 0.02 * 0.999, np.sort(lrs)
    assert max(map(hill, candidates)) > -0.1


def test_diverged_trials_do_not_lead_the_sampler_there_again():
    _, candidates, _ = run(
        OptunaSearchCV(SGDClassifier(), n_trials=16), lambda c: np.nan if c["eta0"] > 0.1 else hill(c)
    )
    assert sum(c["eta0"] > 0.1 for c in candidates[8:]) <= 3


@pytest.mark.parametrize(
    "sampler",
    [optuna.samplers.RandomSampler(seed=3), optuna.samplers.TPESampler(seed=3)],
    ids=lambda s: type(s).__name__,
)
def test_a_sampler_object_is_used_and_left_as_it_was(sampler):
    search = OptunaSearchCV(SGDClassifier(), n_trials=4, sampler=sampler)
    assert run(search, hill)[1] == run(search, hill)[1]


def test_distributions_of_every_kind():
    shapes = ((64,), (64, 32))
    space = {
        "C": FloatDistribution(0.1, 10, log=True),
        "degree": IntDistribution(2, 6, step=2),
        "kernel": CategoricalDistribution(["linear", "rbf"]),
        "class_weight": CategoricalDistribution([None, "balanced"]),
        "tol": loguniform(1e-4, 1e-2),
        "gamma": shapes,
        "coef0": (0.0, 1.0),
    }
    _, candidates, study = run(OptunaSearchCV(SVC(), space, n_trials=12), lambda c: c["C"])
    for c, trial in zip(candidates, study.trials, strict=True):
        assert list(c) == list(space)
        assert c["degree"] in (2, 4, 6)
        assert c["class_weight"] in (None, "balanced")
        assert any(c["gamma"] is shape for shape in shapes)
        assert {n: trial.params[n] for n in c if n != "gamma"} == {n: v for n, v in c.items() if n != "gamma"}
        assert trial.params["gamma"] in ("(64,)", "(64, 32)")
        assert trial.distributions["class_weight"] == space["class_weight"]


def test_study_properties():
    search = OptunaSearchCV(MODEL, n_trials=4, cv=3, random_state=0)
    with pytest.raises(NotFittedError):
        _ = search.trials_
    search.fit(X, Y)
    assert search.n_trials_ == len(search.trials_) == 4
    assert search.best_trial_.params == search.best_params_
    assert search.best_trial_.value == search.best_score_
    assert len(search.trials_dataframe(attrs=("number", "value"))) == 4
    search.set_user_attr("note", "a")
    assert search.user_attrs_ == {"note": "a"}


def test_a_second_fit_starts_afresh_unless_a_study_is_given():
    search = OptunaSearchCV(MODEL, n_trials=2, cv=2, random_state=0).fit(X, Y)
    assert search.fit(X, Y).n_trials_ == 2
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    given = OptunaSearchCV(MODEL, n_trials=2, cv=2, study=study).fit(X, Y)
    assert given.study_ is study
    assert given.fit(X, Y).n_trials_ == 4
    assert len(given.cv_results_["params"]) == 2


def test_a_zombie_in_a_study_does_no_harm():
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    study.ask()
    search = OptunaSearchCV(MODEL, n_trials=2, cv=2, study=study).fit(X, Y)
    assert [t.state for t in search.trials_] == [TrialState.RUNNING, TrialState.COMPLETE, TrialState.COMPLETE]


def test_clone_takes_the_parameters_along():
    search = OptunaSearchCV(MODEL, n_trials=3, sampler="gp", callbacks=[print], catch=(ValueError,))
    assert clone(search).get_params(deep=False).keys() == search.get_params(deep=False).keys()
    assert clone(search).sampler == "gp"


def test_callbacks_hear_of_every_trial_and_can_stop():
    heard = []

    def callback(study, trial):
        heard.append((trial.number, trial.state, trial.value))
        if trial.number == 4:
            study.stop()
            heard.append("still here")

    search = OptunaSearchCV(SGDClassifier(), n_trials=20, n_points=2, callbacks=[callback])
    _, candidates, study = run(search, hill)
    assert len(candidates) == 6
    expected = [(t.number, TrialState.COMPLETE, t.value) for t in study.trials]
    assert heard == [*expected[:5], "still here", expected[5]]
    assert "stop" not in vars(study)


def test_optuna_s_own_stopping_callback_works():
    callback = optuna.study.MaxTrialsCallback(4, states=(TrialState.COMPLETE,))
    search = OptunaSearchCV(SGDClassifier(), n_trials=None, n_points=1, callbacks=[callback])
    assert len(run(search, hill)[1]) == 4


def test_a_timeout_keeps_what_is_finished(monkeypatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    batches, _, _ = run(OptunaSearchCV(SGDClassifier(), n_trials=None, timeout=15, sampler="random"), hill)
    assert [len(b) for b in batches] == [4, 4]


@pytest.mark.parametrize(("subsample", "n_rows"), [(1.0, 60), (0.5, 30), (20, 20), (600, 60)])
def test_subsample_searches_on_a_part_and_refits_on_all(subsample, n_rows):
    search = OptunaSearchCV(MODEL, n_trials=1, cv=2, subsample=subsample, random_state=0).fit(X, Y)
    rows = search.sample_indices_
    assert len(rows) == n_rows == len(np.unique(rows))
    used = np.concatenate([cell.test for cell in search.cells_])
    assert sorted(used) == rows.tolist()


def test_catch_lets_one_trial_fail_alone():
    search = OptunaSearchCV(
        SVC(), {"C": [-1.0, 1.0]}, n_trials=8, cv=2, error_score="raise", catch=(ValueError,), random_state=0
    )
    with pytest.warns(FitFailedWarning, match="A trial failed with .*The search goes on"):
        search.fit(X, Y)
    failed = [t for t in search.trials_ if t.state == TrialState.FAIL]
    assert failed
    assert {t.params["C"] for t in failed} == {-1.0}
    assert search.best_params_ == {"C": 1.0}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_it_says_nothing_and_leaves_optuna_s_log_level_alone(sampler):
    before, noise = optuna.logging.get_verbosity(), io.StringIO()
    handler = logging.StreamHandler(noise)
    logging.getLogger("optuna").addHandler(handler)
    with redirect_stderr(noise):
        OptunaSearchCV(MODEL, n_trials=3, n_points=1, cv=2, sampler=sampler, random_state=0).fit(X, Y)
    logging.getLogger("optuna").removeHandler(handler)
    assert noise.getvalue() == ""
    assert optuna.logging.get_verbosity() == before


# --------------------------------------------------------------------------------------- samplers given as objects
UNSEEDED = {
    "random": optuna.samplers.RandomSampler,
    "tpe": optuna.samplers.TPESampler,
    "tpe of groups": lambda: optuna.samplers.TPESampler(multivariate=True, group=True),
    "genetic": lambda: optuna.samplers.NSGAIISampler(population_size=2),
    "around another": lambda: optuna.samplers.PartialFixedSampler({"tol": 1e-3}, optuna.samplers.TPESampler()),
}


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("name", UNSEEDED)
def test_random_state_is_the_seed_of_a_sampler_that_has_none(name):
    space = {"eta0": (1e-5, 1.0, "log-uniform"), "tol": (1e-5, 1e-1, "log-uniform")}

    def proposed(seed):
        search = OptunaSearchCV(SGDClassifier(eta0=0.1), space, n_trials=14, sampler=UNSEEDED[name]())
        return run(search, hill, seed)[1]

    assert proposed(0) == proposed(0) != proposed(1)


def test_a_sampler_that_has_a_seed_keeps_it():
    seeded, other = (optuna.samplers.TPESampler(seed=0) for _ in range(2))
    assert with_seed(seeded, 1)._rng.rng.random() == other._rng.rng.random()
