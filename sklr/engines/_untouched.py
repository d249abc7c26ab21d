"""Whether Python code remembers anything from one call for the next: then tensor operations are not all it does."""

from __future__ import annotations

import pickle
import random
import types
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

MOST = 20_000  # objects to look at; beyond, nothing is said to be untouched


class Untouched:
    """Whether things, and all that can be reached from them, are as they were.

    Compared are objects, not what they are worth: a counter, a list that grows, a tensor that is another one. Tensors
    may be written to, for that is an operation on tensors.

    >>> module = nn.Linear(2, 1)
    >>> untouched = Untouched(module)
    >>> before = untouched.holds()
    >>> module.calls = {"n": [1]}
    >>> before, untouched.holds()
    (True, False)
    """

    def __init__(self, *things: Any):
        self.things = things
        self._reached, self._states = list(_reached(things)), _states()
        self._places = _places(self._reached)

    def holds(self, *, strict: bool = True) -> bool:
        """Say whether nothing has changed, no random number was drawn in Python, and nobody watches a module.

        If not `strict`, another tensor in the place of one is no change, nor is what nobody can tell, and those who
        watch do as they like.
        """
        now = list(_reached(self.things))
        unclear = len(now) > MOST or _has_any_global_hook() or any(map(is_hooked, _modules(now)))
        if unclear or len(now) != len(self._reached) or self._states != _states():
            return unclear and not strict
        if strict and _places(now) != self._places:
            return False
        return all(_is_same(a, b, strict) for a, b in zip(now, self._reached, strict=True))


def is_hooked(module: nn.Module) -> bool:
    """Say whether somebody watches this very module, not those in it."""
    return any((module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks))


def _modules(things: list[Any]) -> Iterator[nn.Module]:
    return (thing for thing in things if isinstance(thing, nn.Module))


def _reached(things: Any) -> Iterator[Any]:
    """Yield every object in reach, each once, up to a few more than can be looked at."""
    seen: set[int] = set()
    waiting = deque([things])
    while waiting and len(seen) <= MOST:
        thing = waiting.popleft()
        yield thing
        if id(thing) not in seen:
            seen.add(id(thing))
            waiting.extend(_inside(thing))


_CLOSED = (
    Tensor, type, str, bytes, int, float, complex, types.NoneType, types.ModuleType,
    torch.dtype, torch.device, torch.layout, torch.memory_format,
)  # fmt: skip
_OF_TORCH = {"_parameters", "_buffers", "training"}  # set and put back while a module is at work


def _inside(thing: Any) -> list[Any]:
    if isinstance(thing, _CLOSED):
        return []
    if isinstance(thing, Mapping):
        return [*thing.keys(), *thing.values()]
    if isinstance(thing, list | tuple | set | frozenset | deque):
        return list(thing)
    if isinstance(thing, np.ndarray):
        return [thing.tobytes()]
    if isinstance(thing, torch.Generator):
        return [thing.get_state().numpy().tobytes()]
    if isinstance(thing, weakref.ref):
        return [thing()]
    if isinstance(thing, types.MethodType | types.BuiltinMethodType):
        return [thing.__self__, getattr(thing, "__func__", None)]
    if isinstance(thing, types.FunctionType):
        return [cell.cell_contents for cell in thing.__closure__ or () if cell != types.CellType()]
    if isinstance(thing, partial):
        return [thing.func, thing.args, thing.keywords]
    if hasattr(thing, "__dict__") and not isinstance(thing, random.Random):
        return [value for name, value in vars(thing).items() if name not in _OF_TORCH]
    return [_pickled(thing)]


class _Unknown:
    """What nobody can tell: another one each time."""


def _pickled(thing: Any) -> bytes | _Unknown:
    """What a counter or a generator of random numbers is worth."""
    try:
        return pickle.dumps(thing)
    except Exception:  # anything may be raised by foreign code
        return _Unknown()


def _is_same(a: Any, b: Any, strict: bool) -> bool:
    if isinstance(a, bytes) and isinstance(b, bytes):
        return a == b
    return a is b or (not strict and type(a) is type(b) and isinstance(a, Tensor | _Unknown))


def _places(reached: list[Any]) -> list[int | None]:
    return [_place(thing) for thing in reached if isinstance(thing, Tensor)]


def _place(tensor: Tensor) -> int | None:
    try:
        return tensor.data_ptr()
    except RuntimeError:  # what a module has kept of a call that was mapped has no memory of its own
        return None


def _states() -> tuple[Any, ...]:
    _, keys, *place = np.random.get_state(legacy=True)
    return random.getstate(), np.asarray(keys).tobytes(), tuple(place)
