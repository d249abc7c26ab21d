"""What a search says it would cost is what it costs."""

import random

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.model_selection import ShuffleSplit, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from strategies import CV, DEFAULTS, X, Y, bayes, grid, net

from sklr import MLP, BayesSearchCV, LRGridSearchCV, NeuralNetClassifier, OptunaSearchCV
from sklr.engines import StackedEngine


@pytest.mark.one_fast
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
    few, more, most = (grid(net(), cv=CV, values=[0.01] * n).plan(X, Y).memory for n in (40, 60, 80))
    assert most - more == more - few > 0
    assert grid(net(), cv=CV, n_jobs=2).plan(X, Y).stacks == 2


ROWS = np.random.default_rng(0).normal(size=(2000, 2000)).astype("float32")
LABELS = (ROWS[:, 0] > 0).astype(int)


def planned(n_folds, estimator=None, X=ROWS):
    estimator = estimator or NeuralNetClassifier(MLP, module__hidden=(4,), batch_size=8, max_epochs=1, random_state=0)
    return LRGridSearchCV(estimator, lrs=[0.01], cv=n_folds, engine=StackedEngine(max_stack=99)).plan(X, LABELS)


def test_memory_grows_with_the_data_and_not_with_the_folds():
    few, many = planned(10).memory, planned(20).memory
    assert few > ROWS.nbytes  # a cell's rows are taken out once, to be compared with one run by skorch
    assert many - few < ROWS.nbytes / 2  # of ten folds more: row numbers, weights, and what a step works in
    # float64 is cast once, for all folds
    assert planned(10, X=ROWS.astype(float)).memory - few == pytest.approx(ROWS.nbytes, rel=0.01)


class Wide(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.norm, self.out = torch.nn.Linear(4, 4096), torch.nn.LayerNorm(4096), torch.nn.Linear(4096, 2)

    def forward(self, x):
        return self.out(self.norm(self.inner(x)))


def test_memory_counts_what_is_computed_to_predict():
    def planned_for(n_test):
        net = NeuralNetClassifier(Wide, batch_size=8, max_epochs=1, random_state=0)
        cv = [(np.arange(1000, 1400), np.arange(n_test))]
        return LRGridSearchCV(net, lrs=[0.01], cv=cv, engine="stacked").plan(ROWS[:, :4].copy(), LABELS).memory

    few, many, more = map(planned_for, (10, 400, 1000))
    assert many - few > 390 * 4096 * 4  # at least one layer's output
    assert many < more < 1.5 * many  # two blocks of 500 rows, one after the other


def test_a_mapped_file_is_copied_once(tmp_path):
    np.save(tmp_path / "X.npy", ROWS)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    assert planned(2, X=mapped).memory - planned(2).memory == ROWS.nbytes


def test_a_pipeline_has_rows_of_its_own_in_each_fold():
    scaled = make_pipeline(StandardScaler(), planned_net := NeuralNetClassifier(MLP, batch_size=8, random_state=0))
    few, many = (planned(n, scaled) for n in (2, 6))
    assert (few.copies, many.copies, planned(2, planned_net).copies) == (2, 6, 0)
    assert many.memory - few.memory > 4 * ROWS.nbytes
    assert str(many).endswith(" MB above the data: each of 6 folds has its own rows from the pipeline")
    assert str(planned(2)).endswith(" MB above the data")


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


def global_states():
    return repr((random.getstate(), np.random.get_state(legacy=False), torch.random.get_rng_state().tolist()))


FOLDS = {
    "a RandomState": lambda: ShuffleSplit(2, random_state=np.random.RandomState(0)),
    "a generator": lambda: iter([(np.arange(0, 150, 2), np.arange(1, 150, 2)), (np.arange(1, 150, 2), np.arange(50))]),
    "the global generator": lambda: StratifiedKFold(2, shuffle=True),
}


@pytest.mark.one_fast
@pytest.mark.parametrize("folds", FOLDS.values(), ids=FOLDS)
def test_it_changes_nothing(make, folds):
    def fit(plan, random_state):
        np.random.seed(1)
        search = make(net(), cv=folds(), refit=False, random_state=random_state)
        for _ in range(plan):
            before = global_states()
            search.plan(X, Y)
            assert global_states() == before
        assert not [name for name in vars(search) if name.endswith("_")]
        return search.fit(X, Y).cell_scores_.tolist()

    assert fit(0, 0) == fit(2, 0)
    assert fit(0, np.random.RandomState(3)) == fit(2, np.random.RandomState(3))


def test_a_generator_in_the_optimizer_kwargs_is_left_alone():
    kwargs = {"random_state": np.random.RandomState(0), "base_estimator": "DUMMY"}
    search = BayesSearchCV(net(), n_iter=4, cv=CV, optimizer_kwargs=kwargs)
    before = repr(kwargs["random_state"].get_state(legacy=False))
    search.plan(X, Y)
    assert repr(kwargs["random_state"].get_state(legacy=False)) == before
