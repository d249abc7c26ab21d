"""The tasks that a search reports to scikit-learn's callbacks: the fit, the search, each run, and the refit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


class SearchTasks:
    """Opens and closes the tasks of one `fit`, as scikit-learn's own searches do.

    Parameters
    ----------
    search : BaseSearchCV
        The search, which the callbacks receive as the estimator.
    X, y : array-like
        All rows.
    params : mapping
        The parameters of `fit`.
    """

    def __init__(self, search: Any, X: Any, y: Any, params: Mapping[str, Any]):
        weight = params.get("sample_weight")
        metadata = None if weight is None else {"sample_weight": weight}
        self._about = {"estimator": search, "X": X, "y": y, "metadata": metadata}
        self._listened_to = _anyone_listens(search)
        self._n_runs = 0
        self._fit = search._init_callback_context(max_subtasks=1 + (search.refit is not False))
        self._fit.call_on_fit_task_begin(**self._about)

    @contextmanager
    def search(self, n_runs: int | None) -> Iterator[None]:
        """Context manager around all trials; `n_runs` is the number of runs, None if not known in advance."""
        search = self._about["estimator"]
        self._search = self._fit.subcontext(task_name="search", max_subtasks=n_runs, sequential_subtasks=False)
        self._search.call_on_fit_task_begin(estimator=search)
        yield
        self._search.call_on_fit_task_end(estimator=search)

    def for_runs(self, n_runs: int) -> list | None:
        """Return a callback context for each of the next runs, or None if there are no callbacks."""
        if not self._listened_to:
            return None
        numbers = range(self._n_runs, self._n_runs + n_runs)
        self._n_runs += n_runs
        return [self._search.subcontext(task_name="candidate-split-evaluation", task_id=number) for number in numbers]

    @contextmanager
    def refit(self, estimator: Any) -> Iterator[None]:
        """Context manager around the refit of the chosen candidate."""
        context = self._fit.subcontext(task_name="refit-with-best-params")
        with context.propagate_callback_context(estimator):
            context.call_on_fit_task_begin(**self._about)
            yield
        context.call_on_fit_task_end(**self._about)

    def end(self) -> None:
        """Close the task of the fit."""
        self._fit.call_on_fit_task_end(**self._about)


def _anyone_listens(search: Any) -> bool:
    """Return whether scikit-learn's callbacks are set on the search or on an estimator in it."""
    parts = [search, search.estimator, *search.estimator.get_params().values()]
    return any(getattr(part, "_skl_callbacks", None) for part in parts)
