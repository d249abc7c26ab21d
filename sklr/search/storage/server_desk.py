"""How processes that share a study on a database server claim candidates and write their results."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress

import optuna
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from sklr.search.storage.claims import Desk, Entry, claimed_trials, has_ended
from sklr.search.storage.codec import CLAIM, OUTCOME, Claim
from sklr.search.storage.open import close_connections, patiently
from sklr.search.storage.workers import is_dead, sign_off, sign_on, this_process


class ServerDesk(Desk):
    """For a database server: a claimed candidate is a running trial, kept alive by a heartbeat.

    Optuna has no call that claims a candidate for one process, but it numbers trials in the order in which they are
    written. So a process first writes its trials and then reads those of all: a candidate belongs to the first trial of
    it that is running or has an outcome, and a process that finds another's before its own gives the candidate up.
    """

    shared = True

    def __init__(self, study: optuna.Study, storage: RDBStorage):
        self.study, self.storage = study, storage
        self.owner = this_process()
        self.held: dict[Claim, int] = {}
        self._started: list[int] = []  # by a claim that is not yet complete; hundreds take minutes over a slow network
        self.heart = Heart(self)

    def claim(self, entries: Sequence[Entry], together: bool) -> list[int]:
        """Claim some of the free candidates, including those of dead workers, and leave the rest to others."""
        sign_on(self.owner)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            patiently(lambda: optuna.storages.fail_stale_trials(self.study))
        self.heart.start()
        claimed = patiently(lambda: self._claim(entries, together))
        self.held |= {_claim(entries[place], self.owner): trial_id for place, trial_id in claimed.items()}
        self._started = []
        return list(claimed)

    def alive(self) -> list[int]:
        """Return the ids of the trials that need a heartbeat."""
        return [*self.held.values(), *self._started]

    def _claim(self, entries: Sequence[Entry], together: bool) -> dict[int, int]:
        """Return the ids of the trials that have been started, by the places of their candidates in `entries`."""
        chosen = self._choose(entries, together)
        started = {place: self._start(entries[place]) for place in chosen}
        first = self._first_trials()
        lost = {place for place in chosen if first.get(entries[place].candidate) != started[place]}
        if together and lost:  # the first candidate decides, or two processes would each be in the other's way
            lost = set(chosen) if chosen[0] in lost else set()
        for place in lost:
            self._fail(started[place])
        return {place: trial_id for place, trial_id in started.items() if place not in lost}

    def _choose(self, entries: Sequence[Entry], together: bool) -> list[int]:
        taken, others = self._look_around()
        free = [i for i, entry in enumerate(entries) if entry.candidate not in taken]
        if together:
            return free if len(free) == len(entries) else []
        # leave some to processes that join later; not more, because the larger a stack is, the cheaper each run is
        return free[: -(-len(free) // (3 if others else 2))]

    def _look_around(self) -> tuple[set[tuple[int, str]], bool]:
        """Return the candidates that are done or being worked on, and whether others are at work.

        Trials that nobody will end are ended: a dead worker's, one of this process that it does not know of because
        the connection was lost, and the copies that Optuna's own retry makes of trials without a heartbeat.
        """
        taken, others = set(), False
        for trial, claim in self._claimed_trials():
            if has_ended(trial):
                taken.add(claim[:2])
            elif trial.state.is_finished() or trial._trial_id in self.held.values():
                continue
            elif trial.state == TrialState.RUNNING and claim[2] != self.owner and not is_dead(claim[2]):
                taken.add(claim[:2])
                others = True
            else:
                self._fail(trial._trial_id)
        return taken, others

    def _claimed_trials(self) -> Iterable[tuple[FrozenTrial, Claim]]:
        return claimed_trials(self.study)

    def _first_trials(self) -> dict[tuple[int, str], int]:
        """Return the id of the trial that each candidate belongs to."""
        first: dict[tuple[int, str], int] = {}
        for trial, claim in self._claimed_trials():
            if trial.state == TrialState.RUNNING or has_ended(trial):
                first.setdefault(claim[:2], trial._trial_id)
        return first

    def _start(self, entry: Entry) -> int:
        trial = entry.trial(TrialState.RUNNING, self.owner)
        trial_id = self.storage.create_new_trial(self.study._study_id, trial)
        self.storage.record_heartbeat(trial_id)
        self._started.append(trial_id)
        return trial_id

    def _fail(self, trial_id: int) -> None:
        with suppress(UpdateFinishedTrialError):  # another process has ended it
            self.storage.set_trial_state_values(trial_id, TrialState.FAIL)

    def hand_in(self, done: Sequence[tuple[Entry, FrozenTrial]]) -> None:
        """End the trials; one that was given to another process meanwhile is added, unless that one is done."""
        patiently(lambda: self._hand_in(done))
        for entry, _ in done:
            self.held.pop(_claim(entry, self.owner), None)

    def _hand_in(self, done: Sequence[tuple[Entry, FrozenTrial]]) -> None:
        """Hand in what is not there yet: this is called again when the connection was lost halfway."""
        ended = {claim[:2] for trial, claim in self._claimed_trials() if has_ended(trial)}
        for entry, trial in done:
            trial_id = self.held.get(_claim(entry, self.owner))
            if entry.candidate in ended:
                if trial_id is not None:  # this process was paused, another has been quicker: its scores are the same
                    self._fail(trial_id)
            elif trial_id is None or not self._end(trial_id, trial, known={*entry.attrs, CLAIM}):
                self.storage.create_new_trial(self.study._study_id, trial)

    def _end(self, trial_id: int, trial: FrozenTrial, known: set[str]) -> bool:
        """Give a running trial its results and its state; return False if it is not running any more.

        `known` are the attributes that it has had from its start.
        """
        attrs = [(key, value) for key, value in trial.user_attrs.items() if key not in known]
        try:
            for step, value in trial.intermediate_values.items():
                self.storage.set_trial_intermediate_value(trial_id, step, value)
            # the outcome's first piece last: a process killed before it has handed nothing in, after it everything
            for key, value in sorted(attrs, key=lambda attr: attr[0] == OUTCOME):
                self.storage.set_trial_user_attr(trial_id, key, value)
            self.storage.set_trial_state_values(trial_id, trial.state, trial.values)
        except UpdateFinishedTrialError:
            return False
        return True

    def release(self, why: str) -> None:
        """Mark claimed trials as failed, stop the heartbeat and close the connections."""
        sign_off(self.owner)
        self.heart.stop()
        held, self.held, self._started = self.held, {}, []
        with suppress(Exception):  # the search is over: an error of the storage must not replace its result
            for trial_id in held.values():
                self.storage.set_trial_user_attr(trial_id, "status", why)
                self._fail(trial_id)
        close_connections(self.storage)


class Heart:
    """A thread that writes a heartbeat for all claimed trials, twice per heartbeat interval."""

    def __init__(self, desk: ServerDesk):
        self.desk, self.interval = desk, desk.storage.get_heartbeat_interval() or 60
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread if it is not running."""
        if self._thread is None:
            self._stop.clear()
            self._thread = threading.Thread(target=self._beat, name="sklr heartbeat", daemon=True)
            self._thread.start()

    def _beat(self) -> None:
        while not self._stop.wait(self.interval / 2):
            with suppress(Exception):  # `hand_in` retries while the server does not answer
                for trial_id in self.desk.alive():
                    self.desk.storage.record_heartbeat(trial_id)

    def stop(self) -> None:
        """Stop the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
            self._thread = None


def _claim(entry: Entry, owner: str) -> Claim:
    return entry.turn, entry.key, owner
