"""How a candidate's learning rate changes: by its net's own schedule, or by a callback translated into a schedule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from skorch import NeuralNet
from skorch.callbacks import LRScheduler
from torch.optim.lr_scheduler import ReduceLROnPlateau

from sklr.callbacks import LRSchedule
from sklr.callbacks._schedule import schedule_of
from sklr.engines.stacked.checks.net_optimizer import MadeOptimizer
from sklr.engines.stacked.checks.static import Unstackable
from sklr.engines.stacked.data.index_batches import RedrawnEpochs, n_batches
from sklr.engines.stacked.model.member import PackCell
from sklr.nets._parts import NetParts
from sklr.schedules import Plateau
from sklr.schedules._base import By, Schedule


@dataclass(frozen=True, repr=False)
class Tabulated(Schedule):
    """Multipliers read from a table.

    >>> Tabulated((1.0, 0.5), by="epoch").epoch_multipliers(1, steps_per_epoch=3, n_epochs=2)
    array([0.5, 0.5, 0.5])
    """

    multipliers: tuple[float, ...]
    by: By = "step"

    def __call__(self, step: float, total: float) -> float:
        return self.multipliers[int(step)]


def moving_lr(net: NeuralNet, optimizer: MadeOptimizer, pack_cells: Sequence[PackCell]) -> tuple[Schedule, int]:
    """Return the schedule of a candidate, and its horizon in epochs.

    Parameters
    ----------
    net : NeuralNet
        The candidate's, not initialized.
    optimizer : MadeOptimizer
        The one that it creates.
    pack_cells : sequence of PackCell
        The cells, whose initialized nets have the same callbacks; only the net's own schedule may differ.

    Raises
    ------
    Unstackable
        If a callback changes more of the optimizer than a schedule can, or if there are several schedules.
    """
    own = getattr(net, "schedule", None) is not None or getattr(net, "warmup_epochs", 0) > 0
    movers = [callback for name, callback in pack_cells[0].net.callbacks_ if _moves(pack_cells[0].net, name, callback)]
    if own + len(movers) > 1:
        raise Unstackable(
            "two schedules, or callbacks, change the learning rate, and a stack follows one: leave one of them out"
        )
    if not movers:
        return schedule_of(net, net.max_epochs)
    (mover,) = movers
    if isinstance(mover, LRSchedule):
        return schedule_of(mover, net.max_epochs)
    if mover.policy_ is ReduceLROnPlateau:
        return _plateau(mover, optimizer.lrs), net.max_epochs
    return _tabulated(mover, optimizer, pack_cells), net.max_epochs


def _moves(net: NeuralNet, name: str, callback: Any) -> bool:
    if isinstance(callback, LRSchedule):
        is_default = isinstance(net, NetParts) and name == "lr_schedule"
        return not is_default and (callback.schedule is not None or callback.warmup_epochs > 0)
    return isinstance(callback, LRScheduler)


def _plateau(callback: LRScheduler, lrs: Sequence[float]) -> Plateau:
    if len(set(lrs)) > 1:
        raise Unstackable(
            "ReduceLROnPlateau reduces the learning rate of each parameter group by itself, and a stack multiplies "
            "all by one factor: use schedule=Plateau() of sklr.schedules, which keeps their ratios"
        )
    arguments = {name: value for name, value in callback.kwargs.items() if name != "verbose"}
    if isinstance(floors := arguments.get("min_lr"), list | tuple):
        if len(set(floors)) > 1:
            raise Unstackable(
                f"ReduceLROnPlateau(min_lr={floors}) gives parameter groups different minima, and a stack multiplies "
                "all learning rates by one factor: give one number"
            )
        arguments["min_lr"] = floors[0]
    return Plateau(**arguments, monitor=callback.monitor)


def _tabulated(callback: LRScheduler, optimizer: MadeOptimizer, pack_cells: Sequence[PackCell]) -> Tabulated:
    by_step = callback.step_every == "batch"
    if by_step and any(_varies(pack_cell) for pack_cell in pack_cells):
        raise Unstackable(
            "LRScheduler(step_every='batch') steps in epochs of different lengths, and a stack needs the same number "
            "in each: set step_every='epoch'"
        )
    n_times = max(n_batches(pack_cell.epochs) if by_step else len(pack_cell.epochs) for pack_cell in pack_cells)
    lrs, peaks = simulated_lrs(callback, optimizer, n_times), np.array(optimizer.lrs)
    ratios = np.divide(lrs, peaks, out=np.ones_like(lrs), where=peaks > 0)
    # by the first group that learns: one with lr=0 has no ratio, and is to stay at 0
    first = ratios[:, np.flatnonzero(peaks)[:1]] if peaks.any() else ratios[:, :1]
    if not np.allclose(lrs, first * peaks, rtol=1e-9, atol=0):
        raise Unstackable(
            f"LRScheduler({_name(callback)}) gives parameter groups learning rates that do not keep their ratios, and "
            "a stack multiplies all by one factor: pass it no learning rates (max_lr, eta_min), or leave "
            "optimizer__param_groups out"
        )
    if not np.all(np.isfinite(first) & (first >= 0)):
        raise Unstackable(
            f"LRScheduler({_name(callback)}) gives learning rates that are negative or not finite: check its arguments"
        )
    return Tabulated(tuple(first[:, 0].tolist()), by="step" if by_step else "epoch")


def _varies(pack_cell: PackCell) -> bool:
    return not isinstance(pack_cell.epochs, RedrawnEpochs) and len(set(map(len, pack_cell.epochs))) > 1


def simulated_lrs(callback: LRScheduler, optimizer: MadeOptimizer, n_times: int) -> np.ndarray:
    """Return the learning rates that a callback sets on an idle optimizer, shape (n_times, n_groups).

    Raises
    ------
    Unstackable
        If it changes other options of the optimizer.
    """
    given = [
        {"params": [torch.nn.Parameter(torch.zeros(1))], **own, "lr": lr}
        for lr, (_, own) in zip(optimizer.lrs, optimizer.groups, strict=True)
    ]
    idle = optimizer.kind(given, **optimizer.kwargs)
    before = [_options(group) for group in idle.param_groups]
    stand_in = SimpleNamespace(history=[], optimizer_=idle)  # what skorch reads of the net to create a scheduler
    scheduler = callback._get_scheduler(stand_in, callback.policy_, **callback.kwargs)
    rows = []
    for _ in range(n_times):
        rows.append([float(group["lr"]) for group in idle.param_groups])
        if changed := _changed(before, [_options(group) for group in idle.param_groups]):
            advice = "set cycle_momentum=False" if changed in ("momentum", "betas") else "leave it out"
            raise Unstackable(
                f"LRScheduler({_name(callback)}) changes {changed} as well as the learning rate, and a stack changes "
                f"the learning rate alone: {advice}"
            )
        idle.step()  # does nothing without gradients; schedulers warn if they step before the optimizer
        scheduler.step()
    return np.array(rows)


def _options(group: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name not in ("params", "lr")}


def _changed(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> str:
    """Return the first option whose value has changed, or ""; options that the scheduler added do not count."""
    pairs = zip(before, after, strict=True)
    return next((name for old, new in pairs for name, value in old.items() if new[name] != value), "")


def _name(callback: LRScheduler) -> str:
    return getattr(callback.policy_, "__name__", type(callback.policy_).__name__)
