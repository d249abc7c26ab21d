"""scikit-learn 1.9's callbacks on searches: every candidate, fold and epoch is told of, wherever they are set."""

import numpy as np
import pytest
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.callback.tests._utils import RecordingAutoPropagatedCallback, RecordingCallback
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from strategies import CV, X, Y, bayes, grid, net, optuna

from sklr import DivergedWarning
from sklr.engines.sequential.engine import SequentialEngine

FEW = {"values": [0.01, 0.03], "cv": CV, "random_state": 0}
EPOCHS = 2


def short(**params):
    return net(**{"max_epochs": EPOCHS, **params})


def rows_by_task(monitor, **kwargs):
    table = monitor.get_logs(**kwargs).data_as_pandas
    return dict(list(table.groupby("task_name")))


@pytest.mark.one_fast
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_monitor_on_the_net_has_a_row_per_epoch_with_its_lineage(n_jobs):
    monitor = ScoringMonitor(scoring="accuracy")
    search = grid(short().set_callbacks(monitor), **FEW, n_jobs=n_jobs).fit(X, Y)
    assert monitor.get_logs().estimator_name == "LRGridSearchCV"
    tasks = rows_by_task(monitor, include_lineage=True)
    epochs = tasks["epoch"]
    n_runs = search.cell_scores_.size
    assert len(epochs) == EPOCHS * (n_runs + 1)  # and the refit
    assert epochs["accuracy"].notna().all()
    assert set(epochs["estimator_name"]) == {"NeuralNetClassifier"}
    of_search = [path for path in epochs["task_id_path"] if path[1] == 0]
    # fit of the search, its search task, the run, the epoch
    assert sorted(of_search) == [(0, 0, run, epoch) for run in range(n_runs) for epoch in range(EPOCHS)]


def test_a_monitor_of_every_strategy_counts_runs_through_all_batches(make):
    monitor = ScoringMonitor(scoring="accuracy")
    search = make(short().set_callbacks(monitor), **FEW).fit(X, Y)
    epochs = rows_by_task(monitor)["epoch"]
    of_search = [path[2] for path in epochs["task_id_path"] if path[1] == 0]
    assert sorted(set(of_search)) == list(range(search.cell_scores_.size))


def test_scores_are_the_same_with_and_without_callbacks(make):
    with_them = make(short(), **FEW).set_callbacks(RecordingAutoPropagatedCallback()).fit(X, Y)
    without = make(short(), **FEW).fit(X, Y)
    np.testing.assert_array_equal(with_them.cell_scores_, without.cell_scores_)
    for column in without.history_.keys() - {"valid_score"}:  # without callbacks the runs are stacked: to rounding
        np.testing.assert_allclose(with_them.history_[column], without.history_[column], rtol=1e-6)


@pytest.mark.parametrize(("make", "n_jobs"), [(grid, 1), (bayes, 1), (optuna, 1), (grid, 2)])
def test_a_progress_bar_on_a_search(make, n_jobs, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    make(short(), **FEW, n_jobs=n_jobs).set_callbacks(ProgressBar()).fit(X, Y)
    out = capsys.readouterr().out
    assert "fit" in out
    assert "search" in out
    assert "100%" in out


def test_a_net_in_a_pipeline_in_a_search_tells_of_its_epochs():
    monitor = ScoringMonitor(scoring="accuracy")
    pipeline = make_pipeline(StandardScaler(), short().set_callbacks(monitor))
    search = grid(pipeline, "neuralnetclassifier__lr", **FEW).fit(X, Y)
    epochs = rows_by_task(monitor)["epoch"]
    assert len(epochs) == EPOCHS * (search.cell_scores_.size + 1)
    assert epochs["accuracy"].notna().all()


def test_a_diverging_net_gets_its_status_under_callbacks(make):
    callback = RecordingAutoPropagatedCallback()
    search = make(short(), values=[0.01, 1e30], cv=CV, random_state=0).set_callbacks(callback)
    with pytest.warns(DivergedWarning):
        search.fit(X, Y)
    lrs = np.array([params["lr"] for params in search.cv_results_["params"]])
    assert all(status.startswith("diverged at step") for status in search.cv_results_["status"][lrs == 1e30])
    assert set(search.cv_results_["status"][lrs == 0.01]) == {"ok"}
    assert search.best_lr_ == 0.01


def test_tasks_are_those_of_scikit_learns_own_searches(make):
    callback = RecordingCallback()
    search = make(LogisticRegression(max_iter=999), "C", [0.1, 1.0], cv=CV, random_state=0).set_callbacks(callback)
    search.fit(X, Y, sample_weight=np.ones(len(X)))
    named = [(entry["name"], entry["context"].task_name) for entry in callback.record if "context" in entry]
    n_runs = search.cell_scores_.size
    for hook in ("on_fit_task_begin", "on_fit_task_end"):
        for task, count in {
            "fit": 1,
            "search": 1,
            "candidate-split-evaluation": n_runs,
            "refit-with-best-params": 1,
        }.items():
            assert named.count((hook, task)) == count
    assert (callback.count_hooks("setup"), callback.count_hooks("teardown")) == (1, 1)
    for entry in callback.record:
        if entry["context"].task_name == "candidate-split-evaluation":
            assert len(entry["kwargs"]["metadata"]["sample_weight"]) == len(entry["kwargs"]["X"]) < len(X)


def test_callbacks_are_torn_down_after_an_error(make):
    callback = RecordingCallback()
    search = make(short(lr="high"), "batch_size", [16], cv=CV, error_score="raise").set_callbacks(callback)
    with pytest.raises(ValueError, match="lr must be a finite number"):
        search.fit(X, Y)
    assert callback.count_hooks("teardown") == 1


def test_no_contexts_where_nobody_listens(make, monkeypatch):
    given = []
    start = SequentialEngine.start

    def spy(engine, experiment, candidates, contexts=None):
        given.append(contexts)
        return start(engine, experiment, candidates, contexts)

    monkeypatch.setattr(SequentialEngine, "start", spy)
    make(short(), **FEW, engine="sequential").fit(X, Y)
    assert set(given) == {None}
