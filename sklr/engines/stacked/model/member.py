"""What a pack is made of: its cells, and its members."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from skorch import NeuralNet
from torch import Tensor

from sklr.engines.stacked.data.cell_rows import CellRows
from sklr.engines.stacked.data.index_batches import Epoch, Rows
from sklr.engines.stacked.data.stream import CellStream
from sklr.engines.stacked.model.held import Held
from sklr.schedules import Schedule


class PackCell(NamedTuple):
    """One cell as a pack needs it: an initialized net, its rows, and the batches of each epoch.

    Parameters
    ----------
    net : NeuralNet
    epochs : sequence of Epoch
        The batches of each epoch, as row numbers; with a `stream` only their sizes count.
    x, y : rows
        The training rows; with a `stream` its first batch.
    weight : Tensor (n_rows,) or None
        Sample weights.
    seed : int
        Seed of the net's random stream.
    stream : CellStream or None
        Where batches are read from, if the rows are not held in memory.
    held : Held or None
        The rows that the net's `train_split` holds out.
    """

    net: NeuralNet
    epochs: Sequence[Epoch]
    x: CellRows
    y: Rows
    weight: Tensor | None
    seed: int
    stream: CellStream | None = None
    held: Held | None = None


class Member(NamedTuple):
    """A candidate in its pack: what distinguishes it from the other members, besides the optimizer's arguments.

    Parameters
    ----------
    candidate : int
        Its number among all candidates.
    lr : float
        Peak learning rate.
    lrs : tuple of float
        Peak learning rates of the parameter groups.
    schedule : Schedule
    schedule_epochs : int
        The horizon of the schedule, in epochs.
    """

    candidate: int
    lr: float
    lrs: tuple[float, ...]
    schedule: Schedule
    schedule_epochs: int
