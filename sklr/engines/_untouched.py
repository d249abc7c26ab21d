"""Whether Python code remembers anything from one call for the next: then tensor operations are not all it does."""

from __future__ import annotations

import random
import types
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
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

    def holds(self) -> bool:
        """Say whether nothing has changed, no random number was drawn in Python, and nobody watches a module."""
        now = list(_reached(self.things))
        if len(now) > MOST or len(now) != len(self._reached) or self._states != _states() or _has_any_global_hook():
            return False
        same = all(map(_is_same, now, self._reached)) and _places(now) == self._places
        return same and not any(isinstance(thing, nn.Module) and is_hooked(thing) for thing in now)


def is_hooked(module: nn.Module) -> bool:
    """Say whether somebody watches this very module, not those in it."""
    return any((module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks))


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


_CLOSED = (Tensor, type, str, bytes, types.ModuleType, types.FunctionType, types.BuiltinFunctionType)
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
    return [value for name, value in getattr(thing, "__dict__", {}).items() if name not in _OF_TORCH]


def _is_same(a: Any, b: Any) -> bool:
    return a is b or (isinstance(a, bytes) and isinstance(b, bytes) and a == b)


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
