"""Claiming candidates of a study, and writing down their results; in a file, one process does so at a time."""

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

    @property
    def candidate(self) -> tuple[int, str]:
        """What tells the candidate from all others, in every process."""
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
        if isinstance(other, str) and other.count(" ") >= 2 and not is_dead(other) and not is_mine(other):
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
