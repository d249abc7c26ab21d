"""From candidates to packs: which can share a stack, what their nets ask for, and what cannot be stacked at all."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from joblib import hash as joblib_hash
from skorch import NeuralNet
from skorch.callbacks import GradientNormClipping
from torch import Tensor
from torch.utils._pytree import tree_leaves

from sklr import _net_data
from sklr.callbacks._schedule import schedule_of
from sklr.engines._audit import audit, kinds_of
from sklr.engines._base import Cell, Experiment
from sklr.engines._batches import all_rows, draw_epochs, is_in_memory, map_tensors, outside
from sklr.engines._data import CellData, Head, cell_data, has_head, last_step, looks_only_at_predictions, seeded_clone
from sklr.engines._fits import start_net
from sklr.engines._group import Group, Place, World
from sklr.engines._made_optimizer import made_optimizer
from sklr.engines._pack import Member, Side
from sklr.engines._refusals import Unstackable, static_reasons
from sklr.engines._sequential import fit_heads
from sklr.engines._stack_checks import check_sample_weights, predicted, state_reasons
from sklr.engines._stack_optim import is_steady, optimizer_reasons
from sklr.engines._stack_probe import probe
from sklr.engines._transforms import as_inferred, targets_of, transform_of

PER_RUN = ("lr", "schedule", "warmup_epochs", "schedule_epochs")  # and most of optimizer__*


def group_candidates(candidates: Sequence[dict], prefix: str) -> dict[Hashable, list[int]]:
    """Group the candidates that differ in nothing but what a stack can vary from run to run.

    Groups are called by what their candidates have in common: equal names in another batch mean equal groups.

    >>> groups = group_candidates([{"lr": 1, "batch_size": 8}, {"lr": 2, "batch_size": 8}, {"batch_size": 16}], "")
    >>> list(groups.values())
    [[0, 1], [2]]
    """
    groups: dict[Hashable, list[int]] = {}
    for i, candidate in enumerate(candidates):
        rest = {name: value for name, value in candidate.items() if not _is_per_run(name.removeprefix(prefix))}
        groups.setdefault(_key(rest), []).append(i)
    return groups


def _is_per_run(name: str) -> bool:
    return name in PER_RUN or (name.startswith("optimizer__") and not name.startswith("optimizer__param_groups"))


def _key(params: Mapping[str, Any]) -> Hashable:
    try:
        return joblib_hash(sorted(params.items(), key=lambda item: item[0]))
    except Exception:  # something that cannot be pickled, so it cannot be compared either
        return object()


_LAST: WeakKeyDictionary[Experiment, dict[Hashable, World]] = WeakKeyDictionary()  # of each search's last batch


def prepare(experiment: Experiment, candidates: Sequence[dict]) -> list[Group]:
    """Set the candidates' nets up in every cell, up to the first step.

    What the last batch of the same search has set up is not set up again.

    Raises
    ------
    Unstackable
        With the reasons, if some cannot be trained this way.
    """
    firsts = [seeded_clone(experiment, candidate, experiment.cells[0]) for candidate in candidates]
    reasons = {r for first in firsts for r in static_reasons(experiment, last_step(first))}
    if reasons:
        raise Unstackable(*sorted(reasons))
    prefix = f"{firsts[0].steps[-1][0]}__" if has_head(firsts[0]) else ""
    groups = group_candidates(candidates, prefix)
    known = _LAST.get(experiment, {})
    new = [key for key in groups if key not in known]
    worlds = dict(zip(new, _worlds(experiment, [candidates[groups[key][0]] for key in new]), strict=True))
    _LAST[experiment] = worlds = {key: known.get(key) or worlds[key] for key in groups}
    return [_group(experiment, candidates, group, worlds[key]) for key, group in groups.items()]


def _worlds(experiment: Experiment, candidates: Sequence[dict]) -> Iterator[World]:
    """Set up what each of these candidates stands for."""
    cells = experiment.cells
    estimators = [seeded_clone(experiment, candidate, cell) for candidate in candidates for cell in cells]
    heads = fit_heads(experiment, estimators, list(cells) * len(candidates))
    for start in range(0, len(estimators), len(cells)):
        part = slice(start, start + len(cells))
        yield _world([_place(experiment, *one) for one in zip(cells, estimators[part], heads[part], strict=True)])


def _place(experiment: Experiment, cell: Cell, estimator: Any, head: Head | None) -> Place:
    raw = cell_data(experiment, cell, estimator)
    net = last_step(estimator)
    if head is not None:
        estimator.steps = [*head.steps, estimator.steps[-1]]
    elif has_head(estimator):
        raise Unstackable("the steps before the net could not be fitted")
    data = raw if head is None else head.data
    side = _side(net, cell, data)
    predictions_do = head is None or looks_only_at_predictions(experiment.scorer)
    subject, score_data = (net, data) if predictions_do else (estimator, raw)
    validation = net.get_dataset(_as_predicted(net, data.X_test))
    _check_in_memory(validation)
    x_test = map_tensors(_caster(net), all_rows(net, validation)[0])
    return Place(estimator, data, score_data, subject, side, x_test, 0.0 if head is None else head.seconds)


def _side(net: NeuralNet, cell: Cell, data: CellData) -> Side:
    net.set_params(verbose=0)
    X, y, stream = start_net(net, data, cell.seed)
    dataset, _ = net.get_split_datasets(X, y)
    _check_in_memory(dataset)
    x, targets = all_rows(net, dataset)
    x = map_tensors(_caster(net), x)
    weight = data.fit_params.get("sample_weight")
    if weight is not None:
        weight = torch.as_tensor(np.asarray(weight), dtype=_net_data.float_dtype(net.module_), device=net.device)
    epochs = draw_epochs(net, len(dataset), net.max_epochs, stream)
    if not epochs or not all(epochs):
        raise Unstackable("there is no batch to train on in some epoch")
    if (row := outside(epochs, len(dataset))) is not None:
        raise Unstackable(f"the sampler asks for row {row} of a fold of {len(dataset)} rows")
    return Side(net, epochs, x, targets, weight, getattr(stream, "seed", cell.seed))


def _check_in_memory(dataset: Any) -> None:
    if not is_in_memory(dataset):
        held = next(part for part in (getattr(dataset, "X", None), dataset) if part is not None)
        raise Unstackable(f"a {type(held).__name__} may give other items each time it is read")


def _caster(net: NeuralNet) -> Any:
    dtype = _net_data.float_dtype(net.module_) if hasattr(net, "start_fit") else None
    return lambda t: _net_data.cast_floats(t, dtype) if dtype is not None else t


def _as_predicted(net: NeuralNet, X: Any) -> Any:
    """Return rows as the net's own `predict` would hand them to the module."""
    return net.ready_to_predict(X) if hasattr(net, "ready_to_predict") else X


