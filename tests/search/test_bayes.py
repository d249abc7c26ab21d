"""The Bayesian search starts evenly, finds the top, repeats nothing, and survives scores that are none."""

import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import SGDClassifier
from sklearn.svm import SVC
from skopt.space import Categorical, Integer, Real

from sklr._utils.quiet_optuna import quiet_study
from sklr.search._bayes import BayesSearchCV
from sklr.search._optuna import OptunaSearchCV
from sklr.search._study import Ledger
from sklr.search.proposals.acquisition import bounded

BEST = 10**-1.7


def hill(candidate):
    return -abs(np.log10(candidate["eta0"] / BEST))


def run(search, score, callbacks=(), seed=0):
    """Drive the strategy as the base does; return batches of candidates and their scores."""
    search._callbacks = list(callbacks)
    batches, scores = [], []
    space = search._check_space()
    proposals = search._propose(space, Ledger(quiet_study()), np.random.RandomState(seed))
    batch = next(proposals, None)
    while batch:
        batches.append(batch)
        scores.append(np.array([score(c) for c in batch], dtype=float))
        try:
            batch = proposals.send(scores[-1])
        except StopIteration:
            break
    candidates = [c for b in batches for c in b]
    assert len(candidates) <= search._n_candidates(space) <= search.total_iterations
    return batches, candidates, np.concatenate(scores)


def test_it_starts_evenly_and_ends_near_the_top():
    batches, candidates, scores = run(BayesSearchCV(SGDClassifier()), hill)
    assert [len(b) for b in batches] == [8] + [1] * 8
    start = np.sort(np.log10([c["eta0"] for c in candidates[:8]]))
    assert (np.floor((start + 5) / 5 * 8) == np.arange(8)).all(), start
    assert scores[8:].max() > -0.1, scores


def test_the_same_seed_proposes_the_same():
    first, second, other = (run(BayesSearchCV(SGDClassifier(), n_iter=8), hill, seed=s)[1] for s in (1, 1, 2))
    assert first == second != other


def test_no_two_learning_rates_are_nearer_than_a_fiftieth_of_a_decade():
    _, candidates, _ = run(BayesSearchCV(SGDClassifier(), n_iter=24), hill)
    lrs = np.sort(np.log10([c["eta0"] for c in candidates]))
    assert np.diff(lrs).min() >= 0.02 * 0.999, np.diff(lrs)


def test_a_narrow_range_still_gives_every_candidate_asked_for():
    _, candidates, _ = run(BayesSearchCV(SGDClassifier(), lr_range=(0.1, 0.101), n_iter=16), lambda c: 1.0)
    assert len({c["eta0"] for c in candidates}) == 16


@pytest.mark.parametrize("bad", [np.nan, -np.inf, -1e9])
def test_diverged_scores_neither_crash_nor_blind_it(bad):
    _, candidates, scores = run(BayesSearchCV(SGDClassifier()), lambda c: bad if c["eta0"] > 0.1 else hill(c))
    assert len(candidates) == 16
    assert np.nanmax(scores) > -0.1, scores


def test_all_scores_missing_goes_on_to_the_end():
    _, candidates, _ = run(BayesSearchCV(SGDClassifier(), n_iter=12), lambda c: np.nan)
    assert len(candidates) == 12


def test_bounded_keeps_the_order_of_what_it_keeps():
    scores = np.array([0.1, 0.9, 0.5, np.nan, np.inf])
    assert bounded(scores).tolist() == [0.1, 0.9, 0.5, 0.1, 0.1]


@pytest.mark.parametrize("surrogate", ["GP", "RF", "ET", "DUMMY"])
def test_every_surrogate_runs(surrogate):
    kwargs = {"base_estimator": surrogate}
    _, candidates, _ = run(BayesSearchCV(SGDClassifier(), n_iter=9, n_points=2, optimizer_kwargs=kwargs), hill)
    assert len(candidates) == 9


@pytest.mark.parametrize("generator", ["random", "sobol", "halton", "hammersly", "lhs", "grid"])
def test_every_initial_point_generator_runs(generator):
    kwargs = {"initial_point_generator": generator, "n_initial_points": 5}
    _, candidates, _ = run(BayesSearchCV(SGDClassifier(), n_iter=7, optimizer_kwargs=kwargs), hill)
    assert len(candidates) == 7


