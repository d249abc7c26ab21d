"""How processes that share a study claim candidates, and how they write the results into it."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from sklr._utils.warnings import warn
from sklr.exceptions import StorageWarning, StudyError
from sklr.search.storage.address import is_shared
from sklr.search.storage.codec import CLAIM, Claim
from sklr.search.storage.describe import digest
from sklr.search.storage.open import patiently

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

AT_WORK = "sklr:at work"  # user attribute of a study: the process that is working on it
SERVER = "Only a database server can share a search among processes: give its URL as storage."
POLL = 0.5  # seconds between checks for results of other workers


@dataclass(frozen=True)
class Entry:
    """A candidate as a study stores it: its key, how often it was proposed before, its parameters in Optuna's terms.

    Its number in the search is only an attribute, because it may be another one in a longer grid.
    """

    turn: int
    key: str
    params: Mapping[str, Any]
    distributions: Mapping[str, Any]
    attrs: Mapping[str, Any]

    def trial(self, state: TrialState, owner: str = "", **results: Any) -> FrozenTrial:
        """Return a trial of this candidate; `results` are a trial's `value`, `intermediate_values`, `user_attrs`."""
        attrs = {**self.attrs, CLAIM: [self.turn, self.key, owner], **results.pop("user_attrs", {})}
        return create_trial(
            state=state,
            params=dict(self.params),
            distributions=dict(self.distributions),
            user_attrs=attrs,
            **results,
        )


class Desk(ABC):
    """Where a process claims candidates and writes their results."""

    shared = False  # whether other processes may join, so that one should not claim everything

    @abstractmethod
    def claim(self, entries: Sequence[Entry], together: bool) -> list[int]:
        """Claim candidates; return their positions in `entries`. The others belong to other workers.

        `together` claims all or none, because a pruner compares them with each other.
        """

    @abstractmethod
    def hand_in(self, done: Sequence[tuple[Entry, FrozenTrial]]) -> None:
        """Write trials that have ended."""

    @abstractmethod
    def release(self, why: str) -> None:
        """Give back candidates that were claimed but not handed in."""


class FileDesk(Desk):
    """For a file (SQLite or a journal) or memory: one process at a time, and a trial is written when it has ended."""

    def __init__(self, study: optuna.Study, storage: BaseStorage):
        self.study, self.storage = study, storage
        self.owner = this_process()
        self.at_work = False

    def claim(self, entries: Sequence[Entry], together: bool) -> list[int]:
        """Claim everything.

        Raises
        ------
        StudyError
            If another process on this machine is working on the study.
        """
        if not self.at_work:
            with one_at_a_time(self.study.study_name):  # to look who is working and to sign on must be one step
                self._begin()
        return list(range(len(entries)))

    def _begin(self) -> None:
        """Sign on; warn if a process on another machine has not signed off, because it may still be running."""
        other = patiently(lambda: self.study.user_attrs).get(AT_WORK)
        if isinstance(other, str) and other.count(" ") >= 2 and not is_dead(other) and not _is_mine(other):
            host, pid, *_ = other.split(" ")
            if host == socket.gethostname():
                advice = f"Wait for it to end. {SERVER}"
                raise StudyError(f"Process {pid} is working on the study {self.study.study_name!r}. {advice}")
            message = f"Process {pid} on {host!r} began the study {self.study.study_name!r} and has not signed off: "
            warn(f"{message}if it is still running, both train every candidate. {SERVER}", StorageWarning)
        patiently(lambda: self.study.set_user_attr(AT_WORK, self.owner))
        self.at_work = True

    def hand_in(self, done: Sequence[tuple[Entry, FrozenTrial]]) -> None:
        """Add each trial in a single operation."""
        try:
            for _, trial in done:
                patiently(lambda trial=trial: self.storage.create_new_trial(self.study._study_id, trial))  # type: ignore[misc]
        except KeyboardInterrupt:
            if isinstance(self.storage, RDBStorage):
                self.storage.remove_session()  # Optuna leaves the session open, and with it the lock of the file
            raise

    def release(self, why: str) -> None:
        """Sign off; unfinished trials were never written."""
        if self.at_work:
            self.at_work = False
            with suppress(Exception):  # the search is over: an error of the storage must not replace its result
                self.study.set_user_attr(AT_WORK, None)


