"""Candidates that can share stacks, set up in every cell: what `prepare` makes, and stacks are built from."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from sklr.engines.stacked.data.cell_rows import CellRows
from sklr.engines.stacked.data.index_batches import n_batches
from sklr.engines.stacked.model.dropout import stop_attention_dropout
from sklr.engines.stacked.model.pack import Member, PackCell
from sklr.engines.stacked.model.stack import ModelStack
from sklr.experiment.cell_data import CellData, Head, cell_data
from sklr.experiment.experiment import Cell, Experiment


class GroupCell(NamedTuple):
    """One cell of a group, by its number: the estimator that stands for it, its rows, and how it enters the stack."""

    experiment: Experiment
    number: int
    estimator: Any
    head: Head | None  # what is around the net, with the rows behind it; other rows are taken when they are asked for
    subject: Any
    pack_cell: PackCell
    x_test: CellRows
    seconds: float

    @property
    def cell(self) -> Cell:
        """The fold and the seed."""
        return self.experiment.cells[self.number]

    @property
    def data(self) -> CellData:
        """The rows as the net takes them, copied out of all rows."""
        return self._raw(train=True) if self.head is None else self.head.data

    @property
    def test_data(self) -> CellData:
        """The same without the rows to train on."""
        return self._raw(train=False) if self.head is None else self.head.data

    @property
    def score_data(self) -> CellData:
        """The rows as what is scored takes them; without those to train on where the net is all there is."""
        if self.head is None:
            return self._raw(train=False)
        return self._raw(train=True) if self.subject is self.estimator else self.head.scored

    def _raw(self, *, train: bool) -> CellData:
        return cell_data(self.experiment, self.cell, self.estimator, train=train)


class StackSetup(NamedTuple):
    """What all candidates of a group find: cells of the same shapes, and how stacks are to be built in them."""

    group_cells: list[GroupCell]
    stack_args: dict[str, Any]
    audited: set[Any]  # kinds of candidates; see `kinds_of`


class Group(NamedTuple):
    """Candidates that can share stacks in the cells of one shape; `steady` if their optimizer always does the same."""

    members: list[Member]
    optimizer_kwargs: list[dict[str, Any]]
    group_cells: list[GroupCell]
    stack_args: dict[str, Any]
    max_epochs: int
    thread_safe: bool = False
    steady: bool = False

    @property
    def n_steps(self) -> int:
        """How many steps a run takes."""
        return n_batches(self.group_cells[0].pack_cell.epochs)

    @property
    def device(self) -> torch.device:
        """Where it is trained."""
        return torch.device(self.group_cells[0].pack_cell.net.device)

    def build(self, chosen: Sequence[int], *, dropout: bool = True) -> ModelStack:
        """Make the stack of some of the members; without dropout, it is for `WithoutDropout` alone."""
        modules = [group_cell.pack_cell.net.module_ for group_cell in self.group_cells]
        args = self.stack_args
        if not dropout:
            modules = [stop_attention_dropout(copy.deepcopy(module)) for module in modules]
            args = {**args, "traits": None}
        kwargs = [self.optimizer_kwargs[i] for i in chosen]
        seed = self.group_cells[0].pack_cell.seed  # the same in all packs: how candidates are packed changes nothing
        return ModelStack(modules, len(chosen), optimizer_kwargs=kwargs, seed=seed, **args)

    def only(self, chosen: Sequence[int]) -> Group:
        """Return the group of some of the members, by their places in this one."""
        members, kwargs = [self.members[i] for i in chosen], [self.optimizer_kwargs[i] for i in chosen]
        return self._replace(members=members, optimizer_kwargs=kwargs)


class Prepared(NamedTuple):
    """What can be stacked, and why the other candidates cannot, by number."""

    groups: list[Group]
    refused: dict[int, list[str]]
