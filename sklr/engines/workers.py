"""Calls made in joblib's workers; calls that are lost when a worker dies are made again."""

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
MAX_DEATHS = 3  # in a row, with no call returning between them: then the call itself kills its worker


def can_travel(net: NeuralNet) -> bool:
    """Say whether a worker could unpickle an initialized net: not if its module is defined in a script or notebook.

    joblib pickles such classes by value, but skorch pickles an initialized net's parts itself, by reference.
    """
    try:
        return b"__main__" not in pickle.dumps(net)
    except Exception:  # a class defined in a function, say, cannot be pickled
        return False


def spread(calls: Iterable[Call], n_jobs: int | None, pre_dispatch: Any) -> Iterator[tuple[int, Any]]:
    """Make calls in joblib's workers, and yield the position and result of each, in order.

    Where the backend supports it, results are yielded as they arrive, so that those are kept after Ctrl-C. When a
    worker dies (out of memory, killed), the calls that have not returned are made again. That is safe, as workers only
    have copies of the arguments.

    Parameters
    ----------
    calls : iterable
        Calls made by scikit-learn's `delayed`, consumed as workers become free.
    n_jobs, pre_dispatch
        As joblib's `Parallel` takes them.

    Raises
    ------
    BrokenProcessPool
        If workers die three times in a row with no call returning between them.

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
                taken[came] = None  # free the arguments, which may be large
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
    """Yield the calls to be made again, then new ones, which are kept in `taken` until they return."""
    yield from again
    for call in source:
        taken.append(call)
        yield call


def _results(calls: Iterator[Call], n_jobs: int | None, pre_dispatch: Any) -> Iterable[Any]:
    backend, _ = get_active_backend()
    one_by_one = getattr(backend, "supports_return_generator", False)
    return Parallel(n_jobs, pre_dispatch=pre_dispatch, return_as="generator" if one_by_one else "list")(calls)
