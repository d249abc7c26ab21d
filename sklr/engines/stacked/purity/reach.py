"""The objects that a Python object refers to: attributes, items, closures, class attributes and global variables."""

from __future__ import annotations

import dis
import hashlib
import io
import logging
import pickle
import random
import sys
import types
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklr._utils.warnings import is_a_library

Step = tuple[str, Any, Any]  # kind of reference, name, and the object
# the kinds, as format strings that write the reference as Python code
ATTRIBUTE, ITEM, _NUMBER, _KEY = ".{}", "[{}]", "[{0:d}]", "[{0:d}]<key>"
_CLASS, VARIABLE, GLOBAL = "<class {}>", "<variable {}>", "<global variable {}>"

HOOKS = ("forward", "forward_pre", "backward", "backward_pre")
NUMBERS = (str, bytes, int, float, complex, types.NoneType, torch.dtype, torch.device)
_CLOSED = (*NUMBERS, Tensor, logging.Logger, io.IOBase)
CONTAINERS = (Mapping, list, tuple, set, frozenset, deque)
# attributes of torch's modules that are no state of the user's: set during calls by torch itself, and hooks
OF_TORCH = {"_parameters", "_buffers", "training", *(f"_{kind}_hooks" for kind in HOOKS)}
OF_TORCH |= {"_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs", "_forward_hooks_always_called"}
OF_TORCH |= {"_load_state_dict_pre_hooks", "_load_state_dict_post_hooks", "_state_dict_hooks", "_state_dict_pre_hooks"}
_OF_RECURRENT = {"_flat_weights", "_flat_weight_refs"}  # lists of the parameters, also those of a functional call


def inside(thing: Any) -> list[Step]:
    """Return the objects that an object refers to directly, each with the kind and name of the reference."""
    if isinstance(thing, _CLOSED):
        return []
    if isinstance(thing, Mapping):
        steps = [(ITEM, key) if isinstance(key, str) else (_NUMBER, i) for i, key in enumerate(thing)]
        keys = [(_KEY, i, key) for i, key in enumerate(thing)]
        return keys + [(*step, value) for step, value in zip(steps, thing.values(), strict=True)]
    if isinstance(thing, CONTAINERS):
        return _numbered(thing)
    for kind, of_kind in _NAMED.items():
        if isinstance(thing, kind):
            return of_kind(thing)
    for kind, parts in _PARTS.items():
        if isinstance(thing, kind):
            return _numbered(parts(thing))
    found = [(ATTRIBUTE, name, value) for name, value in own_attributes(thing).items()]
    found += [(ATTRIBUTE, name, getattr(thing, name, None)) for cls in type(thing).__mro__ for name in _slots(cls)]
    held = found if found and not isinstance(thing, random.Random) else _numbered(_pickled_state(thing))
    return held if _is_installed(type(thing).__module__) else [*held, (_CLASS, 0, type(thing))]


def own_attributes(thing: Any) -> dict[str, Any]:
    """Return an object's attributes; of a torch module those that are the user's, and its submodules."""
    attributes = getattr(thing, "__dict__", {})
    known = OF_TORCH | _OF_RECURRENT if isinstance(thing, torch.nn.RNNBase) else OF_TORCH
    return {name: value for name, value in attributes.items() if name not in known}


def _of_class(cls: type) -> list[Step]:
    """Return the attributes of a class, with its methods; classes of libraries are trusted to keep no state."""
    if _is_installed(cls.__module__):
        return []
    own = [(ATTRIBUTE, name, value) for name, value in vars(cls).items() if name == "__call__" or name[:2] != "__"]
    return [*own, *((_CLASS, i, base) for i, base in enumerate(cls.__bases__))]


def _of_function(function: types.FunctionType) -> list[Step]:
    """Return a function's closure, defaults, attributes, and the global variables that its code names."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    closed_over = [(VARIABLE, name, c.cell_contents) for name, c in cells if c != types.CellType()]
    held = _numbered([function.__defaults__, function.__kwdefaults__, *vars(function).values()])
    return [*closed_over, *held, *((GLOBAL, name, value) for name, value in globals_of(function).items())]


def globals_of(function: types.FunctionType) -> dict[str, Any]:
    """Return the global variables that the code of a user's function names."""
    if _is_installed(function.__module__ or ""):
        return {}
    known = function.__globals__
    return {name: known[name] for name in sorted(_named_globals(function.__code__)) if name in known}


@lru_cache(maxsize=4096)
def _named_globals(code: types.CodeType) -> frozenset[str]:
    own = {i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "STORE_GLOBAL")}
    return frozenset(own).union(*(_named_globals(c) for c in code.co_consts if isinstance(c, types.CodeType)))


def _of_module(module: types.ModuleType) -> list[Step]:
    """Return the numbers in a Python module of the user's: `settings.n_calls += 1` is a counter, too."""
    if _is_installed(module.__name__):
        return []
    return [(ATTRIBUTE, n, value) for n, value in vars(module).items() if isinstance(value, NUMBERS) and n[:2] != "__"]


@lru_cache(maxsize=4096)
def _is_installed(module: str) -> bool:
    """Say whether code belongs to a library, which is trusted to keep no state, and not to the user."""
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    return is_a_library(module) or "site-packages" in file or "dist-packages" in file


def _numbered(things: Iterable[Any]) -> list[Step]:
    return [(_NUMBER, i, thing) for i, thing in enumerate(things)]


_PARTS: dict[Any, Callable[[Any], list[Any]]] = {
    np.ndarray: lambda array: [_digest(array.tobytes())],
    torch.Generator: lambda generator: [_digest(generator.get_state().numpy().tobytes())],
    weakref.ref: lambda ref: [ref()],
    types.MethodType | types.BuiltinMethodType: lambda m: [m.__self__, getattr(m, "__func__", None)],
    partial: lambda p: [p.func, p.args, p.keywords],
    classmethod | staticmethod: lambda method: [method.__func__],
    property: lambda prop: [prop.fget],
}
_NAMED: dict[type, Callable[[Any], list[Step]]] = {
    type: _of_class,
    types.FunctionType: _of_function,
    types.ModuleType: _of_module,
}


def _slots(cls: type) -> list[str]:
    slots = vars(cls).get("__slots__", ())
    return [slots] if isinstance(slots, str) else [name for name in slots if name not in ("__dict__", "__weakref__")]


class Unknown:
    """Placeholder for what cannot be compared: never equal to another one."""


def _pickled_state(thing: Any) -> list[Any]:
    """Return the pickled state of an object without attributes, such as an iterator or a random generator."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return [_digest(pickle.dumps(thing))]
    except Exception:  # a user's object may raise anything when it is pickled
        return [Unknown()] if isinstance(thing, Iterator) else []


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data).digest()
