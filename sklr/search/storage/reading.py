"""Read a search from its study: its settings, and the candidates that have finished, in the order of proposal."""

from __future__ import annotations

import json
from ast import literal_eval
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.storages import BaseStorage
from sklearn.utils import get_tags

from sklr._utils.quiet_optuna import at_verbosity
from sklr.exceptions import StorageError, StudyError
from sklr.results import Outcome
from sklr.search.storage.address import cannot_open, storage_file
from sklr.search.storage.codec import CLAIM, OUTCOME, claim_from, outcomes_from
from sklr.search.storage.describe import said
from sklr.search.storage.fingerprint import FORMAT, GRIDS_MAY_CHANGE, HEAD, may_change
from sklr.search.storage.literals import evaluate, written
from sklr.search.storage.open import opened_to_read

SETTINGS = "sklr:settings"  # user attribute of the study: what is needed beside the outcomes to restore a search
ELSEWHERE = ("estimator", "storage", "study_name", "study", "resume", "callbacks", "catch")


@dataclass
class StoredSearch:
    """A search as stored in its study; `n_asked` is its budget in candidates, None if unknown.

    `missing` names the parameters that the study cannot store, and without which the search cannot be continued.
    """

    search: str
    estimator: str
    estimator_params: dict[str, Any]
    n_runs: int
    kind: str | None
    params: dict[str, Any]
    missing: list[str]
    lr_param: str | None
    refit_is_function: bool
    rounds: list[list[int]]
    n_asked: int | None
    finished: bool
    candidates: list[dict[str, Any]] = field(default_factory=list)
    outcomes: list[list[Outcome]] = field(default_factory=list)
    engines: set[str] = field(default_factory=set)

    @property
    def progress(self) -> str:
        """How many candidates have finished, as text."""
        n, total = len(self.candidates), self.n_asked
        return f"{n} of {total} candidates" if total else f"{n} candidate{'s' * (n != 1)}"


def settings_of(search: Any, n_asked: int | None, finished: bool) -> str:
    """Return the settings of a search that `read_search` needs, as JSON."""
    params = {name: value for name, value in search.get_params(deep=False).items() if name not in ELSEWHERE}
    texts = {name: written(value) for name, value in params.items()}
    missing = [name for name, text in texts.items() if text is None and _matters(name, search)]
    if texts["scoring"] is None:
        texts["scoring"] = repr(said(getattr(params["scoring"], "__name__", type(params["scoring"]).__name__)))
    lr = None if search.lr_param_ is None else search.estimator.get_params().get(search.lr_param_)
    return json.dumps(
        {
            "params": {name: text for name, text in texts.items() if text is not None},
            "missing": missing,
            "kind": get_tags(search.estimator).estimator_type,
            "lr_param": search.lr_param_,
            "lr": lr if isinstance(lr, (int, float)) else None,
            "refit_is_function": callable(search.refit),
            "rounds": [list(map(int, members)) for members in getattr(search, "rounds_", [])],
            "n_asked": n_asked,
            "finished": finished,
        }
    )


def _matters(name: str, search: Any) -> bool:
    """Return whether the study of a search would be refused, or would get other candidates, without a parameter."""
    return name in GRIDS_MAY_CHANGE or name not in may_change(search)


@contextmanager
def open_finished(storage: Any, name: str | None) -> Iterator[optuna.Study]:
    """Open an existing study for reading; neither a file nor a study is created.

    Raises
    ------
    StorageError
        If the storage does not exist.
    StudyError
        If the study does not exist, or if `name` is None and there are several; the message lists their names.
    """
    path = None if isinstance(storage, BaseStorage) else storage_file(storage)
    if path is not None and not path.exists():
        raise StorageError(cannot_open(storage, "there is no such file", "Give the storage of the search."))
    with at_verbosity(optuna.logging.WARNING), opened_to_read(storage) as opened:
        names = optuna.get_all_study_names(opened)
        if name is None and len(names) == 1:
            (name,) = names
        if name not in names:
            raise StudyError(_which(name, names))
        yield optuna.load_study(storage=opened, study_name=name)


