"""The grid search proposes what GridSearchCV would, in its order, and a logarithmic grid where nothing is given."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import IntDistribution
from scipy.stats import loguniform
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import ParameterGrid
from sklearn.svm import SVC

from sklr._utils.quiet_optuna import quiet_study
from sklr.search._grid import LRGridSearchCV
from sklr.search._study import Ledger


def candidates(estimator, *args, **kwargs):
    search = LRGridSearchCV(estimator, *args, **kwargs)
    (batch,) = search._propose(search._check_space(), Ledger(quiet_study()), np.random.RandomState(0))
    assert search._n_candidates(batch) == len(batch)
    return batch


def test_without_a_grid_the_learning_rate_alone_is_searched():
    found = candidates(SGDClassifier(), lr_range=(1e-3, 1.0), n_lrs=4)
    assert found == [{"eta0": 0.001}, {"eta0": 0.01}, {"eta0": 0.1}, {"eta0": 1.0}]


def test_learning_rates_can_be_listed():
    assert candidates(SGDClassifier(), lrs=np.array([0.3, 0.1])) == [{"eta0": 0.3}, {"eta0": 0.1}]


@pytest.mark.parametrize(
    "grid",
    [
        {"C": [1, 10], "kernel": ("linear", "rbf"), "gamma": np.array([0.1, 1.0])},
        [{"C": [1, 10]}, {"kernel": ["linear"], "gamma": range(1, 3)}],
        {"C": (0.1, 10)},
        {"class_weight": [None, {0: 1, 1: 2}]},
        {},
    ],
)
def test_a_grid_gives_the_candidates_of_gridsearchcv_in_its_order(grid):
    assert candidates(SVC(), grid) == list(ParameterGrid(grid))


def test_lrs_multiply_a_grid_that_has_none():
    found = candidates(SGDClassifier(), {"alpha": [1e-4, 1e-3]}, lrs=[0.1, 1.0])
    assert found == list(ParameterGrid({"alpha": [1e-4, 1e-3], "eta0": [0.1, 1.0]}))


def test_a_range_becomes_n_lrs_values_for_the_lr_and_five_for_the_rest():
    grid = {"eta0": loguniform(1e-3, 0.1), "alpha": (1e-5, 1e-1, "log-uniform"), "max_iter": IntDistribution(5, 7)}
    found = candidates(SGDClassifier(), grid, n_lrs=3)
    assert sorted({c["eta0"] for c in found}) == [0.001, 0.01, 0.1]
    assert sorted({c["alpha"] for c in found}) == [1e-5, 1e-4, 1e-3, 1e-2, 1e-1]
    assert sorted({c["max_iter"] for c in found}) == [5, 6, 7]


def test_the_learning_rate_can_be_named():
    assert candidates(SVC(), lr_param="C", lrs=[1.0]) == [{"C": 1.0}]
    assert len(candidates(SVC(), {"C": (1.0, 10.0, "uniform")}, lr_param="C", n_lrs=7)) == 7


def rounds(search, score):
    """Drive the strategy as the base does; return the candidates of each round."""
    space, found, scores = search._check_space(), [], None
    proposals = search._propose(space, Ledger(quiet_study()), np.random.RandomState(0))
    try:
        while True:
            found.append(proposals.send(scores))
            scores = np.array([score(c) for c in found[-1]], dtype=float)
    except StopIteration:
        tried = [c for batch in found for c in batch]
        assert [len(i) for i in search.rounds_] == [len(batch) for batch in found]
        assert np.concatenate(search.rounds_).tolist() == list(range(len(tried)))
        assert all(c not in tried[:i] for i, c in enumerate(tried))
        assert len(tried) <= search._n_candidates(space)
        return found


def hill(candidate):
    return -abs(np.log10(candidate["eta0"] / 0.02)) - candidate.get("alpha", 0)


def test_later_rounds_close_in_on_the_best():
    search = LRGridSearchCV(SGDClassifier(), lr_range=(1e-4, 1.0), n_lrs=5, rounds=3)
    found = [[c["eta0"] for c in batch] for batch in rounds(search, hill)]
    assert found[0] == [1e-4, 1e-3, 1e-2, 1e-1, 1.0]
    third = 10 ** (1 / 3)
    assert np.allclose(found[1], [1e-3 * third, 1e-3 * third**2, 1e-2 * third, 1e-2 * third**2])
    assert np.allclose(found[2], [1e-2 * third ** (i / 3) for i in (1, 2, 4, 5)])  # around 0.0215
    assert search._n_candidates(search._check_space()) == 5 + 4 + 4


def test_at_an_end_of_the_grid_all_go_into_the_one_gap():
    search = LRGridSearchCV(SGDClassifier(), lrs=[0.1, 1.0], rounds=2)
    assert np.allclose([c["eta0"] for c in rounds(search, hill)[1]], [10 ** (-1 + i / 5) for i in (1, 2, 3, 4)])


def test_a_diverged_neighbour_bounds_the_next_round_and_is_not_the_best():
    search = LRGridSearchCV(SGDClassifier(), lrs=[0.001, 0.01, 0.1], rounds=2)
    finer = rounds(search, lambda c: np.nan if c["eta0"] > 0.05 else c["eta0"])[1]
    assert [0.001 < c["eta0"] < 0.01 for c in finer] == [True, True, False, False]
    assert all(c["eta0"] < 0.1 for c in finer)


def test_only_the_lr_is_refined_at_the_best_other_parameters():
    grid = [{"alpha": [1.0, 0.5], "eta0": [0.001, 0.01, 0.1]}, {"alpha": [9.0], "eta0": [0.02]}]
    finer = rounds(LRGridSearchCV(SGDClassifier(), grid, rounds=2), hill)[1]
    assert len(finer) == 4
    assert {c["alpha"] for c in finer} == {0.5}
    assert all(0.001 < c["eta0"] < 0.1 for c in finer)


@given(st.permutations([0, 1, 2, 3, 4]), st.lists(st.sampled_from([0.1, 0.5]), min_size=5, max_size=5))
def test_the_next_round_lies_beside_every_best_lr_whatever_their_order(order, means):
    """Law: as many lrs, in the same places, however the grid is ordered, and each next to a best one."""
    lrs = [1e-4, 1e-3, 1e-2, 1e-1, 1.0]
    of = dict(zip(lrs, means, strict=True))
    finer = [
        [c["eta0"] for c in rounds(LRGridSearchCV(SGDClassifier(), lrs=some, rounds=2), lambda c: of.get(c["eta0"]))[1]]
        for some in (lrs, [lrs[i] for i in order])
    ]
    assert finer[0] == finer[1]
    assert len(finer[0]) == 4
    at = {int(np.floor(np.log10(lr))) + 4 for lr in finer[0]}  # gap i is between lr i and lr i + 1
    best = {i for i, mean in enumerate(means) if mean == max(means)}
    assert all({gap, gap + 1} & best for gap in at)
    if len(touched := {gap for gap in range(4) if {gap, gap + 1} & best}) <= 4:
        assert at == touched


def test_rounds_with_the_best_at_both_ends_go_into_both_gaps():
    search = LRGridSearchCV(SGDClassifier(), lrs=[0.01, 0.1, 1.0], rounds=2)
    finer = rounds(search, lambda c: 0.4 if c["eta0"] == 0.1 else 0.5)[1]
    assert [c["eta0"] < 0.1 for c in finer] == [True, True, False, False]


@pytest.mark.parametrize(
    ("kwargs", "score"),
    [
        ({"lrs": [0.1]}, hill),
        ({"lrs": [0.1, 0.101]}, hill),
        ({}, lambda c: np.nan),
        ({"param_grid": [{"alpha": [0.1]}, {"eta0": [0.1, 0.2]}]}, lambda c: "alpha" in c),
    ],
    ids=["one lr", "neighbours too near", "nothing trained", "the best has no lr"],
)
def test_where_there_is_nothing_to_refine_the_first_round_is_the_last(kwargs, score):
    assert len(rounds(LRGridSearchCV(SGDClassifier(), rounds=3, **kwargs), score)) == 1


def test_rounds_need_a_learning_rate():
    with pytest.raises(ValueError, match="lr_param must be given"):
        LRGridSearchCV(SVC(), {"C": [1.0, 2.0]}, rounds=2)._check_space()
    with pytest.raises(ValueError, match="rounds must be 1 if no learning rate is searched, got 2"):
        LRGridSearchCV(SGDClassifier(), {"alpha": [1.0, 2.0]}, rounds=2)._check_space()
