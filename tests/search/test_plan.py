"""What a search says it would cost is what it costs."""

import pytest
from sklearn.linear_model import Ridge
from strategies import CV, DEFAULTS, X, Y, bayes, grid, net

from sklr import LRGridSearchCV, OptunaSearchCV


@pytest.mark.parametrize("engine", ["stacked", "sequential"])
def test_it_counts_what_is_then_trained(make, engine):
    search = make(net(), cv=CV, n_seeds=2, random_state=0, engine=engine, refit=False)
    plan = search.plan(X, Y)
    assert not [name for name in vars(search) if name.endswith("_")]
    search.fit(X, Y)
    assert plan.candidates == len(search.cv_results_["params"])
    assert plan.runs == search.cell_scores_.size
    assert plan.epochs == len(search.history_["epoch"])
    # 100 rows of 150 in each of the 3 folds, 16 to a batch: 7 steps
    assert plan.steps == plan.epochs * 7
    assert plan.engine == search.engine_
    assert (plan.stacks is None) == (plan.memory is None) == (engine == "sequential")


def test_memory_grows_with_the_runs_and_stacks_with_the_workers():
    small, large = (grid(net(), cv=CV, values=[0.01] * n).plan(X, Y) for n in (2, 6))
    assert large.memory == 3 * small.memory > 0
    assert grid(net(), cv=CV, n_jobs=2).plan(X, Y).stacks == 2


def test_batch_sizes_that_are_searched_count_each_for_itself():
    plan = grid(net(), "batch_size", [10, 100, -1], cv=CV).plan(X, Y)
    assert plan.steps == DEFAULTS["max_epochs"] * 3 * (10 + 1 + 1)


def test_what_is_not_known_is_not_said():
    plan = LRGridSearchCV(Ridge(), {"alpha": [0.1, 1.0]}, cv=3).plan(X, Y)
    assert (plan.candidates, plan.runs, plan.epochs, plan.steps, plan.stacks) == (2, 6, None, None, None)
    assert str(plan).startswith("2 candidates, 6 runs\nengine: sequential (")
    endless = OptunaSearchCV(net(), n_trials=None, timeout=60, cv=3).plan(X, Y)
    assert (endless.candidates, endless.runs, endless.steps) == (None, None, None)


def test_bad_values_are_refused():
    with pytest.raises(ValueError, match="n_seeds must be an integer >= 1"):
        bayes(net(), n_seeds=0).plan(X, Y)