def _which(name: str | None, names: list[str]) -> str:
    listed = f"It has {', '.join(map(repr, sorted(names)))}." if names else "It has none."
    if name is None:
        return f"study_name must be given if the storage does not have exactly one study, got None. {listed}"
    return f"study_name must be one that the storage has, got {name!r}. {listed}"


def read_search(study: optuna.Study) -> StoredSearch:
    """Read the search in a study.

    Raises
    ------
    StudyError
        If sklr did not write the study, if it was changed by hand, or if no candidate in it has finished.
    """
    stored = _settings(study)
    read: set[tuple[int, str]] = set()  # a candidate that two processes have trained counts once, as in the search
    for trial in sorted(study.get_trials(deepcopy=False), key=lambda trial: (_place(trial), trial.number)):
        if trial.state.is_finished() and OUTCOME in trial.user_attrs:
            _add(stored, study, trial, read)
    if not stored.candidates:
        raise StudyError(f"The study {study.study_name!r} has no finished candidate. Continue it with resume=True.")
    return stored


def _place(trial: Any) -> int:
    """Return the number of a candidate; processes that share a study may finish candidates in another order."""
    number = trial.user_attrs.get("candidate") if CLAIM in trial.user_attrs else 0
    return number if isinstance(number, int) else 0


def _add(stored: StoredSearch, study: optuna.Study, trial: Any, read: set[tuple[int, str]]) -> None:
    try:
        claim = claim_from(trial.user_attrs)
        outcomes = outcomes_from(trial.user_attrs, stored.n_runs)
        params = {name: _value(value) for name, value in trial.user_attrs["params"].items()}
    except (ValueError, KeyError, AttributeError) as error:
        where = f"trial {trial.number} was changed by hand, {error}"
        raise StudyError(
            f"The study {study.study_name!r} cannot be read: {where}. Restore it from a backup."
        ) from error
    if claim is not None:
        if claim[:2] in read:
            return
        read.add(claim[:2])
    stored.candidates.append(params)
    stored.outcomes.append(outcomes or [])
    stored.engines.add(str(trial.user_attrs.get("engine", "unknown")))


def _value(written: Any) -> Any:
    """Return a parameter's value; a trial stores the repr of anything but numbers and strings, evaluated if possible.

    >>> _value("(64, 32)"), _value("relu"), _value(0.1), _value("None")
    ((64, 32), 'relu', 0.1, 'None')
    """
    if not isinstance(written, str) or not written.startswith(("(", "[", "{")):
        return written
    try:
        return literal_eval(written)
    except (ValueError, SyntaxError):
        return written


def _settings(study: optuna.Study) -> StoredSearch:
    try:
        head, settings = (json.loads(study.user_attrs[key]) for key in (HEAD, SETTINGS))
        if head["format"] != str(FORMAT):
            raise KeyError("format")
        return _joined(head, settings)
    except (KeyError, TypeError, ValueError) as error:
        advice = "Only a study written by a search of this version can be loaded."
        raise StudyError(
            f"The study {study.study_name!r} is not one of sklr's, or was written by another version. {advice}"
        ) from error


def _joined(head: Mapping[str, Any], settings: Mapping[str, Any]) -> StoredSearch:
    estimator = {name: said(text) for name, text in head["estimator"].items()}
    name = estimator.pop("class").rpartition(".")[2]
    lr_param = settings["lr_param"]
    if lr_param is not None:
        estimator[lr_param] = settings["lr"]
    return StoredSearch(
        search=head["search"],
        estimator=name,
        estimator_params=estimator,
        n_runs=len(head["folds and seeds"]),
        kind=settings["kind"],
        params={name: evaluate(text) for name, text in settings["params"].items()},
        missing=settings.get("missing", []),
        lr_param=lr_param,
        refit_is_function=settings["refit_is_function"],
        rounds=settings["rounds"],
        n_asked=settings["n_asked"],
        finished=settings["finished"],
    )
