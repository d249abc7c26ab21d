"""From candidates to packs: which can share a stack, what their nets ask for, and what cannot be stacked at all."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Container, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from joblib import hash as joblib_hash
from skorch import NeuralNet
from skorch.callbacks import GradientNormClipping
from torch import Tensor

from sklr._utils.precision import full_precision
from sklr.callbacks._schedule import schedule_of
from sklr.engines.sequential.engine import fit_heads
from sklr.engines.sequential.fit import EpochFit, start_net
from sklr.engines.stacked.audit.audit import audit, kinds_of
from sklr.engines.stacked.checks.explain import first_line
from sklr.engines.stacked.checks.module_probe import probe
from sklr.engines.stacked.checks.net_optimizer import MadeOptimizer, made_optimizer
from sklr.engines.stacked.checks.nets import check_sample_weights, predicted, state_reasons
from sklr.engines.stacked.checks.static import Unstackable, static_reasons
from sklr.engines.stacked.checks.transforms import as_inferred, targets_of, transform_of
from sklr.engines.stacked.data.cell_rows import CellRows
from sklr.engines.stacked.data.index_batches import Rows, all_rows, all_targets, draw_epochs, map_tensors, outside
from sklr.engines.stacked.model.group import Group, Place, Prepared, World
from sklr.engines.stacked.model.pack import Member, Side
from sklr.engines.stacked.optim.known import is_steady
from sklr.engines.stacked.replay.shared_state import shared_state_kept
from sklr.engines.stacked.setup.dense import check_fits_dense
from sklr.engines.stacked.setup.shapes import by_shape, with_shared_rows
from sklr.engines.stacked.setup.shared_rows import FoldRows, SharedRows, as_predicted, caster
from sklr.engines.stacked.setup.streamed import Ready, is_streamed, predicted_rows, streamed_side
from sklr.experiment.cell_data import (
    CellData,
    Head,
    cell_data,
    fit_head,
    has_head,
    is_net,
    last_step,
    looks_only_at_predictions,
    seeded_clone,
)
from sklr.experiment.experiment import Cell, Experiment
from sklr.nets import _data as data_module

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


_LAST: WeakKeyDictionary[Experiment, dict[Hashable, list[World]]] = WeakKeyDictionary()  # of a search's last batch


def prepare(
    experiment: Experiment, candidates: Sequence[dict], lost: Mapping[int, Sequence[str]] = MappingProxyType({})
) -> Prepared:
    """Set the candidates' nets up in every cell, up to the first step.

    What the last batch of the same search has set up is not set up again; nor are the candidates that are `lost`, of
    which the reasons are known before.
    """
    everything: dict[int, list[str]] = {}
    with _refusing(everything, range(len(candidates))):
        return _prepare(experiment, candidates, lost)
    return Prepared([], everything)


def _prepare(experiment: Experiment, candidates: Sequence[dict], lost: Mapping[int, Sequence[str]]) -> Prepared:
    refused = {i: list(reasons) for i, reasons in lost.items()}
    firsts: dict[int, Any] = {}  # each candidate's estimator, not initialised
    for i, candidate in enumerate(candidates):
        if i not in lost:
            with _refusing(refused, [i]):
                firsts[i] = _stackable(experiment, candidate)
    stackable = list(firsts)
    prefix = next((f"{first.steps[-1][0]}__" for first in firsts.values() if has_head(first)), "")
    places = group_candidates([candidates[i] for i in stackable], prefix)
    groups = {key: [stackable[place] for place in group] for key, group in places.items()}
    known, ready = _LAST.get(experiment, {}), list[Group]()
    makers = _makers(experiment, [candidates[numbers[0]] for key, numbers in groups.items() if not known.get(key)])
    _LAST[experiment] = worlds = dict[Hashable, list[World]]()
    for key, numbers in groups.items():
        worlds[key] = known.get(key) or _first_worlds(
            experiment, candidates, numbers, f"{prefix}lr", next(makers), refused
        )
        for world in worlds[key]:
            nets_ = {i: last_step(firsts[i]) for i in numbers if i not in refused}
            ready += _grouped(experiment, candidates, nets_, world, refused)
    return Prepared(_without(ready, refused), refused)


def _without(groups: Sequence[Group], refused: Container[int]) -> list[Group]:
    """Leave candidates out that are refused in other cells: they are trained one by one in all."""
    kept = [[i for i, member in enumerate(group.members) if member.candidate not in refused] for group in groups]
    return [group.only(chosen) for group, chosen in zip(groups, kept, strict=True) if chosen]


@contextmanager
def _refusing(refused: dict[int, list[str]], numbers: Sequence[int]) -> Iterator[None]:
    """Write down why these candidates cannot be stacked, if that turns out within the context."""
    try:
        yield
    except Unstackable as refusal:
        refused.update({i: list(refusal.args) for i in numbers})
    except Exception as error:  # whatever it is, the sequential engine meets it in its runs and records it
        refused.update({i: [_set_up_raised(error)] for i in numbers})


def _set_up_raised(error: Exception) -> str:
    return f"setting the nets up raised {type(error).__name__}: {first_line(error)}"


def _stackable(experiment: Experiment, candidate: dict) -> Any:
    """Return a candidate's estimator, unless its parameters alone say that it cannot be stacked."""
    estimator = seeded_clone(experiment, candidate, experiment.cells[0])
    reasons = static_reasons(experiment, last_step(estimator))
    if reasons:
        raise Unstackable(*sorted(set(reasons)))
    return estimator


