"""Attention computed from basic operations, because `torch.func.vmap` cannot map PyTorch's fused kernels."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

ATTENTION = {"scaled_dot_product_attention", "multi_head_attention_forward"}


class BatchableAttention(TorchFunctionMode):
    """Within this mode, attention is computed from matrix products, softmax and dropout.

    The fused kernels have no batching rule on the CPU, and none with dropout on any device. Under `vmap` on CUDA they
    fail with a mask (PyTorch issue 151558), and without one in the backward pass ("LSE is not correctly aligned", seen
    with 8 tokens).

    >>> q = torch.rand(2, 3, 4)
    >>> with BatchableAttention():
    ...     mapped = torch.func.vmap(F.scaled_dot_product_attention)(q, q, q)
    >>> torch.allclose(mapped, F.scaled_dot_product_attention(q, q, q))
    True
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            return _multi_head(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            return attention(*args, **kwargs)
        return func(*args, **kwargs)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Compute `torch.nn.functional.scaled_dot_product_attention` as its documentation defines it."""
    if enable_gqa:
        repeats = query.shape[-3] // key.shape[-3]
        key, value = (t.repeat_interleave(repeats, dim=-3) for t in (key, value))
    logits = query @ key.mT * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=query.device).tril()
    if attn_mask is not None:
        bias = attn_mask if attn_mask.is_floating_point() else _as_bias(attn_mask, logits.dtype)
        logits = logits + bias
        # Where all keys are masked, softmax would give NaN; PyTorch's kernels give 0.
        masked = (logits == -math.inf).all(-1, keepdim=True)
        weights = logits.masked_fill(masked, 0.0).softmax(-1).masked_fill(masked, 0.0)
    else:
        weights = logits.softmax(-1)
    return F.dropout(weights, dropout_p) @ value


def _multi_head(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    """Call PyTorch's function with `need_weights=True`, for which it does not use a fused kernel."""
    bound = inspect.signature(F.multi_head_attention_forward).bind(*args, **kwargs)
    wanted = bound.arguments.get("need_weights", True)
    bound.arguments["need_weights"] = True
    output, weights = F.multi_head_attention_forward(*bound.args, **bound.kwargs)
    return output, weights if wanted else None


def _as_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, -math.inf)


# The fast path of `torch.backends.mha` is one flag per process: a thread that sets it must keep the others out until it
# has restored it.
_SWITCH = RLock()


@contextmanager
def attention_as_usual() -> Iterator[None]:
    """Run with PyTorch's own attention; other threads wait before entering `attention_by_steps`."""
    with _SWITCH:
        yield


@contextmanager
def attention_by_steps() -> Iterator[None]:
    """Compute attention without the kernels that have no batching rule; one thread at a time."""
    with _SWITCH:
        before = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with BatchableAttention():
                yield
        finally:
            torch.backends.mha.set_fastpath_enabled(before)
