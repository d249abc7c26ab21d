"""Conversion of calls of scikit-learn's `_fit_and_score` to experiments, and of their outcomes back to results."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pickle import PicklingError
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np
import torch
from joblib.hashing import NumpyHasher
from torch import Tensor

from sklr._utils.sklearn import fit_and_score
from sklr.experiment.experiment import Cell, Experiment
from sklr.experiment.wrappers import net_of
from sklr.results import Outcome

SIGNATURE = inspect.signature(fit_and_score)
SHARED = (  # arguments that all fits of an experiment share, compared by identity
    *("X", "y", "scorer", "fit_params", "score_params", "caller"),
    *("return_train_score", "return_estimator", "error_score", "verbose"),
)


class FitCall(NamedTuple):
    """One call of `_fit_and_score`: its number in the batch, and its arguments by name."""

    number: int
    arguments: dict[str, Any]


def fits_among(tasks: Sequence[tuple]) -> list[FitCall]:
    """Return the calls that fit and score an estimator, as scikit-learn's searches make them."""
    return [
        FitCall(i, _by_name(args, kwargs))
        for i, (function, args, kwargs) in enumerate(tasks)
        if getattr(function, "function", function) is fit_and_score
    ]


def _by_name(args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    bound = SIGNATURE.bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments


class Block(NamedTuple):
    """A full table of fits: every candidate (row) on every split (column)."""

    rows: list[list[FitCall]]

    @property
    def fits(self) -> list[FitCall]:
        """All fits, ordered by candidate."""
        return [fit for row in self.rows for fit in row]

    @property
    def candidates(self) -> list[dict]:
        """The parameters of each row."""
        return [row[0].arguments["parameters"] or {} for row in self.rows]

    @property
    def contexts(self) -> list[Any] | None:
        """scikit-learn's callback contexts, one per fit; None if a fit has none."""
        contexts = [fit.arguments.get("callback_ctx") for fit in self.fits]
        return None if None in contexts else contexts

    def experiment(self, n_jobs: int | None) -> Experiment:
        """Return the experiment of the block: what its runs share."""
        given = self.rows[0][0].arguments
        return Experiment(
            estimator=given["estimator"],
            X=given["X"],
            y=given["y"],
            cells=_cells(self.rows[0]),
            scorer=given["scorer"],
            fit_params=given["fit_params"] or {},
            score_params=given["score_params"] or {},
            return_train_score=given["return_train_score"],
            error_score=given["error_score"],
            verbose=given["verbose"],
            n_jobs=n_jobs,
            keep_estimators=given["return_estimator"],
            follow="never",
            scores_repeat=False,
            caller=given.get("caller"),
        )


def _cells(row: Sequence[FitCall]) -> list[Cell]:
    seeds = _seeds(row[0].arguments["estimator"], len(row))
    return [
        Cell(k, 0, seed, _positions(fit.arguments["train"]), _positions(fit.arguments["test"]))
        for k, (fit, seed) in enumerate(zip(row, seeds, strict=True))
    ]


def _positions(rows: Any) -> np.ndarray:
    """Return rows as indices; a custom splitter may yield boolean masks."""
    rows = np.asarray(rows)
    return np.flatnonzero(rows) if rows.dtype == bool else rows


def _seeds(estimator: Any, n: int) -> list[int]:
    """Return a seed per split, drawn from torch's global generator, or zeros if all random states are set."""
    states = [v for k, v in estimator.get_params().items() if k.rpartition("__")[2] == "random_state"]
    if hasattr(net_of(estimator), "random_state") and None not in states:
        return [0] * n
    return torch.randint(2**31 - 1, (n,)).tolist()


def blocks(fits: Sequence[FitCall]) -> Iterator[Block]:
    """Yield the fits as full tables of candidates and splits.

    `RandomizedSearchCV` may draw a candidate twice; it is then treated as two candidates.
    """
    tables: dict[Any, dict[tuple, FitCall]] = {}
    seen: Counter[tuple] = Counter()
    prints = Fingerprints()
    for fit in fits:
        given = fit.arguments
        estimator, candidate = prints.of_params(given["estimator"].get_params()), prints.of(given["parameters"])
        shared = (type(given["estimator"]), estimator, *(id(given.get(name)) for name in SHARED))
        cell = id(given["train"]), id(given["test"])
        time = seen[shared, candidate, cell]
        seen[shared, candidate, cell] += 1
        tables.setdefault((shared, candidate, time), {})[cell] = fit
    full: dict[tuple, list[list[FitCall]]] = {}
    for (shared, _, _), row in tables.items():
        full.setdefault((shared, tuple(row)), []).append(list(row.values()))
    yield from map(Block, full.values())


class Fingerprints:
    """Fingerprints that are equal for equal values, such as the parameters of two clones of an estimator.

    >>> prints = Fingerprints()
    >>> prints.of({"lr": [0.1]}) == prints.of({"lr": [0.1]}), prints.of(0.1) == prints.of(0.2)
    (True, False)
    """

    def __init__(self) -> None:
        self.known: dict[int, tuple[Any, Any]] = {}  # with the values, which keeps them alive so that ids stay unique

    def of(self, value: Any) -> Any:
        """Return the fingerprint of a value; a value that cannot be pickled is only equal to itself."""
        if id(value) not in self.known:
            self.known[id(value)] = value, _hash(value) or id(value)
        return self.known[id(value)][1]

    def of_params(self, params: Mapping[str, Any]) -> Any:
        """Return the fingerprint of parameters, of each one separately if they cannot be hashed together."""
        return _hash(params) or tuple((name, self.of(params[name])) for name in sorted(params))


class _Hasher(NumpyHasher):
    """joblib's hasher, but tensors are hashed by value, and classes and functions, including local ones, by identity.

    joblib hashes a tensor's storage, which differs between clones of a module instance.
    """

    def save(self, obj: Any) -> None:
        """Add an object to the hash."""
        if isinstance(obj, Tensor):
            values = obj.detach().cpu().reshape(-1).view(torch.uint8).numpy()
            obj = (type(obj), str(obj.dtype), str(obj.device), tuple(obj.shape), obj.requires_grad, values)
        elif isinstance(obj, (type, FunctionType)):
            obj = ("identity", id(obj))
        try:
            super().save(obj)
        except TypeError as error:  # joblib would assume unorderable keys, and hash a dict without its values
            raise PicklingError(str(error)) from error


def _hash(value: Any) -> str | None:
    try:
        return _Hasher(hash_name="md5").hash(value)
    except Exception:  # pickling may run any code of the value's class
        return None


def result(fit: FitCall, outcome: Outcome, spare: float) -> dict[str, Any]:
    """Return the result in the form of `_fit_and_score`; `spare` is the fit's share of the common time, in seconds."""
    given = fit.arguments
    parts = {
        "train_scores": (given["return_train_score"], outcome.train_scores),
        "n_test_samples": (given["return_n_test_samples"], outcome.n_test_samples),
        "fit_time": (given["return_times"], outcome.fit_time + spare),
        "score_time": (given["return_times"], outcome.score_time),
        "parameters": (given["return_parameters"], given["parameters"]),
        "estimator": (given["return_estimator"], outcome.estimator),
    }
    asked = {name: value for name, (wanted, value) in parts.items() if wanted}
    return {"fit_error": None, "test_scores": outcome.test_scores, **asked}
