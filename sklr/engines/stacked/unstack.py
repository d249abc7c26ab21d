"""Turning a stacked run into a net of its own: weights, buffers, optimizer and history, as if it were fitted alone."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from skorch import NeuralNet
from skorch.callbacks import LRScheduler

from sklr.callbacks import LRSchedule
from sklr.engines.sequential.fit import start_net
from sklr.engines.stacked.data.index_batches import draw_epochs
from sklr.engines.stacked.model.group import GroupCell
from sklr.engines.stacked.model.member import PackCell
from sklr.engines.stacked.model.pack import Pack
from sklr.engines.stacked.model.record import StepRows
from sklr.experiment.cell_data import seeded_clone
from sklr.experiment.experiment import Experiment
from sklr.experiment.wrappers import fitted_around, net_to_fit


def fitted_estimator(
    experiment: Experiment, candidate: dict, pack: Pack, m: int, cell: int, group_cell: GroupCell
) -> Any:
    """Return a fitted estimator for one run, which can predict, and continue training with `partial_fit`.

    It shares no state with the pack: what a scorer does to it changes no other run.

    Parameters
    ----------
    experiment : Experiment
    candidate : dict
        The run's parameters.
    pack : Pack
    m, cell : int
        The run's member and cell in the pack.
    group_cell : GroupCell
        The cell, with its rows and what is fitted around its net.
    """
    cell_of_run = group_cell.cell
    estimator = seeded_clone(experiment, candidate, cell_of_run)
    net = net_to_fit(estimator)
    if group_cell.head is not None:
        estimator = fitted_around(estimator, group_cell.head.fitted, net)
    record = pack.records[m][cell] if pack.records else None
    X, y, stream = start_net(net, group_cell.train_data, cell_of_run.seed)
    if net.train_split is not None:
        with stream:  # splitting may draw random numbers, as it does in `fit`
            net.get_split_datasets(X, y)
    if hasattr(net, "start_fit"):  # one of sklr's nets, which have their own generator for the order of batches
        _restore_order(net, pack, cell, group_cell.pack_cell, 0 if record is None else len(record.history))
    i = pack.in_stack.index(m)
    pack.stack.load_run(i, cell, net.module_)
    # the mode in which the last epoch leaves a net: evaluation if it has held-out rows
    net._set_training(group_cell.pack_cell.held is None)
    net.optimizer_.load_state_dict(_with_frozen(net, pack.stack.optimizer_state(i, cell)))
    _restore_lrs(net, pack.members[m].lrs, None if record is None else record.last)
    if record is not None:
        record.hand_over(net)
    return estimator


def _restore_order(net: NeuralNet, pack: Pack, cell: int, pack_cell: PackCell, n_epochs: int) -> None:
    """Set the generator of a net's batch order to its state after some epochs, from which `partial_fit` continues."""
    if pack.streams:
        drawn: Any = pack.streams[cell].generator
        net._batch_order.set_state(drawn.get_state())
    elif n_epochs == pack.max_epochs:  # the cell's net has drawn the batches of all epochs
        net._batch_order.set_state(pack_cell.net._batch_order.get_state())
    else:  # the run ended early: draw its epochs again
        draw_epochs(net, pack_cell.x.n_rows, n_epochs, nullcontext())


def _restore_lrs(net: NeuralNet, peaks: Sequence[float], steps: StepRows | None) -> None:
    """Set the lr of each parameter group to that of the last step, with the keys by which a schedule knows the peak.

    With skorch's `LRScheduler` it is set to the peak: `Record.hand_over` then steps the scheduler itself.
    """
    callbacks = [callback for _, callback in net.callbacks_]
    scheduled = any(isinstance(c, LRSchedule) and (c.schedule is not None or c.warmup_epochs) for c in callbacks)
    is_last = steps is not None and not any(isinstance(callback, LRScheduler) for callback in callbacks)
    last = steps.group_lrs[-1].tolist() if steps is not None and is_last else peaks
    for group, peak, lr in zip(net.optimizer_.param_groups, peaks, last, strict=True):
        group["lr"] = lr
        if scheduled and steps is not None:
            group["initial_lr"], group["scheduled_lr"] = peak, lr


def _with_frozen(net: NeuralNet, state: dict) -> dict:
    """Renumber parameters as the net's own optimizer does: it also counts the frozen ones."""
    groups, own = net.optimizer_.param_groups, net.optimizer_.state_dict()["param_groups"]
    pairs = [zip(group["params"], numbered["params"], strict=True) for group, numbered in zip(groups, own, strict=True)]
    trained = [number for group in pairs for p, number in group if p.requires_grad]
    return {
        "state": {trained[i]: entry for i, entry in state["state"].items()},
        "param_groups": [{**g, "params": o["params"]} for g, o in zip(state["param_groups"], own, strict=True)],
    }
