"""skorch callbacks that schedule the learning rate and the batch size, clip gradients, and stop or resume training."""

from sklr.callbacks._batch_size import BatchSizeSchedule
from sklr.callbacks._clipping import GradientClipping
from sklr.callbacks._epochs import finished_epochs
from sklr.callbacks._resume import Resume
from sklr.callbacks._schedule import LRSchedule
from sklr.callbacks._stop import EarlyStopping, StopOnDivergence

__all__ = [
    "BatchSizeSchedule",
    "EarlyStopping",
    "GradientClipping",
    "LRSchedule",
    "Resume",
    "StopOnDivergence",
    "finished_epochs",
]
