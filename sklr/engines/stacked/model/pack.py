"""A pack: candidates that share one stack, in all cells, trained one epoch at a time."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from skorch import NeuralNet
from torch import Tensor, nn

from sklr._utils.divergence import exploded
from sklr._utils.random import RandomStream
from sklr.engines.stacked.data.batch import Batch
from sklr.engines.stacked.data.cell_rows import PackRows
from sklr.engines.stacked.data.index_batches import (
    Rows,
    alike_after,
    epoch_positions,
    epoch_sizes,
    map_tensors,
    n_batches,
    stack_rows,
)
from sklr.engines.stacked.data.stream import Shown
from sklr.engines.stacked.model.feed import Feed
from sklr.engines.stacked.model.held import HeldRows
from sklr.engines.stacked.model.member import Member, PackCell
from sklr.engines.stacked.model.record import Record, RunModule, StepRows, listeners
from sklr.engines.stacked.model.stack import ModelStack
from sklr.engines.stacked.model.stream_feed import StreamFeed, are_alike, stacked_batches
from sklr.results import EpochRow
from sklr.schedules import Constant

# Attributes that are left out of a pickled pack: they are rebuilt, or belong to one epoch.
_NOT_PICKLED = ("rows", "y", "weight", "held", "fold", "_scratch", "_last", "_begun")


class Pack:
    """`n_members x n_cells` runs in one `ModelStack`.

    Parameters
    ----------
    stack : ModelStack
    members : sequence of Member, in the stack's order
    pack_cells : sequence of PackCell, one per cell
        The seed of the first cell seeds dropout, in all packs: how candidates are divided into packs changes nothing.
    max_epochs : int

    Attributes
    ----------
    alive : ndarray of bool, shape (n_members, n_cells)
        Runs that are still training.
    in_stack : list of int
        The members that are in the stack now, in its order.
    history : list over members of lists over cells of lists of EpochRow
        Validation scores stay NaN: `ScoredPack` fills them in.
    stopping : ndarray of bool, shape (n_members, n_cells)
        Runs that a callback has ended, and that the next `close` ends.
    keeps_records : bool
        Whether every run has a complete record, so that it can be turned into a net of its own. False, unless it is set
        before the training.
    records : list over members of lists over cells of Record
        Empty if nothing reads them.
    diverged : dict from (member, cell) to (step, loss)
        `step` counts from 0 over the whole training.
    n_restored : int
        How many runs have had other weights loaded into them by a callback.
    """

    def __init__(self, stack: ModelStack, members: Sequence[Member], pack_cells: Sequence[PackCell], max_epochs: int):
        self.stack, self.members, self.pack_cells, self.max_epochs = stack, list(members), list(pack_cells), max_epochs
        self.random_stream = RandomStream(pack_cells[0].seed)
        self.streams = [pack_cell.stream.afresh() for pack_cell in pack_cells if pack_cell.stream is not None]
        self._last: list[Shown] | None = None  # last batches of streams, on which `close` checks the last step
        self._stack_rows()
        self.epoch, self.seconds = 0, 0.0
        self.alive = np.ones((len(members), len(pack_cells)), dtype=bool)
        self.in_stack = list(range(len(members)))
        self.first_loss = np.full(self.alive.shape, np.nan)
        self.history: list[list[list[EpochRow]]] = [[[] for _ in pack_cells] for _ in members]
        self.stopping = np.zeros_like(self.alive)
        self.keeps_records = False
        self.records: list[list[Record]] = []
        self.n_restored = 0
        self.diverged: dict[tuple[int, int], tuple[int, float]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in _NOT_PICKLED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.load_progress(state)
        self._stack_rows()

    def _stack_rows(self) -> None:
        self.held: HeldRows | None = None
        self._scratch: nn.Module | None = None  # buffer of `RunModule`
        self._begun = time.time()
        if self.streams:
            return
        self.rows = PackRows([pack_cell.x for pack_cell in self.pack_cells])
        self.y = stack_rows([pack_cell.y for pack_cell in self.pack_cells])
        weights = [pack_cell.weight for pack_cell in self.pack_cells if pack_cell.weight is not None]
        self.weight = stack_rows(weights) if weights else None
        held = [pack_cell.held for pack_cell in self.pack_cells if pack_cell.held is not None]
        self.fold = self.rows, self.y  # all training rows of the cells, held-out ones included
        if held:
            self.held = HeldRows(held)
            self.fold = PackRows([own.fold[0] for own in held]), stack_rows([own.fold[1] for own in held])

    def progress(self) -> dict[str, Any]:
        """Return what training has changed, without the data: what a worker sends back."""
        given = ("members", "pack_cells", "max_epochs")
        return {name: value for name, value in self.__getstate__().items() if name not in given}

    def load_progress(self, progress: Mapping[str, Any]) -> None:
        """Continue from the `progress` of another copy of this pack."""
        for name, value in progress.items():  # copies, since some joblib backends return read-only arrays
            setattr(self, name, value.copy() if isinstance(value, np.ndarray) else value)

    @property
    def done(self) -> bool:
        """Whether no run has an epoch left."""
        return self.epoch >= self.max_epochs or not self.alive.any()

    def train_epoch(self, *, own_stream: bool = True) -> None:
        """Train every run in the stack for one epoch, and find out which have diverged.

        With `own_stream=False` it leaves torch's global generator alone, and may be called in several threads if the
        stack's traits are thread-safe.
        """
        self._begun = time.time()
        self._compact()
        feed = self.feed_epoch()
        multipliers = self.epoch_multipliers(feed.sizes)
        with self.random_stream if own_stream else nullcontext():
            lr = torch.from_numpy(self.lrs(multipliers))
            losses = self.steps(feed, lr, alike_after(self.pack_cells[0].epochs, self.epoch))
        if isinstance(feed, StreamFeed):
            self._last = [feed.last[cell] for cell in sorted(feed.last)]
        self.end_epoch(losses, feed.sizes, multipliers)
        self.seconds += time.time() - self._begun

    def _compact(self) -> None:
        """Remove members from the stack whose runs have all ended."""
        staying = [m for m in self.in_stack if self.alive[m].any()]
        if len(staying) < len(self.in_stack):
            self.stack.keep([self.in_stack.index(m) for m in staying])
            self.in_stack = staying

    def end_epoch(self, losses: Tensor, sizes: np.ndarray, multipliers: np.ndarray) -> None:
        """Record the epoch's losses and norms, and move on to the next epoch."""
        norms, own = self.stack.take_norms(), losses.unsqueeze(1)
        known = _numbers(
            own if norms is None else torch.cat([own, norms], 1)
        )  # one transfer: each waits for the device
        self._judge(known[:, 0], sizes, multipliers)
        self._tell_callbacks(known[:, 0], sizes, multipliers, known[:, 1:])
        self.epoch += 1

    def epoch_multipliers(self, sizes: np.ndarray) -> np.ndarray:
        """Return the schedules' multipliers of the peak lrs, (n_steps, n_in_stack, n_cells); 0 past a cell's end."""
        table = np.zeros((len(sizes), len(self.in_stack), len(self.pack_cells)))
        for i, m in enumerate(self.in_stack):
            schedule, known = self.members[m].schedule, dict[Any, np.ndarray]()
            for cell, n_steps in enumerate((sizes > 0).sum(axis=0).tolist()):
                # only a schedule that follows a run's losses differs between cells of as many steps
                key = (n_steps, cell if schedule.monitored() else None)
                if key not in known:
                    known[key] = self._multipliers(m, cell, n_steps)
                table[:n_steps, i, cell] = known[key]
        return table

    def lrs(self, multipliers: np.ndarray) -> np.ndarray:
        """Return the epoch's learning rates, shape (n_steps, n_groups, n_in_stack, n_cells)."""
        peaks = np.array([self.members[m].lrs for m in self.in_stack]).T  # (n_groups, n_in_stack)
        return multipliers[:, None] * peaks[:, :, None]

    def _multipliers(self, m: int, cell: int, n_steps: int) -> np.ndarray:
        member = self.members[m]
        if member.schedule == Constant():
            return np.ones(n_steps)
        losses = self._followed(m, cell, member.schedule.monitored())
        return member.schedule.epoch_multipliers(
            self.epoch, n_steps, member.schedule_epochs, lr=member.lr, losses=losses
        )

    def _followed(self, m: int, cell: int, name: str | None) -> tuple[float, ...]:
        """Return the column of a run's history that its schedule follows."""
        if name == "train_loss":
            return tuple(row.train_loss for row in self.history[m][cell])
        return () if name is None or not self.records else tuple(row[name] for row in self.records[m][cell].history)

    def steps(self, feed: Iterable[tuple[slice, Batch | list[Batch]]], lr: Tensor, n_more: int = 0) -> Tensor:
        """Take these steps; return the losses, shape (n_steps, n_in_stack, n_cells).

        Parameters
        ----------
        feed : iterable of (slice, Batch or list of Batch)
            Which steps come next and their batches, as `Feed` yields them.
        lr : Tensor of shape (n_steps, n_groups, n_in_stack, n_cells)
        n_more : int
            How many further epochs have about as many steps.
        """
        lr = lr.to(self.pack_cells[0].net.device, lr_dtype(self.stack), non_blocking=True)
        losses = [
            self.stack.steps(lr[steps], shown, n_more * len(lr) + len(lr) - steps.stop)
            if isinstance(shown, Batch)
            else self.stack.step(lr[steps.start], *shown).unsqueeze(0)
            for steps, shown in feed
        ]
        return torch.cat(losses)

    def feed_epoch(self) -> Feed | StreamFeed:
        """Return the batches of the next epoch."""
        orders = [pack_cell.epochs[self.epoch] for pack_cell in self.pack_cells]
        if self.streams:
            return StreamFeed([stream.batches() for stream in self.streams], epoch_sizes(orders))
        return self.feed(*epoch_positions(orders))

    def feed(self, positions: Tensor, sizes: np.ndarray) -> Feed:
        """Return the batches of some steps, given by row numbers as `epoch_positions` returns them."""
        return Feed(self.stack, self.rows, self.y, self.weight, positions, sizes)

    def _judge(self, losses: np.ndarray, sizes: np.ndarray, multipliers: np.ndarray) -> None:
        """Record the epoch for the runs that completed it, and end those that diverged."""
        if self.epoch == 0:
            self.first_loss[:] = losses[0]
        bad = exploded(losses, self.first_loss[self.in_stack]) & (sizes > 0)[:, None, :]
        n_steps = (sizes > 0).sum(axis=0)
        # an epoch's loss is the mean over batches weighted by their sizes, as in skorch's history
        means = np.where((sizes > 0)[:, None, :], losses * sizes[:, None, :], 0).sum(axis=0) / sizes.sum(axis=0)
        for i, m in enumerate(self.in_stack):
            for cell in map(int, np.flatnonzero(self.alive[m])):
                if bad[:, i, cell].any():
                    step, before = int(bad[:, i, cell].argmax()), n_batches(self.pack_cells[cell].epochs, self.epoch)
                    self._diverge(m, cell, before + step, float(losses[step, i, cell]))
                else:
                    lr = self.members[m].lr * float(multipliers[n_steps[cell] - 1, i, cell])
                    self.history[m][cell].append(EpochRow(self.epoch, lr, float(means[i, cell]), float("nan")))

    def _tell_callbacks(
        self, losses: np.ndarray, sizes: np.ndarray, multipliers: np.ndarray, norms: np.ndarray
    ) -> None:
        """Update the records of the runs that completed the epoch, and note which of them a callback ends."""
        if self.epoch == 0:
            self.records = self._new_records()
        if not self.records:
            return
        held = None if self.held is None else self.held.epoch(self.stack)
        lrs, seconds = self.lrs(multipliers), (time.time() - self._begun) / self.alive.size
        for i, m in enumerate(self.in_stack):
            for cell in map(int, np.flatnonzero(self.alive[m])):
                steps = slice((sizes[:, cell] > 0).sum())
                lr = self.members[m].lr * multipliers[steps, i, cell]
                rows = losses[steps, i, cell], sizes[steps, cell], lr, lrs[steps, :, i, cell], norms[steps, :, i, cell]
                found = StepRows(*map(np.copy, rows))  # a view would keep the whole table
                of_held = None if held is None else held(i, cell)
                net, module = self.pack_cells[cell].net, self._module_of(i, cell)
                self.stopping[m, cell] = self.records[m][cell].end_epoch(net, module, found, of_held, seconds)

    def _new_records(self) -> list[list[Record]]:
        """Return a record of each run, or none at all if nothing reads them."""
        read = {name for member in self.members if (name := member.schedule.monitored()) not in (None, "train_loss")}
        told = [listeners(pack_cell.net, read, whole=self.keeps_records) for pack_cell in self.pack_cells]
        if not self.keeps_records and not any(told):
            return []
        pairs = list(zip(self.pack_cells, told, strict=True))
        return [
            [Record(pack_cell.net, own, whole=self.keeps_records) for pack_cell, own in pairs] for _ in self.members
        ]

    def _diverge(self, m: int, cell: int, step: int, loss: float) -> None:
        self.alive[m, cell] = False
        self.diverged[m, int(cell)] = int(step), float(loss)

    def close(self) -> np.ndarray:
        """End the runs that a callback has stopped or that have no epoch left; return which these are.

        Callbacks may load the weights of an earlier epoch into them. The runs stay in the stack, to be scored; they
        leave it once `alive` is False.
        """
        over = self.alive & (self.stopping | (self.epoch == self.max_epochs))
        if not over.any():
            return over
        for m, cell in np.argwhere(over).tolist() if self.records else ():
            module = self._module_of(self.in_stack.index(m), cell)
            self.records[m][cell].end_training(self.pack_cells[cell].net, module)
            self.n_restored += module.is_changed
        self._check_last_step(over)
        return over & self.alive

    def _module_of(self, i: int, cell: int) -> RunModule:
        if self._scratch is None:
            self._scratch = copy.deepcopy(self.pack_cells[0].net.module_)
        return RunModule(self.stack, i, cell, self._scratch)

    def _check_last_step(self, over: np.ndarray) -> None:
        """End those of the runs that diverged in their very last step, after which no training loss was computed."""
        if (rows := self._some_rows()) is None:
            return
        x, y = rows
        outputs = self.stack.outputs(x)
        losses = self.stack.loss(map_tensors(lambda out: out.transpose(0, 1), outputs), y, None).mT
        bad = exploded(losses.cpu().double().numpy(), self.first_loss[self.in_stack])
        for i, cell in np.argwhere(bad & over[self.in_stack]):
            n_steps = n_batches(self.pack_cells[cell].epochs, self.epoch)
            self._diverge(self.in_stack[i], cell, n_steps, float(losses[i, cell]))

    def _some_rows(self) -> tuple[Rows, Rows] | None:
        """Return rows of all cells to evaluate after the last step; None for streams whose last batches differ."""
        if not self.streams:
            rows, y = self.fold
            n_rows = [
                pack_cell.x.n_rows if pack_cell.held is None else pack_cell.held.fold[0].n_rows
                for pack_cell in self.pack_cells
            ]
            size = min(valid_batch_size(pack_cell.net, n) for pack_cell, n in zip(self.pack_cells, n_rows, strict=True))
            return rows.first(size), map_tensors(lambda t: t[:, :size], y)
        return stacked_batches(self._last) if self._last and are_alike(self._last) else None


def lr_dtype(stack: ModelStack) -> torch.dtype:
    """Return the floating-point dtype the stack computes in."""
    return next(iter(stack.optimizer.params.values())).dtype


def _numbers(found: Tensor) -> np.ndarray:
    return found.cpu().double().numpy()  # MPS has no float64


def valid_batch_size(net: NeuralNet, n_rows: int) -> int:
    """Return how many of `n_rows` rows the net predicts in one batch."""
    size = net.get_params_for("iterator_valid").get("batch_size", net.batch_size)
    return n_rows if size == -1 else min(size, n_rows)
