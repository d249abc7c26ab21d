"""Switching dropout off in a comparison of a stack with a single net, which draw different masks."""

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
    """Within this mode, dropout returns its input.

    >>> with WithoutDropout():
    ...     nn.functional.dropout(torch.ones(3), 0.5)
    tensor([1., 1., 1.])
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _DROPOUTS:
            return args[0] if args else (kwargs or {})["input"]
        if func is nn.functional.scaled_dot_product_attention:
            if len(args) > 4:  # dropout_p is the fifth parameter
                args = (*args[:4], 0.0, *args[5:])
            else:
                kwargs = {**(kwargs or {}), "dropout_p": 0.0}
        return func(*args, **(kwargs or {}))


def stop_inner_dropout(module: nn.Module) -> nn.Module:
    """Set the dropout within attention and recurrent layers to 0, in place; return the module.

    `WithoutDropout` does not see it: a mode intercepts `multi_head_attention_forward` and `torch.lstm`, but nothing
    that these call.
    """
    for layer in module.modules():
        if isinstance(layer, nn.MultiheadAttention | nn.RNNBase):
            layer.dropout = 0.0
    return module
