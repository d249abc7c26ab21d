"""Calls made in joblib's workers; those that a worker took with it when it died are made again."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from joblib.parallel import get_active_backend
from sklearn.utils.parallel import Parallel
from skorch import NeuralNet

from sklr._utils.warnings import warn
from sklr.exceptions import LostWorkerWarning

Call = tuple[Callable, tuple, dict]  # what scikit-learn's `delayed` makes
MAX_DEATHS = 3  # in a row, without any call coming back: then it is the call that kills its worker


def can_travel(net: NeuralNet) -> bool:
    """Say whether a worker could make out an initialised net: not if its module is a script's or a notebook's own.

    joblib sends such classes along, but skorch pickles an initialised net's parts by itself, by their names.
    """
    try:
        return b"__main__" not in pickle.dumps(net)
    except Exception:  # a class within a function, say
        return False


def spread(calls: Iterable[Call], n_jobs: int | None, pre_dispatch: Any) -> Iterator[tuple[int, Any]]:
    """Make the calls in joblib's workers, and yield the place and the result of each, in order.

    Where the backend can, results come one by one, so that what has come back is safe from Ctrl-C. When a worker
    dies (out of memory, killed) the calls that have not come back are made again; a worker's work is always a copy.

    Parameters
    ----------
    calls : iterable
        Of scikit-learn's `delayed`, taken as workers get free.
    n_jobs, pre_dispatch
        As joblib's `Parallel` takes them.

    Raises
    ------
    BrokenProcessPool
        If workers die three times in a row before any call has come back.

    Examples
    --------
    >>> from sklearn.utils.parallel import delayed
    >>> list(spread((delayed(divmod)(n, 3) for n in (7, 8)), n_jobs=1, pre_dispatch="all"))
    [(0, (2, 1)), (1, (2, 2))]
    """
    taken: list[Any] = []
    came, deaths = 0, 0
    source = iter(calls)
    while True:
        again = list(taken[came:])
        try:
            for result in _results(_keeping(again, source, taken), n_jobs, pre_dispatch):
                taken[came] = None  # what it held may be large
                yield came, result
                came, deaths = came + 1, 0
        except BrokenProcessPool as error:
            deaths += 1
            if deaths >= MAX_DEATHS:
                raise
            n_lost = len(taken) - came
            message = f"A worker process died ({type(error).__name__}); {n_lost} unfinished trainings start again."
            warn(message, LostWorkerWarning)
        else:
            return


def _keeping(again: list[Call], source: Iterator[Call], taken: list[Call]) -> Iterator[Call]:
    yield from again
    for call in source:
        taken.append(call)
        yield call


def _results(calls: Iterator[Call], n_jobs: int | None, pre_dispatch: Any) -> Iterable[Any]:
    backend, _ = get_active_backend()
    one_by_one = getattr(backend, "supports_return_generator", False)
    return Parallel(n_jobs, pre_dispatch=pre_dispatch, return_as="generator" if one_by_one else "list")(calls)
