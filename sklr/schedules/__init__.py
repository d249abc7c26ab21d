"""Learning-rate schedules as values: frozen dataclasses that map a moment of the training to a multiplier.

`_base.py` says what a schedule is, `_formulas.py` and `_steps.py` hold those that are one formula,
`_plateau.py` the one that listens to the losses, `_compose.py` those made of others, `_torch.py` wraps
PyTorch's, and `_resolve.py` turns what a user writes into one of them. Nothing here touches an optimizer;
that is the callback's work.
"""

from sklr.schedules._base import Clock, Schedule, progress
from sklr.schedules._compose import Join, Warmup
from sklr.schedules._formulas import (
    WSD,
    Constant,
    Cosine,
    Exponential,
    InverseSqrt,
    LambdaSchedule,
    Linear,
    OneCycle,
)
from sklr.schedules._plateau import Plateau
from sklr.schedules._resolve import SCHEDULES, resolve_schedule
from sklr.schedules._steps import Steps
from sklr.schedules._torch import TorchSchedule

__all__ = [
    "SCHEDULES",
    "WSD",
    "Clock",
    "Constant",
    "Cosine",
    "Exponential",
    "InverseSqrt",
    "Join",
    "LambdaSchedule",
    "Linear",
    "OneCycle",
    "Plateau",
    "Schedule",
    "Steps",
    "TorchSchedule",
    "Warmup",
    "progress",
    "resolve_schedule",
]
