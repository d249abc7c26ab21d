"""The cost of a search before any training: candidates, runs, epochs, steps, stacks and memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from joblib import effective_n_jobs

from sklr._utils.html import ShownAsText
from sklr.engines import SequentialEngine, StackedEngine, engine_names, pick_engine
from sklr.engines.base import Engine
from sklr.engines.stacked.reasons import describe
from sklr.engines.stacked.setup.memory import peak_bytes
from sklr.engines.stacked.setup.packing import divide, shares
from sklr.experiment.cell_data import seeded_clone
from sklr.experiment.experiment import Experiment
from sklr.experiment.wrappers import changes_rows, is_net, net_of


@dataclass(frozen=True)
class Plan(ShownAsText):
    """The cost of `search.fit`; print it.

    Parameters
    ----------
    candidates : int or None
        Maximum number of candidates; None if only a timeout or a callback ends the search.
    runs : int or None
        Number of trainings: candidates x folds x seeds.
    epochs : int or None
        Epochs of all runs together; None if the estimator does not train in epochs.
    steps : int or None
        Optimizer steps of all runs together.
    stacks : int or None
        Number of stacks in which the first candidates are trained; None if they are trained one by one.
    memory : int or None
        Expected peak memory of `fit` in bytes beyond the data, while the first candidates are trained in this process.
        The working memory of PyTorch, the scorer and the steps of a pipeline is not included. None if they are trained
        one by one.
    engine : str
        What will train them.
    reasons : tuple of str
        Why a faster engine cannot be used.
    copies : int
        Number of copies of the rows in `memory`: one per fold if the steps of a pipeline are fitted on each, else 0.

    Examples
    --------
    >>> print(Plan(10, 50, 500, 5500, 1, 3_000_000, "stacked"))
    10 candidates, 50 runs, 500 epochs, 5,500 optimizer steps
    engine: stacked, in 1 stack, with about 3 MB above the data
    >>> print(Plan(10, 50, 500, 5500, 1, 3_000_000, "stacked", copies=5))
    10 candidates, 50 runs, 500 epochs, 5,500 optimizer steps
    engine: stacked, in 1 stack, with about 3 MB above the data: each of 5 folds has its own rows from the pipeline
    >>> print(Plan(None, None, None, None, None, None, "sequential", ("Ridge is not a skorch net",)))
    as many candidates as time or callbacks allow
    engine: sequential (Ridge is not a skorch net)
    """

    candidates: int | None
    runs: int | None
    epochs: int | None
    steps: int | None
    stacks: int | None
    memory: int | None
    engine: str
    reasons: tuple[str, ...] = ()
    copies: int = 0

    def __str__(self) -> str:
        counts = {"candidates": self.candidates, "runs": self.runs, "epochs": self.epochs}
        said = [f"{n:,} {what}" for what, n in {**counts, "optimizer steps": self.steps}.items() if n is not None]
        if self.candidates is None:
            said = ["as many candidates as time or callbacks allow"]
        how = f" ({'; '.join(self.reasons)})" if self.reasons else ""
        if self.stacks is not None and self.memory is not None:
            how += f", in {self.stacks} stack{'s' * (self.stacks != 1)}"
            how += f", with about {self.memory / 1e6:,.0f} MB above the data"
            how += f": each of {self.copies} folds has its own rows from the pipeline" * (self.copies > 0)
        return f"{', '.join(said)}\nengine: {self.engine}{how}"


def plan(experiment: Experiment, engine: Any, batch: Sequence[dict], count: int | None) -> Plan:
    """Return the plan of a search.

    Parameters
    ----------
    experiment : Experiment
    engine : str or Engine
    batch : sequence of dict
        The candidates proposed first.
    count : int or None
        How many there will be in all; None if unknown.
    """
    chosen, reasons = pick_engine(engine, experiment, batch)
    each = [_cost(experiment, candidate) for candidate in batch]
    share = None if count is None else count / len(batch)  # later candidates are assumed to cost the same
    epochs, steps = (_scaled([cost[i] for cost in each], share) for i in range(2))
    stacks, memory, copies = _stacks(experiment, batch, chosen)
    runs = None if count is None else count * len(experiment.cells)
    names = engine_names(SequentialEngine.name if i in reasons else chosen.name for i in range(len(batch)))
    return Plan(count, runs, epochs, steps, stacks, memory, names, tuple(describe(reasons, batch)), copies)


def _cost(experiment: Experiment, candidate: dict) -> tuple[int | None, int | None]:
    """Return the epochs and the optimizer steps of one candidate in all cells; None if it does not train in epochs."""
    net = net_of(seeded_clone(experiment, candidate, experiment.cells[0]))
    if not is_net(net):
        return None, None
    batch_size = net.get_params_for("iterator_train").get("batch_size", net.batch_size)
    sizes = [len(cell.train) for cell in experiment.cells]
    whole = math.floor if net.get_params_for("iterator_train").get("drop_last") else math.ceil
    per_epoch = sum(1 if batch_size == -1 else whole(size / batch_size) for size in sizes)
    return net.max_epochs * len(sizes), net.max_epochs * per_epoch


def _scaled(numbers: Sequence[int | None], share: float | None) -> int | None:
    known = [n for n in numbers if n is not None]
    return None if share is None or len(known) < len(numbers) else round(sum(known) * share)


def _stacks(experiment: Experiment, batch: Sequence[dict], engine: Engine) -> tuple[int | None, int | None, int]:
    """Return the number of stacks for the batch, their bytes beyond the data, and the number of copies of the rows."""
    if not isinstance(engine, StackedEngine):
        return None, None, 0
    groups = engine.prepared(experiment, batch).groups
    n_jobs = effective_n_jobs(experiment.n_jobs)
    dealt = [divide(*pair, engine.max_stack, n_jobs) for pair in zip(groups, shares(groups), strict=True)]
    copied = {place.number for group in groups for place in group.group_cells if changes_rows(place.estimator)}
    return sum(map(len, dealt)), peak_bytes(groups, dealt), len(copied)
