"""Module and criterion of a net: instances are copied, and the arguments of classes are checked by name."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from sklr._utils.validation import must_be, unknown_name


def copied(instance: nn.Module, known: dict[int, Any]) -> nn.Module:
    """Return a deep copy of a module for a net to train, including the hooks on its parameters.

    Parameters
    ----------
    instance : nn.Module
        The user's module, which is not changed.
    known : dict from id to object
        The memo of `copy.deepcopy`: objects that have been copied before, see `counterparts`.

    Examples
    --------
    >>> module = nn.Linear(1, 1)
    >>> copied(module, {}) is module, bool(copied(module, {}).weight == module.weight)
    (False, True)
    """
    try:
        own = copy.deepcopy(instance, dict(known))
    except Exception as error:  # a module may define `__deepcopy__`
        advice = f"Give the net a class, or a function that makes it ({type(error).__name__}: {error})."
        raise ValueError(must_be("a module instance", "one that copy.deepcopy can copy", instance, advice)) from error
    for before, after in zip(instance.parameters(), own.parameters(), strict=True):
        if after is not before and not after._backward_hooks:
            for hook in (before._backward_hooks or {}).values():
                after.register_hook(hook)
            for hook in (before._post_accumulate_grad_hooks or {}).values():
                after.register_post_accumulate_grad_hook(hook)
    return own


def has_hooks(instance: nn.Module) -> bool:
    """Whether hooks are registered on a module's parameters, which `copy.deepcopy` does not copy."""
    return any(map(is_hooked, instance.parameters()))


def is_hooked(parameter: nn.Parameter) -> bool:
    """Whether a gradient hook or a post-accumulate-gradient hook is registered on a parameter."""
    return bool(parameter._backward_hooks or parameter._post_accumulate_grad_hooks)


def counterparts(instance: Any, own: Any) -> dict[int, Any]:
    """Map the id of each submodule and parameter of a user's instance to its counterpart in the net's copy.

    A criterion that refers to the module, or to part of it, can then be made to refer to the copy that is trained.
    """
    own = getattr(own, "_orig_mod", own)  # torch.compile wraps the module
    if not isinstance(instance, nn.Module) or type(instance) is not type(own):
        return {}
    pairs: list[tuple[Any, Any]] = [*zip(instance.modules(), own.modules(), strict=False)]
    pairs += zip(instance.parameters(), own.parameters(), strict=False)
    return {id(before): after for before, after in pairs if type(before) is type(after)}


def check_arguments(what: str, make: Any, given: dict[str, Any]) -> None:
    """Raise a ValueError for arguments that a class or function does not accept, and suggest the closest name.

    >>> check_arguments("module__", nn.Linear, {"in_features": 1, "out_feature": 2})
    Traceback (most recent call last):
    ValueError: a parameter module__... of Linear must be one of 'in_features', 'out_features', 'bias', 'device',
    'dtype', got 'out_feature'. Did you mean 'out_features'?
    """
    try:
        taken = inspect.signature(make).parameters
    except (TypeError, ValueError):  # some callables have no signature
        return
    if any(p.kind is p.VAR_KEYWORD for p in taken.values()):
        return
    names = [name for name, p in taken.items() if p.kind is not p.VAR_POSITIONAL]
    for name in given:
        if name not in names:
            own = [n for n in names if (what, n) != ("optimizer__", "params")]  # the net passes its weights
            raise unknown_name(f"a parameter {what}... of {getattr(make, '__name__', make)}", name, own)


def takes(make: Any, name: str) -> bool:
    """Whether a class or function has an argument of a given name.

    >>> takes(nn.Linear, "bias"), takes(nn.Linear, "momentum")
    (True, False)
    """
    try:
        return name in inspect.signature(make).parameters
    except (TypeError, ValueError):  # some callables have no signature
        return False


def required_arguments(make: Any, given: Iterable[str] = ()) -> list[str]:
    """Return the names of the arguments that a class or function cannot do without and that are not given.

    >>> required_arguments(nn.Linear, ["out_features"]), required_arguments(nn.ReLU)
    (['in_features'], [])
    """
    try:
        taken = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):  # some callables have no signature
        return []
    named = [p for p in taken if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return [p.name for p in named if p.default is p.empty and p.name not in given]


def check_required(make: Any, given: Iterable[str]) -> None:
    """Raise a TypeError for an argument of a module that has no default and is not given.

    >>> check_required(nn.Linear, ["in_features"])
    Traceback (most recent call last):
    TypeError: module__out_features must be given, since Linear has no default for it, got nothing. Only arguments
    called n_inputs and n_outputs are inferred, from rows and targets in arrays.
    """
    if missing := required_arguments(make, given):
        name = getattr(make, "__name__", repr(make))
        raise TypeError(
            f"module__{missing[0]} must be given, since {name} has no default for it, got nothing. Only arguments "
            "called n_inputs and n_outputs are inferred, from rows and targets in arrays."
        )


def wanted_widths(module: Callable[..., Any], widths: dict[str, int]) -> dict[str, int]:
    """Return the widths that are arguments of a module's constructor and not already bound by a `partial`."""
    try:
        named = inspect.signature(module).parameters
    except (TypeError, ValueError):  # some callables have no signature
        return {}
    bound = getattr(module, "keywords", {})
    return {name: width for name, width in widths.items() if name in named and name not in bound}
