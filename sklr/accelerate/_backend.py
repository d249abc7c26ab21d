"""A joblib backend that collects all calls of a batch before it runs any of them; it does not know what they do."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, islice
from typing import Any

import joblib
from joblib.parallel import FallbackToBackend, ParallelBackendBase, SequentialBackend, get_active_backend
from sklearn.utils.parallel import Parallel

Task = tuple[Callable[..., Any], tuple, dict[str, Any]]
RunBatch = Callable[[list[Task], "GatheringBackend"], list[Any]]


class StackedBackend(ParallelBackendBase):
    """Passes scikit-learn's batches to a `GatheringBackend`, and all others to the backend that was active before.

    Parameters
    ----------
    run : callable
        ``run(tasks, gatherer)`` returns the results of the tasks in their order.
    """

    def __init__(self, run: RunBatch):
        self.run = run
        self.outside: dict[str | None, ParallelBackendBase] = {
            None: get_active_backend()[0],
            "processes": get_active_backend(prefer="processes")[0],
            "threads": get_active_backend(prefer="threads")[0],
        }
        self.default_n_jobs = self.outside[None].default_n_jobs
        super().__init__(nesting_level=self.outside[None].nesting_level)

    @property
    def supports_return_generator(self) -> bool:
        """Whether results can be returned one by one: such calls are passed to the outer backend."""
        outside = self.outside[None]
        return isinstance(outside, SequentialBackend) or outside.supports_return_generator

    def effective_n_jobs(self, n_jobs: int) -> int:
        """Return the number of workers of the outer backend."""
        return self.outside[None].effective_n_jobs(n_jobs)

    def configure(
        self, n_jobs: int = 1, parallel: Any = None, prefer: str | None = None, require: Any = None, **kwargs: Any
    ) -> int:
        """Select the backend that runs this `Parallel`; joblib's way to do so is to raise `FallbackToBackend`."""
        outside = self.outside[prefer]
        at_once = isinstance(parallel, Parallel) and not parallel.return_generator and parallel.timeout is None
        raise FallbackToBackend(GatheringBackend(self.run, outside) if at_once else outside)

    def submit(self, func: Any, callback: Any = None) -> Any:
        """Required by joblib, but never called, as `configure` always selects another backend."""
        raise NotImplementedError

    apply_async = submit  # the name before joblib 1.5


class GatheringBackend(ParallelBackendBase):
    """The backend of one `Parallel`: it runs nothing until a result is requested, and then all calls as one batch."""

    def __init__(self, run: RunBatch, outside: ParallelBackendBase):
        super().__init__(nesting_level=outside.nesting_level)
        self.run, self.outside = run, outside
        self.waiting: list[Job] = []

    def effective_n_jobs(self, n_jobs: int) -> int:
        """Return 2 for any `n_jobs`: with one worker, joblib would run the calls itself, one by one."""
        self.outside.effective_n_jobs(n_jobs)  # raises an error if `n_jobs` is invalid
        return 2

    def configure(self, n_jobs: int = 1, parallel: Any = None, **kwargs: Any) -> int:
        """Store the `Parallel` object and its memory-mapping options, with which other calls are run."""
        self.parallel = parallel
        self.memory = {name: kwargs[name] for name in ("temp_folder", "max_nbytes", "mmap_mode") if name in kwargs}
        return self.effective_n_jobs(n_jobs)

    def submit(self, func: Any, callback: Any = None) -> Job:
        """Collect some calls, to be run later."""
        job = Job(self, func, callback)
        self.waiting.append(job)
        return job

    apply_async = submit

    def gather(self) -> None:
        """Let joblib submit all remaining calls, and run the batch."""
        for job in self.waiting:  # grows during the loop: in the callback of a job, joblib submits the next one
            job.callback(None)
        jobs, self.waiting = self.waiting, []
        results = iter(self.run(list(chain.from_iterable(job.tasks for job in jobs)), self))
        for job in jobs:
            job.results = list(islice(results, len(job.tasks)))

    def run_plainly(self, tasks: list[Task]) -> list[Any]:
        """Run calls as without this backend."""
        if not tasks:
            return []  # start no workers
        return joblib.Parallel(n_jobs=self.parallel.n_jobs, backend=self.outside, **self.memory)(tasks)

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Drop the calls that were not run, after one has failed."""
        self.waiting = []


class Job:
    """Calls that joblib has submitted together, and whose results it will request."""

    def __init__(self, gatherer: GatheringBackend, func: Any, callback: Callable[[Any], Any]):
        self.gatherer, self.callback = gatherer, callback
        self.tasks: list[Task] = func.items
        self.results: list[Any] | None = None

    def get(self, timeout: float | None = None) -> list[Any]:
        """Return the results; the first call of `get` in a batch runs all of it."""
        if self.results is None:
            self.gatherer.gather()
        assert self.results is not None
        return self.results
