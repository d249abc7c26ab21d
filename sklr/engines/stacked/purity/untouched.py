"""Whether Python code keeps state from one call to the next, and so does more than tensor operations."""

from __future__ import annotations

import random
import re
from collections import deque
from collections.abc import Callable, Container
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_modules

from sklr.engines.stacked.purity.reach import CONTAINERS, HOOKS, ITEM, NUMBERS, Unknown, inside, own_attributes

Path = tuple[Any, ...]  # (path of the object that refers to it, kind of reference, name); empty for the start
MOST = 20_000  # objects to visit; with more than these nothing counts as untouched


class Untouched:
    """Tells whether objects, and everything that they refer to, are unchanged since it was created.

    A counter that goes up, a list that grows and a tensor replaced by another are changes. Writing into a tensor is
    none, since that is a tensor operation.

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
        self._addresses = _addresses(self._reached)

    @classmethod
    def by_second(cls, call: Callable[[], Any], *things: Any) -> Untouched:
        """Compare before and after the second of two calls: the first one may initialize or cache."""
        call()
        untouched = cls(*things)
        call()
        return untouched

    def holds(self, *, strict: bool = True) -> bool:
        """Say whether nothing has changed, no random number was drawn in Python, and no module has hooks.

        If not `strict`, a tensor replaced by another is no change, and objects that cannot be compared and hooks are
        ignored.
        """
        _, now = _walk(self.things)
        if len(now) != len(self._reached) or self._states != _states():
            return False
        if strict and (len(now) > MOST or _addresses(now) != self._addresses or _any_hooked(now)):
            return False
        return all(_is_same(a, b, strict) for a, b in zip(now, self._reached, strict=True))

    def what_changed(self) -> str:
        """Say what has changed (not strictly), as a clause to be read after "it"; empty if nothing has."""
        if self.holds(strict=False):
            return ""
        for source, before, now in zip(_GENERATORS, self._states, _states(), strict=True):
            if before != now:
                return f"draws random numbers from {source} each time it is called"
        before = dict(zip(self._paths, self._reached, strict=True))
        now = dict(zip(*_walk(self.things), strict=True))
        paths = [*now, *(path for path in before if path not in now)]
        changed = (p for p in paths if not _is_same(now.get(p, _GONE), before.get(p, _GONE), strict=False))
        return _in_words(next(map(_as_code, changed), ""))


def is_hooked(module: nn.Module) -> bool:
    """Say whether this module itself has hooks, whatever its submodules have."""
    return any(getattr(module, f"_{kind}_hooks") for kind in HOOKS)


def _any_hooked(things: list[Any]) -> bool:
    everywhere = (getattr(torch_modules, f"_global_{kind}_hooks", None) for kind in HOOKS)
    return any(everywhere) or any(isinstance(thing, nn.Module) and is_hooked(thing) for thing in things)


def _walk(things: tuple[Any, ...]) -> tuple[list[Path], list[Any]]:
    """Return every object that things refer to, with its path; stop a little above `MOST` objects."""
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
            waiting.extend(((path, kind, name), value) for kind, name, value in inside(thing))
    return paths, reached


def _as_code(path: Path) -> str:
    """Return a path as Python code."""
    if not path:
        return ""
    before, kind, name = path
    return _as_code(before) + kind.format(repr(name) if kind == ITEM else name)


def reached_from(things: tuple[Any, ...]) -> list[Any]:
    """Return every object that things refer to, themselves included, up to a few more than `MOST`."""
    return _walk(things)[1]


def _in_words(path: str) -> str:
    """Say that the object at a path has changed, by the attribute or variable that holds it, as a user would write it.

    >>> _in_words("[0]._modules['encoder'].calls['n'][3]")
    "changes its attribute 'encoder.calls' each time it is called"
    """
    if used := re.findall(r"<((?:global )?variable) (\w+)>", path):
        kind, name = used[-1]
        return f"changes the {kind} {name!r} each time it is called"
    path = re.sub(r"<class \d+>", "", path)
    path = re.sub(r"\._modules\['([^']+)'\]", r".\1", re.sub(r"^\[\d+\]", "", path))
    name = re.match(r"(\.\w+)*", path)[0].removeprefix(".")  # type: ignore[index] # it always matches
    return f"changes its attribute {name!r} each time it is called" if name else "changes each time it is called"


_GONE = object()


def _is_same(a: Any, b: Any, strict: bool) -> bool:
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, NUMBERS):
        return bool(a == b)
    # containers are equal if their items are, which are visited, too
    return isinstance(a, CONTAINERS) or (not strict and isinstance(a, Tensor | Unknown))


def _addresses(reached: list[Any]) -> list[int | None]:
    return [_address(thing) for thing in reached if isinstance(thing, Tensor)]


def _address(tensor: Tensor) -> int | None:
    try:
        return tensor.data_ptr()
    except RuntimeError:  # a tensor kept from a call under torch.func.vmap has no memory of its own
        return None


_GENERATORS = ("Python's random module", "NumPy")


def _states() -> tuple[Any, Any]:
    """Return the states of the global generators named in `_GENERATORS`."""
    _, keys, *place = np.random.get_state(legacy=True)
    return random.getstate(), (np.asarray(keys).tobytes(), tuple(place))


def own_state(module: nn.Module) -> dict[str, Any]:
    """Return a module's attributes other than parameters, buffers and submodules."""
    return {name: value for name, value in own_attributes(module).items() if name != "_modules"}


def difference(a: Any, b: Any, known: Container[int] = ()) -> str | None:
    """Return the path to the first object that `a` refers to and that differs in `b`; None if all are equal.

    `known` are the ids of parameters, which are compared elsewhere.

    >>> difference({"scale": [0.5, torch.ones(2)]}, {"scale": [0.5, torch.ones(2)]})
    >>> difference({"order": torch.tensor([0, 1])}, {"order": torch.tensor([1, 0])})
    "[0]['order']"
    """
    (paths, ours), (_, theirs) = _walk((a,)), _walk((b,))
    for path, one, other in zip(paths, ours, theirs, strict=False):
        if not _is_alike(one, other, known):
            return _as_code(path)
    return None if len(ours) == len(theirs) else ""


def _is_alike(a: Any, b: Any, known: Container[int]) -> bool:
    if a is b or id(a) in known:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, NUMBERS):
        return bool(a == b or a != a)
    if isinstance(a, nn.Module):  # one kept in a list, say, so that its parameters are not registered
        return all(
            torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=False) if id(p) not in known
        )
    if isinstance(a, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | ((a != a) & (b != b))).all())
    return True
