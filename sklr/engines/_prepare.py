"""From candidates to packs: which can share a stack, what their nets ask for, and what cannot be stacked at all."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import skorch
import torch
from joblib import hash as joblib_hash
from skorch import NeuralNet
from skorch.callbacks import GradientNormClipping
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sklr import _net_data
from sklr._net_parts import NetParts
from sklr._random import RandomStream
from sklr.callbacks._schedule import schedule_of
from sklr.engines._base import Cell, Experiment
from sklr.engines._batches import Rows, all_rows, draw_epochs, is_in_memory, map_tensors
from sklr.engines._data import (
    CellData,
    Head,
    cell_data,
    fit_head,
    has_head,
    is_net,
    looks_only_at_predictions,
    seeded_clone,
)
from sklr.engines._fits import EpochFit
from sklr.engines._pack import Member, Side
from sklr.engines._refusals import Unstackable, static_reasons
from sklr.engines._sequential import fit_heads
from sklr.engines._stack import ModelStack
from sklr.engines._stack_checks import check_loss, check_sides, infer
from sklr.engines._stack_optim import is_steady, optimizer_reasons
from sklr.engines._stack_probe import probe

PER_RUN = ("lr", "schedule", "warmup_epochs", "schedule_epochs")  # and most of optimizer__*


def last_step(estimator: Any) -> Any:
    """Return the net of a pipeline, or the estimator itself."""
    return estimator.steps[-1][1] if has_head(estimator) else estimator


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


class Place(NamedTuple):
    """One cell of a group: the estimator that stands for it, its rows, and how it enters the stack."""

    estimator: Any
    data: CellData  # for the net
    score_data: CellData  # for what is scored
    subject: Any
    side: Side
    x_test: Rows
    seconds: float


class World(NamedTuple):
    """What all candidates of a group find: the cells, and how stacks are to be built in them."""

    places: list[Place]
    stack_args: dict[str, Any]
    own_lrs: list[dict[str, float]]
    thread_safe: bool


class Group(NamedTuple):
    """Candidates that can share stacks; `steady` if their optimizer does the same in every step."""

    members: list[Member]
    optimizer_kwargs: list[dict[str, Any]]
    places: list[Place]
    stack_args: dict[str, Any]
    max_epochs: int
    thread_safe: bool = False
    steady: bool = False

    @property
    def n_steps(self) -> int:
        """How many steps a run takes."""
        return sum(map(len, self.places[0].side.epochs))

    @property
    def device(self) -> torch.device:
        """Where it is trained."""
        return torch.device(self.places[0].side.net.device)

    def build(self, chosen: Sequence[int]) -> ModelStack:
        """Make the stack of some of the members."""
        return _build(self.places, [self.optimizer_kwargs[i] for i in chosen], self.stack_args)

    def compiled(self) -> Group:
        """Return the same group, to be built into stacks that compile their step."""
        return self._replace(stack_args={**self.stack_args, "compile": True}, thread_safe=False)


class Prepared(NamedTuple):
    """What can be stacked, and why the other candidates cannot, by number."""

    groups: list[Group]
    refused: dict[int, list[str]]


_LAST: WeakKeyDictionary[Experiment, dict[Hashable, World]] = WeakKeyDictionary()  # of each search's last batch


def prepare(experiment: Experiment, candidates: Sequence[dict]) -> Prepared:
    """Set the candidates' nets up in every cell, up to the first step.

    What the last batch of the same search has set up is not set up again.
    """
    everything: dict[int, list[str]] = {}
    with _refusing(everything, range(len(candidates))):
        return _prepare(experiment, candidates)
    return Prepared([], everything)


def _prepare(experiment: Experiment, candidates: Sequence[dict]) -> Prepared:
    refused: dict[int, list[str]] = {}
    firsts: dict[int, Any] = {}  # each candidate's estimator, not initialised
    for i, candidate in enumerate(candidates):
        with _refusing(refused, [i]):
            firsts[i] = _stackable(experiment, candidate)
    stackable = list(firsts)
    prefix = next((f"{first.steps[-1][0]}__" for first in firsts.values() if has_head(first)), "")
    places = group_candidates([candidates[i] for i in stackable], prefix)
    groups = {key: [stackable[place] for place in group] for key, group in places.items()}
    known, ready = _LAST.get(experiment, {}), list[Group]()
    makers = _makers(experiment, [candidates[numbers[0]] for key, numbers in groups.items() if key not in known])
    _LAST[experiment] = worlds = dict[Hashable, World]()
    for key, numbers in groups.items():
        world = known.get(key) or _first_world(experiment, candidates, numbers, f"{prefix}lr", next(makers), refused)
        if world is not None:
            worlds[key] = world
            ready += _grouped({i: last_step(firsts[i]) for i in numbers if i not in refused}, world, refused)
    return Prepared(ready, refused)


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
    return f"setting the nets up raised {type(error).__name__}: {error}"


def _stackable(experiment: Experiment, candidate: dict) -> Any:
    """Return a candidate's estimator, unless its parameters alone say that it cannot be stacked."""
    estimator = seeded_clone(experiment, candidate, experiment.cells[0])
    reasons = static_reasons(experiment, last_step(estimator))
    if reasons:
        raise Unstackable(*sorted(set(reasons)))
    return estimator


