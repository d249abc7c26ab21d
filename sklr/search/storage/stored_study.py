"""A search in a storage: its header and the candidates that have finished, so that it can be resumed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from typing import Any, TypeVar

import numpy as np
import optuna
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState

from sklr.exceptions import StudyError
from sklr.experiment.folds import MAX_SEED
from sklr.results import Outcome
from sklr.search.storage.address import is_shared
from sklr.search.storage.claims import Desk, Entry, FileDesk
from sklr.search.storage.codec import OUTCOME, Claim, claim_from, outcomes_from
from sklr.search.storage.fingerprint import HEAD, differences, other_versions
from sklr.search.storage.open import open_study, patiently
from sklr.search.storage.server_desk import ServerDesk
from sklr.search.storage.stages import extended

SEED, STAGES = "sklr:random_state", "sklr:candidates"
WAIT_FOR_HEAD = 3.0  # seconds to wait for the header from the process that created the study; it may have been killed

SETTLE = 0.3  # seconds in which others that waited for the header at the same time have written theirs, too

T = TypeVar("T")


class Book:
    """The study of a search that has a storage.

    Parameters
    ----------
    storage, name, resume
        The search's `storage`, `study_name` and `resume`.
    """

    def __init__(self, storage: Any, name: str | None, resume: bool):
        self.study, opened, self.is_new = open_study(storage, name, resume)
        self.storage: BaseStorage = opened
        self.desk = make_desk(self.study, opened)
        self._read: dict[tuple[int, str], tuple[list[Outcome], str]] = {}
        self._seen: set[int] = set()
        self._n_runs: int | None = None

    def random_state(self, given: Any) -> np.random.RandomState:
        """Return the random generator of the search; with ``random_state=None`` the same one in every process."""
        if isinstance(given, (int, np.integer)):
            return np.random.RandomState(given)
        draw = np.random.RandomState() if given is None else given
        seed = int(draw.randint(MAX_SEED))
        return np.random.RandomState(self._agreed(SEED, seed, int) if given is None else seed)

    def agree(self, head: Mapping[str, Any]) -> None:
        """Write the header of the search, or compare it with the one in the study.

        Raises
        ------
        StudyError
            If the study belongs to a different search; the message names the difference.
        """
        theirs = json.loads(self._agreed(HEAD, json.dumps(head), str))
        name = self.study.study_name
        if theirs["format"] != head["format"]:
            advice = "Resume it with that version, or use another study_name."
            raise StudyError(f"The study {name!r} was written by another version of sklr. {advice}")
        different = differences(head, theirs)
        if different:
            versions = other_versions(head, theirs)
            raise StudyError(
                f"The study {name!r} belongs to a different search and cannot be resumed. "
                f"{'; '.join(different)}. Restore that, or use another study_name."
                + (f" (Versions differ too: {versions}.)" if versions else "")
            )
        self._n_runs = len(head["folds and seeds"])

    def stages(self, counts: Sequence[float]) -> list[list[float]]:
        """Return the budgets of the search, in candidates per space: at the start and after each extension.

        `counts` is the present budget. It is added to the study if it is larger; infinity is stored as None.
        """
        known = self._agreed(STAGES, [_finite(counts)], list)
        stages = [[np.inf if n is None else n for n in stage] for stage in known]
        more = extended(stages, counts)
        if more != stages:
            patiently(lambda: self.study.set_user_attr(STAGES, [_finite(stage) for stage in more]))
        return more

    def _agreed(self, key: str, value: Any, kind: type) -> Any:
        """Return the study's attribute `key`, which the process that created the study writes; others wait for it.

        If that process is killed before it has written, those that waited write. One that is merely slow finds the
        attribute there, and several that write at once all take the last one's.
        """
        deadline = time.monotonic() + WAIT_FOR_HEAD
        while (known := self._agreed_on(key, kind)) is None and not self.is_new and time.monotonic() < deadline:
            time.sleep(0.1)
        if known is not None:
            return known
        patiently(lambda: self.study.set_user_attr(key, value))
        if self.is_new:
            return value
        time.sleep(SETTLE)
        return self._agreed_on(key, kind)

    def _agreed_on(self, key: str, kind: type) -> Any:
        known = self._reading(lambda: self.study.user_attrs).get(key)
        if known is not None and not _is_ours(known, kind):
            raise self._damaged(f"the attribute {key!r} of the study is not as sklr wrote it")
        return known

    def _reading(self, call: Callable[[], T]) -> T:
        try:
            return patiently(call)
        except ValueError as error:  # from Optuna, for an attribute that is not JSON
            where = "one of its attributes is not JSON"
            with suppress(KeyError):  # raised after the last trial: then it is an attribute of the study
                where = f"trial {self._first_unreadable()} has an attribute that is not JSON"
            raise self._damaged(where) from error

    def _first_unreadable(self) -> int:
        for number in count():
            trial_id = self.storage.get_trial_id_from_study_id_trial_number(self.study._study_id, number)
            try:
                self.storage.get_trial(trial_id)
            except ValueError:
                break
        return number

    def _damaged(self, where: str) -> StudyError:
        return StudyError(
            f"The study {self.study.study_name!r} cannot be resumed: {where}. Restore it from a backup, or use "
            "another study_name."
        )

    def refresh(self) -> None:
        """Read the trials that have finished since the last call.

        Raises
        ------
        StudyError
            If the attributes of a trial are not those that sklr wrote.
        """
        for trial in self._reading(lambda: self.study.get_trials(deepcopy=False)):
            if trial._trial_id in self._seen or not trial.state.is_finished() or OUTCOME not in trial.user_attrs:
                continue
            self._seen.add(trial._trial_id)
            if (claim := self._claim(trial)) is not None:
                self._read.setdefault(claim[:2], self._result(trial))

    def _claim(self, trial: FrozenTrial) -> Claim | None:
        try:
            return claim_from(trial.user_attrs)
        except ValueError as error:
            raise self._damaged(f"trial {trial.number} was changed by hand, {error}") from error

    def _result(self, trial: FrozenTrial) -> tuple[list[Outcome], str]:
        try:
            outcomes = outcomes_from(trial.user_attrs, self._n_runs)
        except ValueError as error:
            raise self._damaged(f"trial {trial.number} was changed by hand, {error}") from error
        return outcomes or [], str(trial.user_attrs.get("engine", ""))

    def outcomes(self, entry: Entry) -> list[Outcome] | None:
        """Return a candidate's outcomes; None if it had not finished at the last `refresh`."""
        known = self._read.get((entry.turn, entry.key))
        return None if known is None else list(known[0])

    def engine(self, entry: Entry) -> str:
        """Return the name of the engine that trained a candidate."""
        return self._read[entry.turn, entry.key][1]

    def drawn(self) -> dict[int, dict[str, Any]]:
        """Return the parameters of the candidates in the book as the sampler drew them, by candidate number."""
        trials = self._reading(lambda: self.study.get_trials(deepcopy=False))
        known = [t for t in trials if self._claim(t) and (t.state != TrialState.FAIL or OUTCOME in t.user_attrs)]
        return {trial.user_attrs.get("candidate", -1): trial.params for trial in reversed(known)}

    def hand_in(self, done: Sequence[tuple[Entry, FrozenTrial]]) -> None:
        """Write candidates that have finished to the storage."""
        self.desk.hand_in(done)

    def close(self, why: str) -> None:
        """Release the candidates that are claimed but not finished."""
        self.desk.release(why)


def _finite(counts: Sequence[float]) -> list[float | None]:
    return [None if n == np.inf else n for n in counts]


def _is_ours(value: Any, kind: type) -> bool:
    """Return whether sklr can have written this attribute of the study."""
    if kind is list:
        return isinstance(value, list) and all(isinstance(stage, list) for stage in value)
    if kind is str:
        try:
            return isinstance(value, str) and "format" in json.loads(value)
        except (TypeError, ValueError):
            return False
    return isinstance(value, kind)


def make_desk(study: optuna.Study, storage: BaseStorage) -> Desk:
    """Return the desk for a storage."""
    if isinstance(storage, RDBStorage) and is_shared(storage):
        return ServerDesk(study, storage)
    return FileDesk(study, storage)
