"""A search written into a storage: what it is about, and the candidates that have ended; so it can be gone on with."""

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
from sklr.results import Outcome
from sklr.search.storage.claims import Desk, Entry, FileDesk
from sklr.search.storage.codec import OUTCOME, Claim, claim_from, outcomes_from
from sklr.search.storage.fingerprint import HEAD, differences, other_versions
from sklr.search.storage.open import is_shared, open_study, patiently
from sklr.search.storage.server_desk import ServerDesk
from sklr.search.storage.stages import extended

SEED, STAGES = "sklr:random_state", "sklr:candidates"
MAX_SEED = 2**31 - 1
WAIT_FOR_HEAD = 3.0  # seconds for the process that made a study to write what it is about; it may have been killed

T = TypeVar("T")


class Book:
    """The study of a search that has a storage.

    Parameters
    ----------
    storage, name, resume
        As the search was given them.
    """

    def __init__(self, storage: Any, name: str | None, resume: bool):
        self.study, opened, self.is_new = open_study(storage, name, resume)
        self.storage: BaseStorage = opened
        self.desk = make_desk(self.study, opened)
        self._read: dict[tuple[int, str], tuple[list[Outcome], str]] = {}
        self._seen: set[int] = set()
        self._n_runs: int | None = None

    def random_state(self, given: Any) -> np.random.RandomState:
        """Return the generator of the search; where the user gave none, the same one in every process."""
        if isinstance(given, (int, np.integer)):
            return np.random.RandomState(given)
        draw = np.random.RandomState() if given is None else given
        seed = int(draw.randint(MAX_SEED))
        return np.random.RandomState(self._agreed(SEED, seed, int) if given is None else seed)

    def agree(self, head: Mapping[str, Any]) -> None:
        """Write down what the search is about, or compare it with what is written.

        Raises
        ------
        StudyError
            If the study is about another search; the message names the difference.
        """
        theirs = json.loads(self._agreed(HEAD, json.dumps(head), str))
        name = self.study.study_name
        if theirs["format"] != head["format"]:
            advice = "Go on with it there, or use another study_name."
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
        """Return how many candidates there were to be at the start, and each time the search was gone on with for more.

        `counts` is what is asked for now, which is written down if it is more; infinity is written as None.
        """
        known = self._agreed(STAGES, [_finite(counts)], list)
        stages = [[np.inf if n is None else n for n in stage] for stage in known]
        more = extended(stages, counts)
        if more != stages:
            patiently(lambda: self.study.set_user_attr(STAGES, [_finite(stage) for stage in more]))
        return more

    def _agreed(self, key: str, value: Any, kind: type) -> Any:
        """Return the study's attribute `key`; the process that made the study writes it, others wait for it."""
        deadline = time.monotonic() + WAIT_FOR_HEAD
        while not self.is_new and time.monotonic() < deadline:
            known = self._reading(lambda: self.study.user_attrs).get(key)
            if known is not None and _is_ours(known, kind):
                return known
            if known is not None:
                raise self._damaged(f"the attribute {key!r} of the study is not as sklr has written it")
            time.sleep(0.1)
        patiently(lambda: self.study.set_user_attr(key, value))
        return value

    def _reading(self, call: Callable[[], T]) -> T:
        try:
            return patiently(call)
        except ValueError as error:  # from Optuna, which cannot read what stands there either
            where = "one of its attributes is not JSON"
            with suppress(KeyError):  # after the last trial
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
            f"The study {self.study.study_name!r} cannot be gone on with: {where}. Restore it from a copy, or use "
            "another study_name."
        )

    def refresh(self) -> None:
        """Read the trials that have ended since the last time.

        Raises
        ------
        StudyError
            If one has been changed by someone else.
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
        """Return a candidate's outcomes, if it was through when the book was last read."""
        known = self._read.get((entry.turn, entry.key))
        return None if known is None else list(known[0])

    def engine(self, entry: Entry) -> str:
        """Return the name of the engine that trained a candidate."""
        return self._read[entry.turn, entry.key][1]

    def drawn(self) -> dict[int, dict[str, Any]]:
        """Return the parameters of the candidates in the book, as the sampler drew them, by number."""
        trials = self._reading(lambda: self.study.get_trials(deepcopy=False))
        known = [t for t in trials if self._claim(t) and (t.state != TrialState.FAIL or OUTCOME in t.user_attrs)]
        return {trial.user_attrs.get("candidate", -1): trial.params for trial in reversed(known)}

    def hand_in(self, done: Sequence[tuple[Entry, FrozenTrial]]) -> None:
        """Write down candidates that have ended."""
        self.desk.hand_in(done)

    def close(self, why: str) -> None:
        """Give back what is not done."""
        self.desk.release(why)


def _finite(counts: Sequence[float]) -> list[float | None]:
    return [None if n == np.inf else n for n in counts]


def _is_ours(value: Any, kind: type) -> bool:
    """Say whether an attribute of the study can have been written here."""
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
