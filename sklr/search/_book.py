"""A search written into a storage: what it is about, and the candidates that have ended; so it can be gone on with."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from sklr.exceptions import StudyError
from sklr.results import Outcome
from sklr.search._codec import CLAIM, OUTCOME, outcomes_from
from sklr.search._desk import Entry, make_desk
from sklr.search._fingerprint import differences
from sklr.search._storage import open_study, patiently

HEAD, SEED = "sklr:search", "sklr:random_state"
MAX_SEED = 2**31 - 1
WAIT_FOR_HEAD = 3.0  # seconds for the process that made a study to write what it is about; it may have been killed


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
        self._read: dict[tuple[int, str], FrozenTrial] = {}

    def random_state(self, given: Any) -> np.random.RandomState:
        """Return the generator of the search; where the user gave none, the same one in every process."""
        if isinstance(given, (int, np.integer)):
            return np.random.RandomState(given)
        draw = np.random.RandomState() if given is None else given
        seed = int(draw.randint(MAX_SEED))
        return np.random.RandomState(self._agreed(SEED, seed) if given is None else seed)

    def agree(self, head: Mapping[str, Any]) -> None:
        """Write down what the search is about, or compare it with what is written.

        Raises
        ------
        StudyError
            If the study is about another search; the message names the difference.
        """
        theirs = json.loads(self._agreed(HEAD, json.dumps(head)))
        different = differences(head, theirs)
        if different:
            name = self.study.study_name
            raise StudyError(
                f"The study {name!r} belongs to a different search and cannot be resumed. "
                f"{'; '.join(different)}. Restore that, or use another study_name."
            )

    def _agreed(self, key: str, value: Any) -> Any:
        """Return the study's attribute `key`; the process that made the study writes it, others wait for it."""
        deadline = time.monotonic() + WAIT_FOR_HEAD
        while not self.is_new and time.monotonic() < deadline:
            if (known := patiently(lambda: self.study.user_attrs).get(key)) is not None:
                return known
            time.sleep(0.1)
        patiently(lambda: self.study.set_user_attr(key, value))
        return value

    def refresh(self) -> None:
        """Read the trials that have ended since the last time."""
        for trial in patiently(lambda: self.study.get_trials(deepcopy=False)):
            claim = trial.user_attrs.get(CLAIM)
            if claim and trial.state.is_finished() and OUTCOME in trial.user_attrs:
                self._read.setdefault((claim[0], claim[1]), trial)

    def outcomes(self, entry: Entry) -> list[Outcome] | None:
        """Return a candidate's outcomes, if it was through when the book was last read."""
        trial = self._read.get((entry.number, entry.key))
        return None if trial is None else outcomes_from(trial.user_attrs)

    def engine(self, entry: Entry) -> str:
        """Return the name of the engine that trained a candidate."""
        return self._read[entry.number, entry.key].user_attrs["engine"]

    def drawn(self) -> dict[int, dict[str, Any]]:
        """Return the parameters of the candidates in the book, as the sampler drew them, by number."""
        trials = patiently(lambda: self.study.get_trials(deepcopy=False))
        known = [t for t in trials if CLAIM in t.user_attrs and (t.state != TrialState.FAIL or OUTCOME in t.user_attrs)]
        return {trial.user_attrs[CLAIM][0]: trial.params for trial in reversed(known)}

    def hand_in(self, done: Sequence[tuple[Entry, FrozenTrial]]) -> None:
        """Write down candidates that have ended."""
        self.desk.hand_in(done)

    def close(self, why: str) -> None:
        """Give back what is not done."""
        self.desk.release(why)
