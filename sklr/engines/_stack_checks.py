"""What keeps nets that are set up from sharing a stack, and can be told by looking at them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from skorch import NeuralNet
from torch import nn

from sklr.engines._batches import Rows
from sklr.engines._pack import Side
from sklr.engines._refusals import Unstackable
from sklr.engines._stack_loss import StackedLoss
from sklr.engines._untouched import is_alike, own_state


def infer(net: NeuralNet, x: Rows) -> Rows:
    """Return what the net's module says to a batch in evaluation mode; it is left in training mode."""
    net._set_training(False)
    with torch.no_grad():
        outputs = net.infer(x)
    net._set_training(True)
    return outputs


def state_reasons(nets: Sequence[NeuralNet]) -> list[str]:
    """Say what a stack would leave out of nets of the same kind, one per cell.

    A stack has each net's parameters and buffers, and one module that they are put into: hooks on parameters are not
    called, and what else the modules hold must be the same.
    """
    module, criterion = nets[0].module_, nets[0].criterion_
    reasons = [f"the parameter {name!r} has hooks" for name, p in module.named_parameters() if _is_hooked(p)]
    if any(p.requires_grad for p in criterion.parameters()):
        reasons.append("the criterion has parameters of its own to learn")
    for part in ("module_", "criterion_"):
        others = [getattr(net, part) for net in nets[1:]]
        if name := _differing(getattr(nets[0], part), others):
            reasons.append(f"{name} holds something besides parameters and buffers that differs from fold to fold")
    return reasons


def _is_hooked(p: nn.Parameter) -> bool:
    return bool(getattr(p, "_backward_hooks", None) or getattr(p, "_post_accumulate_grad_hooks", None))


def _differing(first: Any, others: Sequence[Any]) -> str:
    """Return the class of the layer whose attributes are not the same in all modules; empty if there is none."""
    for one, *same in zip(first.modules(), *(other.modules() for other in others), strict=False):
        if any(type(one) is not type(other) or not is_alike(own_state(one), own_state(other)) for other in same):
            return type(one).__name__
    return ""


def check_sample_weights(loss: StackedLoss, net: NeuralNet, sides: Sequence[Side]) -> None:
    """Refuse sample weights that the loss has no place for."""
    if not loss.takes_weights and any(side.weight is not None for side in sides):
        raise Unstackable(f"sample_weight has no place in {type(net.criterion_).__name__}, a loss of whole batches")
