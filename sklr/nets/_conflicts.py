"""Conflicting settings of a net, found before training, so that none of them is ignored silently."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatch
from typing import Any

import numpy as np
import torch
from skorch.callbacks import LRScheduler

from sklr.callbacks import LRSchedule
from sklr.schedules import resolve_schedule

_OF_CALLBACKS = ("schedule", "warmup_epochs", "schedule_epochs", "clip")  # implemented by the default callbacks
# prefixes of the parameters that may override another parameter
CAUSES = ("schedule", "warmup_epochs", "callbacks", "optimizer__lr", "optimizer__param_groups", "iterator_train__")


def conflicts(net: Any) -> list[str]:
    """Return a sentence for each conflict between settings of an initialized net, or for one that matches nothing.

    >>> import warnings
    >>> from sklr import MLP, NeuralNetRegressor
    >>> net = NeuralNetRegressor(MLP(2, 1, hidden=()), optimizer__param_groups=[("layer.*", {"lr": 1})])
    >>> with warnings.catch_warnings(action="ignore"):
    ...     print(*conflicts(net.initialize()))
    The pattern 'layer.*' of optimizer__param_groups matches no parameter. The parameters are layers.0.weight,
    layers.0.bias.
    """
    return [*_two_schedules(net), *_unmatched_patterns(net)]


def _two_schedules(net: Any) -> list[str]:
    callbacks = [callback for _, callback in getattr(net, "callbacks_", [])]
    ours = any(isinstance(c, LRSchedule) and (c.schedule is not None or c.warmup_epochs) for c in callbacks)
    theirs = any(isinstance(c, LRScheduler) for c in callbacks)
    if not (ours and theirs):
        return []
    return ["schedule or warmup_epochs and skorch's LRScheduler both set the learning rate. Leave one of them out."]


def _unmatched_patterns(net: Any) -> list[str]:
    names = [name for name, _ in net.get_all_learnable_params()]
    left, unmatched = list(names), []
    for pattern, _ in net.get_params_for("optimizer").get("param_groups", []):
        found = [name for name in left if fnmatch(name, pattern)]
        left = [name for name in left if name not in found]
        unmatched += [] if found else [pattern]
    return [
        f"The pattern {pattern!r} of optimizer__param_groups matches no parameter"
        f"{' that no earlier pattern matches' if any(fnmatch(name, pattern) for name in names) else ''}. "
        f"The parameters are {', '.join(names)}."
        for pattern in unmatched
    ]


def overridden(net: Any, name: str) -> str:
    """Return why a net's parameter has no effect, such as a schedule that sets absolute lrs; "" if it has one.

    >>> from torch.optim.lr_scheduler import OneCycleLR
    >>> from sklr import MLP, NeuralNetClassifier
    >>> from sklr.schedules import TorchSchedule
    >>> net = NeuralNetClassifier(MLP, schedule=TorchSchedule(OneCycleLR, by="step", max_lr=0.3, total_steps=9))
    >>> overridden(net, "lr")
    "schedule=TorchSchedule(OneCycleLR, by='step', max_lr=0.3, total_steps=9) sets absolute learning rates"
    >>> overridden(net, "module__hidden"), overridden(net.set_params(schedule="cosine"), "lr")
    ('', '')
    """
    return next((reason for rule in _RULES if (reason := rule(net, name))), "")


def _disabled(net: Any, name: str) -> str:
    return "callbacks='disable' switches it off" if name in _OF_CALLBACKS and net.callbacks == "disable" else ""


def _by_a_longer_name(net: Any, name: str) -> str:
    """skorch lets the lr and the batch size also be set by a longer name, which takes precedence."""
    longer = {"lr": ["optimizer__lr"]}
    longer["batch_size"] = ["iterator_train__batch_size", "iterator_train__batch_sampler"]
    given = [other for other in longer.get(name, []) if other in vars(net)]
    return f"{given[0]}={vars(net)[given[0]]!r} takes its place" if given else ""


def _by_schedule(net: Any, name: str) -> str:
    asked = getattr(net, "schedule", None)
    if name not in ("lr", "optimizer__lr", "schedule_epochs") or net.callbacks == "disable":
        return ""
    if name == "schedule_epochs":
        same = asked is not None and _are_equal(_lrs(net, horizon=h) for h in (net.max_epochs, 2 * net.max_epochs))
        return f"schedule={asked!r} does not depend on the number of epochs" if same else ""
    is_absolute = _are_equal(_lrs(net, lr) for lr in (0.1, 0.2))
    return f"schedule={asked!r} sets absolute learning rates" if is_absolute else ""


def _lrs(net: Any, lr: float = 0.1, horizon: int | None = None) -> np.ndarray:
    """Return the learning rates of a training with four steps per epoch."""
    schedule = resolve_schedule(getattr(net, "schedule", None), getattr(net, "warmup_epochs", 0))
    n_epochs = horizon or getattr(net, "schedule_epochs", None) or net.max_epochs
    epochs = range(min(net.max_epochs, 20))
    return np.array([lr * schedule.epoch_multipliers(epoch, 4, n_epochs, lr=lr) for epoch in epochs])


def _by_skorchs_scheduler(net: Any, name: str) -> str:
    if name not in ("lr", "optimizer__lr") or net.callbacks == "disable":
        return ""
    given = [callback[-1] if isinstance(callback, tuple) else callback for callback in net.callbacks or []]
    for callback in given:
        if isinstance(callback, LRScheduler) and _are_equal(callback.simulate(4, lr) for lr in (0.1, 0.2)):
            return f"skorch's LRScheduler(policy={callback.policy!r}) sets absolute learning rates"
    return ""


def _by_groups(net: Any, name: str) -> str:
    if not (name == "lr" or name.startswith("optimizer__")) or not net.initialized_:
        return ""
    option = name.removeprefix("optimizer__")
    (groups,), _ = net.get_params_for_optimizer("optimizer", net.get_all_learnable_params())
    own = [option in group and not (option == "lr" and "lr_multiplier" in group) for group in groups]
    return f"every parameter group has its own {option}" if all(own) else ""


def _by_optimizer(net: Any, name: str) -> str:
    """A custom optimizer class, or a function that returns an optimizer, may ignore its arguments."""
    kind = net.optimizer
    if not (name == "lr" or name.startswith("optimizer__")) or not net.initialized_:
        return ""
    if isinstance(kind, type) and kind.__module__.startswith("torch.optim"):
        return ""
    option = name.removeprefix("optimizer__")
    try:
        first, second = (_made_with(net, option, change) for change in (False, True))
    except Exception:  # user code: its error is raised when the net is trained
        return ""
    known = all(option in group for group in first[0])
    called = getattr(kind, "__name__", type(kind).__name__)
    same = known and first == second
    return f"optimizer={called} makes the same optimizer whatever {option} it is given" if same else ""


def _made_with(net: Any, option: str, change: bool) -> tuple[list[dict], dict]:
    """Return the groups and attributes of the net's optimizer, made with an option unchanged or changed."""
    groups, options = net.get_params_for_optimizer("optimizer", net.get_all_learnable_params())
    value = options[option]
    if change:
        options = {**options, option: not value if isinstance(value, bool) else 0.5 * value or 0.001}
    made = net.optimizer(*groups, **options)
    own = {
        key: part for key, part in vars(made).items() if isinstance(part, (int, float, str, tuple, dict, type(None)))
    }
    own.pop("state", None)
    return [{key: part for key, part in group.items() if key != "params"} for group in made.param_groups], own


def _are_equal(tables: Any) -> bool:
    """Whether two tables of learning rates, computed lazily, are equal; False if one cannot be computed."""
    try:
        first, second = map(np.asarray, tables)
    except Exception:  # user code, such as a custom scheduler: its error is raised when the net is trained
        return False
    return first.size > 0 and bool(np.allclose(first, second, rtol=1e-9, atol=0))


_RULES: tuple[Callable[[Any, str], str], ...] = (
    _disabled,
    _by_a_longer_name,
    _by_schedule,
    _by_skorchs_scheduler,
    _by_groups,
    _by_optimizer,
)


def shared_start(net: Any, n_seeds: int) -> str:
    """Return the warning about several seeds for a net whose module is an instance; "" for other nets."""
    if n_seeds < 2 or not isinstance(net.module, torch.nn.Module):
        return ""
    return (
        f"The {n_seeds} seeds all start from the weights of the module instance, so they differ only in the order of "
        "the batches and in dropout. Pass the module's class to the net, or a function that returns a module, to give "
        "each seed its own initial weights."
    )
