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
        self._before = list(_reached(things)), _states()

    def holds(self) -> bool:
        """Say whether nothing has changed, no random number was drawn in Python, and nobody watches a module."""
        reached, states = self._before
        now = list(_reached(self.things))
        if len(now) > MOST or len(now) != len(reached) or states != _states() or _has_any_global_hook():
            return False
        return all(map(_is_same, now, reached)) and not any(_is_watched(thing) for thing in now)


def _reached(things: Any) -> Iterator[Any]:
    """Yield every object in reach, each once, up to a few more than can be looked at."""
    seen: set[int] = set()
    waiting = deque([things])
    while waiting and len(seen) <= MOST:
        thing = waiting.popleft()
        yield thing if not isinstance(thing, Tensor) else (thing, thing.data_ptr())
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
    if isinstance(a, tuple | bytes):
        return type(a) is type(b) and len(a) == len(b) and (isinstance(a, tuple) or a == b)
    return a is b


def _states() -> tuple[Any, ...]:
    _, keys, *place = np.random.get_state(legacy=True)
    return random.getstate(), np.asarray(keys).tobytes(), tuple(place)


def _is_watched(thing: Any) -> bool:
    if not isinstance(thing, nn.Module):
        return False
    hooks = thing._forward_hooks, thing._forward_pre_hooks, thing._backward_hooks, thing._backward_pre_hooks
    return any(map(bool, hooks))
