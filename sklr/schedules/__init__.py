"""Learning-rate schedules as values: frozen dataclasses that map the position in a training to a multiplier.

`_base.py` has the base class, `_formulas.py` and `_steps.py` the schedules that are a formula of the step,
`_plateau.py` the one that depends on the losses, `_compose.py` those that combine others, `_torch.py` wraps
PyTorch's, and `_resolve.py` converts a user's argument into a schedule. Nothing here changes an optimizer; the
callback `sklr.callbacks.LRSchedule` does.
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
