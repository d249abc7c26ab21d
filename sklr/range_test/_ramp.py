"""The training of a range test: the net of every cell at increasing learning rates, as one stack if possible.

The losses are analysed in `_curve.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain, islice, repeat
from typing import Any, NamedTuple

import numpy as np
import torch
from joblib import Parallel, delayed
from sklearn.base import clone
from skorch import NeuralNet
from skorch import callbacks as skorch_callbacks
from skorch.callbacks import Callback
from torch.utils.data import DataLoader

from sklr._utils.divergence import exploded
from sklr._utils.validation import must_be
from sklr.callbacks import LRSchedule
from sklr.callbacks._kind import callback_class
from sklr.engines import Engine, SequentialEngine
from sklr.engines.sequential.engine import fit_heads
from sklr.engines.sequential.fit import EpochFit
from sklr.engines.stacked.advance import in_words
from sklr.engines.stacked.data.index_batches import Epoch, epoch_positions, epoch_sizes
from sklr.engines.stacked.data.stream import CellStream, Shown
from sklr.engines.stacked.model.feed import Feed
from sklr.engines.stacked.model.pack import Pack
from sklr.engines.stacked.model.stream_feed import StreamFeed
from sklr.engines.stacked.reasons import raised, warn_of_fallback
from sklr.engines.stacked.setup.packing import fitting_threads, step_flops
from sklr.engines.stacked.setup.prepare import Group, Prepared, prepare
from sklr.exceptions import EngineError, TrainingDiverged
from sklr.experiment.cell_data import Head, cell_data, fit_head, seeded_clone
from sklr.experiment.experiment import Cell, Experiment
from sklr.experiment.wrappers import is_wrapped, net_of
from sklr.schedules import Schedule

NOT_FOR_A_RAMP = (  # callbacks that set the learning rate, need validation rows, or stop or report a training
    LRSchedule,
    skorch_callbacks.LRScheduler,
    skorch_callbacks.EarlyStopping,
    skorch_callbacks.Checkpoint,
    skorch_callbacks.TrainEndCheckpoint,
    skorch_callbacks.LoadInitState,
    skorch_callbacks.EpochScoring,
    skorch_callbacks.BatchScoring,
    skorch_callbacks.PrintLog,
    skorch_callbacks.ProgressBar,
)


class Losses(NamedTuple):
    """The raw losses of a ramp, and how it was trained.

    Attributes
    ----------
    lr : ndarray of shape (n_steps,)
        The learning rate of each step.
    before : ndarray of shape (n_runs,)
        Loss of each run before its first update.
    after : ndarray of shape (n_steps, n_runs)
        Loss of each run on the next batch after the update with the learning rate of each step; NaN from where the run
        diverged.
    engine : str
        ``"stacked"`` or ``"sequential"``.
    reasons : tuple of str
        Why the runs were not stacked; empty if they were.
    """

    lr: np.ndarray
    before: np.ndarray
    after: np.ndarray
    engine: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, repr=False)
class Ramp(Schedule):
    r"""Increase by a constant factor every step: :math:`m(s) = a (b / a)^{s / (n - 1)}`, from `low` to `high`.

    After `n_steps` steps the multiplier stays at `high`.

    >>> [round(Ramp(0.1, 10.0, 3)(step, 0), 6) for step in (0, 1, 2, 9)]
    [0.1, 1.0, 10.0, 10.0]
    """

    low: float = 1.0
    high: float = 10.0
    n_steps: int = 2

    def __call__(self, step: float, total: float) -> float:
        return self.low * (self.high / self.low) ** min(step / (self.n_steps - 1), 1.0)


def ramp_losses(experiment: Experiment, ramp: Ramp, engine: str | Engine = "auto") -> Losses:
    """Train the experiment's estimator in every cell, one optimizer step at each learning rate of the ramp.

    Parameters
    ----------
    experiment : Experiment
        Its `estimator` is a skorch net or a known wrapper around one; it is cloned.
    ramp : Ramp
        `low` and `high` as learning rates. A parameter group with a learning rate of its own is raised by the same
        factor as the net's.
    engine : {"auto", "stacked", "sequential"} or Engine
        Whether to train all cells as one stack; ``"auto"`` does so if possible.

    Raises
    ------
    EngineError
        If the engine is "stacked" and the cells cannot be stacked.
    ValueError
        If a loss is not finite before the first step.
    """
    experiment = replace(experiment, estimator=plain(experiment.estimator), scorer=None, caller=None)
    peak = _peak(net_of(experiment.estimator))
    lr = np.geomspace(ramp.low, ramp.high, ramp.n_steps)
    ramp = replace(ramp, low=ramp.low / peak, high=ramp.high / peak)
    name = engine.name if isinstance(engine, Engine) else engine
    runs, reasons = (None, ()) if name == SequentialEngine.name else _train_stacked(experiment, ramp, name)
    if runs is None:
        return _losses(lr, _train_one_by_one(experiment, ramp), "sequential", reasons)
    return _losses(lr, runs, "stacked")


def _train_stacked(experiment: Experiment, ramp: Ramp, engine: str) -> tuple[list[np.ndarray] | None, tuple[str, ...]]:
    """Return the batch losses of every run, or None and the reasons why they cannot be trained as one stack."""
    groups, refused = _prepare_ramp(experiment, ramp.n_steps)
    if refused and engine != "auto":
        advice = "Use engine='sequential', or engine='auto' to have one chosen."
        raise EngineError(f"engine={engine!r} cannot train these runs: {'; '.join(refused[0])}. {advice}")
    if refused:
        return None, tuple(refused[0])
    try:
        runs = {k: losses for group in groups for k, losses in _ramp_in_stack(group, ramp).items()}
        return [runs[k] for k in range(len(experiment.cells))], ()
    except Exception as error:  # sequential training is tried next; an error that is not due to the stack recurs there
        warn_of_fallback(in_words(error), "all runs")
        return None, (raised(in_words(error)),)


def plain(estimator: Any) -> Any:
    """Return a clone whose net trains on all its rows, and whose learning rate nothing but the ramp changes."""
    estimator = clone(estimator)
    net = net_of(estimator)
    net.train_split, net.warm_start, net.verbose = None, False, 0
    net.callbacks = [c for c in _listed(net.callbacks) if not issubclass(callback_class(c), NOT_FOR_A_RAMP)]
    if hasattr(net, "start_fit"):
        net.schedule, net.warmup_epochs, net.schedule_epochs = None, 0, None
    return estimator


def _listed(callbacks: Any) -> list:
    return [] if callbacks is None or isinstance(callbacks, str) else list(callbacks)


def _peak(net: NeuralNet) -> float:
    """Return the net's peak learning rate, which the multipliers of a schedule refer to."""
    peak = net.get_params_for("optimizer").get("lr", net.lr)
    if not peak > 0:
        advice = "Any lr above 0 gives the same result."
        raise ValueError(must_be("the net's lr", "above 0 for a range test", peak, advice))
    return float(peak)


