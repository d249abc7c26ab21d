"""The schedule that drops the learning rate at given epochs, or sets it in hand-made stages."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sklr.schedules._base import By, Schedule


@dataclass(frozen=True, repr=False)
class Steps(Schedule):
    r"""Multiply the lr by `gamma` at given epochs: :math:`m(s) = \gamma^{k}` after `k` drops.

    The drops are given by `milestones` (a sequence or a mapping) or by `step_size`. By default they are at one half
    and three quarters of the horizon, as in He et al. 2016 (arXiv:1512.03385, section 4.2). After the horizon, drops
    continue as given. It is equal to torch's `MultiStepLR` and `StepLR`.

    Parameters
    ----------
    milestones : sequence of int, or mapping of int to float, optional
        The epochs of the drops. A mapping defines stages: the multiplier from each epoch on (1 before the first).
        Stored as a tuple, for a mapping as a tuple of pairs.
    gamma : float, default=0.1
        The factor of a drop, at least 0; not used for stages.
    step_size : int, optional
        Drop every `step_size` epochs.
    by : {"epoch", "step"}, default="epoch"
        The unit of `milestones` and `step_size`.

    Examples
    --------
    >>> [Steps((2, 3), gamma=0.5)(epoch, 4) for epoch in (0, 1, 2, 3, 9)]
    [1.0, 1.0, 0.5, 0.25, 0.25]
    >>> [Steps(step_size=2, gamma=0.5)(epoch, 4) for epoch in (1, 2, 4)]
    [1.0, 0.5, 0.25]

    Thirty epochs at 0.03, then at 0.01, with a peak lr of 0.03:

    >>> stages = Steps({30: 1 / 3})
    >>> [round(0.03 * stages(epoch, 60), 4) for epoch in (0, 29, 30, 59, 99)]
    [0.03, 0.03, 0.01, 0.01, 0.01]
    """

    milestones: Any = None
    gamma: float = 0.1
    step_size: int | None = None
    by: By = "epoch"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("gamma", "a finite number of at least 0", lambda gamma: 0 <= gamma < math.inf)
        self._require("step_size", "an integer of at least 1 or None", lambda n: n is None or n == int(n) >= 1)
        self._require("step_size", "None where milestones are given", lambda n: n is None or self.milestones is None)
        rule = "increasing epochs of at least 0, or a mapping of such epochs to multipliers of at least 0"
        self._require("milestones", rule, lambda given: given is None or _are_milestones(given))
        if self.milestones is not None:
            object.__setattr__(self, "milestones", _as_tuple(self.milestones))

    def __call__(self, step: float, total: float) -> float:
        if self.step_size is not None:
            return self.gamma ** (step // self.step_size)
        default = (total / 2, 3 * total / 4)
        milestones: tuple[Any, ...] = default if self.milestones is None else self.milestones
        if not _are_stages(milestones):
            return self.gamma ** bisect_right(milestones, step)
        stage = bisect_right([epoch for epoch, _ in milestones], step)
        return float(milestones[stage - 1][1]) if stage else 1.0


def _as_tuple(milestones: Mapping[int, float] | Sequence[Any]) -> tuple[Any, ...]:
    pairs = milestones.items() if isinstance(milestones, Mapping) else milestones
    return tuple(tuple(pair) if isinstance(pair, Sequence) else pair for pair in pairs)


def _are_stages(milestones: tuple[Any, ...]) -> bool:
    return bool(milestones) and isinstance(milestones[0], tuple)


def _are_milestones(given: Mapping[int, float] | Sequence[Any]) -> bool:
    entries = _as_tuple(given)
    epochs = [epoch for epoch, _ in entries] if _are_stages(entries) else list(entries)
    multipliers = [multiplier for _, multiplier in entries] if _are_stages(entries) else []
    # equal neighbours are allowed: torch's MultiStepLR accepts an epoch twice, for two drops at once
    increasing = epochs == sorted(epochs) and all(0 <= epoch < math.inf for epoch in epochs)
    return increasing and all(0 <= multiplier < math.inf for multiplier in multipliers)
