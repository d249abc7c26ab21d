"""Whether a stack can do what a net does with its loss, its sample weights and its batches: refused if not."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from skorch import NeuralNet

from sklr.engines._batches import Rows, map_tensors
from sklr.engines._explain import first_line
from sklr.engines._pack import Side
from sklr.engines._refusals import Unstackable
from sklr.engines._stack import ModelStack
from sklr.engines._stack_map import call, rng_kept


def infer(net: NeuralNet, x: Rows) -> Rows:
    """Return what the net's module says to a batch in evaluation mode; it is left in training mode."""
    net._set_training(False)
    with torch.no_grad():
        outputs = net.infer(x)
    net._set_training(True)
    return outputs


def check_loss(stack: ModelStack, net: NeuralNet, x: Rows, y: Rows) -> None:
    """Refuse if the stack's loss is not the net's own: a loss that `get_loss` alone knows of, say."""
    many = map_tensors(lambda rows: rows.expand(stack.n_cells, *rows.shape), x)
    outputs = map_tensors(lambda out: out.transpose(0, 1), stack.outputs(many))
    found = stack.loss(outputs, map_tensors(lambda rows: rows.expand(stack.n_cells, *rows.shape), y), None)[0, 0]
    with torch.no_grad():
        wanted = net.get_loss(infer(net, x), y, X=x, training=False)
    precision = stack.traits.precision
    tolerance = 1e-4 if precision is None else 8 * torch.finfo(precision).eps
    if not torch.allclose(found, wanted.to(found), rtol=tolerance, equal_nan=True):
        raise Unstackable(f"the loss of a batch is {found:.6g} in a stack and {wanted:.6g} in the net")


def check_sides(stack: ModelStack, net: NeuralNet, sides: Sequence[Side]) -> None:
    """Refuse sample weights that the loss has no place for, and batches that the module fails on when they come."""
    if not stack.loss.takes_weights and any(side.weight is not None for side in sides):
        raise Unstackable(f"{type(net.criterion_).__name__} is a loss of whole batches and takes no sample_weight")
    size, k = min((min(map(len, epoch)), k) for k, side in enumerate(sides) for epoch in side.epochs)
    try:
        with rng_kept(sides[k].x), torch.no_grad():
            call(copy.deepcopy(net.module_).train(), map_tensors(lambda rows: rows[:size], sides[k].x))
    except Exception as error:  # whatever it is, the sequential engine meets it in its run and records it
        raise Unstackable(f"the module cannot be trained on a batch of {size} rows: {first_line(error)}") from error
