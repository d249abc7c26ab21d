"""Which optimizers can step runs of several learning rates at once, and where their weight decay enters.

A step at lr=1 is taken for all runs and scaled by each run's own learning rate. That is exact for an optimizer whose
step is elementwise and proportional to the learning rate, and whose weight decay is a term of the gradient or of the
step. `tests/engines/stacked/test_optimizers.py` holds the table to PyTorch; the audit compares each search.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

# whether every step is the same operations with the same numbers; the others read the number of the step in Python
_STEADY = {
    torch.optim.SGD: True,
    torch.optim.Adam: True,
    torch.optim.AdamW: True,
    torch.optim.RMSprop: True,
    torch.optim.Adadelta: True,
    torch.optim.Adagrad: False,
    torch.optim.Adamax: False,
    torch.optim.NAdam: False,
    torch.optim.RAdam: False,
}
_STEADY_IF_FUSED = (torch.optim.Adam, torch.optim.AdamW)


def optimizer_reasons(optimizer: type) -> list[str]:
    """Say why runs cannot share this optimizer; empty means that they can.

    >>> optimizer_reasons(torch.optim.AdamW)
    []
    >>> optimizer_reasons(torch.optim.Rprop)  # doctest: +ELLIPSIS
    ['optimizer Rprop: its step is not known to be elementwise and proportional to lr, so ...']
    """
    if optimizer in _STEADY:
        return []
    name = getattr(optimizer, "__name__", repr(optimizer))
    if not f"{optimizer.__module__}.".startswith("torch.optim."):
        return [f"{name} is not one of PyTorch's own optimizers, whose steps are known to be alike for all runs"]
    return [
        f"optimizer {name}: its step is not known to be elementwise and proportional to lr, so runs of several lrs "
        "cannot share it"
    ]


def decay_form(optimizer: type, kwargs: Mapping[str, Any]) -> str:
    """Return how weight decay enters: "coupled" to the gradient, "opposed" (the gradient is negated) or "decoupled".

    >>> decay_form(torch.optim.SGD, {"maximize": True}), decay_form(torch.optim.AdamW, {})
    ('opposed', 'decoupled')
    """
    if optimizer is torch.optim.AdamW or kwargs.get("decoupled_weight_decay"):
        return "decoupled"
    return "opposed" if kwargs.get("maximize") else "coupled"


def is_steady(optimizer: type, kwargs: Mapping[str, Any]) -> bool:
    """Say whether every step is the same operations with the same numbers, so that one can be recorded for all.

    >>> is_steady(torch.optim.Adam, {}), is_steady(torch.optim.NAdam, {})
    (True, False)
    """
    return _STEADY[optimizer] and not (optimizer in _STEADY_IF_FUSED and kwargs.get("foreach"))
