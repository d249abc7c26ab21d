"""A stacked run made into a net of its own: weights, buffers, optimizer and history, as if it had been fitted alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from skorch import NeuralNet
from skorch.callbacks import EpochTimer, PassthroughScoring

from sklr.callbacks import LRSchedule
from sklr.engines.sequential.fit import start_net
from sklr.engines.stacked.model.group import Place
from sklr.engines.stacked.model.pack import Pack, StepRows
from sklr.experiment.cell_data import has_head, last_step, seeded_clone
from sklr.experiment.experiment import Experiment


def fitted_estimator(experiment: Experiment, candidate: dict, pack: Pack, m: int, cell: int, place: Place) -> Any:
    """Return a fitted estimator for one run, which can predict, and be trained on by `partial_fit`.

    It shares nothing with the pack: what a scorer does to it changes no other run.

    Parameters
    ----------
    experiment, candidate
        What was trained.
    pack, m, cell
        Where it stands: the pack, which keeps its steps, and the member and the cell in it.
    place : Place
        The cell, its fitted head and rows.
    """
    world = place.cell
    estimator = seeded_clone(experiment, candidate, world)
    net = last_step(estimator)
    if has_head(estimator):
        estimator.steps = [*place.estimator.steps[:-1], estimator.steps[-1]]
    start_net(net, place.data, world.seed)
    if hasattr(net, "start_fit"):
        net._batch_order.set_state(_order(pack, cell, place).get_state())
    i = pack.in_stack.index(m)
    pack.stack.load_run(i, cell, net.module_)
    net._set_training(True)  # as its last step has left it
    net.optimizer_.load_state_dict(_with_frozen(net, pack.stack.optimizer_state(i, cell)))
    steps = pack.step_rows[m][cell]
    _restore_lrs(net, pack.members[m].lrs, steps)
    _restore_history(net, steps, pack.seconds / max(1, pack.epoch) / pack.alive.size)
    return estimator


def _order(pack: Pack, cell: int, place: Place) -> Any:
    """Return the generator that has drawn the order of a cell's rows."""
    return pack.streams[cell].generator if pack.streams else place.side.net._batch_order


def _restore_lrs(net: NeuralNet, peaks: Sequence[float], steps: Sequence[StepRows]) -> None:
    """Give each parameter group the lr of the last step; a schedule's marks say that this is its doing, no new peak."""
    scheduled = getattr(net, "schedule", None) is not None or getattr(net, "warmup_epochs", 0) > 0
    last = steps[-1].group_lrs[-1].tolist() if steps else peaks
    for group, peak, lr in zip(net.optimizer_.param_groups, peaks, last, strict=True):
        group["lr"] = lr
        if scheduled and steps:
            group["initial_lr"], group["scheduled_lr"] = peak, lr


def _with_frozen(net: NeuralNet, state: dict) -> dict:
    """Number parameters as the net's own optimizer does, which has those that are not trained, too."""
    groups, own = net.optimizer_.param_groups, net.optimizer_.state_dict()["param_groups"]
    pairs = [zip(group["params"], numbered["params"], strict=True) for group, numbered in zip(groups, own, strict=True)]
    trained = [number for group in pairs for p, number in group if p.requires_grad]
    return {
        "state": {trained[i]: entry for i, entry in state["state"].items()},
        "param_groups": [{**g, "params": o["params"]} for g, o in zip(state["param_groups"], own, strict=True)],
    }


def _restore_history(net: NeuralNet, epochs: Sequence[StepRows], seconds: float) -> None:
    """Write what a training of its own would have written, an epoch's `seconds` being this run's share."""
    callbacks = [callback for _, callback in net.callbacks_]
    schedules = [callback for callback in callbacks if isinstance(callback, LRSchedule)]
    notes_lr, history = bool(schedules), net.history_
    for steps in epochs:
        history.new_epoch()
        history.record("epoch", len(history))
        for loss, n_rows, lr in zip(*(rows.tolist() for rows in steps[:3]), strict=True):
            history.new_batch()
            row = {"lr": lr} if notes_lr else {}
            for name, value in {**row, "train_loss": loss, "train_batch_size": n_rows}.items():
                history.record_batch(name, value)
        history.record("train_batch_count", len(steps.loss))
        if notes_lr:
            history.record("lr", steps.lr[-1].item())
        for callback in callbacks:
            if isinstance(callback, EpochTimer):
                history.record("dur", seconds)
            elif isinstance(callback, PassthroughScoring):
                callback.on_epoch_end(net)
    for callback in schedules if epochs else ():
        callback.on_train_begin(net)
        callback.lr_ = epochs[-1].lr[-1].item()