def _prepare_ramp(experiment: Experiment, n_steps: int) -> Prepared:
    """Prepare the nets of all cells as one stack, with enough epochs for all steps of the ramp."""
    net = net_of(experiment.estimator)
    n_rows = min(len(cell.train) for cell in experiment.cells)
    n_batches = len(net.get_iterator(range(n_rows), training=True)) if net.iterator_train is DataLoader else 1
    net.max_epochs = -(-(n_steps + 1) // max(n_batches, 1))
    return prepare(experiment, [{}])


def _ramp_in_stack(group: Group, ramp: Ramp) -> dict[int, np.ndarray]:
    """Return the batch losses of each cell, by cell number; one more than steps, to see the effect of the last one."""
    (member,), pack_cells = group.members, [group_cell.pack_cell for group_cell in group.group_cells]
    orders = [list(islice(chain.from_iterable(pack_cell.epochs), ramp.n_steps + 1)) for pack_cell in pack_cells]
    multipliers = [*(ramp(step, 0) for step in range(ramp.n_steps)), 0.0]  # the extra batch changes no weights
    lr = np.multiply.outer(multipliers, member.lrs)[:, :, None, None] * np.ones((1, len(pack_cells)))
    pack = Pack(group.build([0]), [member], pack_cells, group.max_epochs)
    with fitting_threads(step_flops(group, pack.stack)), pack.random_stream:
        losses = pack.steps(_feed(pack, orders), torch.from_numpy(lr))
    return dict(
        zip((group_cell.number for group_cell in group.group_cells), losses[:, 0].cpu().double().numpy().T, strict=True)
    )


def _feed(pack: Pack, orders: Sequence[Epoch]) -> Feed | StreamFeed:
    """Return the batches of all steps of the ramp, from as many epochs as needed."""
    if pack.streams:
        return StreamFeed([_batches(stream, len(orders[0])) for stream in pack.streams], epoch_sizes(orders))
    return pack.feed(*epoch_positions(orders))


def _batches(stream: CellStream, n: int) -> Iterator[Shown]:
    """Return the first `n` batches of a stream, from as many epochs as needed."""
    epochs = (stream.batches() for _ in repeat(None))
    return islice(chain.from_iterable(epochs), n)


def _train_one_by_one(experiment: Experiment, ramp: Ramp) -> list[np.ndarray]:
    """Return the batch losses of every run, trained by skorch's own loop; they end where a run diverged."""
    cells = experiment.cells
    estimators = [seeded_clone(experiment, {}, cell) for cell in cells]
    heads = fit_heads(experiment, estimators, cells)
    parallel = Parallel(n_jobs=experiment.n_jobs, pre_dispatch=experiment.pre_dispatch)
    return parallel(delayed(_train_one)(experiment, *run, ramp) for run in zip(cells, estimators, heads, strict=True))


def _train_one(experiment: Experiment, cell: Cell, estimator: Any, head: Head | None, ramp: Ramp) -> np.ndarray:
    data = cell_data(experiment, cell, estimator)
    if is_wrapped(estimator):
        data = (head or fit_head(estimator, data)).data
    net = net_of(estimator)
    net.max_epochs = ramp.n_steps + 1  # more than enough: an epoch has a step or more
    net.callbacks = [*net.callbacks, ("range_test_ramp", LRSchedule(ramp)), ("range_test_end", _End(ramp.n_steps))]
    with suppress(_RampIsOver, TrainingDiverged):
        EpochFit(net, data, cell.seed, score=lambda: np.nan).advance()
    return np.array(_batch_losses(net))


class _RampIsOver(Exception):
    """Raised to stop the training after the last loss of a ramp."""


class _End(Callback):
    """Stops the training after the batch that follows the last step of the ramp."""

    def __init__(self, n_steps: int):
        self.n_steps = n_steps
        self.n_batches = 0

    def on_batch_end(self, net: NeuralNet, training: bool | None = None, **kwargs: Any) -> None:
        self.n_batches += bool(training)
        if self.n_batches > self.n_steps:
            raise _RampIsOver


def _batch_losses(net: NeuralNet) -> list[float]:
    return [batch["train_loss"] for row in net.history_ for batch in row["batches"] if "train_loss" in batch]


def _losses(lr: np.ndarray, runs: Sequence[np.ndarray], engine: str, reasons: tuple[str, ...] = ()) -> Losses:
    """Collect the losses of all runs in arrays, with NaN after the loss at which a run diverged."""
    table = np.full((len(lr) + 1, len(runs)), np.nan)
    for run, losses in enumerate(runs):
        beyond = exploded(losses, np.full_like(losses, losses[0]))
        end = int(beyond.argmax()) + 1 if beyond.any() else len(losses)
        table[:end, run] = losses[:end]
    table[~np.isfinite(table)] = np.nan
    if np.isnan(table[0]).any():
        advice = "Check X and y for NaN and huge values, and that the loss matches the module's outputs."
        raise ValueError(must_be("the loss before the first step", "finite in every run", table[0].tolist(), advice))
    return Losses(lr, table[0], table[1:], engine, reasons)
