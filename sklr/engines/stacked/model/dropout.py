"""Dropout left out, on both sides of a comparison: a stack and a single net draw different masks."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

_DROPOUTS = (
    nn.functional.dropout, nn.functional.dropout1d, nn.functional.dropout2d, nn.functional.dropout3d,
    nn.functional.alpha_dropout, nn.functional.feature_alpha_dropout, torch.dropout,
)  # fmt: skip


class WithoutDropout(TorchFunctionMode):
    """Within it, dropout does nothing.

    >>> with WithoutDropout():
    ...     nn.functional.dropout(torch.ones(3), 0.5)
    tensor([1., 1., 1.])
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _DROPOUTS:
            return args[0] if args else (kwargs or {})["input"]
        if func is nn.functional.scaled_dot_product_attention:
            args, kwargs = (*args[:4], 0.0, *args[5:]) if len(args) > 4 else args, {**(kwargs or {})}
            if len(args) <= 4:
                kwargs["dropout_p"] = 0.0
        return func(*args, **(kwargs or {}))


def stop_attention_dropout(module: nn.Module) -> nn.Module:
    """Let attention layers, whose dropout is out of a mode's sight, drop nothing; return the module."""
    for layer in module.modules():
        if isinstance(layer, nn.MultiheadAttention):
            layer.dropout = 0.0
    return module
