"""Cells that can share a stack: where what is fitted on a fold decides how many columns or classes there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_flatten

from sklr.engines.stacked.checks.nets import kind_of
from sklr.engines.stacked.data.cell_rows import laid_end_to_end
from sklr.engines.stacked.data.index_batches import Rows
from sklr.engines.stacked.model.group import Place


def by_shape(places: Sequence[Place]) -> list[list[Place]]:
    """Return the cells whose modules and rows are of the same shapes together, in their order."""
    groups: dict[str, list[Place]] = {}
    for place in places:
        groups.setdefault(repr(list(_shapes(place))), []).append(place)
    return list(groups.values())


def with_shared_rows(places: Sequence[Place]) -> list[Place]:
    """Return cells of one shape with rows that lie in the same tensors: each pack of them then needs no copies."""
    streamed = places[0].side.stream is not None
    x = [place.side.x for place in places] if streamed else laid_end_to_end([place.side.x for place in places])
    tests = laid_end_to_end([place.x_test for place in places])
    return [
        place._replace(side=place.side._replace(x=own), x_test=test)
        for place, own, test in zip(places, x, tests, strict=True)
    ]


def _shapes(place: Place) -> Iterator[Any]:
    side = place.side
    yield from (_layers(module) for module in (side.net.module_, side.net.criterion_))
    yield _items(place.x_test.tensors)
    if side.stream is None:  # the shapes of batches that are read may differ from batch to batch
        yield from map(_items, (side.x.tensors, side.y))


def _layers(module: nn.Module) -> list[Any]:
    parameters = [(name, _shape(p), p.dtype, p.requires_grad) for name, p in module.named_parameters()]
    buffers = [(name, _shape(b), b.dtype) for name, b in module.named_buffers()]
    return [*parameters, *buffers, *((name, kind_of(layer)) for name, layer in module.named_modules())]


def _shape(tensor: Tensor) -> torch.Size | None:
    return None if is_lazy(tensor) else tensor.shape


def _items(rows: Rows) -> list[Any]:
    tensors, structure = tree_flatten(rows)
    return [structure, *((t.shape[1:], t.dtype) for t in tensors)]
