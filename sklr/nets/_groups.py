"""Parameter groups of a net's optimizer: their `lr_multiplier`, relative to the net's lr, and the shared options."""

from __future__ import annotations

import math
from typing import Any

from sklr._utils.validation import must_be


def is_option(name: str) -> bool:
    """Whether a net's parameter is an optimizer option for all groups; skorch addresses a single group by its number.

    >>> [is_option(name) for name in ("lr", "optimizer__momentum", "optimizer__param_groups__0__lr", "optimizer")]
    [True, True, False, False]
    """
    return name == "lr" or (name.startswith("optimizer__") and "__" not in name.removeprefix("optimizer__"))


def check_multipliers(groups: list[dict[str, Any]]) -> None:
    """Raise a ValueError if an `lr_multiplier` is not a finite number >= 0, or a group also sets its lr."""
    for group in groups:
        multiplier = group.get("lr_multiplier", 1)
        if isinstance(multiplier, bool) or not isinstance(multiplier, int | float) or not 0 <= multiplier < math.inf:
            raise ValueError(must_be("lr_multiplier of a parameter group", "a finite number >= 0", multiplier))
        if "lr_multiplier" in group and "lr" in group:
            raise ValueError(must_be("a parameter group", "given lr or lr_multiplier", "both", "Leave one out."))


def scale_groups(groups: list[dict[str, Any]], lr: Any) -> None:
    """Set the lr of the groups that have an `lr_multiplier`, in place."""
    for group in groups:
        if "lr_multiplier" in group:
            group["lr"] = lr * group["lr_multiplier"]
