"""Nothing finished is lost, nothing is done twice: searches that are killed, gone on with, and kept from each other."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import optuna
import pytest
from killable import SEARCHES, X, Y, comparable, finished, kill, search_of, start, trained
from optuna.exceptions import StorageInternalError
from optuna.storages import InMemoryStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import TrialState
from sklearn.model_selection import KFold
from sklearn.svm import SVC
from strategies import CV, LRS, net

from sklr import DivergedWarning, LRGridSearchCV, OptunaSearchCV, StorageError, StorageWarning, StudyError
from sklr.search.storage import open
from sklr.search.storage.stored_study import make_desk
from sklr.search.storage.workers import _birth, is_dead, this_machine

pytestmark = pytest.mark.slow

warnings.simplefilter("error")
FILES = ["lr.db", "lr.log"]


def opened(path):
    name = f"sqlite:///{path}" if path.suffix == ".db" else JournalStorage(JournalFileBackend(str(path)))
    return optuna.load_study(study_name="lr", storage=name)


def kept(tmp_path, file="lr.db", **params):
    return {"storage": str(tmp_path / file), "study_name": "lr", **params}


def done_in(path):
    try:
        return finished(opened(path)) if path.exists() else []
    except (KeyError, StorageInternalError):  # killed before there was a study, or seen while its tables are made
        return []


def test_a_study_is_not_made_twice_where_a_killed_process_has_left_its_table_without_index(tmp_path):
    path = tmp_path / "lr.db"
    RDBStorage(f"sqlite:///{path}")
    with sqlite3.connect(path) as database:
        database.execute("DROP INDEX ix_studies_study_name")
    assert [open.open_study(str(path), "lr", resume=True)[2] for _ in range(2)] == [True, False]


@pytest.mark.parametrize(("kind", "file"), [("grid", "lr.db"), ("stacked", "lr.db"), ("optuna", "lr.log")])
def test_killed_at_random_moments_it_ends_as_if_it_had_not_been(tmp_path, kind, file):
    moments = np.random.RandomState(len(kind) + len(file))
    expected = comparable(search_of(kind).fit(X, Y).cv_results_)
    for attempt in range(30):
        done = done_in(tmp_path / file)
        process, log, out = start(kind, tmp_path, attempt, 0.02, **kept(tmp_path, file))
        process.join(timeout=moments.uniform(0.1, 0.7) if attempt < 3 else 60)
        if process.exitcode is not None:
            break
        kill(process)
        assert not set(done) & set(trained(log, n_folds=1))
    assert process.exitcode == 0
    assert not set(done) & set(trained(log, n_folds=1))
    assert json.loads(out.read_text()) == json.loads(json.dumps(expected))
    ends = finished(opened(tmp_path / file))
    assert sorted(ends) == sorted(c["lr"] for c in expected["params"])
    assert not opened(tmp_path / file).get_trials(states=(TrialState.RUNNING, TrialState.WAITING))


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("kind", SEARCHES)
def test_what_is_finished_is_read_and_not_trained(tmp_path, kind, file, monkeypatch):
    params = {"return_train_score": True, "random_state": None, "cv": KFold(3, shuffle=True), "refit": kind == "grid"}
    first = search_of(kind, **kept(tmp_path, file), **params).fit(X, Y)
    monkeypatch.setattr("sklr.search._evaluator.pick_engine", None)
    again = search_of(kind, **kept(tmp_path, file, resume=True), **params).fit(X, Y)
    assert repr(comparable(again.cv_results_)) == repr(comparable(first.cv_results_))
    assert again.cv_results_["mean_fit_time"].tolist() == first.cv_results_["mean_fit_time"].tolist()
    assert again.cell_scores_.tolist() == first.cell_scores_.tolist()
    assert [cell.seed for cell in again.cells_] == [cell.seed for cell in first.cells_]
    assert {k: v.tolist() for k, v in again.history_.items()} == {k: v.tolist() for k, v in first.history_.items()}
    assert (again.engine_, again.best_params_) == (first.engine_, first.best_params_)
    assert len(again.study_.trials) == len(first.cv_results_["params"])


def test_a_storage_changes_nothing(tmp_path):
    plain = search_of("stacked").fit(X, Y)
    for file in FILES:
        stored = search_of("stacked", **kept(tmp_path, file)).fit(X, Y)
        assert comparable(stored.cv_results_) == comparable(plain.cv_results_)
        assert [t.value for t in stored.study_.trials] == [t.value for t in plain.study_.trials]
        assert [t.intermediate_values for t in stored.study_.trials] == [
            t.intermediate_values for t in plain.study_.trials
        ]
    assert len(plain.study_.trials[0].intermediate_values) == 4


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::sklearn.exceptions.FitFailedWarning")
@pytest.mark.parametrize("file", FILES)
def test_every_status_comes_back(tmp_path, file):
    search = LRGridSearchCV(net(optimizer="sgd"), lrs=[0.01, 1e30], cv=CV, random_state=0)
    with pytest.warns(DivergedWarning):
        first = search.set_params(**kept(tmp_path, file)).fit(X, Y)
    with pytest.warns(DivergedWarning):
        again = search.set_params(resume=True).fit(X, Y)
    assert list(again.cv_results_["status"]) == list(first.cv_results_["status"])
    assert "diverged" in again.study_.trials[1].user_attrs["status"]
    svc = LRGridSearchCV(SVC(), {"C": [-1.0, 1.0]}, cv=3, **kept(tmp_path, "svc" + file), refit=False)
    for resume in (False, True):
        svc.set_params(resume=resume).fit(X, Y)
    assert svc.study_.trials[0].state == TrialState.FAIL


def test_what_the_study_says_about_the_search(tmp_path):
    search = search_of("grid", **kept(tmp_path)).fit(X, Y)
    study = opened(tmp_path / "lr.db")
    head = json.loads(study.user_attrs["sklr:search"])
    assert head["data"]["X"].startswith("150 rows, ")
    assert len(head["folds and seeds"]) == len(search.cells_)
    assert {"torch", "optuna", "sklr"} <= head["versions"].keys()
    assert head == json.loads(search_of("grid").fit(X, Y).study_.user_attrs["sklr:search"])
    assert [trial.params for trial in study.trials] == search.cv_results_["params"]
    assert study.best_value == search.best_score_


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"X": X + 1}, r"data: X has other values than before \(150 rows, numpy.ndarray of float64"),
        ({"X": X[:149], "y": Y[:149]}, r"data: X is 149 rows, .*, was 150 rows"),
        ({"y": np.roll(Y, 1)}, "data: y has other values than before "),
        ({"cv": 4}, r"folds and seeds: cv is StratifiedKFold\(n_splits=4\), was StratifiedKFold\(n_splits=3\)"),
        ({"random_state": 1}, "folds and seeds: random_state is 1, was 0"),
        ({"n_seeds": 2}, "search parameters: n_seeds is 2, was 1"),
        ({"estimator__lr": 0.5}, "estimator: lr is 0.5, was 0.1"),
        ({"scoring": "accuracy"}, "search parameters: scoring is 'accuracy', was None"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_search_under_the_name_is_refused(tmp_path, changed, said):
    search_of("grid", **kept(tmp_path, "lr.log")).fit(X, Y)
    data = {"X": changed.pop("X", X), "y": changed.pop("y", Y)}
    other = search_of("grid", **kept(tmp_path, "lr.log", resume=True)).set_params(**changed)
    with pytest.raises(StudyError, match=f"The study 'lr' belongs to a different search.*{said}.*another study_name"):
        other.fit(**data)


def test_a_name_is_used_once_unless_resuming(tmp_path):
    search = search_of("grid", **kept(tmp_path)).fit(X, Y)
    with pytest.raises(StudyError, match=r"study_name must be one that .* Use resume=True to resume it"):
        search.fit(X, Y)
    unnamed = search_of("grid", storage=str(tmp_path / "lr.db"))
    assert unnamed.fit(X, Y).study_.study_name != unnamed.fit(X, Y).study_.study_name


@pytest.mark.parametrize("storage", [InMemoryStorage, lambda: RDBStorage("sqlite://"), lambda: "sqlite://"])
def test_storage_objects(storage):
    search = search_of("grid", storage=storage(), study_name="lr").fit(X, Y)
    assert len(search.study_.trials) == 8


def test_a_half_written_line_is_dropped(tmp_path):
    first = search_of("grid", **kept(tmp_path, "lr.log")).fit(X, Y)
    path = tmp_path / "lr.log"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.warns(StorageWarning, match=r"1 line\(s\) of the journal lr.log were incomplete"):
        again = search_of("grid", **kept(tmp_path, "lr.log", resume=True)).fit(X, Y)
    assert comparable(again.cv_results_) == comparable(first.cv_results_)
    assert len(opened(path).trials) == 8


class Unseeded(optuna.samplers.RandomSampler):
    """Draws at random in a way of its own, which no seed reaches."""

    def sample_independent(self, study, trial, name, distribution):
        return 10 ** np.random.default_rng().uniform(*np.log10([distribution.low, distribution.high]))


def test_a_sampler_that_cannot_be_seeded_is_gone_on_with(tmp_path):
    search = search_of("optuna", **kept(tmp_path), sampler=Unseeded())
    first = comparable(search.fit(X, Y).cv_results_)
    assert comparable(search.set_params(resume=True).fit(X, Y).cv_results_) == first


class Fails:
    """Makes a method of a class raise, the first `times` times from the call number `start` on."""

    def __init__(self, monkeypatch, owner, name, start, times):
        self.calls, self.span = 0, range(start, start + times)
        method = getattr(owner, name)

        def call(*args, **kwargs):
            self.calls += 1
            if self.calls in self.span:
                raise OSError(28, "No space left on device")
            return method(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)


def test_a_storage_that_comes_back_is_waited_for(tmp_path, monkeypatch):
    Fails(monkeypatch, JournalStorage, "create_new_trial", 3, 2)
    search = search_of("grid", **kept(tmp_path, "lr.log")).fit(X, Y)
    assert len(search.study_.trials) == 8


@pytest.mark.parametrize("kind", ["grid", "stacked"])
def test_a_storage_that_stays_away_costs_nothing_that_is_finished(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(open, "PATIENCE", 0.2)
    search = search_of(kind, **kept(tmp_path, "lr.log"))
    with monkeypatch.context() as patch:
        Fails(patch, JournalStorage, "create_new_trial", 4, 1000)
        with pytest.raises(StorageError, match=r"did not answer for 0.2 seconds.*No space left.*resume=True"):
            search.fit(X, Y)
    assert len(search.cv_results_["params"]) >= 4
    again = search.set_params(resume=True).fit(X, Y)
    assert comparable(again.cv_results_) == comparable(search_of(kind).fit(X, Y).cv_results_)


def test_a_locked_database_is_waited_for(tmp_path):
    search_of("grid", **kept(tmp_path)).fit(X, Y)
    lock = sqlite3.connect(tmp_path / "lr.db", isolation_level=None, check_same_thread=False)
    lock.execute("BEGIN EXCLUSIVE")
    threading.Timer(0.5, lambda: (lock.execute("COMMIT"), lock.close())).start()
    assert len(search_of("grid", **kept(tmp_path, resume=True)).fit(X, Y).study_.trials) == 8


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"storage": 3}, "storage must be a path that ends in .db or .log, a database URL"),
        ({"storage": "lr.txt"}, "storage must be a path that ends in .db or .log, .* got 'lr.txt'"),
        ({"study_name": "lr"}, "study_name must be left out if there is no storage, got 'lr'. Give a storage"),
        ({"resume": True}, "resume must be left out if there is no storage, got True"),
        ({"resume": "yes"}, "resume must be True or False, got 'yes'"),
        ({"storage": "lr.db", "resume": True}, "study_name must be given if resume=True, got None. Name the study"),
        ({"storage": "lr.db", "study_name": ""}, "study_name must be a non-empty text or None, got ''"),
        ({"timeout": 0}, "timeout must be a number of seconds > 0, or None, got 0"),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["grid", "bayes", "optuna"])
def test_bad_values(kind, bad, message):
    with pytest.raises(ValueError, match=message):
        search_of(kind, **bad).fit(X, Y)


def test_a_study_and_a_storage_are_two():
    study = optuna.create_study(direction="maximize")
    with pytest.raises(ValueError, match="storage must be left out if a study is given"):
        OptunaSearchCV(SVC(), {"C": [1.0]}, study=study, storage="sqlite://").fit(X, Y)


def test_sigterm_ends_a_search_as_ctrl_c_does(tmp_path):
    class Terminates(SVC):
        def fit(self, X, y):
            if self.C == 3.0:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(1)
            return super().fit(X, y)

    search = LRGridSearchCV(Terminates(), {"C": [1.0, 2.0, 3.0, 4.0]}, cv=2, **kept(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        search.fit(X, Y)
    assert [c["C"] for c in search.cv_results_["params"]] == [1.0, 2.0]
    assert [t.state.name for t in opened(tmp_path / "lr.db").trials] == ["COMPLETE", "COMPLETE"]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


class TerminatesAsItGoes:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)  # the signal is handled here, where Python can raise nothing


def test_sigterm_that_comes_in_a_finalizer_is_not_lost(tmp_path):
    class Terminates(SVC):
        def fit(self, X, y):
            if self.C == 3.0:
                TerminatesAsItGoes()
                time.sleep(1)
            return super().fit(X, y)

    search = LRGridSearchCV(Terminates(), {"C": [1.0, 2.0, 3.0, 4.0]}, cv=2, **kept(tmp_path))
    report = sys.unraisablehook
    with pytest.raises(KeyboardInterrupt):
        search.fit(X, Y)
    assert [c["C"] for c in search.cv_results_["params"]] == [1.0, 2.0]
    assert sys.unraisablehook is report


class Clock:
    """Ten seconds pass with every look at it."""

    now = 0

    def __call__(self):
        Clock.now += 10
        return Clock.now


@pytest.mark.parametrize("kind", ["grid", "bayes", "optuna"])
def test_time_ends_a_search_of_single_trainings(tmp_path, monkeypatch, kind):
    monkeypatch.setattr("sklr.search._interrupts.time.monotonic", Clock())
    search = search_of(kind, timeout=25, refit=True, **kept(tmp_path, "lr.log")).fit(X, Y)
    monkeypatch.undo()
    assert 1 <= len(search.cv_results_["params"]) < 8
    assert search.best_estimator_.lr == search.best_lr_
    again = search.set_params(timeout=None, resume=True).fit(X, Y)
    assert comparable(again.cv_results_) == comparable(search_of(kind).fit(X, Y).cv_results_)


def test_time_stops_a_stack_after_its_epoch(tmp_path, monkeypatch):
    search = LRGridSearchCV(net(), {"lr": LRS}, cv=CV, random_state=0, timeout=25, **kept(tmp_path))
    monkeypatch.setattr("sklr.search._interrupts.time.monotonic", Clock())
    search.fit(X, Y)
    monkeypatch.undo()
    assert search.engine_ == "stacked"
    assert all("timeout after" in status for status in search.cv_results_["status"])
    assert search.best_lr_ == search.best_params_["lr"]
    assert search.study_.trials == [], "none is through"
    again = search.set_params(timeout=None, resume=True).fit(X, Y)
    assert list(again.cv_results_["status"]) == ["ok"] * len(LRS)


@pytest.mark.parametrize("pruner", [None, "median", "lr"])
@pytest.mark.parametrize("kind", ["grid", "bayes", "optuna"])
def test_wherever_it_was_broken_off_it_ends_the_same(tmp_path, kind, pruner):
    """A journal has one line for each trial: without its last ones it is that of a search that was killed there."""
    params = {"pruner": pruner, "estimator": net(), "engine": "stacked"}
    whole = search_of(kind).set_params(**params, **kept(tmp_path, "lr.log")).fit(X, Y)
    lines = (tmp_path / "lr.log").read_bytes().splitlines(keepends=True)
    for n_lost in (1, 3, 5, 8):
        (tmp_path / "lr.log").write_bytes(b"".join(lines[:-n_lost]))
        search = search_of(kind).set_params(**params, **kept(tmp_path, "lr.log", resume=True)).fit(X, Y)
        assert repr(comparable(search.cv_results_)) == repr(comparable(whole.cv_results_))
        assert len(search.study_.trials) == 8


class StaysHere(InMemoryStorage):
    """Cannot be sent to a worker, as a database may not be reached from there."""

    def __getstate__(self):
        raise TypeError


def test_workers_are_not_sent_the_storage():
    search = search_of("grid", storage=StaysHere(), n_jobs=2).fit(X, Y)
    assert len(search.study_.trials) == 8


@pytest.mark.parametrize("file", FILES)
def test_a_second_process_is_refused_at_once_and_takes_over_when_the_first_is_dead(tmp_path, file):
    process, log, _ = start("grid", tmp_path, "first", 0.2, **kept(tmp_path, file))
    while not trained(log):
        time.sleep(0.02)
    search = search_of("grid", **kept(tmp_path, file, resume=True))
    with pytest.raises(StudyError, match=f"Process {process.pid} is working on the study 'lr'. Wait for it .* server"):
        search.fit(X, Y)
    kill(process)
    n_done = len(done_in(tmp_path / file))
    assert comparable(search.fit(X, Y).cv_results_) == comparable(search_of("grid").fit(X, Y).cv_results_)
    assert len(search.study_.trials) == 8 > n_done > 0


@pytest.mark.parametrize("file", FILES)
def test_of_processes_that_begin_at_the_same_moment_one_goes_on(tmp_path, file):
    """Looking who is at work and saying that one is are one step: nobody comes between."""
    studies = [open.open_study(str(tmp_path / file), "lr", resume=True)[:2] for _ in range(4)]
    desks, ended = [make_desk(*both) for both in studies], []
    for i, desk in enumerate(desks):
        desk.owner = f"{this_machine()} 1 {_birth(1)} {i} {i}"

    def begin(desk):
        try:
            ended.append(desk.claim([], False))
        except StudyError:
            ended.append("refused")

    threads = [threading.Thread(target=begin, args=(desk,)) for desk in desks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, ended)) == ["[]", "refused", "refused", "refused"]


def test_a_process_that_has_ended_but_was_not_asked_after_is_dead():
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
        owner = f"{this_machine()} {child.pid} {_birth(child.pid)} x"
        assert not is_dead(owner)
        child.kill()
        deadline = time.monotonic() + 30
        while not is_dead(owner) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert child.returncode is None, "nobody has asked"
        assert is_dead(owner)
