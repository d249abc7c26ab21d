"""Candidates that can share stacks, set up in every cell: the result of `prepare`, from which stacks are built."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from sklr.engines.stacked.data.cell_rows import CellRows
from sklr.engines.stacked.data.index_batches import n_batches
from sklr.engines.stacked.model.dropout import stop_inner_dropout
from sklr.engines.stacked.model.member import Member, PackCell
from sklr.engines.stacked.model.stack import ModelStack
from sklr.experiment.cell_data import CellData, Head, cell_data
from sklr.experiment.experiment import Cell, Experiment


class GroupCell(NamedTuple):
    """One cell of a group: an estimator set up in it, its rows, and the net and rows that enter the stack.

    Parameters
    ----------
    experiment : Experiment
    number : int
        The cell's place in `experiment.cells`.
    estimator : estimator
        A clone of the user's estimator, set up in this cell; stands for the runs of all candidates.
    head : Head or None
        What is around the net (pipelines, target transformers), fitted, with the rows that reach the net. None for a
        bare net, whose rows are copied out of the whole data when they are needed.
    subject : estimator
        What scorers are given: the net or the estimator around it.
    pack_cell : PackCell
    x_test : CellRows
        The validation rows.
    seconds : float
        How long fitting the head took, 0 for a bare net.
    """

    experiment: Experiment
    number: int
    estimator: Any
    head: Head | None
    subject: Any
    pack_cell: PackCell
    x_test: CellRows
    seconds: float

    @property
    def cell(self) -> Cell:
        """The fold and the seed."""
        return self.experiment.cells[self.number]

    @property
    def train_data(self) -> CellData:
        """The rows as the net is given them, without the validation rows for a bare net."""
        return self._raw(test=False) if self.head is None else self.head.data

    @property
    def test_data(self) -> CellData:
        """The same, without the training rows for a bare net."""
        return self._raw(train=False) if self.head is None else self.head.data

    def score_data(self, *, rows: bool) -> CellData:
        """Return the rows as `subject` is given them, for a bare net without those of training, or without any."""
        if self.head is None:
            return self._raw(train=False, test=rows)
        return self._raw() if self.subject is self.estimator else self.head.scored

    def _raw(self, *, train: bool = True, test: bool = True) -> CellData:
        return cell_data(self.experiment, self.cell, self.estimator, train=train, test=test)


class StackSetup(NamedTuple):
    """The set-up that the candidates of a group share: cells of the same shapes, and the arguments of `ModelStack`."""

    group_cells: list[GroupCell]
    stack_args: dict[str, Any]
    audited: set[Any]  # kinds of candidates that the audit has compared; see `kinds_of`


class Group(NamedTuple):
    """Candidates that can share stacks, in cells of the same shapes.

    `thread_safe` says whether several threads may train such stacks (see `Traits.thread_safe`), `steady` whether every
    optimizer step is the same operations (see `is_steady`).
    """

    members: list[Member]
    optimizer_kwargs: list[dict[str, Any]]
    group_cells: list[GroupCell]
    stack_args: dict[str, Any]
    max_epochs: int
    thread_safe: bool = False
    steady: bool = False

    @property
    def n_steps(self) -> int:
        """The number of optimizer steps of a whole run."""
        return n_batches(self.group_cells[0].pack_cell.epochs)

    @property
    def device(self) -> torch.device:
        """The device to train on."""
        return torch.device(self.group_cells[0].pack_cell.net.device)

    def build(self, chosen: Sequence[int], *, dropout: bool = True) -> ModelStack:
        """Build a stack of some of the members.

        Without dropout it must be run within `WithoutDropout`, which does not reach into attention and recurrent
        layers: theirs is set to 0 here.
        """
        modules = [group_cell.pack_cell.net.module_ for group_cell in self.group_cells]
        args = self.stack_args
        if not dropout:
            modules = [stop_inner_dropout(copy.deepcopy(module)) for module in modules]
            args = {**args, "traits": None}  # those of a module with dropout do not fit
        kwargs = [self.optimizer_kwargs[i] for i in chosen]
        seed = self.group_cells[0].pack_cell.seed  # same dropout in all packs, however they are divided
        return ModelStack(modules, len(chosen), optimizer_kwargs=kwargs, seed=seed, **args)

    def only(self, chosen: Sequence[int]) -> Group:
        """Return a group of some of the members, given by their positions."""
        members, kwargs = [self.members[i] for i in chosen], [self.optimizer_kwargs[i] for i in chosen]
        return self._replace(members=members, optimizer_kwargs=kwargs)


class Prepared(NamedTuple):
    """The groups that can be stacked, and the reasons of the other candidates by number."""

    groups: list[Group]
    refused: dict[int, list[str]]
