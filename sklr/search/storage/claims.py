"""Who works on which candidate, where several processes may share a study; and how their results get into it."""

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

AT_WORK = "sklr:at work"  # the attribute of a study that says who is
SERVER = "Only a database server shares a search among processes; give its address as storage for that."
POLL = 0.5  # seconds between looks at what other workers are doing


@dataclass(frozen=True)
class Entry:
    """A candidate as a study knows it: its key, how often it was proposed before, its parameters in Optuna's terms.

    Its number in the search is among the attributes: in a longer grid it may be another.
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
    """Where candidates are claimed, and handed in when they are done."""

    shared = False  # whether others are likely at work, so that one should not take everything

    @abstractmethod
    def claim(self, entries: Sequence[Entry], together: bool) -> list[int]:
        """Take candidates; return which, by their place in `entries`. Those left out are another worker's.

        `together` takes all or none: a pruner compares them with each other.
        """

    @abstractmethod
    def hand_in(self, done: Sequence[tuple[Entry, FrozenTrial]]) -> None:
        """Write down trials that have ended."""

    @abstractmethod
    def release(self, why: str) -> None:
        """Give back what was claimed and not handed in."""


class FileDesk(Desk):
    """A file, of SQLite or a journal, or memory: one process at a time, and a trial is written when it has ended."""

    def __init__(self, study: optuna.Study, storage: BaseStorage):
        self.study, self.storage = study, storage
        self.owner = this_process()
        self.at_work = False

    def claim(self, entries: Sequence[Entry], together: bool) -> list[int]:
        """Take everything.

        Raises
        ------
        StudyError
            If another process of this machine is at work on the study: candidates cannot be shared out here.
        """
        if not self.at_work:
            with one_at_a_time(self.study.study_name):
                self._begin()
        return list(range(len(entries)))

    def _begin(self) -> None:
        """Write down who is at work; one of another machine that has not signed off may be dead or not."""
        other = patiently(lambda: self.study.user_attrs).get(AT_WORK)
        if isinstance(other, str) and other.count(" ") >= 2 and not is_dead(other) and not _is_mine(other):
            host, pid, *_ = other.split(" ")
            if host == socket.gethostname():
                advice = f"Wait for it to end. {SERVER}"
                raise StudyError(f"Process {pid} is at work on the study {self.study.study_name!r}. {advice}")
            message = f"Process {pid} on {host!r} has begun the study {self.study.study_name!r} and not signed off: "
            warn(f"{message}if it is still at work, both train everything. {SERVER}", StorageWarning)
        patiently(lambda: self.study.set_user_attr(AT_WORK, self.owner))
        self.at_work = True

    def hand_in(self, done: Sequence[tuple[Entry, FrozenTrial]]) -> None:
        """Add each trial as it is, in one piece."""
        try:
            for _, trial in done:
                patiently(lambda trial=trial: self.storage.create_new_trial(self.study._study_id, trial))  # type: ignore[misc]
        except KeyboardInterrupt:
            if isinstance(self.storage, RDBStorage):
                self.storage.remove_session()  # Optuna leaves it open, and with it the lock of the file
            raise

    def release(self, why: str) -> None:
        """Sign off; what has not ended is not in the storage."""
        if self.at_work:
            self.at_work = False
            with suppress(Exception):  # a storage in trouble is left alone
                self.study.set_user_attr(AT_WORK, None)


class TableDesk(Desk):
    """A database server: what is being worked on is a running trial, kept alive by a heartbeat."""

    shared = True

    def __init__(self, study: optuna.Study, storage: RDBStorage):
        # imports SQLAlchemy, which is nothing to those who have no database
        from sklr.search.storage.optuna_tables import Tables

        self.study, self.storage, self.tables = study, storage, Tables(study, storage)
        self.owner = this_process()
        self.held: dict[Claim, int] = {}
        self.heart = Heart(self)

    def claim(self, entries: Sequence[Entry], together: bool) -> list[int]:
        """Take a part of what nobody has or had, also of a dead worker's, for others to have some."""
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
                # a part of it, for those who join; the larger a stack, the cheaper each of its runs
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
        """End the trials, in one transaction; one that was given to another meanwhile is added, unless that is done."""
        patiently(lambda: self._hand_in(done))
        for entry, _ in done:
            self.held.pop(_claim(entry, self.owner), None)

    def _hand_in(self, done: Sequence[tuple[Entry, FrozenTrial]]) -> None:
        with self.tables.transaction() as session:
            ended = {claim[:2] for _, claim, ended in self.tables.claims(session).values() if ended}
            for entry, trial in done:
                id_ = self.held.get(_claim(entry, self.owner))
                if (entry.turn, entry.key) in ended:
                    if id_ is not None:  # this process was paused, another has been quicker: its scores are the same
                        self.tables.set_state(session, id_, TrialState.FAIL)
                elif id_ is None or not self.tables.end(session, id_, trial, {*entry.attrs, CLAIM}):
                    self.tables.add(session, [trial])

    def release(self, why: str) -> None:
        """Mark what is held as failed, and stop the heartbeat; a storage in trouble is left alone."""
        self.heart.stop()
        held, self.held = self.held, {}
        if not held:
            return
        with suppress(Exception), self.tables.transaction() as session:
            failed = create_trial(state=TrialState.FAIL, user_attrs={"status": why})
            for id_ in held.values():
                self.tables.end(session, id_, failed, ())


class Heart:
    """A thread that says every few seconds, for all trials held, that this process is alive."""

    def __init__(self, desk: TableDesk):
        self.desk, self.interval = desk, desk.storage.get_heartbeat_interval() or 60
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Beat from now on, if it does not yet."""
        if self._thread is None:
            self._stop.clear()
            self._thread = threading.Thread(target=self._beat, name="sklr heartbeat", daemon=True)
            self._thread.start()

    def _beat(self) -> None:
        while not self._stop.wait(self.interval / 2):
            ids = list(self.desk.held.values())
            with suppress(Exception):  # a server that is away is waited for where results are handed in
                if ids:
                    with self.desk.tables.transaction() as session:
                        self.desk.tables.beat(session, ids)

    def stop(self) -> None:
        """Beat no more."""
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
    """Let no other process of this user, on this machine, do what is done under that name meanwhile.

    The lock is the system's, so that of a process that is killed is gone. Windows has none of the kind.
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
    """Return what tells this process, and this thread of it, from all others, also later ones with its number."""
    return f"{socket.gethostname()} {os.getpid()} {_birth(os.getpid())} {threading.get_ident()} {time.time_ns()}"


def _birth(pid: int) -> str:
    """Return when a process of this machine began, in the kernel's ticks; "-" where the system does not say.

    One that has ended, and whose parent has not asked after it, began at no time.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "ended" if fields[0] == "Z" else fields[19]
    except OSError:
        return "-"


def _is_mine(owner: str) -> bool:
    """Say whether this process has written that: an earlier search in it, which could not sign off."""
    return owner.split(" ")[:3] == this_process().split(" ")[:3]


def is_dead(owner: str) -> bool:
    """Say whether a process is known to be gone; one of another machine is not known.

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