Maker = Callable[[dict], World]


def _makers(experiment: Experiment, candidates: Sequence[dict]) -> Iterator[Maker]:
    """Fit the heads of groups that these candidates stand for; yield what sets a candidate of each group up."""
    cells = experiment.cells
    estimators = [seeded_clone(experiment, candidate, cell) for candidate in candidates for cell in cells]
    heads = fit_heads(experiment, estimators, list(cells) * len(candidates))
    for start in range(0, len(estimators), len(cells)):
        yield partial(_world_of, experiment, heads[start : start + len(cells)])


def _world_of(experiment: Experiment, heads: Sequence[Head | None], candidate: dict) -> World:
    estimators = [seeded_clone(experiment, candidate, cell) for cell in experiment.cells]
    return _world([_place(experiment, *one) for one in zip(experiment.cells, estimators, heads, strict=True)])


def _first_world(
    experiment: Experiment,
    candidates: Sequence[dict],
    numbers: Sequence[int],
    lr: str,
    make: Maker,
    refused: dict[int, list[str]],
) -> World | None:
    """Return what a group finds, set up by the first of its candidates for which that can be done.

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
                return None
            last = reasons
            break
    return None


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
    x_test = map_tensors(_caster(net), all_rows(net, net.get_dataset(_as_predicted(net, data.X_test)))[0])
    return Place(estimator, data, score_data, subject, side, x_test, 0.0 if head is None else head.seconds)


def _side(net: NeuralNet, cell: Cell, data: CellData) -> Side:
    X, y = data.X_train, data.y_train
    net.set_params(verbose=0)
    if hasattr(net, "start_fit"):
        X, y = net.start_fit(X, y, data.fit_params.get("sample_weight"))
        world: Any = net.random_world()
    else:
        world = RandomStream(cell.seed)
        with world:
            net.initialize()
        net.check_data(X, y)  # skorch's own classifiers find their classes in it
    dataset, _ = net.get_split_datasets(X, y)
    if not is_in_memory(dataset):
        raise Unstackable(f"{type(dataset).__name__} may give other items each time")
    x, targets = all_rows(net, dataset)
    x = map_tensors(_caster(net), x)
    weight = data.fit_params.get("sample_weight")
    if weight is not None:
        weight = torch.as_tensor(np.asarray(weight), dtype=_net_data.float_dtype(net.module_), device=net.device)
    epochs = draw_epochs(net, len(dataset), net.max_epochs, world)
    if not epochs or not all(epochs):
        raise Unstackable("there is no batch to train on in some epoch")
    return Side(net, epochs, x, targets, weight, getattr(world, "seed", cell.seed))


def _caster(net: NeuralNet) -> Any:
    dtype = _net_data.float_dtype(net.module_) if hasattr(net, "start_fit") else None
    return lambda t: _net_data.cast_floats(t, dtype) if dtype is not None else t


def _as_predicted(net: NeuralNet, X: Any) -> Any:
    """Return rows as the net's own `predict` would hand them to the module."""
    return net.ready_to_predict(X) if hasattr(net, "ready_to_predict") else X


def _world(places: list[Place]) -> World:
    net = places[0].side.net
    if sum(p.requires_grad for p in net.criterion_.parameters()):
        raise Unstackable("the criterion has parameters of its own to learn")
    few = _spread(len(tree_leaves(places[0].side.x)[0]), 8)
    x = map_tensors(lambda rows: rows[few], places[0].side.x)
    output = infer(net, x)
    places = [place._replace(side=place.side._replace(y=_targets(net, place.side.y, output))) for place in places]
    y = map_tensors(lambda rows: rows[few], places[0].side.y)
    optimizer, groups, own_lrs = _optimizer(net)
    transform = _transform(net)
    reasons, traits = probe(net.module_, x, y, net.criterion_, transform=transform)
    reasons += optimizer_reasons(optimizer, _optimizer_kwargs(net), groups)
    if reasons:
        raise Unstackable(*dict.fromkeys(reasons))
    stack_args = {
        "criterion": copy.deepcopy(net.criterion_),  # the net's own is asked for losses, and may count that
        "optimizer": optimizer,
        "example": (x, y),
        "groups": groups,
        "transform": transform,
        "traits": traits,
        **_clipping(net),
    }
    stack = _build(places, [_optimizer_kwargs(net)], stack_args)
    check_loss(stack, net, x, y)
    check_sides(stack, net, [place.side for place in places])
    return World(places, stack_args, own_lrs, stack.thread_safe)


def _build(places: Sequence[Place], optimizer_kwargs: Sequence[Mapping[str, Any]], args: dict[str, Any]) -> ModelStack:
    modules = [place.side.net.module_ for place in places]
    return ModelStack(modules, len(optimizer_kwargs), optimizer_kwargs=optimizer_kwargs, **args)


