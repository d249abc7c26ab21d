"""How processes that share a study claim candidates, and how they write the results into it."""

from __future__ import annotations

import os
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
from sklr.search.storage.codec import CLAIM, OUTCOME, Claim, claim_from
from sklr.search.storage.describe import digest
from sklr.search.storage.open import patiently
from sklr.search.storage.workers import is_dead, is_mine, sign_off, sign_on, this_machine, this_process

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
        """Give back candidates that were claimed but not handed in; a second call does nothing."""


class FileDesk(Desk):
    """For a file (SQLite or a journal) or memory: one process at a time, and a trial is written when it has ended."""

    def __init__(self, study: optuna.Study, storage: BaseStorage):
        self.study, self.storage = study, storage
        self.owner = this_process()
        self.at_work = False
        self._ended: set[tuple[int, str]] | None = None  # candidates in the study; None if this is not known

    def claim(self, entries: Sequence[Entry], together: bool) -> list[int]:
        """Claim everything that is not in the study: what another process had not finished when this one read it.

        Raises
        ------
        StudyError
            If another process on this machine, or another thread of this one, is working on the study.
        """
        self._sign_on()
        ended = patiently(self._known)
        free = [i for i, entry in enumerate(entries) if entry.candidate not in ended]
        return free if not together or len(free) == len(entries) else []

    def _sign_on(self) -> None:
        if not self.at_work:
            with one_at_a_time(self.study.study_name):  # to look who is working and to sign on must be one step
                self._begin()

    def _begin(self) -> None:
        """Sign on; warn if a process on another machine has not signed off, because it may still be running."""
        other, name = patiently(lambda: self.study.user_attrs).get(AT_WORK), self.study.study_name
        if isinstance(other, str) and other.count(" ") >= 2 and not is_dead(other):
            host, pid, *_ = other.split(" ")
            if is_mine(other):
                raise StudyError(f"Another thread of this process is working on the study {name!r}. {SERVER}")
            if host == this_machine():
                raise StudyError(f"Process {pid} is working on the study {name!r}. Wait for it to end. {SERVER}")
            message = f"Process {pid} on {host.partition('/')[0]!r} began the study {name!r} and has not signed off: "
            warn(f"{message}if it is still running, both train every candidate. {SERVER}", StorageWarning)
        patiently(lambda: self.study.set_user_attr(AT_WORK, self.owner))
        sign_on(self.owner)
        self.at_work, self._ended = True, None

    def _known(self) -> set[tuple[int, str]]:
        if self._ended is None:
            self._ended = {claim[:2] for trial, claim in claimed_trials(self.study) if has_ended(trial)}
        return self._ended

    def hand_in(self, done: Sequence[tuple[Entry, FrozenTrial]]) -> None:
        """Add each trial in a single operation, unless the study has it."""
        self._sign_on()
        try:
            for entry, trial in done:
                patiently(lambda entry=entry, trial=trial: self._add(entry, trial))  # type: ignore[misc]
        except KeyboardInterrupt:
            if isinstance(self.storage, RDBStorage):
                self.storage.remove_session()  # Optuna leaves the session open, and with it the lock of the file
            raise

    def _add(self, entry: Entry, trial: FrozenTrial) -> None:
        ended = self._known()
        if entry.candidate not in ended:
            self._ended = None  # until the storage has answered: an interrupt or an error may come after the write
            self.storage.create_new_trial(self.study._study_id, trial)
            ended.add(entry.candidate)
            self._ended = ended

    def release(self, why: str) -> None:
        """Sign off; unfinished trials were never written."""
        if self.at_work:
            self.at_work = False
            sign_off(self.owner)
            with suppress(Exception):  # the search is over: an error of the storage must not replace its result
                self.study.set_user_attr(AT_WORK, None)


def claimed_trials(study: optuna.Study) -> Iterator[tuple[FrozenTrial, Claim]]:
    """Yield the trials that have a claim, by number; one that someone has changed counts as none."""
    for trial in study.get_trials(deepcopy=False):
        with suppress(ValueError):
            claim = claim_from(trial.user_attrs)
            if claim is not None:
                yield trial, claim


def has_ended(trial: FrozenTrial) -> bool:
    """Return whether a trial has results; one that was given up, or whose worker has died, has none."""
    return trial.state.is_finished() and OUTCOME in trial.user_attrs


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
