"""Whether Python code remembers anything from one call for the next: then tensor operations are not all it does."""

from __future__ import annotations

import hashlib
import io
import logging
import pickle
import random
import re
import types
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_modules

Path = tuple[Any, ...]  # (path of the object that holds it, kind of step, name); empty for where a walk begins
Step = tuple[str, Any, Any]  # kind, name, and what is there
_ATTRIBUTE, _ITEM, _NUMBER, _KEY = ".{}", "[{}]", "[{0:d}]", "[{0:d}]<key>"  # how they are written
_GLOBAL = "<global {}>"

FEW = 1000  # entries of a container that belongs to a class or is global
MOST = 20_000  # objects to look at; who has more is not untouched for certain


class Untouched:
    """Whether things, and all that can be reached from them, are as they were.

    A change is a counter, a list that grows, a tensor that is another one. Tensors may be written to, for that is an
    operation on tensors.

    >>> module = nn.Linear(2, 1)
    >>> untouched = Untouched(module)
    >>> before = untouched.holds()
    >>> module.calls = {"n": [1]}
    >>> before, untouched.holds()
    (True, False)
    >>> untouched.what_changed()
    "changes its attribute 'calls' each time it is called"
    """

    def __init__(self, *things: Any):
        self.things = things
        self._paths, self._reached = _walk(things)
        self._states = _states()
        self._places = _places(self._reached)

    @classmethod
    def by_second(cls, call: Callable[[], Any], *things: Any) -> Untouched:
        """Watch things over the second of two calls: the first one is the time to set up."""
        call()
        untouched = cls(*things)
        call()
        return untouched

    def holds(self, *, strict: bool = True) -> bool:
        """Say whether nothing has changed, no random number was drawn in Python, and nobody watches a module.

        If not `strict`, another tensor in the place of one is no change, nor is what nobody can tell, and those who
        watch do as they like.
        """
        _, now = _walk(self.things)
        if len(now) != len(self._reached) or self._states != _states():
            return False
        if strict and (len(now) > MOST or _places(now) != self._places or _is_watched(now)):
            return False
        return all(_is_same(a, b, strict) for a, b in zip(now, self._reached, strict=True))

    def what_changed(self) -> str:
        """Say in words what does not hold if not strict, to be read after "it"; empty if all does."""
        if self.holds(strict=False):
            return ""
        for source, before, now in zip(_GENERATORS, self._states, _states(), strict=True):
            if before != now:
                return f"draws random numbers from {source} each time it is called"
        before = dict(zip(self._paths, self._reached, strict=True))
        now = dict(zip(*_walk(self.things), strict=True))
        paths = [*now, *(path for path in before if path not in now)]
        changed = (p for p in paths if not _is_same(now.get(p, _GONE), before.get(p, _GONE), strict=False))
        return _told(next(map(_written, changed), ""))


_KINDS = ("forward", "forward_pre", "backward", "backward_pre")


def is_hooked(module: nn.Module) -> bool:
    """Say whether somebody watches this very module, not those in it."""
    return any(getattr(module, f"_{kind}_hooks") for kind in _KINDS)


def _is_watched(things: list[Any]) -> bool:
    everywhere = (getattr(torch_modules, f"_global_{kind}_hooks", None) for kind in _KINDS)
    return any(everywhere) or any(isinstance(thing, nn.Module) and is_hooked(thing) for thing in things)


def _walk(things: tuple[Any, ...]) -> tuple[list[Path], list[Any]]:
    """Return every object in reach with its path, up to a few more than can be looked at."""
    seen: set[int] = set()
    paths: list[Path] = []
    reached: list[Any] = []
    waiting = deque[tuple[Path, Any]]([((), things)])
    while waiting and len(seen) <= MOST:
        path, thing = waiting.popleft()
        paths.append(path)
        reached.append(thing)
        if id(thing) not in seen:
            seen.add(id(thing))
            waiting.extend(((path, kind, name), value) for kind, name, value in _inside(thing))
    return paths, reached


def _written(path: Path) -> str:
    """Return a path as Python code."""
    if not path:
        return ""
    before, kind, name = path
    return _written(before) + kind.format(repr(name) if kind == _ITEM else name)


def _told(path: str) -> str:
    """Return in words that what is at a path has changed: the attribute that holds it, as a user would write it.

    >>> _told("[0]._modules['encoder'].calls['n'][3]")
    "changes its attribute 'encoder.calls' each time it is called"
    """
    if used := re.search(r"<global (\w+)>", path):
        return f"changes the global variable {used[1]!r} each time it is called"
    path = re.sub(r"\._modules\['([^']+)'\]", r".\1", re.sub(r"^\[\d+\]", "", path))
    name = re.match(r"(\.\w+)*", path)[0].removeprefix(".")  # type: ignore[index] # it always matches
    return f"changes its attribute {name!r} each time it is called" if name else "changes each time it is called"


_NUMBERS = (str, bytes, int, float, complex, types.NoneType, torch.dtype, torch.device)
_CLOSED = (*_NUMBERS, Tensor, type, types.ModuleType, logging.Logger, io.IOBase)
_CONTAINERS = (Mapping, list, tuple, set, frozenset, deque)
# set and put back while a module is at work; and those who watch
_OF_TORCH = {"_parameters", "_buffers", "training", *(f"_{kind}_hooks" for kind in _KINDS)}
_OF_TORCH |= {"_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs", "_forward_hooks_always_called"}
_OF_TORCH |= {"_load_state_dict_pre_hooks", "_load_state_dict_post_hooks", "_state_dict_hooks", "_state_dict_pre_hooks"}