class TableDesk(Desk):
    """For a database server: a claimed candidate is a running trial, kept alive by a heartbeat."""

    shared = True

    def __init__(self, study: optuna.Study, storage: RDBStorage):
        # here, because it imports SQLAlchemy, which only databases need
        from sklr.search.storage.optuna_tables import Tables

        self.study, self.storage, self.tables = study, storage, Tables(study, storage)
        self.owner = this_process()
        self.held: dict[Claim, int] = {}
        self.heart = Heart(self)

    def claim(self, entries: Sequence[Entry], together: bool) -> list[int]:
        """Claim a part of the free candidates, those of dead workers included; the rest is left for other workers."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            patiently(lambda: optuna.storages.fail_stale_trials(self.study))
        places, ids = patiently(lambda: self._claim(entries, together))
        self.held |= {_claim(entries[place], self.owner): id_ for place, id_ in zip(places, ids, strict=True)}
        self.heart.start()
        return places

    def _claim(self, entries: Sequence[Entry], together: bool) -> tuple[list[int], list[int]]:
        with self.tables.transaction() as session:
            taken: set[tuple[int, str]] = set()
            waiting: dict[tuple[int, str], int] = {}
            others = False
            for id_, (state, claim, ended) in self.tables.claims(session).items():
                if ended:
                    taken.add(claim[:2])
                elif state == TrialState.RUNNING and id_ not in self.held.values():
                    if is_dead(claim[2]):
                        self.tables.set_state(session, id_, TrialState.FAIL)
                    else:
                        taken.add(claim[:2])
                        others = True
                elif state == TrialState.WAITING:
                    waiting.setdefault(claim[:2], id_)
            free = [i for i, entry in enumerate(entries) if (entry.turn, entry.key) not in taken]
            if together:
                chosen = free if len(free) == len(entries) else []
            else:
                # Only a part, to leave some for workers that join; but a large one, because large stacks are cheaper
                # per run.
                chosen = free[: -(-len(free) // (3 if others else 2))]
            ids = self._take(session, [entries[i] for i in chosen], waiting)
            if ids:
                self.tables.beat(session, ids)
        return chosen, ids

    def _take(self, session: Any, entries: Sequence[Entry], waiting: Mapping[tuple[int, str], int]) -> list[int]:
        fresh = [entry for entry in entries if (entry.turn, entry.key) not in waiting]
        added = iter(self.tables.add(session, [entry.trial(TrialState.RUNNING, self.owner) for entry in fresh]))
        ids = []
        for entry in entries:
            if id_ := waiting.get((entry.turn, entry.key)):
                self.tables.take(session, id_, _claim(entry, self.owner))
            ids.append(id_ or next(added))
        return ids

    def hand_in(self, done: Sequence[tuple[Entry, FrozenTrial]]) -> None:
        """End the trials in one transaction.

        A trial that another worker has claimed meanwhile is added, unless that worker has already ended it.
        """
        patiently(lambda: self._hand_in(done))
        for entry, _ in done:
            self.held.pop(_claim(entry, self.owner), None)

    def _hand_in(self, done: Sequence[tuple[Entry, FrozenTrial]]) -> None:
        with self.tables.transaction() as session:
            ended = {claim[:2] for _, claim, ended in self.tables.claims(session).values() if ended}
            for entry, trial in done:
                id_ = self.held.get(_claim(entry, self.owner))
                if (entry.turn, entry.key) in ended:
                    if id_ is not None:  # this process was paused and another was faster; its scores are the same
                        self.tables.set_state(session, id_, TrialState.FAIL)
                elif id_ is None or not self.tables.end(session, id_, trial, {*entry.attrs, CLAIM}):
                    self.tables.add(session, [trial])

    def release(self, why: str) -> None:
        """Mark the claimed trials as failed and stop the heartbeat; storage errors are ignored."""
        self.heart.stop()
        held, self.held = self.held, {}
        if not held:
            return
        with suppress(Exception), self.tables.transaction() as session:
            failed = create_trial(state=TrialState.FAIL, user_attrs={"status": why})
            for id_ in held.values():
                self.tables.end(session, id_, failed, ())


class Heart:
    """A thread that writes a heartbeat for all claimed trials, twice per heartbeat interval."""

    def __init__(self, desk: TableDesk):
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
            ids = list(self.desk.held.values())
            with suppress(Exception):  # `hand_in` retries while the server does not answer
                if ids:
                    with self.desk.tables.transaction() as session:
                        self.desk.tables.beat(session, ids)

    def stop(self) -> None:
        """Stop the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
            self._thread = None


def make_desk(study: optuna.Study, storage: BaseStorage) -> Desk:
    """Return the desk for a storage."""
    if isinstance(storage, RDBStorage) and is_shared(storage):
        return TableDesk(study, storage)
    return FileDesk(study, storage)


@contextmanager
def one_at_a_time(name: str) -> Iterator[None]:
    """Hold a lock of that name against other processes of this user on this machine.

    It is a lock of the operating system, so that it ends with a killed process. Windows has no `fcntl`: no lock there.
    """
    if fcntl is None:
        yield
        return
    path = Path(tempfile.gettempdir()) / f"sklr-{os.getuid()}-{digest(name)}.lock"
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _claim(entry: Entry, owner: str) -> Claim:
    return entry.turn, entry.key, owner


def this_process() -> str:
    """Return a text that identifies this process and thread, also against later processes with the same pid."""
    return f"{socket.gethostname()} {os.getpid()} {_birth(os.getpid())} {threading.get_ident()} {time.time_ns()}"


def _birth(pid: int) -> str:
    """Return the start time of a process on this machine, in clock ticks; "-" if the system does not tell.

    A zombie, which has ended but not been waited for by its parent, is "ended".
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "ended" if fields[0] == "Z" else fields[19]
    except OSError:
        return "-"


def _is_mine(owner: str) -> bool:
    """Return whether `owner` is this process: an earlier search in it could not sign off."""
    return owner.split(" ")[:3] == this_process().split(" ")[:3]


def is_dead(owner: str) -> bool:
    """Return whether a process is known to have ended; False for a process on another machine.

    >>> is_dead(this_process()), is_dead("elsewhere 1 2 3 4")
    (False, False)
    """
    host, pid, birth, *_ = owner.split(" ")
    if host != socket.gethostname():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return _birth(int(pid)) not in (birth, "-")
