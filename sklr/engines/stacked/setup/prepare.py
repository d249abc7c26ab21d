"""From candidates to groups: initializes nets, finds which can share a stack, and why others cannot be stacked."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Container, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from joblib import hash as joblib_hash
from skorch import NeuralNet

from sklr._utils.memory import trim
from sklr.engines.sequential.engine import fit_heads
from sklr.engines.sequential.fit import EpochFit
from sklr.engines.stacked.audit.audit import audit, kinds_of
from sklr.engines.stacked.checks.callbacks import columns_of
from sklr.engines.stacked.checks.explain import first_line
from sklr.engines.stacked.checks.net_optimizer import MadeOptimizer, made_optimizer
from sklr.engines.stacked.checks.static import Unstackable, static_reasons
from sklr.engines.stacked.model.group import Group, Prepared, StackSetup
from sklr.engines.stacked.model.member import Member, PackCell
from sklr.engines.stacked.optim.known import is_steady
from sklr.engines.stacked.setup.schedulers import moving_lr
from sklr.engines.stacked.setup.stack_setup import stack_setups
from sklr.experiment.cell_data import cell_data, fit_head, seeded_clone
from sklr.experiment.experiment import Experiment
from sklr.experiment.wrappers import is_net, is_wrapped, net_name, net_of

PER_RUN = ("lr", "schedule", "warmup_epochs", "schedule_epochs")  # may differ within a stack, as most optimizer__* may


def group_candidates(candidates: Sequence[dict], prefix: str) -> dict[Hashable, list[int]]:
    """Group the candidates that differ only in parameters that a stack can vary from run to run.

    The keys are hashes of the parameters that a group's candidates share, so that a later batch of candidates finds the
    same groups under the same keys.

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
    except Exception:  # what cannot be pickled cannot be compared, so it is equal to nothing else
        return object()


# the set-ups of each search's last batch of candidates; weak, so that they are freed with the search
_LAST: WeakKeyDictionary[Experiment, dict[Hashable, list[StackSetup]]] = WeakKeyDictionary()


def prepare(
    experiment: Experiment, candidates: Sequence[dict], lost: Mapping[int, Sequence[str]] = MappingProxyType({})
) -> Prepared:
    """Initialise the candidates' nets in every cell, up to the first step, and group those that can be stacked.

    Set-ups of the previous batch of the same search are used again. `lost` maps the candidates that are known not to be
    stackable to the reasons; these are not tried.
    """
    refused: dict[int, list[str]] = {}
    with _refusing(refused, range(len(candidates))):
        return _prepare(experiment, candidates, lost)
    return Prepared([], refused)  # an error that concerns no single candidate


def _prepare(experiment: Experiment, candidates: Sequence[dict], lost: Mapping[int, Sequence[str]]) -> Prepared:
    refused = {i: list(reasons) for i, reasons in lost.items()}
    firsts: dict[int, Any] = {}  # each candidate's estimator in the first cell, not initialized
    for i, candidate in enumerate(candidates):
        if i not in lost:
            with _refusing(refused, [i]):
                firsts[i] = _stackable(experiment, candidate)
    stackable = list(firsts)
    prefix = next((f"{net_name(first)}__" for first in firsts.values() if is_wrapped(first)), "")
    places = group_candidates([candidates[i] for i in stackable], prefix)
    groups = {key: [stackable[place] for place in group] for key, group in places.items()}
    known, ready = _LAST.get(experiment, {}), list[Group]()
    makers = _makers(experiment, [candidates[numbers[0]] for key, numbers in groups.items() if not known.get(key)])
    _LAST[experiment] = setups = dict[Hashable, list[StackSetup]]()
    for key, numbers in groups.items():
        setups[key] = known.get(key) or _first_setups(
            experiment, candidates, numbers, f"{prefix}lr", next(makers), refused
        )
        if key not in known:
            trim()  # setting up copies the rows of a fold
        for setup in setups[key]:
            nets_ = {i: net_of(firsts[i]) for i in numbers if i not in refused}
            ready += _grouped(experiment, candidates, nets_, setup, refused)
    return Prepared(_without(ready, refused), refused)


def _without(groups: Sequence[Group], refused: Container[int]) -> list[Group]:
    """Drop candidates that were refused in cells of another shape: these are trained one by one in all cells."""
    kept = [[i for i, member in enumerate(group.members) if member.candidate not in refused] for group in groups]
    return [group.only(chosen) for group, chosen in zip(groups, kept, strict=True) if chosen]


@contextmanager
def _refusing(
    refused: dict[int, list[str]], numbers: Sequence[int], doing: str = "setting the nets up"
) -> Iterator[None]:
    """Record the reasons of an `Unstackable`, or another error, raised in the context for these candidates."""
    try:
        yield
    except Unstackable as refusal:
        refused.update({i: list(refusal.args) for i in numbers})
    except Exception as error:  # of any kind: the sequential engine will meet it, too, and records it with the run
        refused.update({i: [_raised(error, doing)] for i in numbers})


def _raised(error: Exception, doing: str = "setting the nets up") -> str:
    return f"{doing} raised {type(error).__name__}: {first_line(error)}"


def _stackable(experiment: Experiment, candidate: dict) -> Any:
    """Return a candidate's estimator; raise `Unstackable` if its parameters alone rule a stack out."""
    estimator = seeded_clone(experiment, candidate, experiment.cells[0])
    reasons = static_reasons(experiment, net_of(estimator))
    if reasons:
        raise Unstackable(*sorted(set(reasons)))
    return estimator


