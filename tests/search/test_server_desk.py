"""Processes that share a server claim each candidate once, whatever they do at the same time; no server is needed."""

from types import SimpleNamespace

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from sklr.results import Outcome
from sklr.search.storage.claims import Entry
from sklr.search.storage.codec import OUTCOME, outcome_attrs
from sklr.search.storage.server_desk import ServerDesk

LRS = [0.001, 0.01, 0.1, 1.0]
ENTRIES = [Entry(0, str(lr), {"lr": lr}, {"lr": FloatDistribution(1e-4, 10, log=True)}, {"candidate": i})
           for i, lr in enumerate(LRS)]  # fmt: skip


class Memory(InMemoryStorage):
    """Optuna's own storage in memory, with the heartbeat of its databases."""

    engine = SimpleNamespace(dispose=lambda: None)

    def get_heartbeat_interval(self):
        return 60

    def record_heartbeat(self, trial_id):
        assert not self.get_trial(trial_id).state.is_finished()


class Lost(Exception):
    """The connection."""


class Desk(ServerDesk):
    """A desk in a thread of its own would be: `pauses` is called before each thing that it asks of the storage."""

    def __init__(self, study, pause=lambda: None, name="desk"):
        super().__init__(study, study._storage)
        self.owner = f"elsewhere 1 2 3 {name}"
        self.heart = SimpleNamespace(start=lambda: None, stop=lambda: None)  # no thread for each of these
        self.pause = pause

    def _claimed_trials(self):
        self.pause()
        return list(super()._claimed_trials())

    def _start(self, entry):
        self.pause()
        return super()._start(entry)


@pytest.fixture
def study():
    return make_study()


def make_study():
    return optuna.create_study(storage=Memory(), study_name="lr")


def holders(desks):
    return sorted(key for desk in desks for _, key, _ in desk.held)


def running(study):
    return sorted(t.user_attrs["sklr:claim"][1] for t in study.get_trials() if t.state == TrialState.RUNNING)


def ended(entry, state=TrialState.COMPLETE):
    outcome = outcome_attrs([Outcome(0.5)])
    return entry.trial(state, value=0.5, intermediate_values={0: 0.25}, user_attrs={"engine": "stacked", **outcome})


@settings(max_examples=40, deadline=None)
@given(moments=st.lists(st.integers(0, 12), min_size=1, max_size=3), together=st.booleans())
def test_each_candidate_is_one_processs_whenever_the_others_come_between(moments, together):
    study = make_study()
    desks = [Desk(study, name=str(i)) for i in range(len(moments) + 1)]
    first, count = desks[0], iter(range(1000))

    def pause():
        now = next(count)
        for desk, moment in zip(desks[1:], moments, strict=True):
            if moment == now:
                desk.claim(ENTRIES, together)

    first.pause = pause
    first.claim(ENTRIES, together)
    assert holders(desks) == running(study)
    assert len(set(running(study))) == len(running(study))
    if together:  # all or none, and one has them
        assert sorted(len(desk.held) for desk in desks)[-2:] == [0, len(LRS)]
    for _ in range(4):  # and nobody is in anybody's way for ever
        for desk in desks:
            desk.claim([e for e in ENTRIES if e.key not in holders([desk])], together)
    assert running(study) == holders(desks) == sorted(map(str, LRS))


@pytest.mark.parametrize("together", [False, True])
def test_what_runs_has_a_heartbeat_also_while_others_are_still_being_claimed(study, together):
    def look():
        ids = {trial._trial_id for trial in study.get_trials() if trial.state == TrialState.RUNNING}
        assert ids <= set(desk.alive())

    desk = Desk(study, look)
    for _ in range(3):
        desk.claim([entry for entry in ENTRIES if entry.key not in holders([desk])], together)
        look()
    assert len(desk.alive()) == len(ENTRIES)
    desk.release("")
    assert desk.alive() == []