Maker = Callable[[dict], list[World]]


def _makers(experiment: Experiment, candidates: Sequence[dict]) -> Iterator[Maker]:
    """Fit the heads of groups that these candidates stand for; yield what sets a candidate of each group up."""
    cells = experiment.cells
    estimators = [seeded_clone(experiment, candidate, cell) for candidate in candidates for cell in cells]
    heads = fit_heads(experiment, estimators, list(cells) * len(candidates))
    for start in range(0, len(estimators), len(cells)):
        yield partial(_worlds_of, experiment, heads[start : start + len(cells)])


def _worlds_of(experiment: Experiment, heads: Sequence[Head | None], candidate: dict) -> list[World]:
    estimators = [seeded_clone(experiment, candidate, cell) for cell in experiment.cells]
    experiment = replace(experiment)  # places are kept for as long as the search's own is there: not because of them
    check_fits_dense(experiment, heads)
    shares = {id(head): SharedRows(experiment) if head is None else FoldRows(experiment) for head in heads}
    triples = zip(estimators, heads, (shares[id(head)] for head in heads), strict=True)
    shapes, worlds = by_shape([_place(experiment, k, *triple) for k, triple in enumerate(triples)]), list[World]()
    del shares
    while shapes:  # of which the rows are let go as soon as they are laid end to end
        worlds.append(_world(with_shared_rows(shapes.pop(0))))
    return worlds


def _first_worlds(
    experiment: Experiment,
    candidates: Sequence[dict],
    numbers: Sequence[int],
    lr: str,
    make: Maker,
    refused: dict[int, list[str]],
) -> list[World]:
    """Return what a group finds, by the shape of cells, set up by the first of its candidates that can be set up.

    A candidate that no engine could train is refused alone. Another refusal concerns all that differ from it in
    nothing but the lr, and the whole group if candidates that differ in more are refused for the same reasons.
    """
    kinds: dict[Hashable, list[int]] = {}
    for i in numbers:
        kinds.setdefault(_key({k: v for k, v in candidates[i].items() if k != lr}), []).append(i)
    last: list[str] | None = None
    for kind in kinds.values():
        for i in kind:
            try:
                return make(candidates[i])
            except Unstackable as refusal:
                reasons = list(refusal.args)
            except Exception as error:  # as in `_refusing`
                reasons = [_set_up_raised(error)]
                if fails_anyway(experiment, candidates[i]):
                    refused[i] = reasons
                    continue
            concerned = numbers if reasons == last else kind
            refused.update({k: reasons for k in concerned if k not in refused})
            if concerned is numbers:
                return []
            last = reasons
            break
    return []


