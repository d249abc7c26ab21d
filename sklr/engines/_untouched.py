"""Whether Python code remembers anything from one call for the next: then tensor operations are not all it does."""

from __future__ import annotations

import hashlib
import io
import logging
import pickle
import random
import types
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_modules

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
    """

    def __init__(self, *things: Any):
        self.things = things
        self._reached, self._states = list(_reached(things)), _states()
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
        now = list(_reached(self.things))
        if len(now) != len(self._reached) or self._states != _states():
            return False
        if strict and (len(now) > MOST or _places(now) != self._places or _is_watched(now)):
            return False
        return all(_is_same(a, b, strict) for a, b in zip(now, self._reached, strict=True))


_KINDS = ("forward", "forward_pre", "backward", "backward_pre")


def is_hooked(module: nn.Module) -> bool:
    """Say whether somebody watches this very module, not those in it."""
    return any(getattr(module, f"_{kind}_hooks") for kind in _KINDS)


def _is_watched(things: list[Any]) -> bool:
    everywhere = (getattr(torch_modules, f"_global_{kind}_hooks", None) for kind in _KINDS)
    return any(everywhere) or any(isinstance(thing, nn.Module) and is_hooked(thing) for thing in things)


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


_NUMBERS = (str, bytes, int, float, complex, types.NoneType, torch.dtype, torch.device)
_CLOSED = (*_NUMBERS, Tensor, type, types.ModuleType, logging.Logger, io.IOBase)
_CONTAINERS = (Mapping, list, tuple, set, frozenset, deque)
# set and put back while a module is at work; and those who watch
_OF_TORCH = {"_parameters", "_buffers", "training", *(f"_{kind}_hooks" for kind in _KINDS)}


def _inside(thing: Any) -> list[Any]:
    if isinstance(thing, _CLOSED):
        return []
    if isinstance(thing, Mapping):
        return [*thing.keys(), *thing.values()]
    if isinstance(thing, _CONTAINERS):
        return list(thing)
    if isinstance(thing, np.ndarray):
        return [_digest(thing.tobytes())]
    if isinstance(thing, torch.Generator):
        return [_digest(thing.get_state().numpy().tobytes())]
    if isinstance(thing, weakref.ref):
        return [thing()]
    if isinstance(thing, types.MethodType | types.BuiltinMethodType):
        return [thing.__self__, getattr(thing, "__func__", None)]
    if isinstance(thing, types.FunctionType):
        cells = [cell.cell_contents for cell in thing.__closure__ or () if cell != types.CellType()]
        return [*cells, *vars(thing).values()]
    if isinstance(thing, partial):
        return [thing.func, thing.args, thing.keywords]
    found = [value for name, value in getattr(thing, "__dict__", {}).items() if name not in _OF_TORCH]
    found += [getattr(thing, name, None) for cls in type(thing).__mro__ for name in _slots(cls)]
    return found if found and not isinstance(thing, random.Random) else _worth(thing)


def _slots(cls: type) -> list[str]:
    slots = vars(cls).get("__slots__", ())
    return [slots] if isinstance(slots, str) else [name for name in slots if name not in ("__dict__", "__weakref__")]


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


def _states() -> tuple[Any, ...]:
    _, keys, *place = np.random.get_state(legacy=True)
    return random.getstate(), np.asarray(keys).tobytes(), tuple(place)


def own_state(module: nn.Module) -> dict[str, Any]:
    """Return what a module holds besides parameters, buffers and other modules."""
    return {name: value for name, value in vars(module).items() if name not in _OF_TORCH and name != "_modules"}


def is_alike(a: Any, b: Any) -> bool:
    """Say whether two things, and all that can be reached from them, are of the same kinds and values.

    >>> is_alike({"scale": [0.5, torch.ones(2)]}, {"scale": [0.5, torch.ones(2)]})
    True
    >>> is_alike({"order": torch.tensor([0, 1])}, {"order": torch.tensor([1, 0])})
    False
    """
    pairs = zip_longest(_reached(a), _reached(b), fillvalue=_Unknown())
    return all(a is b or (type(a) is type(b) and _has_same_value(a, b)) for a, b in pairs)


def _has_same_value(a: Any, b: Any) -> bool:
    if isinstance(a, _NUMBERS):
        return bool(a == b) or a != a
    if isinstance(a, nn.Parameter):
        return True  # an attribute that holds a parameter, as layers of PyTorch's do
    if isinstance(a, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | ((a != a) & (b != b))).all())
    return True
