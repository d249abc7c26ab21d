"""How processes that share a study claim candidates, and how they write the results into it."""

from __future__ import annotations

import os
import socket
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from sklr._utils.warnings import warn
from sklr.exceptions import StorageWarning, StudyError
from sklr.search.storage.codec import CLAIM
from sklr.search.storage.describe import digest
from sklr.search.storage.open import patiently
from sklr.search.storage.workers import is_dead, is_mine, this_process

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

    @property
    def candidate(self) -> tuple[int, str]:
        """What identifies the candidate in every process."""
        return self.turn, self.key

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
        if isinstance(other, str) and other.count(" ") >= 2 and not is_dead(other) and not is_mine(other):
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
