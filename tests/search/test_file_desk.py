"""A study in a file has each candidate once, whatever interrupts or joins the search, and one process works on it."""

import os
import socket
import threading

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from killable import Slow, X, Y, comparable, search_of
from optuna.distributions import FloatDistribution
from optuna.storages import InMemoryStorage, RDBStorage
from optuna.trial import TrialState
from sqlalchemy.pool import NullPool

import sklr
from sklr import StorageError, StudyError
from sklr.results import Outcome
from sklr.search.storage import stored_study, workers
from sklr.search.storage.claims import Entry, FileDesk
from sklr.search.storage.codec import outcome_attrs
from sklr.search.storage.open import _pool
from sklr.search.storage.stored_study import SEED, Book
from sklr.search.storage.workers import is_dead, sign_off, sign_on, this_machine, this_process

FILES = ["s.db", "s.log"]
ENTRIES = [Entry(0, str(i), {"lr": 0.1}, {"lr": FloatDistribution(0.1, 0.1)}, {"candidate": i}) for i in range(4)]
DONE = [(e, e.trial(TrialState.COMPLETE, value=0.5, user_attrs=outcome_attrs([Outcome(0.5)]))) for e in ENTRIES]


class Breaking(InMemoryStorage):
    """Raises an error at each of some writes: before it, or after it, as if the answer was lost."""

    def __init__(self):
        super().__init__()
        self.errors, self.n_writes = {}, 0

    def create_new_trial(self, study_id, template_trial=None):
        self.n_writes += 1
        error, is_written = self.errors.pop(self.n_writes, (None, True))
        trial = super().create_new_trial(study_id, template_trial) if is_written else None
        if error is not None:
            raise error
        return trial


def desk_on(storage):
    study = optuna.create_study(storage=storage, study_name="s", direction="maximize", load_if_exists=True)
    return FileDesk(study, storage)


def keys(storage):
    return sorted(trial.user_attrs["sklr:claim"][1] for trial in storage.get_all_trials(0))


# ------------------------------------------------------------------------------------------------ each candidate once
breaks = st.dictionaries(
    st.integers(1, 8), st.tuples(st.sampled_from([KeyboardInterrupt(), OSError(28, "full")]), st.booleans()), max_size=4
)


@settings(max_examples=40, deadline=None)
@given(errors=breaks)
def test_each_candidate_is_written_once_wherever_writing_is_interrupted(errors):
    storage = Breaking()
    desk, storage.errors = desk_on(storage), dict(errors)
    for _ in range(len(errors) + 1):
        try:
            desk.hand_in(DONE)
        except KeyboardInterrupt:
            continue  # and the search hands everything in again, as it does not know what was written
        break
    desk.release("")
    assert keys(storage) == sorted(entry.key for entry in ENTRIES)


def test_a_storage_that_was_given_up_is_not_waited_for_again(monkeypatch):
    monkeypatch.setattr("sklr.search.storage.open.PATIENCE", 0.0)
    storage = Breaking()
    storage.errors = {number: (OSError(28, "full"), False) for number in range(4, 99)}
    search = search_of("grid", storage=storage, study_name="s")
    with pytest.raises(StorageError, match="did not answer"):
        search.fit(X, Y)
    assert storage.n_writes == 4
    assert len(search.cv_results_["params"]) == 4


@pytest.mark.parametrize("together", [False, True])
def test_what_another_process_has_finished_since_the_study_was_read_is_not_claimed(together):
    storage = InMemoryStorage()
    late, first = desk_on(storage), desk_on(storage)
    first.claim(ENTRIES[:2], together)
    first.hand_in(DONE[:2])
    first.release("")
    assert late.claim(ENTRIES, together) == ([] if together else [2, 3])
    assert late.claim(ENTRIES[2:], together) == [0, 1]
    late.release("")


@pytest.mark.parametrize("file", FILES)
def test_the_candidates_of_the_search_it_starts_from_are_in_the_study_once(tmp_path, file):
    first, kept = search_of("grid").fit(X, Y), {"storage": tmp_path / file, "study_name": "s", "resume": True}
    searches = [search_of("optuna", **kept).fit(X, Y, start=first) for _ in range(2)]
    loaded = sklr.load_search(tmp_path / file)
    assert len(searches[1].study_.trials) == 16
    results = [comparable(search.cv_results_) for search in (*searches, loaded)]
    assert repr(results[0]) == repr(results[1]) == repr(results[2])


def test_a_candidate_that_two_processes_have_written_is_loaded_once():
    storage = InMemoryStorage()
    search = search_of("grid", storage=storage, study_name="s").fit(X, Y)
    search.study_.add_trial(search.study_.trials[3])
    assert comparable(sklr.load_search(storage).cv_results_) == comparable(search.cv_results_)