def _world(places: list[Place]) -> World:
    net = places[0].side.net
    if reasons := state_reasons([place.side.net for place in places]):
        raise Unstackable(*reasons)
    few = _spread(len(tree_leaves(places[0].side.x)[0]), 8)
    x = map_tensors(lambda rows: rows[few], places[0].side.x)
    output = as_inferred(net, predicted(net.module_, x))
    places = [place._replace(side=place.side._replace(y=targets_of(net, place.side.y, output))) for place in places]
    y = map_tensors(lambda rows: rows[few], places[0].side.y)
    transform = transform_of(net)
    reasons, traits = probe(net.module_, x, y, net.criterion_, transform=transform)
    if traits is None:
        raise Unstackable(*dict.fromkeys(reasons))
    optimizer = made_optimizer(net, net.module_)
    stack_args = {
        "criterion": copy.deepcopy(net.criterion_),  # the net's own is asked for losses, and may count that
        "optimizer": optimizer.kind,
        "example": (x, y),
        "groups": optimizer.groups,
        "transform": transform,
        "traits": traits,
        **_clipping(net),
    }
    check_sample_weights(traits.loss, net, [place.side for place in places])
    return World(places, stack_args, set())


def _group(experiment: Experiment, candidates: Sequence[dict], chosen: Sequence[int], world: World) -> Group:
    """Describe the chosen candidates to the stacks that they share, and compare such a stack with single nets."""
    nets_ = [last_step(seeded_clone(experiment, candidates[c], experiment.cells[0])) for c in chosen]
    module = world.places[0].side.net.module_
    optimizers = [made_optimizer(net, module) for net in nets_]
    kind, groups = world.stack_args["optimizer"], world.stack_args["groups"]
    shapes = {name: p.shape for name, p in module.named_parameters() if p.requires_grad}
    n_steps = max(sum(map(len, place.side.epochs)) for place in world.places)
    for own in optimizers:
        if (own.kind, own.groups) != (kind, groups):
            raise Unstackable("the optimizer or its parameter groups are not the same for all candidates")
        if reasons := optimizer_reasons(kind, own.kwargs, groups, shapes, n_steps):
            raise Unstackable(*reasons)
    members = [_member(c, net, own.lrs) for c, net, own in zip(chosen, nets_, optimizers, strict=True)]
    kwargs = [own.kwargs for own in optimizers]
    steady = all(is_steady(kind, own, groups) for own in kwargs)
    group = Group(members, kwargs, world.places, world.stack_args, nets_[0].max_epochs, world.thread_safe, steady)
    if new := {kinds_of(candidates[c]) for c in chosen} - world.audited:
        audit(experiment, candidates, group)
        world.audited.update(new)
    return group


def _spread(n_rows: int, n: int) -> Tensor:
    """Return the numbers of `n` rows, evenly spread: rows in order of their class are then of several."""
    n = min(n, n_rows)
    return torch.arange(n) * (n_rows - 1) // max(1, n - 1)


def _member(candidate: int, net: NeuralNet, lrs: tuple[float, ...]) -> Member:
    schedule, horizon = schedule_of(net, net.max_epochs)
    if schedule.monitored() not in (None, "train_loss"):
        raise Unstackable(f"the schedule follows {schedule.monitored()}, which is not recorded")
    peak = float(net.get_params_for("optimizer").get("lr", net.lr))
    return Member(candidate, peak, lrs, schedule, horizon)


def _clipping(net: NeuralNet) -> dict[str, Any]:
    for _, callback in net.callbacks_:
        if isinstance(callback, GradientNormClipping) and callback.gradient_clip_value is not None:
            norm_type = callback.gradient_clip_norm_type
            return {"clip_norm": callback.gradient_clip_value, "clip_norm_type": norm_type}
    return {}
