"""A pack: candidates that can share one stack, in all cells, trained an epoch at a time."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from skorch import NeuralNet
from torch import Tensor, nn

from sklr._utils.divergence import exploded
from sklr._utils.random import RandomStream
from sklr.engines.stacked.data.batch import Batch
from sklr.engines.stacked.data.cell_rows import CellRows, PackRows
from sklr.engines.stacked.data.index_batches import (
    Epoch,
    Rows,
    alike_after,
    epoch_positions,
    epoch_sizes,
    map_tensors,
    n_batches,
    stack_rows,
)
from sklr.engines.stacked.data.stream import CellStream, Shown
from sklr.engines.stacked.model.held import Held, HeldRows
from sklr.engines.stacked.model.loader import Feed
from sklr.engines.stacked.model.record import Record, RunModule, StepRows, listeners
from sklr.engines.stacked.model.stack import ModelStack
from sklr.engines.stacked.model.stream_feed import StreamFeed, are_alike, stacked_batches
from sklr.results import EpochRow
from sklr.schedules import Constant, Schedule


class PackCell(NamedTuple):
    """One cell as a pack sees it: a net made ready in it, its rows, and the batches of each epoch.

    `weight` holds sample weights, shape (n_rows,), or None; `seed` is that of the net's random stream. Where batches
    are read from a `stream`, `x` and `y` are its first batch, and `epochs` tell the batches' sizes alone. `held` is
    what the net's `train_split` holds out of the cell's rows.
    """

    net: NeuralNet
    epochs: Sequence[Epoch]
    x: CellRows
    y: Rows
    weight: Tensor | None
    seed: int
    stream: CellStream | None = None
    held: Held | None = None


class Member(NamedTuple):
    """What sets a candidate apart in its pack: its peak lr and those of its groups, a schedule and its horizon."""

    candidate: int
    lr: float
    lrs: tuple[float, ...]
    schedule: Schedule
    schedule_epochs: int


# what a pickled pack goes without
_MADE_AGAIN = ("rows", "y", "weight", "held", "fold", "_scratch", "_last", "_begun")


class Pack:
    """`n_members x n_cells` runs in one `ModelStack`.

    Parameters
    ----------
    stack : ModelStack
    members : sequence of Member, in the stack's order
    pack_cells : sequence of PackCell, one per cell
        The first one's seed is dropout's, in all packs: how candidates are packed changes nothing.
    max_epochs : int

    Attributes
    ----------
    alive : ndarray of bool, shape (n_members, n_cells)
        Runs that are still training.
    in_stack : list of int
        The members that are in the stack now, in its order.
    history : list over members of lists over cells of lists of EpochRow
        Validation scores are not known here and stay NaN.
    stopping : ndarray of bool, shape (n_members, n_cells)
        Runs that a callback has ended, and that `close` is to close.
    keeps_records : bool
        Whether every run has a whole record, to be made a net of its own: off, unless set before the training.
    records : list over members of lists over cells of Record
        Empty if nobody reads them.
    diverged : dict from (member, cell) to (step, loss)
    """

    def __init__(self, stack: ModelStack, members: Sequence[Member], pack_cells: Sequence[PackCell], max_epochs: int):
        self.stack, self.members, self.pack_cells, self.max_epochs = stack, list(members), list(pack_cells), max_epochs
        self.random_stream = RandomStream(pack_cells[0].seed)
        self.streams = [pack_cell.stream.afresh() for pack_cell in pack_cells if pack_cell.stream is not None]
        self._last: list[Shown] | None = None  # batches of streams, for a look at what the last step has done
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
        return {name: value for name, value in vars(self).items() if name not in _MADE_AGAIN}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.go_on(state)
        self._stack_rows()

    def _stack_rows(self) -> None:
        self.held: HeldRows | None = None
        self._scratch: nn.Module | None = None  # what `RunModule` writes to
        self._begun = time.time()
        if self.streams:
            return
        self.rows = PackRows([pack_cell.x for pack_cell in self.pack_cells])
        self.y = stack_rows([pack_cell.y for pack_cell in self.pack_cells])
        weights = [pack_cell.weight for pack_cell in self.pack_cells if pack_cell.weight is not None]
        self.weight = stack_rows(weights) if weights else None
        held = [pack_cell.held for pack_cell in self.pack_cells if pack_cell.held is not None]
        self.fold = self.rows, self.y
        if held:
            self.held = HeldRows(held)
            self.fold = PackRows([own.fold[0] for own in held]), stack_rows([own.fold[1] for own in held])

    def progress(self) -> dict[str, Any]:
        """Return what training has changed, without what it was trained on: all that a worker need send back."""
        given = ("members", "sides", "max_epochs")
        return {name: value for name, value in self.__getstate__().items() if name not in given}

    def go_on(self, progress: Mapping[str, Any]) -> None:
        """Stand where another copy of this pack stood when it was asked for its `progress`."""
        for name, value in progress.items():  # some backends hand arrays over read-only
            setattr(self, name, value.copy() if isinstance(value, np.ndarray) else value)

    @property
    def done(self) -> bool:
        """Whether no run has an epoch left."""
        return self.epoch >= self.max_epochs or not self.alive.any()

    def train_epoch(self, *, own_stream: bool = True) -> None:
        """Train every run in the stack for one epoch, and find out which have diverged.

        Without a random stream of its own it can be called in several threads, if the stack's traits are thread-safe.
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
        """Let members none of whose runs is alive leave the stack."""
        staying = [m for m in self.in_stack if self.alive[m].any()]
        if len(staying) < len(self.in_stack):
            self.stack.keep([self.in_stack.index(m) for m in staying])
            self.in_stack = staying

    def end_epoch(self, losses: Tensor, sizes: np.ndarray, multipliers: np.ndarray) -> None:
        """Take the epoch's losses down, and go on to the next one."""
        norms, own = self.stack.take_norms(), losses.unsqueeze(1)
        known = _numbers(own if norms is None else torch.cat([own, norms], 1))  # one copy: each waits for the device
        self._judge(known[:, 0], sizes, multipliers)
        self._tell_callbacks(known[:, 0], sizes, multipliers, known[:, 1:])
        self.epoch += 1

    def epoch_multipliers(self, sizes: np.ndarray) -> np.ndarray:
        """Return what the schedules make of the peak lrs, shape (n_steps, n_in_stack, n_cells); 0 past a cell's end."""
        table = np.zeros((len(sizes), len(self.in_stack), len(self.pack_cells)))
        for i, m in enumerate(self.in_stack):
            schedule, known = self.members[m].schedule, dict[Any, np.ndarray]()
            for cell, n_steps in enumerate((sizes > 0).sum(axis=0).tolist()):
                key = (n_steps, cell if schedule.monitored() else None)  # else all cells have the same
                if key not in known:
                    known[key] = self._multipliers(m, cell, n_steps)
                table[:n_steps, i, cell] = known[key]
        return table

    def lrs(self, multipliers: np.ndarray) -> np.ndarray:
        """Return the epoch's learning rates, shape (n_steps, n_groups, n_in_stack, n_cells)."""
        peaks = np.array([self.members[m].lrs for m in self.in_stack]).T
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
            Which steps come next and what they are shown, as a `Feed` has it.
        lr : Tensor of shape (n_steps, n_groups, n_in_stack, n_cells)
        n_more : int
            How often about as many steps will follow.
        """
        lr = lr.to(self.pack_cells[0].net.device, lr_dtype(self.stack), non_blocking=True)
        losses = [
            self.stack.steps(lr[steps], shown, n_more * len(lr))
            if isinstance(shown, Batch)
            else self.stack.step(lr[steps.start], *shown).unsqueeze(0)
            for steps, shown in feed
        ]
        return torch.cat(losses)

    def feed_epoch(self) -> Feed | StreamFeed:
        """Return what the steps of the next epoch are shown."""
        orders = [pack_cell.epochs[self.epoch] for pack_cell in self.pack_cells]
        if self.streams:
            return StreamFeed([stream.batches() for stream in self.streams], epoch_sizes(orders))
        return self.feed(*epoch_positions(orders))

    def feed(self, positions: Tensor, sizes: np.ndarray) -> Feed:
        """Return what each step is shown, from row numbers as `epoch_positions` returns them."""
        return Feed(self.stack, self.rows, self.y, self.weight, positions, sizes)

    def _judge(self, losses: np.ndarray, sizes: np.ndarray, multipliers: np.ndarray) -> None:
        """Write the epoch down for the runs that came through it, and end those that did not."""
        if self.epoch == 0:
            self.first_loss[:] = losses[0]
        bad = exploded(losses, self.first_loss[self.in_stack]) & (sizes > 0)[:, None, :]
        n_steps = (sizes > 0).sum(axis=0)
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
        """Write the epoch down for the runs that came through it, and find out which of them a callback ends."""
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
        """Return a record of each run, or none at all if nobody reads them."""
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
        """End the training of runs that a callback has ended, or that have no epoch left; return which these are.

        Callbacks may load the weights of an earlier epoch into them. They stay in the stack until `alive` says that
        they are to leave.
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
        """End the runs of these that their very last steps blew up, which no training loss has seen."""
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
        """Return rows of all cells to evaluate after the last step; None of streams whose last batches differ."""
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
    """Return how many of `n_rows` rows the net predicts at once."""
    size = net.get_params_for("iterator_valid").get("batch_size", net.batch_size)
    return n_rows if size == -1 else min(size, n_rows)
