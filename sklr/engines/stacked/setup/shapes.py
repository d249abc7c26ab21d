"""Cells that can share a stack: the folds of a pipeline may differ in their numbers of columns or classes."""

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
from sklr.engines.stacked.model.group import GroupCell


def by_shape(group_cells: Sequence[GroupCell]) -> list[list[GroupCell]]:
    """Group the cells whose modules and rows have the same shapes and dtypes, in their order."""
    groups: dict[str, list[GroupCell]] = {}
    for group_cell in group_cells:
        groups.setdefault(repr(list(_shapes(group_cell))), []).append(group_cell)
    return list(groups.values())


def with_shared_rows(group_cells: Sequence[GroupCell]) -> list[GroupCell]:
    """Return cells of one shape with rows in tensors that all of them share, so that packs need no copies."""
    streamed = group_cells[0].pack_cell.stream is not None
    x = (
        [group_cell.pack_cell.x for group_cell in group_cells]
        if streamed
        else laid_end_to_end([group_cell.pack_cell.x for group_cell in group_cells])
    )
    tests = laid_end_to_end([group_cell.x_test for group_cell in group_cells])
    return [
        group_cell._replace(pack_cell=group_cell.pack_cell._replace(x=own), x_test=test)
        for group_cell, own, test in zip(group_cells, x, tests, strict=True)
    ]


def _shapes(group_cell: GroupCell) -> Iterator[Any]:
    pack_cell = group_cell.pack_cell
    yield from (_layers(module) for module in (pack_cell.net.module_, pack_cell.net.criterion_))
    yield _items(group_cell.x_test.tensors)
    if pack_cell.stream is None:  # batches that are read may differ in shape
        yield from map(_items, (pack_cell.x.tensors, pack_cell.y))


def _layers(module: nn.Module) -> list[Any]:
    parameters = [(name, _shape(p), p.dtype, p.requires_grad) for name, p in module.named_parameters()]
    buffers = [(name, _shape(b), b.dtype) for name, b in module.named_buffers()]
    return [*parameters, *buffers, *((name, kind_of(layer)) for name, layer in module.named_modules())]


def _shape(tensor: Tensor) -> torch.Size | None:
    return None if is_lazy(tensor) else tensor.shape


def _items(rows: Rows) -> list[Any]:
    tensors, structure = tree_flatten(rows)
    return [structure, *((t.shape[1:], t.dtype) for t in tensors)]
