"""A step's gradient from its batch in parts, equal to that of the batch as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from skorch.dataset import get_len, unpack_data
from torch import Tensor

from sklr._utils.validation import must_be
from sklr.nets import _data as data


def accumulated_step(net: Any, batch: Any, size: int, **fit_params: Any) -> dict[str, Any]:
    """Leave the gradient of a batch's mean loss in the net, computed from `size` rows at a time.

    The mean over the batch is that of the parts' means, each counted by what it divides by: its rows, or the weights
    of its samples and classes.

    Returns
    -------
    step : dict
        As skorch's `train_step_single`: "loss", of the whole batch, and "y_pred", its outputs.
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
            if share:  # of a part in which nothing counts the mean is not a number
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
    """Return some rows of a tensor, or of each tensor in a dict or list.

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
    """Return what the mean loss of a part divides by, up to a factor that all parts share."""
    if not isinstance(y, Tensor):
        return float(get_len(y))
    weights = getattr(criterion, "weight", None)  # on the net's device, where the batch need not be yet
    y = y.to(weights.device) if isinstance(weights, Tensor) else y
    ones = torch.ones(y.shape, device=y.device)
    share = data.share_in_mean(ones, y if y.is_floating_point() else y.long(), criterion).cpu().double()
    weight = share.new_ones(len(y)) if weight is None else weight.to(share)
    return float((weight.reshape(-1, *[1] * (share.ndim - 1)) * share).sum())


def _shares(divisors: list[float], criterion: Any) -> list[float]:
    """Return how much each part's loss counts: not at all where nothing in it does, unless so in the whole batch."""
    if getattr(criterion, "reduction", "mean") == "sum":
        return [1.0] * len(divisors)
    total = sum(divisors)
    return [divisor / total if total else 1 / len(divisors) for divisor in divisors]


def _joined(outputs: list[Any]) -> Any:
    """Return the outputs of all parts as those of one batch, without their graphs."""
    first = outputs[0]
    if isinstance(first, Tensor):
        return torch.cat([output.detach() for output in outputs])
    return type(first)(_joined(list(part)) for part in zip(*outputs, strict=True))
