"""A stacked run made into a net of its own: weights, buffers, optimizer and history, as if it had been fitted alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from skorch import NeuralNet

from sklr._random import RandomStream
from sklr.engines._base import Experiment
from sklr.engines._data import has_head, seeded_clone
from sklr.engines._pack import Member, Pack
from sklr.engines._prepare import Place, last_step
from sklr.results import EpochRow
from sklr.schedules import Constant


def fitted_estimator(experiment: Experiment, candidate: dict, pack: Pack, m: int, cell: int, place: Place) -> Any:
    """Return a fitted estimator for one run, which can predict, and be trained on by `partial_fit`.

    Parameters
    ----------
    experiment, candidate
        What was trained.
    pack, m, cell
        Where it stands: the pack, and the member and the cell in it.
    place : Place
        The cell's fitted head and rows.
    """
    world = experiment.cells[cell]
    estimator = seeded_clone(experiment, candidate, world)
    net = last_step(estimator)
    if has_head(estimator):
        estimator.steps = [*place.estimator.steps[:-1], estimator.steps[-1]]
    if hasattr(net, "start_fit"):
        net.start_fit(place.data.X_train, place.data.y_train, place.data.fit_params.get("sample_weight"))
        net._batch_order.set_state(place.side.net._batch_order.get_state())
    else:
        with RandomStream(world.seed):
            net.initialize()
        net.check_data(place.data.X_train, place.data.y_train)
    i = pack.in_stack.index(m)
    pack.stack.load_run(i, cell, net.module_)
    net.optimizer_.load_state_dict(_with_frozen(net, pack.stack.optimizer_state(i, cell)))
    _restore_lrs(net, pack.history[m][cell], pack.members[m])
    if pack.members[m].schedule != Constant():
        _mark_schedule(net)
    _restore_history(net, pack.history[m][cell], len(place.side.epochs[0]))
    return estimator


def show_progress(net: NeuralNet, history: Sequence[EpochRow], member: Member, n_batches: int) -> None:
    """Let a net have the history and the learning rates of a run, for those that look at more than its predictions."""
    net.initialize_history()
    _restore_history(net, history, n_batches)
    _restore_lrs(net, history, member)


def _restore_lrs(net: NeuralNet, history: Sequence[EpochRow], member: Member) -> None:
    multiplier = history[-1].lr / member.lr if history and member.lr else 1.0
    for group, peak in zip(net.optimizer_.param_groups, member.lrs, strict=True):
        group["initial_lr"], group["lr"] = peak, peak * multiplier


def _with_frozen(net: NeuralNet, state: dict) -> dict:
    """Number parameters as the net's own optimizer does, which has those that are not trained, too."""
    groups, own = net.optimizer_.param_groups, net.optimizer_.state_dict()["param_groups"]
    pairs = [zip(group["params"], numbered["params"], strict=True) for group, numbered in zip(groups, own, strict=True)]
    trained = [number for group in pairs for p, number in group if p.requires_grad]
    return {
        "state": {trained[i]: entry for i, entry in state["state"].items()},
        "param_groups": [{**g, "params": o["params"]} for g, o in zip(state["param_groups"], own, strict=True)],
    }


def _mark_schedule(net: NeuralNet) -> None:
    """Tell the net's schedule that the present lr is its own doing, not a new peak."""
    for group in net.optimizer_.param_groups:
        group["scheduled_lr"] = group["lr"]


def _restore_history(net: NeuralNet, history: Sequence[EpochRow], n_batches: int) -> None:
    for row in history:
        net.history_.new_epoch()
        net.history_.record("epoch", row.epoch + 1)
        net.history_.record("lr", row.lr)
        net.history_.record("train_loss", row.train_loss)
        net.history_.record("train_batch_count", n_batches)
