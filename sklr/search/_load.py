"""Load a fitted search from its study, without data and estimator: results, curve, summary, report and plots."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from sklr._utils.warnings import warn
from sklr.engines import engine_names
from sklr.exceptions import StorageWarning, StudyError
from sklr.search._base import BaseLRSearchCV
from sklr.search._cv_results import Record
from sklr.search._interrupts import Deadline
from sklr.search.storage.reading import StoredSearch, open_finished, read_search
from sklr.search.storage.stored_estimator import stored_estimator

BY_A_FUNCTION = (
    "refit was a function, which the study does not store: the best candidate is the one with the highest mean score."
)


def load_search(storage: Any, study_name: str | None = None) -> BaseLRSearchCV:
    """Load a fitted search from its study: with all results, but without an estimator.

    Its `cv_results_`, `best_params_`, `lr_curve_`, `summary()`, `report()` and all plots are those of the search that
    wrote the study. It cannot predict; given the estimator and the data, `search.set_params(estimator=net).fit(X, y)`
    reads the study and trains only the best candidate.

    Parameters
    ----------
    storage : str, path or optuna.storages.BaseStorage
        The `storage` of the search: ``"lr.db"``, ``"lr.log"`` or a database URL.
    study_name : str, optional
        May be omitted if the storage has only one study.

    Returns
    -------
    search : LRGridSearchCV, BayesSearchCV, OptunaSearchCV or your own subclass of `BaseLRSearchCV`
        With the parameters of the original search that are literals, arrays, scikit-learn's splitters, and Optuna's
        distributions or skopt's dimensions. A parameter given as another object, such as a pruner, has its default;
        `fit` raises an error until it is set again. In `cv_results_` parameter values other than numbers, strings and
        containers of them appear as their repr.

    Raises
    ------
    StorageError
        If the storage cannot be opened.
    StudyError
        If there is no such study, if the name is omitted and there are several, if sklr did not write it, or if the
        class of the search is not defined in this process.

    Warns
    -----
    StorageWarning
        If the search is not finished; the candidates so far are loaded.

    Examples
    --------
    >>> import sklr
    >>> from optuna.storages import InMemoryStorage
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.ensemble import GradientBoostingClassifier
    >>> storage, model = InMemoryStorage(), GradientBoostingClassifier(n_estimators=3, random_state=0)
    >>> search = sklr.LRGridSearchCV(model, lrs=[0.01, 0.1, 1.0], cv=3, storage=storage, study_name="iris")
    >>> again = sklr.load_search(storage, "iris") if search.fit(*load_iris(return_X_y=True)) else None
    >>> again.best_lr_ == search.best_lr_, again.summary() == search.summary()
    (True, True)
    """
    with open_finished(storage, study_name) as study:
        stored = read_search(study)
    search = _search(stored)
    search.set_params(storage=storage, study_name=study.study_name, resume=True)
    search.study_ = study
    _conclude(search, stored)
    if not search.refit and hasattr(search, "best_params_"):
        search.refit = True  # so that `predict` raises an error with advice, and `fit` trains the best candidate
    search._to_give = {name: getattr(search, name) for name in ("estimator", *stored.missing)}
    if not stored.finished:
        unfinished = f"The study {study.study_name!r} is not finished: it has {stored.progress}."
        search.without_effect_ = [unfinished, *search.without_effect_]
        warn(f"{unfinished} Continue it with resume=True.", StorageWarning)
    return search


def _search(stored: StoredSearch) -> BaseLRSearchCV:
    """Return an unfitted search with the parameters stored in the study."""
    kinds = {kind.__name__: kind for kind in _subclasses(BaseLRSearchCV)}  # of those defined twice, the last
    kind = kinds.get(stored.search)
    if kind is None:
        advice = "Import the module that defines this class first."
        raise StudyError(f"The study was written by the search {stored.search}, which is not known here. {advice}")
    estimator = stored_estimator(stored.estimator, stored.kind, stored.estimator_params)
    return kind(estimator, **stored.params)


def _subclasses(kind: type) -> Iterator[Any]:
    subclass: type
    for subclass in kind.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def _conclude(search: BaseLRSearchCV, stored: StoredSearch) -> None:
    """Set the fitted attributes from the outcomes."""
    several = isinstance(stored.outcomes[0][0].test_scores, dict)
    by_a_function = stored.refit_is_function
    if by_a_function:
        search.refit = not several
    search.lr_param_ = stored.lr_param
    search.n_splits_ = stored.n_runs // search.n_seeds
    search.multimetric_ = several
    metric = search.refit if isinstance(search.refit, str) else None
    record = Record(search.n_seeds, metric, stored.estimator_params.get("criterion", ""))
    record.add(stored.candidates, stored.outcomes)
    notes = [BY_A_FUNCTION] if by_a_function else []
    engine = engine_names(stored.engines)
    search._conclude(
        SimpleNamespace(  # type: ignore[arg-type]  # what `_conclude` reads of an evaluator
            record=record, deadline=Deadline(None), engine_name=engine, reasons=[], without_effect=notes
        )
    )
    if stored.rounds and sum(map(len, stored.rounds)) == len(stored.candidates):
        search.rounds_ = [np.array(members) for members in stored.rounds]
