"""The schedule that depends on the losses: recomputed from all losses so far, so that it needs no state."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from sklr.schedules._base import Clock, Schedule


@dataclass(frozen=True, repr=False)
class Plateau(Schedule):
    """Reduce the lr when the loss has stopped improving.

    After more than `patience` consecutive epochs without an improvement the multiplier is multiplied by
    `factor`; the `cooldown` epochs after that are not counted. It is equal to torch's `ReduceLROnPlateau`, but is
    computed from the whole history of the training, so that a continued training reduces the lr when an uninterrupted
    one would. It has no horizon. An epoch whose loss is NaN counts as one without improvement.

    Parameters
    ----------
    factor : float, default=0.1
        The factor of a reduction, at least 0 and below 1.
    patience : int, default=10
        Number of epochs without improvement that are tolerated.
    threshold : float, default=1e-4
        How much better than the best value an epoch must be to count as an improvement.
    threshold_mode : {"rel", "abs"}, default="rel"
        Whether `threshold` is relative to the best value or an absolute difference.
    cooldown : int, default=0
        Number of epochs after a reduction that are not counted.
    min_multiplier : float, default=0.0
        Lower bound of the multiplier.
    min_lr : float, default=0.0
        Lower bound of the lr itself, whatever its peak.
    eps : float, default=1e-8
        Reductions of the lr by no more than this are skipped.
    mode : {"min", "max"}, default="min"
        Whether lower or higher values of the monitored column are better.
    monitor : str, default="train_loss"
        The column of the net's history to monitor; "valid_loss" needs a validation split.

    Examples
    --------
    >>> plateau = Plateau(patience=1)
    >>> for losses in [(), (0.5,), (0.5, 0.5), (0.5, 0.5, 0.5)]:
    ...     print(plateau.epoch_multipliers(len(losses), steps_per_epoch=2, n_epochs=9, losses=losses))
    [1. 1.]
    [1. 1.]
    [1. 1.]
    [0.1 0.1]
    """

    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    threshold_mode: Literal["rel", "abs"] = "rel"
    cooldown: int = 0
    min_multiplier: float = 0.0
    min_lr: float = 0.0
    eps: float = 1e-8
    mode: Literal["min", "max"] = "min"
    monitor: str = "train_loss"

    def __post_init__(self) -> None:
        self._require("factor", "at least 0 and below 1", lambda factor: 0 <= factor < 1)
        for field in ("patience", "cooldown"):
            self._require(field, "an integer of at least 0", lambda n: n == int(n) >= 0)
        for field in ("threshold", "min_lr", "eps"):
            self._require(field, "a finite number of at least 0", lambda value: 0 <= value < math.inf)
        self._require("min_multiplier", "between 0 and 1", lambda value: 0 <= value <= 1)
        self._require("threshold_mode", "'rel' or 'abs'", lambda mode: mode in ("rel", "abs"))
        self._require("mode", "'min' or 'max'", lambda mode: mode in ("min", "max"))
        self._require("monitor", "the name of a column of the history", lambda name: isinstance(name, str) and name)

    def __call__(self, step: float, total: float) -> float:
        """Return 1, the multiplier without recorded losses; `at` uses the losses."""
        return 1.0

    def at(self, clock: Clock) -> float:
        return _replay(self, clock.losses, clock.lr)

    def monitored(self) -> str | None:
        return self.monitor

    def improves(self, value: float, best: float) -> bool:
        """Return whether `value` is better than `best` by more than the threshold.

        >>> Plateau().improves(0.99995, best=1.0), Plateau(mode="max").improves(1.1, best=1.0)
        (False, True)
        """
        sign = -1 if self.mode == "min" else 1
        margin = best * (1 + sign * self.threshold) if self.threshold_mode == "rel" else best + sign * self.threshold
        return value < margin if self.mode == "min" else value > margin


@lru_cache(maxsize=64)  # called with the same arguments for every step of an epoch
def _replay(plateau: Plateau, losses: tuple[float, ...], lr: float) -> float:
    multiplier, best, bad, cooldown = 1.0, math.inf if plateau.mode == "min" else -math.inf, 0, 0
    for loss in losses:
        if plateau.improves(loss, best):
            best, bad = loss, 0
        else:
            bad += 1
        if cooldown > 0:
            cooldown, bad = cooldown - 1, 0
        if bad > plateau.patience:
            multiplier, cooldown, bad = _reduced(plateau, multiplier, lr), plateau.cooldown, 0
    return multiplier


def _reduced(plateau: Plateau, multiplier: float, lr: float) -> float:
    floor = max(plateau.min_multiplier, plateau.min_lr / lr if lr > 0 else 0.0)
    reduced = max(multiplier * plateau.factor, floor)
    return reduced if (multiplier - reduced) * lr > plateau.eps else multiplier