@settings(max_examples=25, deadline=None)
@given(moment=st.integers(0, 12))
def test_what_was_started_when_the_connection_was_lost_is_not_left_running(moment):
    study, count = make_study(), iter(range(1000))

    def lose():
        if next(count) == moment:
            raise Lost

    desk = Desk(study, lose)
    for _ in range(2):  # `patiently` calls again
        try:
            desk._claim(ENTRIES, together=True)
        except Lost:
            continue
        break
    assert running(study) == sorted(map(str, LRS))


def test_what_is_handed_in_is_as_if_it_had_been_written_in_one_piece(study):
    desk = Desk(study)
    desk.claim(ENTRIES, together=True)
    desk.hand_in([(entry, ended(entry)) for entry in ENTRIES])
    for trial, entry in zip(study.get_trials(), ENTRIES, strict=True):
        assert trial.state == TrialState.COMPLETE
        assert (trial.value, trial.intermediate_values, trial.params) == (0.5, {0: 0.25}, entry.params)
        assert {"engine", OUTCOME, "candidate"} <= trial.user_attrs.keys()
    desk._hand_in([(entry, ended(entry)) for entry in ENTRIES])  # the answer was lost, not the question
    assert len(study.get_trials()) == len(LRS)


@pytest.mark.parametrize("at", range(5))
def test_killed_while_handing_in_it_has_handed_in_all_or_nothing(study, monkeypatch, at):
    desk, heir, calls = Desk(study, name="killed"), Desk(study, name="heir"), iter(range(1000))
    desk.claim(ENTRIES, together=True)
    for method in ("set_trial_intermediate_value", "set_trial_user_attr", "set_trial_state_values"):
        real = getattr(study._storage, method)

        def dying(*args, real=real):
            if next(calls) == at:
                raise Lost
            return real(*args)

        monkeypatch.setattr(study._storage, method, dying)
    with pytest.raises(Lost):
        desk._hand_in([(ENTRIES[0], ended(ENTRIES[0]))] if at < 4 else [(e, ended(e)) for e in ENTRIES[:2]])
    monkeypatch.undo()
    monkeypatch.setattr("sklr.search.storage.server_desk.is_dead", lambda owner: owner.endswith("killed"))
    heir.claim(ENTRIES, together=False)
    heir.claim([entry for entry in ENTRIES if entry.key not in holders([heir])], together=False)
    heir.claim([entry for entry in ENTRIES if entry.key not in holders([heir])], together=False)
    known = {
        t.user_attrs["sklr:claim"][1] for t in study.get_trials() if t.state.is_finished() and OUTCOME in t.user_attrs
    }
    assert known.isdisjoint(holders([heir]))
    assert known | set(holders([heir])) == set(map(str, LRS))
    assert not known or at >= 3


def test_a_trial_that_was_taken_from_a_paused_process_is_added_unless_another_has_ended_it(study):
    paused, other = Desk(study, name="paused"), Desk(study, name="other")
    paused.claim(ENTRIES, together=True)
    for trial in study.get_trials():  # its heart has not beaten
        study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
    other.claim(ENTRIES[:2], together=True)
    other.hand_in([(ENTRIES[0], ended(ENTRIES[0]))])
    paused.hand_in([(entry, ended(entry)) for entry in ENTRIES[:2]])
    other.hand_in([(ENTRIES[1], ended(ENTRIES[1]))])
    complete = [t.user_attrs["sklr:claim"][1] for t in study.get_trials() if t.state == TrialState.COMPLETE]
    assert sorted(complete) == [ENTRIES[0].key, ENTRIES[1].key]
    assert not running(study)


def test_what_is_released_can_be_claimed_by_another(study):
    first, second = Desk(study, name="first"), Desk(study, name="second")
    first.claim(ENTRIES, together=True)
    assert second.claim(ENTRIES, together=True) == []
    first.release("interrupted")
    assert [t.user_attrs["status"] for t in study.get_trials()] == ["interrupted"] * len(LRS)
    assert second.claim(ENTRIES, together=True) == list(range(len(LRS)))