def _inside(thing: Any) -> list[Step]:
    """Return what an object holds, each with the step that leads there from it."""
    if isinstance(thing, _CLOSED):
        return []
    if isinstance(thing, Mapping):
        steps = [(_ITEM, key) if isinstance(key, str) else (_NUMBER, i) for i, key in enumerate(thing)]
        keys = [(_KEY, i, key) for i, key in enumerate(thing)]
        return keys + [(*step, value) for step, value in zip(steps, thing.values(), strict=True)]
    if isinstance(thing, _CONTAINERS):
        return _numbered(thing)
    if isinstance(thing, types.FunctionType):
        cells = [cell.cell_contents for cell in thing.__closure__ or () if cell != types.CellType()]
        return _numbered([*cells, thing.__defaults__, thing.__kwdefaults__, *vars(thing).values()]) + _globals(thing)
    for kind, parts in _PARTS.items():
        if isinstance(thing, kind):
            return _numbered(parts(thing))
    found = [
        (_ATTRIBUTE, name, value) for name, value in getattr(thing, "__dict__", {}).items() if name not in _OF_TORCH
    ]
    found += [(_ATTRIBUTE, name, getattr(thing, name, None)) for cls in type(thing).__mro__ for name in _slots(cls)]
    found += _of_class(type(thing)) if isinstance(thing, nn.Module) else []
    return found if found and not isinstance(thing, random.Random) else _numbered(_worth(thing))


def _of_class(cls: type) -> list[Step]:
    """Return what a user's class has for all instances: numbers and containers, and functions that may change some."""
    own = [kind for kind in cls.__mro__ if kind.__module__.partition(".")[0] not in ("torch", "builtins", "typing")]
    return [
        (_ATTRIBUTE, name, value)
        for kind in own
        for name, value in vars(kind).items()
        if isinstance(value, types.FunctionType) or (_is_data(value) and not name.startswith("__"))
    ]


def _globals(function: types.FunctionType) -> list[Step]:
    known = function.__globals__
    return [(_GLOBAL, name, known[name]) for name in function.__code__.co_names if _is_data(known.get(name))]


def _is_data(value: Any) -> bool:
    """Say whether a variable is one that is counted or collected in, and small enough to be looked through."""
    return isinstance(value, int | float) or (isinstance(value, list | dict | set | deque) and len(value) < FEW)


def _numbered(things: Iterable[Any]) -> list[Step]:
    return [(_NUMBER, i, thing) for i, thing in enumerate(things)]


_PARTS: dict[Any, Callable[[Any], list[Any]]] = {
    np.ndarray: lambda array: [_digest(array.tobytes())],
    torch.Generator: lambda generator: [_digest(generator.get_state().numpy().tobytes())],
    weakref.ref: lambda ref: [ref()],
    types.MethodType | types.BuiltinMethodType: lambda m: [m.__self__, getattr(m, "__func__", None)],
    partial: lambda p: [p.func, p.args, p.keywords],
}


def _slots(cls: type) -> list[str]:
    slots = vars(cls).get("__slots__", ())
    return [slots] if isinstance(slots, str) else [name for name in slots if name not in ("__dict__", "__weakref__")]


_GONE = object()


class _Unknown:
    """What nobody can tell: another one each time."""


def _worth(thing: Any) -> list[Any]:
    """Return what a counter or a generator of random numbers has come to."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return [_digest(pickle.dumps(thing))]
    except Exception:  # anything may be raised by foreign code
        return [_Unknown()] if isinstance(thing, Iterator) else []


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data).digest()


def _is_same(a: Any, b: Any, strict: bool) -> bool:
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, _NUMBERS):
        return bool(a == b)
    # of containers all that is in them is compared, too
    return isinstance(a, _CONTAINERS) or (not strict and isinstance(a, Tensor | _Unknown))


def _places(reached: list[Any]) -> list[int | None]:
    return [_place(thing) for thing in reached if isinstance(thing, Tensor)]


def _place(tensor: Tensor) -> int | None:
    try:
        return tensor.data_ptr()
    except RuntimeError:  # what a module has kept of a call that was mapped has no memory of its own
        return None


_GENERATORS = ("Python's random module", "NumPy")


def _states() -> tuple[Any, Any]:
    """Return how the global generators of `_GENERATORS` stand."""
    _, keys, *place = np.random.get_state(legacy=True)
    return random.getstate(), (np.asarray(keys).tobytes(), tuple(place))


def own_state(module: nn.Module) -> dict[str, Any]:
    """Return what a module holds besides parameters, buffers and other modules."""
    return {name: value for name, value in vars(module).items() if name not in _OF_TORCH and name != "_modules"}


def difference(a: Any, b: Any, known: Container[int] = ()) -> str | None:
    """Return the path to the first thing in reach from `a` that is another kind or value in `b`; None if all are alike.

    `known` are the ids of parameters that are compared elsewhere.

    >>> difference({"scale": [0.5, torch.ones(2)]}, {"scale": [0.5, torch.ones(2)]})
    >>> difference({"order": torch.tensor([0, 1])}, {"order": torch.tensor([1, 0])})
    "[0]['order']"
    """
    (paths, ours), (_, theirs) = _walk((a,)), _walk((b,))
    for path, one, other in zip(paths, ours, theirs, strict=False):
        if not _is_alike(one, other, known):
            return _written(path)
    return None if len(ours) == len(theirs) else ""


def _is_alike(a: Any, b: Any, known: Container[int]) -> bool:
    if a is b or id(a) in known:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, _NUMBERS):
        return bool(a == b or a != a)
    if isinstance(a, nn.Module):  # one that is kept in a list, say, so that its parameters are nobody's
        return all(
            torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=False) if id(p) not in known
        )
    if isinstance(a, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | ((a != a) & (b != b))).all())
    return True
