"""Which optimizers can step runs with different learning rates at once, and how their weight decay works.

One step at lr=1 is taken for all runs, and each run's update is scaled by its own learning rate. That is exact for an
optimizer whose update is elementwise and proportional to the learning rate, and whose weight decay is added to the
gradient or to the update. `tests/engines/stacked/test_optimizers.py` checks the table against PyTorch, and the audit
compares every search with plain nets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

# True if every step is the same operations with the same constants; the others read the step count in Python
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
    """Return why runs cannot share this optimizer; empty means that they can.

    >>> optimizer_reasons(torch.optim.AdamW)
    []
    >>> optimizer_reasons(torch.optim.Rprop)  # doctest: +ELLIPSIS
    ['optimizer Rprop: its step is not known to be elementwise and proportional to lr, so ...']
    """
    if optimizer in _STEADY:
        return []
    name = getattr(optimizer, "__name__", repr(optimizer))
    if not f"{optimizer.__module__}.".startswith("torch.optim."):
        return [
            f"{name} is not one of PyTorch's own optimizers: its step may not be elementwise and proportional to lr"
        ]
    return [
        f"optimizer {name}: its step is not known to be elementwise and proportional to lr, so runs of several lrs "
        "cannot share it"
    ]


def decay_form(optimizer: type, kwargs: Mapping[str, Any]) -> str:
    """Return how weight decay works: "coupled" (added to the gradient), "opposed" (subtracted) or "decoupled".

    PyTorch negates the gradient for `maximize=True` before it adds the decay: seen from the gradient as it was, the
    decay is subtracted. Decoupled decay shrinks the parameters themselves, as in AdamW.

    >>> decay_form(torch.optim.SGD, {"maximize": True}), decay_form(torch.optim.AdamW, {})
    ('opposed', 'decoupled')
    """
    if optimizer is torch.optim.AdamW or kwargs.get("decoupled_weight_decay"):
        return "decoupled"
    return "opposed" if kwargs.get("maximize") else "coupled"


def is_steady(optimizer: type, kwargs: Mapping[str, Any]) -> bool:
    """Return whether every step is the same operations with the same constants, so that one can be recorded for all.

    Adam and AdamW with `foreach=True` are not: unlike their fused form, it reads the step count in Python.

    >>> is_steady(torch.optim.Adam, {}), is_steady(torch.optim.NAdam, {})
    (True, False)
    """
    return _STEADY[optimizer] and not (optimizer in _STEADY_IF_FUSED and kwargs.get("foreach"))
