"""The optimizations of a stack's steps ("lanes"), each of which can be switched off to measure its benefit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from sklr.engines.stacked.checks import module_probe
from sklr.engines.stacked.replay import replay

Patch = tuple[Any, str, Any]  # object, attribute, and the attribute's value while a lane is switched off


def _traits(**changes: Any) -> list[Patch]:
    examine = module_probe.examine

    def changed(*args: Any) -> Any:
        return replace(examine(*args), **changes)

    return [(module_probe, "examine", changed)]


LANES: dict[str, Callable[[], list[Patch]]] = {
    "mlp": partial(_traits, chain=None, eval_chain=None),  # chains of layers as batched products, without autograd
    "blocks": partial(_traits, bytes_per_row=0.0),  # runs block by block, so that what they compute stays in a cache
    "replay": lambda: [(replay, "WORTH_STEPS", float("inf"))],  # recorded steps, replayed without Python
}


@contextmanager
def switched_off(names: Sequence[str]) -> Iterator[None]:
    """Switch these lanes off within this context."""
    before: list[Patch] = []
    try:
        for name in names:
            for thing, attribute, value in LANES[name]():
                before.append((thing, attribute, getattr(thing, attribute)))
                setattr(thing, attribute, value)
        yield
    finally:
        for thing, attribute, value in reversed(before):
            setattr(thing, attribute, value)