Maker = Callable[[dict], list[StackSetup]]


def _makers(experiment: Experiment, candidates: Sequence[dict]) -> Iterator[Maker]:
    """Fit the pipeline steps around the nets of these candidates, one per group; yield what sets each up."""
    cells = experiment.cells
    estimators = [seeded_clone(experiment, candidate, cell) for candidate in candidates for cell in cells]
    heads = fit_heads(experiment, estimators, list(cells) * len(candidates))
    for start in range(0, len(estimators), len(cells)):
        yield partial(stack_setups, experiment, heads[start : start + len(cells)])


def _first_setups(
    experiment: Experiment,
    candidates: Sequence[dict],
    numbers: Sequence[int],
    lr: str,
    make: Maker,
    refused: dict[int, list[str]],
) -> list[StackSetup]:
    """Return a group's set-ups, one per shape of cells, made by the first of its candidates for which that succeeds.

    A candidate that no engine can train is refused alone. Any other refusal applies to all candidates that differ from
    it only in the lr, and to the whole group once candidates that differ in more are refused for the same reasons.
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
                reasons = [_raised(error)]
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
    """Say whether a candidate's training cannot begin in the first cell with any engine."""
    cell = experiment.cells[0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the training itself will give them
            estimator = seeded_clone(experiment, candidate, cell)
            data = cell_data(experiment, cell, estimator)
            data = fit_head(estimator, data).data if is_wrapped(estimator) else data
            net = net_of(estimator)
            if is_net(net):
                EpochFit(net, data, cell.seed, score=lambda: float("nan")).begin()
    except Exception:  # of any kind: whether there is one is the question
        return True
    return False


def _grouped(
    experiment: Experiment,
    candidates: Sequence[dict],
    nets_: Mapping[int, NeuralNet],
    setup: StackSetup,
    refused: dict[int, list[str]],
) -> list[Group]:
    """Return the groups, after their audit, of the candidates that share a set-up; none if none can be stacked."""
    members: list[Member] = []
    kwargs: list[dict[str, Any]] = []
    for i, net in nets_.items():
        with _refusing(refused, [i]):
            optimizer = _shared_optimizer(net, setup)
            members.append(_member(i, net, optimizer, [own.pack_cell for own in setup.group_cells]))
            kwargs.append(optimizer.kwargs)
    if not members:
        return []
    steady = all(is_steady(setup.stack_args["optimizer"], own) for own in kwargs)
    max_epochs = nets_[members[0].candidate].max_epochs
    thread_safe = setup.stack_args["traits"].thread_safe
    group = Group(members, kwargs, setup.group_cells, setup.stack_args, max_epochs, thread_safe, steady)
    return _audited(experiment, candidates, group, setup, refused)


def _shared_optimizer(net: NeuralNet, setup: StackSetup) -> MadeOptimizer:
    """Return the optimizer that a candidate's net creates; refuse one that a stack cannot step with the others."""
    module, args = setup.group_cells[0].pack_cell.net.module_, setup.stack_args
    own = made_optimizer(net, module)
    if (own.kind, own.groups) != (args["optimizer"], args["groups"]):
        raise Unstackable(
            "the optimizer or its parameter groups are not the same as another candidate's, and a stack has one for "
            "all: search these parameters separately"
        )
    return own


def _audited(
    experiment: Experiment, candidates: Sequence[dict], group: Group, setup: StackSetup, refused: dict[int, list[str]]
) -> list[Group]:
    """Return the group if it passes the audit, else those of its kinds of candidates that pass it by themselves."""
    kinds: dict[Hashable, list[int]] = {}
    for place, member in enumerate(group.members):
        kinds.setdefault(kinds_of(candidates[member.candidate]), []).append(place)
    if kinds.keys() <= setup.audited:
        return [group]
    found: dict[int, list[str]] = {}
    with _refusing(found, [member.candidate for member in group.members], "comparing a few steps with skorch's"):
        audit(experiment, candidates, group)
        trim()  # so does an audit
        setup.audited.update(kinds)
    if len(kinds) > 1 and found:
        return [
            passed
            for places in kinds.values()
            for passed in _audited(experiment, candidates, group.only(places), setup, refused)
        ]
    refused |= found
    return [] if found else [group]


def _member(candidate: int, net: NeuralNet, optimizer: MadeOptimizer, pack_cells: Sequence[PackCell]) -> Member:
    schedule, horizon = moving_lr(net, optimizer, pack_cells)
    known = columns_of(pack_cells[0].net, has_held=pack_cells[0].held is not None)
    if schedule.monitored() not in (None, "train_loss", *known):
        raise Unstackable(
            f"the schedule monitors {schedule.monitored()!r}, which no callback of the net writes to the history: "
            "monitor 'train_loss', or set a train_split"
        )
    peak = float(net.get_params_for("optimizer").get("lr", net.lr))
    if schedule.monitored() is None:
        once, again = (schedule.epoch_multipliers(0, 2, horizon, lr=peak, losses=()) for _ in range(2))
        if not np.array_equal(once, again, equal_nan=True):
            raise Unstackable(
                "the schedule gives other values each time it is called with the same step, and a stack calls it at "
                "other times: let it depend on its arguments alone"
            )
    return Member(candidate, peak, optimizer.lrs, schedule, horizon)
