"""Gradient accumulation: the gradient of a batch, computed in parts and equal to that of the whole batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from skorch.dataset import get_len, unpack_data
from torch import Tensor

from sklr._utils.validation import must_be
from sklr.nets import _data as data


def accumulated_step(net: Any, batch: Any, size: int, **fit_params: Any) -> dict[str, Any]:
    """Accumulate the gradient of a batch's mean loss in the net's parameters, `size` rows at a time.

    The mean over the batch is the weighted mean of the parts' means. The weight of a part is the divisor of its mean:
    its number of rows, or the sum of the weights of its samples and classes.

    Returns
    -------
    step : dict
        As from skorch's `train_step_single`: the "loss" of the whole batch, and its outputs "y_pred".
    """
    net._set_training(True)
    weight, criterion = net._batch_weight, getattr(net.criterion_, "_orig_mod", net.criterion_)
    X, y = unpack_data(batch)
    parts = list(_parts(X, y, weight, size))
    shares = _shares([_divisor(y, w, criterion) for _, y, w in parts], criterion)
    losses, outputs = [], []
    try:
        for (X, y, w), share in zip(parts, shares, strict=True):
            net._batch_weight = w
            output = net.infer(X, **fit_params)
            outputs.append(output)
            if share:  # the mean of a part whose weights are all 0 is NaN, and 0 * NaN would be too
                loss = share * net.get_loss(output, y, X=X, training=True)
                loss.backward()
                losses.append(loss.detach())
    finally:
        net._batch_weight = weight
    return {"loss": torch.stack(losses).sum(), "y_pred": _joined(outputs)}


def _parts(X: Any, y: Any, weight: Tensor | None, size: int) -> Iterator[tuple[Any, Any, Tensor | None]]:
    for start in range(0, get_len(X), size):
        rows = slice(start, start + size)
        yield _cut(X, rows), _cut(y, rows), None if weight is None else weight[rows]


def _cut(value: Any, rows: slice) -> Any:
    """Return a slice of the rows of a tensor, or of each tensor in a dict, list or tuple.

    >>> _cut({"a": torch.arange(3), "b": [torch.ones(3, 2)]}, slice(1, 9))
    {'a': tensor([1, 2]), 'b': [tensor([[1., 1.],
            [1., 1.]])]}
    """
    if isinstance(value, Tensor):
        return value[rows]
    if isinstance(value, dict):
        return {name: _cut(part, rows) for name, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_cut(part, rows) for part in value)
    raise TypeError(must_be("a batch for accumulate_steps", "made of tensors", type(value).__name__))


def _divisor(y: Any, weight: Tensor | None, criterion: Any) -> float:
    """Return the divisor of a part's mean loss, up to a factor that is the same for all parts."""
    if not isinstance(y, Tensor):
        return float(get_len(y))
    weights = getattr(criterion, "weight", None)  # on the net's device; the batch may still be on the CPU
    y = y.to(weights.device) if isinstance(weights, Tensor) else y
    ones = torch.ones(y.shape, device=y.device)
    share = data.share_in_mean(ones, y if y.is_floating_point() else y.long(), criterion).cpu().double()
    weight = share.new_ones(len(y)) if weight is None else weight.to(share)
    return float((weight.reshape(-1, *[1] * (share.ndim - 1)) * share).sum())


def _shares(divisors: list[float], criterion: Any) -> list[float]:
    """Return the weight of each part's loss in the batch's loss; equal weights if all divisors are 0."""
    if getattr(criterion, "reduction", "mean") == "sum":
        return [1.0] * len(divisors)
    total = sum(divisors)
    return [divisor / total if total else 1 / len(divisors) for divisor in divisors]


def _joined(outputs: list[Any]) -> Any:
    """Concatenate the outputs of all parts, detached from their graphs."""
    first = outputs[0]
    if isinstance(first, Tensor):
        return torch.cat([output.detach() for output in outputs])
    return type(first)(_joined(list(part)) for part in zip(*outputs, strict=True))