# -------------------------------------------------------------------------------------------------- who is working
def test_two_threads_of_a_process_are_two_workers():
    storage = InMemoryStorage()
    first, second = desk_on(storage), desk_on(storage)
    first.claim(ENTRIES, False)
    with pytest.raises(StudyError, match=r"Another thread of this process is working on the study 's'. Only a data"):
        second.claim(ENTRIES, False)
    first.study.set_user_attr = None  # it cannot sign off in the study
    first.release("")
    assert second.claim(ENTRIES, False) == [0, 1, 2, 3]
    second.release("")


def test_pids_of_another_machine_or_container_say_nothing(monkeypatch):
    me = this_process()
    machine, rest = me.split(" ", 1)
    assert machine.split("/")[0] == socket.gethostname()
    assert [is_dead(me), is_dead(f"{machine}/1 {rest}"), is_dead(f"{machine}x {rest}")] == [True, False, False]
    sign_on(me)
    assert not is_dead(me)
    sign_off(me)
    real = os.stat
    monkeypatch.setattr(workers.os, "stat", lambda path: real("/") if "ns/pid" in path else real(path))
    assert this_machine() != machine, "a container with the name of its host"


def test_a_later_process_of_another_user_with_the_same_pid_is_another(monkeypatch):
    def kill(pid, signal):
        raise PermissionError

    monkeypatch.setattr(workers.os, "kill", kill)
    assert is_dead(f"{this_machine()} 1 not-its-birth 3 4")
    assert not is_dead(f"{this_machine()} 1 {workers._birth(1)} 3 4")


# ---------------------------------------------------------------------------------------------- whose study it is
def books(n):
    storage = InMemoryStorage()
    return [Book(storage, "s", resume=True) for _ in range(n)]


def test_a_slow_creator_compares_its_search_with_the_one_that_has_begun_meanwhile(monkeypatch):
    monkeypatch.setattr(stored_study, "WAIT_FOR_HEAD", 0.1)
    creator, other = books(2)
    head = {"format": "3", "folds and seeds": {"0": "a"}, "data": {"X": "10 rows"}}
    other.agree(head)
    with pytest.raises(StudyError, match="data: X is 20 rows, was 10 rows"):
        creator.agree({**head, "data": {"X": "20 rows"}})


def test_all_that_waited_for_a_creator_that_was_killed_take_one_seed(monkeypatch):
    monkeypatch.setattr(stored_study, "WAIT_FOR_HEAD", 0.1)
    seeds = {}

    def draw(i, book):
        seeds[i] = book._agreed(SEED, i, int)

    threads = [threading.Thread(target=draw, args=pair) for pair in enumerate(books(5)[1:])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(seeds.values())) == 1


@pytest.mark.parametrize("directions", [["minimize"], ["maximize", "minimize"]])
def test_a_study_that_does_not_maximize_one_score_is_refused(directions):
    storage = InMemoryStorage()
    optuna.create_study(storage=storage, study_name="s", directions=directions)
    with pytest.raises(StudyError, match=rf"maximizes a single score, got \['{directions[0]}'.*Use another name"):
        search_of("grid", storage=storage, study_name="s", resume=True).fit(X, Y)


@pytest.mark.parametrize("kind", [InMemoryStorage, lambda: RDBStorage("sqlite://")])
def test_a_study_that_is_deleted_during_the_search_is_named_and_what_has_finished_is_kept(monkeypatch, kind):
    storage, real, fits = kind(), Slow.fit, []

    def fit(self, X, y):
        fits.append(self.lr)
        if len(fits) == 10:  # of the fourth candidate
            optuna.delete_study(storage=storage, study_name="s")
        return real(self, X, y)

    monkeypatch.setattr(Slow, "fit", fit)
    search = search_of("grid", storage=storage, study_name="s")
    with pytest.raises(StorageError, match=r"no longer in its storage.*kept in the search's attributes.*another study"):
        search.fit(X, Y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).sum() >= 3


# --------------------------------------------------------------------------------------------------------- servers
def test_a_server_that_does_not_answer_is_given_up_soon_unless_the_url_says_when():
    url = "postgresql+psycopg://user@host/lr"
    assert _pool(url)["connect_args"] == {"connect_timeout": 10}  # seconds; the driver itself waits for minutes
    assert "connect_args" not in _pool(f"{url}?connect_timeout=99")
    assert "connect_args" not in _pool("mysql+pymysql://user@host/lr")
    assert _pool("sqlite:///lr.db") == {"poolclass": NullPool}
