"""Restores, after a module was tried out, the state that its copies share: class attributes, closures and globals."""

from __future__ import annotations

import random
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from sklr.engines.stacked.purity.reach import NUMBERS, globals_of, inside
from sklr.engines.stacked.purity.untouched import reached_from


@contextmanager
def shared_state_kept(*things: Any) -> Iterator[None]:
    """Restore counters, lists and random generators that things refer to but that `deepcopy` does not copy.

    So a module that counts its calls in its class continues from the count before the trials.

    >>> calls = []
    >>> with shared_state_kept(calls):
    ...     calls.append(1)
    >>> calls
    []
    """
    ways_back = [way for thing in reached_from(things) for way in _ways_back(thing)]
    try:
        yield
    finally:
        for way in ways_back:
            way()


def _ways_back(thing: Any) -> list[Callable[[], Any]]:
    """Return functions that set an object's numbers, or its random state, back to what they are now."""
    if isinstance(thing, list):
        return [partial(thing.__setitem__, slice(None), list(thing))]
    if isinstance(thing, dict):
        return [partial(_put_back, thing, _numbers(thing), thing.__setitem__, thing.__delitem__)]
    if isinstance(thing, types.FunctionType):
        cells = [cell for cell in thing.__closure__ or () if cell != types.CellType()]
        own = [partial(setattr, c, "cell_contents", c.cell_contents) for c in cells if _is_number(c.cell_contents)]
        return [*own, partial(thing.__globals__.update, _numbers(globals_of(thing)))]
    if isinstance(thing, random.Random):
        return [partial(thing.setstate, thing.getstate())]
    if isinstance(thing, np.random.Generator):
        return [partial(setattr, thing.bit_generator, "state", thing.bit_generator.state)]
    if isinstance(thing, torch.Generator):
        return [partial(thing.set_state, thing.get_state())]
    is_shared = bool(inside(thing)) if isinstance(thing, type | types.ModuleType) else not isinstance(thing, nn.Module)
    if not is_shared or not hasattr(thing, "__dict__"):
        return []
    put, drop = partial(setattr, thing), partial(delattr, thing)
    return [partial(_put_back, vars(thing), _numbers(vars(thing)), put, drop)]


def _put_back(
    held: Mapping[Any, Any],
    before: Mapping[Any, Any],
    put: Callable[[Any, Any], None],
    drop: Callable[[Any], None],
) -> None:
    now = _numbers(held)
    for name in now.keys() - before.keys():
        drop(name)
    for name, value in before.items():
        if now.get(name, _GONE) is not value:
            put(name, value)


_GONE = object()


def _numbers(held: Mapping[Any, Any]) -> dict[Any, Any]:
    return {name: value for name, value in held.items() if _is_number(value)}


def _is_number(value: Any) -> bool:
    return isinstance(value, NUMBERS)