def _grouped(nets_: Mapping[int, NeuralNet], world: World, refused: dict[int, list[str]]) -> list[Group]:
    """Return the group of candidates that find the same world; none if none can be stacked."""
    members: list[Member] = []
    kwargs: list[dict[str, Any]] = []
    for i, net in nets_.items():
        with _refusing(refused, [i]):
            member = _member(i, net, world.own_lrs)
            kwargs.append(_own_kwargs(net, world, member.lrs))
            members.append(member)
    if not members:
        return []
    optimizer, groups = world.stack_args["optimizer"], world.stack_args["groups"]
    steady = all(is_steady(optimizer, own, groups) for own in kwargs)
    max_epochs = nets_[members[0].candidate].max_epochs
    return [Group(members, kwargs, world.places, world.stack_args, max_epochs, world.thread_safe, steady)]


def _own_kwargs(net: NeuralNet, world: World, lrs: Sequence[float]) -> dict[str, Any]:
    """Return a candidate's arguments for the optimizer, if runs with these can be stacked."""
    own, optimizer = _optimizer_kwargs(net), world.stack_args["optimizer"]
    if reasons := optimizer_reasons(optimizer, own, world.stack_args["groups"]):
        raise Unstackable(*reasons)
    for lr in lrs:
        optimizer([torch.zeros(3, 4, requires_grad=True)], lr=lr, **own)  # which refuses what is no lr
    return own


def _spread(n_rows: int, n: int) -> Tensor:
    """Return the numbers of `n` rows, evenly spread: rows in order of their class are then of several."""
    n = min(n, n_rows)
    return torch.arange(n) * (n_rows - 1) // max(1, n - 1)


def _first(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) else output


def _targets(net: NeuralNet, y: Rows, output: Rows) -> Rows:
    """Return targets as the net's loss would see them, never to be broadcast."""
    output = _first(output)
    if not hasattr(net, "start_fit") or not isinstance(output, Tensor) or not isinstance(y, Tensor):
        return y
    return _net_data.fit_target(y, output.new_empty(len(y), *output.shape[1:]), net.criterion_)


def _transform(net: NeuralNet) -> Any:
    """Return what the net does to the module's output before the criterion sees it, None if nothing."""
    if isinstance(net, skorch.NeuralNetClassifier) and isinstance(net.criterion_, nn.NLLLoss):
        return _log
    if isinstance(net, skorch.NeuralNetBinaryClassifier):
        return _flat
    return None


def _log(probabilities: Any) -> Any:
    probabilities = _first(probabilities)
    return torch.log(probabilities + torch.finfo(probabilities.dtype).eps)


def _flat(logits: Any) -> Any:
    logits = _first(logits)
    return logits.squeeze(-1)


def as_inferred(net: NeuralNet, outputs: Rows) -> Rows:
    """Return module outputs as the net's `infer` does: a binary classifier's without their last axis of one."""
    return _flat(outputs) if isinstance(net, skorch.NeuralNetBinaryClassifier) else outputs


def _optimizer(net: NeuralNet) -> tuple[type, Any, list[dict[str, float]]]:
    """Return the optimizer's class, its parameter groups by name, and what each group says about its lr."""
    names = {id(p): name for name, p in net.module_.named_parameters() if p.requires_grad}
    (param_groups,), _ = net.get_params_for_optimizer("optimizer", net.get_all_learnable_params())
    trained = [[names[id(p)] for p in group["params"] if id(p) in names] for group in param_groups]
    others = [{k: v for k, v in group.items() if k not in ("params", "lr")} for group in param_groups]
    if not all(trained):
        raise Unstackable("there is nothing to train in some parameter group")
    own = [{k: v for k, v in group.items() if k in ("lr", "lr_multiplier")} for group in param_groups]
    return type(net.optimizer_), list(zip(trained, others, strict=True)), own


def _optimizer_kwargs(net: NeuralNet) -> dict[str, Any]:
    return {k: v for k, v in net.get_params_for("optimizer").items() if k not in ("lr", "param_groups")}


def _member(candidate: int, net: NeuralNet, own: Sequence[dict[str, float]]) -> Member:
    peak = net.get_params_for("optimizer").get("lr", net.lr)
    schedule, horizon = schedule_of(net, net.max_epochs)
    if schedule.monitored() not in (None, "train_loss"):
        raise Unstackable(f"the schedule follows {schedule.monitored()}, which is not recorded")
    return Member(candidate, tuple(_group_lr(net, group, float(peak)) for group in own), schedule, horizon)


def _group_lr(net: NeuralNet, group: Mapping[str, float], peak: float) -> float:
    """Return a group's peak lr: its own, or relative to the candidate's. skorch's own nets know no multiplier."""
    if "lr_multiplier" in group and isinstance(net, NetParts):
        return peak * group["lr_multiplier"]
    return float(group.get("lr", peak))


def _clipping(net: NeuralNet) -> dict[str, Any]:
    for _, callback in net.callbacks_:
        if isinstance(callback, GradientNormClipping) and callback.gradient_clip_value is not None:
            norm_type = callback.gradient_clip_norm_type
            return {"clip_norm": callback.gradient_clip_value, "clip_norm_type": norm_type}
    return {}