def test_n_initial_points_sets_the_length_of_the_even_start():
    kwargs = {"n_initial_points": 3}
    batches, candidates, _ = run(BayesSearchCV(SGDClassifier(), n_iter=8, optimizer_kwargs=kwargs), hill)
    assert [len(b) for b in batches] == [3, 1, 1, 1, 1, 1]
    assert sorted(np.floor((np.log10([c["eta0"] for c in candidates[:3]]) + 5) / 5 * 3)) == [0, 1, 2]


def test_mixed_spaces_give_values_of_every_kind():
    betas, classes = ((0.9, 0.99), (0.8, 0.9)), [{0: 1}, None]
    space = {
        "C": Real(1e-2, 1e2, prior="log-uniform"),
        "degree": Integer(1, 5),
        "kernel": Categorical(["linear", "rbf"]),
        "gamma": Categorical(betas),
        "class_weight": classes,
        "tol": (1e-4, 1e-2, "log-uniform"),
    }
    _, candidates, _ = run(BayesSearchCV(SVC(), space, n_iter=10), lambda c: c["C"])
    assert len(candidates) == 10
    for c in candidates:
        assert list(c) == sorted(space)
        assert type(c["C"]) is type(c["tol"]) is float
        assert type(c["degree"]) is int
        assert type(c["kernel"]) is str
        assert any(c["gamma"] is b for b in betas)
        assert any(c["class_weight"] is w for w in classes)


def test_a_finite_space_is_tried_once_and_completely():
    space = {"kernel": ["linear", "rbf"], "degree": (1, 3)}
    _, candidates, _ = run(BayesSearchCV(SVC(), space, n_iter=20), lambda c: c["degree"])
    assert sorted((c["kernel"], c["degree"]) for c in candidates) == [
        (k, d) for k in ("linear", "rbf") for d in (1, 2, 3)
    ]
    assert run(BayesSearchCV(SVC(), {"kernel": ["rbf"]}, n_iter=5), lambda c: 1.0)[1] == [{"kernel": "rbf"}]


def test_several_spaces_are_searched_in_turn_and_counted():
    spaces = [({"C": (1.0, 10.0)}, 3), {"gamma": (0.1, 1.0)}]
    search = BayesSearchCV(SVC(), spaces, n_iter=5)
    _, candidates, _ = run(search, lambda c: sum(c.values()))
    assert [*map(list, candidates)] == [["C"]] * 3 + [["gamma"]] * 5
    assert search.total_iterations == 8
    assert [len(result.x_iters) for result in search.optimizer_results_] == [3, 5]


def test_total_iterations_counts_candidates_not_parameters():
    assert BayesSearchCV(SVC(), {"C": (1.0, 9.0), "gamma": (0.1, 1.0)}, n_iter=4).total_iterations == 4
    assert BayesSearchCV(SGDClassifier(), n_iter=4).total_iterations == 4


def test_a_callback_sees_the_result_and_can_stop_the_space():
    seen = []
    search = BayesSearchCV(SGDClassifier(), n_iter=20)
    _, candidates, scores = run(search, hill, [lambda r: seen.append(-r.fun), lambda r: len(r.x_iters) >= 8])
    assert len(candidates) == 8
    assert seen == np.maximum.accumulate(scores).tolist()


def test_the_user_s_dimensions_are_left_as_they_were():
    dimension = Real(1e-3, 1.0, prior="log-uniform")
    run(BayesSearchCV(SGDClassifier(), {"eta0": dimension}, n_iter=5), hill)
    assert (dimension.name, dimension.transform_) == (None, "identity")


def test_fit_takes_groups_and_callbacks_and_keeps_neither():
    X, y = np.random.RandomState(0).randn(30, 3), np.tile([0, 1], 15)
    results = []
    model = GradientBoostingClassifier(n_estimators=2, random_state=0)
    search = BayesSearchCV(model, n_iter=4, cv=3, random_state=0)
    search.fit(X, y, callback=results.append)
    assert len(results) == 4
    assert len(search.optimizer_results_) == 1
    assert np.allclose(-search.optimizer_results_[0].func_vals, search.cv_results_["mean_test_score"])
    assert "_callbacks" not in vars(search)


@pytest.mark.parametrize("search", [BayesSearchCV, OptunaSearchCV])
def test_arguments_of_fit_are_not_offered_for_routing(search):
    assert not hasattr(search(SVC()), "set_fit_request")