def fails_anyway(experiment: Experiment, candidate: dict) -> bool:
    """Say whether a candidate's training cannot even begin in the first cell, whatever the engine."""
    cell = experiment.cells[0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the training itself says what is to be said
            estimator = seeded_clone(experiment, candidate, cell)
            data = cell_data(experiment, cell, estimator)
            data = fit_head(estimator, data).data if has_head(estimator) else data
            net = last_step(estimator)
            if is_net(net):
                EpochFit(net, data, cell.seed, score=lambda: float("nan")).begin()
    except Exception:  # that is the question
        return True
    return False


def _place(experiment: Experiment, number: int, estimator: Any, head: Head | None, shared: SharedRows) -> Place:
    cell = experiment.cells[number]
    raw = cell_data(experiment, cell, estimator)
    net = last_step(estimator)
    if head is not None:
        estimator.steps = [*head.steps, estimator.steps[-1]]
    elif has_head(estimator):
        raise Unstackable("the steps before the net could not be fitted")
    data = raw if head is None else head.data
    side = _side(net, cell, data, shared)
    predictions_do = head is None or looks_only_at_predictions(experiment.scorer)
    subject, seconds = net if predictions_do else estimator, 0.0 if head is None else head.seconds
    x_test = _test_rows(net, cell, data, shared)
    return Place(experiment, number, estimator, None if head is None else data, subject, side, x_test, seconds)


def _test_rows(net: NeuralNet, cell: Cell, data: CellData, shared: SharedRows | None) -> CellRows:
    validation = net.get_dataset(as_predicted(net, data.X_test))
    if is_streamed(net, validation, training=False):
        return CellRows.all_of(map_tensors(caster(net), predicted_rows(net, validation, cell.seed)))
    known = None if shared is None else shared.of_cell(net, validation, cell, training=False)
    return known or CellRows.all_of(map_tensors(caster(net), all_rows(net, validation)[0]))


def _side(net: NeuralNet, cell: Cell, data: CellData, shared: SharedRows | None) -> Side:
    net.set_params(verbose=0)
    X, y, stream = start_net(net, data, cell.seed)
    dataset, _ = net.get_split_datasets(X, y)
    weight = data.fit_params.get("sample_weight")
    if is_streamed(net, dataset, training=True):
        if weight is not None:
            raise Unstackable("sample_weight is given for the rows of a Dataset, which are read batch by batch")
        first = shared is None or cell is shared.experiment.cells[0]  # all cells read from the same dataset
        return streamed_side(net, dataset, cell.seed, stream, watched=first)
    x = None if shared is None else shared.of_cell(net, dataset, cell, training=True)
    if x is None:
        rows, targets = all_rows(net, dataset)
        x = CellRows.all_of(map_tensors(caster(net), rows))
    else:
        targets = all_targets(net, dataset)
    if weight is not None:
        weight = torch.as_tensor(np.asarray(weight), dtype=data_module.float_dtype(net.module_), device=net.device)
    epochs = draw_epochs(net, len(dataset), net.max_epochs, stream)
    if not len(epochs) or not all(epochs):
        raise Unstackable("there is no batch to train on in some epoch")
    if (row := outside(epochs, len(dataset))) is not None:
        raise Unstackable(f"the sampler asks for row {row} of a fold of {len(dataset)} rows")
    return Side(net, epochs, x, targets, weight, getattr(stream, "seed", cell.seed))


def _world(places: list[Place]) -> World:
    net = places[0].side.net
    if reasons := state_reasons([place.side.net for place in places]):
        raise Unstackable(*reasons)
    few = _spread(places[0].side.x.n_rows, 8)
    x = places[0].side.x.take(few)
    transform = transform_of(net)
    with shared_state_kept(net.module_, net.criterion_):
        with full_precision():
            output = as_inferred(net, predicted(net.module_, x))
        places = [place._replace(side=_with_targets(place.side, net, output)) for place in places]
        y = map_tensors(lambda rows: rows[few], places[0].side.y)
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


def _with_targets(side: Side, net: NeuralNet, output: Rows) -> Side:
    """Return a cell whose targets are those that the net's loss sees."""
    if side.stream is not None:
        side.stream.ready = Ready(net, output)
    return side._replace(y=targets_of(net, side.y, output))


def _grouped(
    experiment: Experiment,
    candidates: Sequence[dict],
    nets_: Mapping[int, NeuralNet],
    world: World,
    refused: dict[int, list[str]],
) -> list[Group]:
    """Return the group of candidates that find the same world; none if none can be stacked."""
    members: list[Member] = []
    kwargs: list[dict[str, Any]] = []
    for i, net in nets_.items():
        with _refusing(refused, [i]):
            optimizer = _shared_optimizer(net, world)
            members.append(_member(i, net, optimizer.lrs))
            kwargs.append(optimizer.kwargs)
    if not members:
        return []
    steady = all(is_steady(world.stack_args["optimizer"], own) for own in kwargs)
    max_epochs = nets_[members[0].candidate].max_epochs
    thread_safe = world.stack_args["traits"].thread_safe
    group = Group(members, kwargs, world.places, world.stack_args, max_epochs, thread_safe, steady)
    return _audited(experiment, candidates, group, world, refused)


def _shared_optimizer(net: NeuralNet, world: World) -> MadeOptimizer:
    """Return the optimizer that a candidate's net makes, if a stack can step it together with those of others."""
    module, args = world.places[0].side.net.module_, world.stack_args
    own = made_optimizer(net, module)
    if (own.kind, own.groups) != (args["optimizer"], args["groups"]):
        raise Unstackable("the optimizer or its parameter groups are not the same for all candidates")
    return own


def _audited(
    experiment: Experiment, candidates: Sequence[dict], group: Group, world: World, refused: dict[int, list[str]]
) -> list[Group]:
    """Return the group if a stack does what its nets do, else the kinds of its candidates for which that holds."""
    kinds: dict[Hashable, list[int]] = {}
    for place, member in enumerate(group.members):
        kinds.setdefault(kinds_of(candidates[member.candidate]), []).append(place)
    if kinds.keys() <= world.audited:
        return [group]
    found: dict[int, list[str]] = {}
    with _refusing(found, [member.candidate for member in group.members]):
        audit(experiment, candidates, group)
        world.audited.update(kinds)
    if len(kinds) > 1 and found:
        return [
            passed
            for places in kinds.values()
            for passed in _audited(experiment, candidates, group.only(places), world, refused)
        ]
    refused |= found
    return [] if found else [group]


def _spread(n_rows: int, n: int) -> Tensor:
    """Return the numbers of `n` rows, evenly spread: rows in order of their class are then of several."""
    n = min(n, n_rows)
    return torch.arange(n) * (n_rows - 1) // max(1, n - 1)


def _member(candidate: int, net: NeuralNet, lrs: tuple[float, ...]) -> Member:
    schedule, horizon = schedule_of(net, net.max_epochs)
    if schedule.monitored() not in (None, "train_loss"):
        raise Unstackable(f"the schedule follows {schedule.monitored()}, which is not recorded")
    peak = float(net.get_params_for("optimizer").get("lr", net.lr))
    if schedule.monitored() is None:
        once, again = (schedule.epoch_multipliers(0, 2, horizon, lr=peak, losses=()) for _ in range(2))
        if not np.array_equal(once, again, equal_nan=True):
            raise Unstackable("the schedule gives other values each time that it is asked")
    return Member(candidate, peak, lrs, schedule, horizon)


def _clipping(net: NeuralNet) -> dict[str, Any]:
    for _, callback in net.callbacks_:
        if isinstance(callback, GradientNormClipping) and callback.gradient_clip_value is not None:
            norm_type = callback.gradient_clip_norm_type
            return {"clip_norm": callback.gradient_clip_value, "clip_norm_type": norm_type}
    return {}
