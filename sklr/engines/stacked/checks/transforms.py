"""How a net transforms outputs and targets between its module and its criterion, or its predictions."""

from __future__ import annotations

from typing import Any

import skorch
import torch
from skorch import NeuralNet
from torch import Tensor, nn

from sklr.engines.stacked.data.index_batches import Rows
from sklr.nets import _data as data


def _first(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) else output


def targets_of(net: NeuralNet, y: Rows, output: Rows) -> Rows:
    """Return targets in the shape and dtype in which the net gives them to its loss."""
    output = _first(output)
    if not hasattr(net, "start_fit") or not isinstance(output, Tensor) or not isinstance(y, Tensor):
        return y
    return data.fit_target(y, output.new_empty(len(y), *output.shape[1:]), net.criterion_)


def transform_of(net: NeuralNet) -> Any:
    """Return the function that the net applies to the module's output before the criterion; None if there is none."""
    if isinstance(net, skorch.NeuralNetClassifier) and isinstance(net.criterion_, nn.NLLLoss):
        return _log
    if isinstance(net, skorch.NeuralNetBinaryClassifier):
        return _flat
    return None


def _log(probabilities: Any) -> Any:
    probabilities = _first(probabilities)
    return torch.log(probabilities + torch.finfo(probabilities.dtype).eps)


def _flat(logits: Any) -> Any:
    logits = _first(logits)
    return logits.squeeze(-1)


def as_inferred(net: NeuralNet, outputs: Rows) -> Rows:
    """Return module outputs as the net's `infer` does: for a binary classifier, without the last axis of length 1."""
    return _flat(outputs) if isinstance(net, skorch.NeuralNetBinaryClassifier) else outputs
