"""Several CUDA devices: packs are assigned to them in turn, with copies of their group's nets and rows."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from skorch import NeuralNet
from torch import nn

from sklr.engines.stacked.data.cell_rows import CellRows
from sklr.engines.stacked.data.index_batches import Rows, map_tensors
from sklr.engines.stacked.model.group import Group, GroupCell
from sklr.experiment.wrappers import fitted_around, without_pipelines


def devices(group: Group) -> list[torch.device]:
    """Return the devices on which packs of this group may be trained, its own first.

    A net with ``device="cuda"``, without an index, may be trained on any CUDA device; all others stay where they are.
    """
    own = group.device
    if own.type != "cuda" or own.index is not None:
        return [own]
    current = torch.cuda.current_device()
    return [own, *(torch.device("cuda", i) for i in range(torch.cuda.device_count()) if i != current)]


def on_devices(packs: Iterable[tuple[Group, list[int]]], turns: Iterator[int]) -> Iterator[tuple[Group, list[int]]]:
    """Yield packs, each with its group on the device whose turn it is.

    On the group's own device that is the group itself, on another device a copy, made when it is first needed.
    """
    moved: dict[tuple[int, torch.device], Group] = {}
    for (group, chosen), turn in zip(packs, turns, strict=False):
        places = devices(group)
        device = places[turn % len(places)]
        if device == places[0]:
            yield group, chosen
            continue
        if (id(group), device) not in moved:
            moved[id(group), device] = _moved(group, device)
        yield moved[id(group), device], chosen


def _moved(group: Group, device: torch.device) -> Group:
    x, y = (map_tensors(lambda t: t.to(device), rows) for rows in group.stack_args["example"])
    criterion = group.stack_args["criterion"]
    if isinstance(criterion, nn.Module):
        criterion = copy.deepcopy(criterion).to(device)
    # traits depend on the device: a stack examines the module again where there are none
    stack_args = {**group.stack_args, "example": (x, y), "criterion": criterion, "traits": None}
    known: dict[int, Any] = {}  # by id: tensors that cells share are copied once
    group_cells = [_moved_cell(own, device, known) for own in group.group_cells]
    return group._replace(group_cells=group_cells, stack_args=stack_args)


def _moved_cell(group_cell: GroupCell, device: torch.device, known: dict[int, Any]) -> GroupCell:
    def moved(rows: CellRows) -> CellRows:
        if id(rows.tensors) not in known:
            known[id(rows.tensors)] = map_tensors(lambda t: t.to(device), rows.tensors)
        return rows._replace(tensors=known[id(rows.tensors)])

    def there(rows: Rows) -> Rows:
        return None if rows is None else map_tensors(lambda t: t.to(device), rows)

    net, pack_cell, held = _twin(group_cell.pack_cell.net, device), group_cell.pack_cell, group_cell.pack_cell.held
    estimator = fitted_around(group_cell.estimator, group_cell.estimator, net)
    if held is not None:
        fold = moved(held.fold[0]), there(held.fold[1])
        held = held._replace(x=moved(held.x), y=there(held.y), weight=there(held.weight), fold=fold)
    pack_cell = pack_cell._replace(
        net=net, x=moved(pack_cell.x), y=there(pack_cell.y), weight=there(pack_cell.weight), held=held
    )
    subject = estimator if group_cell.subject is group_cell.estimator else without_pipelines(estimator)
    return group_cell._replace(
        estimator=estimator, subject=subject, pack_cell=pack_cell, x_test=moved(group_cell.x_test)
    )


def _twin(net: NeuralNet, device: torch.device) -> NeuralNet:
    """Return the net with copies of its module and criterion on a device; everything else is shared."""
    twin = object.__new__(type(net))
    vars(twin).update(
        vars(net),
        module_=copy.deepcopy(net.module_).to(device),
        criterion_=copy.deepcopy(net.criterion_).to(device),
    )
    twin.device = str(device)
    return twin
