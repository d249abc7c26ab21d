"""Settings of a net that do not go together: found before training, so that one of two does not act in silence."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatch
from typing import Any

import numpy as np
import torch
from skorch.callbacks import LRScheduler

from sklr.callbacks import LRSchedule
from sklr.schedules import resolve_schedule

_OF_CALLBACKS = ("schedule", "warmup_epochs", "schedule_epochs", "clip")  # what default callbacks see to
# what may keep another parameter from having an effect
CAUSES = ("schedule", "warmup_epochs", "callbacks", "optimizer__lr", "optimizer__param_groups", "iterator_train__")


def conflicts(net: Any) -> list[str]:
    """Return a sentence for each setting of an initialized net that meets another, or nothing at all.

    >>> import warnings
    >>> from sklr import MLP, NeuralNetRegressor
    >>> net = NeuralNetRegressor(MLP(2, 1, hidden=()), optimizer__param_groups=[("layer.*", {"lr": 1})])
    >>> with warnings.catch_warnings(action="ignore"):
    ...     print(*conflicts(net.initialize()))
    The pattern 'layer.*' of optimizer__param_groups matches no parameter. There are layers.0.weight, layers.0.bias.
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
        f"{' that an earlier one has left' if any(fnmatch(name, pattern) for name in names) else ''}. "
        f"There are {', '.join(names)}."
        for pattern in unmatched
    ]


def overridden(net: Any, name: str) -> str:
    """Return what keeps a net's parameter from having an effect, such as a schedule that names the lr; "" if nothing.

    >>> from torch.optim.lr_scheduler import OneCycleLR
    >>> from sklr import MLP, NeuralNetClassifier
    >>> from sklr.schedules import TorchSchedule
    >>> net = NeuralNetClassifier(MLP, schedule=TorchSchedule(OneCycleLR, by="step", max_lr=0.3, total_steps=9))
    >>> overridden(net, "lr")
    "schedule=TorchSchedule(OneCycleLR, by='step', max_lr=0.3, total_steps=9) names the learning rates itself"
    >>> overridden(net, "module__hidden"), overridden(net.set_params(schedule="cosine"), "lr")
    ('', '')
    """
    return next((reason for rule in _RULES if (reason := rule(net, name))), "")


def _disabled(net: Any, name: str) -> str:
    return "callbacks='disable' switches it off" if name in _OF_CALLBACKS and net.callbacks == "disable" else ""


def _by_a_longer_name(net: Any, name: str) -> str:
    """An lr may be given twice over, and a batch size."""
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
    return (
        f"schedule={asked!r} names the learning rates itself" if _are_equal(_lrs(net, lr) for lr in (0.1, 0.2)) else ""
    )


def _lrs(net: Any, lr: float = 0.1, horizon: int | None = None) -> np.ndarray:
    """Return the learning rates of a training of four steps an epoch."""
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
            return f"skorch's LRScheduler(policy={callback.policy!r}) names the learning rates itself"
    return ""


def _by_groups(net: Any, name: str) -> str:
    if not (name == "lr" or name.startswith("optimizer__")) or not net.initialized_:
        return ""
    option = name.removeprefix("optimizer__")
    (groups,), _ = net.get_params_for_optimizer("optimizer", net.get_all_learnable_params())
    own = [option in group and not (option == "lr" and "lr_multiplier" in group) for group in groups]
    return f"every parameter group has its own {option}" if all(own) else ""


def _by_optimizer(net: Any, name: str) -> str:
    """A function that makes the optimizer, or a class of the user's, may not use what it is given."""
    kind = net.optimizer
    if not (name == "lr" or name.startswith("optimizer__")) or not net.initialized_:
        return ""
    if isinstance(kind, type) and kind.__module__.startswith("torch.optim"):
        return ""
    option = name.removeprefix("optimizer__")
    try:
        first, second = (_made_with(net, option, change) for change in (False, True))
    except Exception:  # of a function of the user's: what is wrong with it is said when it is used
        return ""
    known = all(option in group for group in first[0])
    called = getattr(kind, "__name__", type(kind).__name__)
    same = known and first == second
    return f"optimizer={called} makes the same optimizer whatever {option} it is given" if same else ""


def _made_with(net: Any, option: str, change: bool) -> tuple[list[dict], dict]:
    """Return the settings of the optimizer that a net makes, with an option as it is or with another value."""
    groups, options = net.get_params_for_optimizer("optimizer", net.get_all_learnable_params())
    value = options[option]
    if change:
        options = {**options, option: not value if isinstance(value, bool) else 0.5 * value + 0.001}
    made = net.optimizer(*groups, **options)
    own = {
        key: part for key, part in vars(made).items() if isinstance(part, (int, float, str, tuple, dict, type(None)))
    }
    own.pop("state", None)
    return [{key: part for key, part in group.items() if key != "params"} for group in made.param_groups], own


def _are_equal(tables: Any) -> bool:
    """Say whether two tables of learning rates are the same; where one cannot be made, they are not."""
    try:
        first, second = map(np.asarray, tables)
    except Exception:  # of a scheduler of the user's: what is wrong with it is said when it is used
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
    """Return what is to be said of several seeds for a net whose module is an instance; "" for all others."""
    if n_seeds < 2 or not isinstance(net.module, torch.nn.Module):
        return ""
    return (
        f"The {n_seeds} seeds all start from the weights of the module instance, so that they differ in the order of "
        "the batches and in dropout alone. Give the net the module's class, or a function that makes it, for weights "
        "of their own."
    )
