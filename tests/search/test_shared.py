"""Several processes share a search through a PostgreSQL server; one is killed, the server restarts: nothing is lost."""

import json
import time

import optuna
import pytest
from killable import SEARCHES, N, X, Y, comparable, finished, kill, search_of, start, trained
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from server import Server, find
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from sklr import StudyError, load_search

if find("initdb") is None:
    pytest.skip("PostgreSQL's initdb is not there: apt-get install postgresql", allow_module_level=True)

pytestmark = [
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),  # of Optuna's heartbeat
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def server():
    with Server() as server:
        yield server


@pytest.fixture
def url(server):
    return server.database()


def database(url, **heartbeat):
    return RDBStorage(url, engine_kwargs={"poolclass": NullPool}, **heartbeat)  # leaves no connection open


def opened(url):
    return optuna.load_study(study_name="lr", storage=database(url))


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def results_of(workers):
    for process, _, _ in workers:
        process.join(60)
        assert process.exitcode == 0
    return [json.loads(out.read_text()) for _, _, out in workers]


def assert_each_once(url, expected):
    ends = finished(opened(url))
    assert sorted(ends) == sorted(c["lr"] for c in expected["params"])
    assert not opened(url).get_trials(states=(TrialState.RUNNING, TrialState.WAITING))


@pytest.mark.parametrize("kind", ["grid", "optuna"])
def test_three_workers_share_the_trials_out(url, tmp_path, kind):
    kept = {"storage": url, "study_name": "lr"}
    workers = [start(kind, tmp_path, i, 0.1, **kept) for i in range(3)]
    expected = comparable(search_of(kind).fit(X, Y).cv_results_)
    assert results_of(workers) == [expected] * 3
    shares = [trained(log) for _, log, _ in workers]
    assert sorted(lr for share in shares for lr in share) == sorted(c["lr"] for c in expected["params"])
    assert sum(map(bool, shares)) > 1
    assert_each_once(url, expected)


@pytest.mark.parametrize("sampler", ["tpe", optuna.samplers.TPESampler()])
def test_without_a_random_state_all_have_the_same_folds_seeds_and_draws(url, tmp_path, sampler):
    kept = {"storage": url, "study_name": "lr", "random_state": None, "sampler": sampler}
    first, second = results_of([start("optuna", tmp_path, i, **kept) for i in range(2)])
    assert first == second
    assert len(first["params"]) == N


def test_a_dead_workers_trials_are_taken_up_and_a_restart_is_waited_for(server, url, tmp_path):
    kept = {"storage": url, "study_name": "lr"}
    victim = start("grid", tmp_path, "victim", 0.5, **kept)
    wait_for(lambda: victim[1].read_text())
    workers = [start("grid", tmp_path, i, 0.1, **kept) for i in range(2)]
    kill(victim[0])
    wait_for(lambda: workers[0][1].read_text())
    server.stop()
    time.sleep(0.5)
    server.start()
    expected = comparable(search_of("grid").fit(X, Y).cv_results_)
    assert results_of(workers) == [expected] * 2
    assert_each_once(url, expected)


@pytest.mark.parametrize("retry", [None, optuna.storages.RetryHeartbeatStaleTrialCallback])
def test_a_worker_of_another_machine_is_known_dead_by_its_heartbeat(url, tmp_path, monkeypatch, retry):
    monkeypatch.setattr("sklr.search.storage.server_desk.is_dead", lambda owner: False)
    stale = {"heartbeat_stale_trial_callback": retry and retry()}  # Optuna's own retry, which is taken up
    storage = database(url, heartbeat_interval=1, grace_period=2, **stale)
    process, log, _ = start("grid", tmp_path, "victim", 0.5, storage=url, study_name="lr")
    wait_for(lambda: log.read_text())
    kill(process)
    search = search_of("grid", storage=storage, study_name="lr", resume=True).fit(X, Y)
    assert comparable(search.cv_results_) == comparable(search_of("grid").fit(X, Y).cv_results_)
    assert_each_once(url, search.cv_results_)


def test_a_worker_that_was_paused_uses_what_others_have_finished(url, monkeypatch):
    """While it slept its trials were given to another, which finished them: Optuna's own worker dies here."""
    kept = {"storage": database(url, heartbeat_interval=60), "study_name": "lr", "resume": True}
    slept = []

    def sleep(self, X, y):
        if not slept:
            slept.append(True)
            study = opened(url)
            for trial in study.get_trials(states=(TrialState.RUNNING,)):
                study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
            search_of("grid", **kept).fit(X_ALL, Y)
        return fit(self, X, y)

    X_ALL, slow = X, type(search_of("grid").estimator)
    fit = slow.fit
    monkeypatch.setattr(slow, "fit", sleep)
    search = search_of("grid", **kept).fit(X, Y)
    assert_each_once(url, search.cv_results_)


def connections(server):
    """Return how many connections there are to the databases of the tests."""
    with create_engine(server.url("postgres"), poolclass=NullPool).connect() as own:
        query = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND datname LIKE 'search%'"
        return own.execute(text(query)).scalar_one()


def test_no_connection_is_left_open_however_it_ends(server, url):
    kept = {"storage": url, "study_name": "lr"}
    before, ends = connections(server), []  # what is kept here is not closed by the garbage collector
    ends.append(search_of("grid", **kept).fit(X, Y))
    for call, kind in [
        (lambda: search_of("grid", **kept).fit(X, Y), StudyError),
        (lambda: search_of("grid", resume=True, **kept).fit(X + 1, Y), StudyError),
        (lambda: load_search(url, "another"), StudyError),
    ]:
        with pytest.raises(kind) as error:
            call()
        ends.append(error)
    ends.append(load_search(url, "lr"))
    assert connections(server) == before


@pytest.mark.parametrize("kind", SEARCHES)
def test_killed_at_random_moments_it_ends_as_if_it_had_not_been(url, tmp_path, kind):
    expected = comparable(search_of(kind).fit(X, Y).cv_results_)
    for attempt, moment in enumerate([0.25, 0.5, 0.4, 60]):
        process, _, out = start(kind, tmp_path, attempt, 0.02, storage=url, study_name="lr")
        process.join(moment)
        if process.exitcode is not None:
            break
        kill(process)
    assert json.loads(out.read_text()) == expected
    assert_each_once(url, expected)
