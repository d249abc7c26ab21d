"""The gradients of a chain on batches of one shape, prepared once: a step takes no memory and looks nothing up."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sklr.engines._stack_chain import Calls, Chain, GradientSink, Named
from sklr.engines._stack_loss import Counted, StackedLoss


class Program:
    """Forward, loss and backward of all runs, as calls on fixed memory.

    Parameters
    ----------
    chain : Chain
    loss : StackedLoss
    params : mapping of str to Tensor, each (n_cells, n_candidates, *shape)
    sink : GradientSink
        Where they go.
    x, y : Tensor (n_cells, n_rows, ...)
        A batch of the shape to come.

    >>> from sklr.engines._stack_chain import Linear
    >>> loss = StackedLoss(torch.nn.MSELoss(), torch.zeros(2, 1), torch.zeros(2, 1))
    >>> params, grads = {"w": torch.ones(1, 3, 1, 2)}, {"w": torch.zeros(1, 3, 1, 2)}
    >>> x, y = torch.ones(1, 4, 2), torch.zeros(1, 4, 1)
    >>> program = Program(Chain((Linear("w", None),)), loss, params, GradientSink(grads), x, y)
    >>> program.run(x, y, None).tolist(), grads["w"][0, 0].tolist()
    ([[4.0, 4.0, 4.0]], [[4.0, 4.0]])
    """

    def __init__(self, chain: Chain, loss: StackedLoss, params: Named, sink: GradientSink, x: Tensor, y: Any):
        self.x = x.flatten(2).mT.clone(memory_format=torch.contiguous_format)
        self.forward, self.backward = Calls(), Calls()
        h, saved = chain.forward(self.forward, self.x, params)
        runs = next(iter(params.values())).shape[:2]
        self.loss = loss.prepared(h.view(*runs, *h.shape[1:]), y)
        chain.backward(self.backward, self.loss.gradient.flatten(0, 1), saved, params, sink)

    @torch.no_grad()
    def run(self, x: Tensor, y: Any, weight: Tensor | None, counted: Counted | None = None) -> Tensor:
        """Compute the gradients; return the losses (n_cells, n_candidates), which the next run will overwrite."""
        self.x.copy_(x.flatten(2).mT)
        self.forward.run()
        self.loss(y, weight, counted)
        self.backward.run()
        return self.loss.losses
