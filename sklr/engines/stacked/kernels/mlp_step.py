"""A chain's gradients and outputs on batches of one shape, prepared once: a call takes no memory, looks nothing up."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sklr.engines.stacked.kernels.loss import Counted, StackedLoss
from sklr.engines.stacked.kernels.mlp_chain import Calls, Chain, GradientSink, Named, per_run


class Program:
    """Forward, loss and backward of all runs, as calls on fixed memory.

    Parameters
    ----------
    chain : Chain
    loss : StackedLoss
    params : mapping of str to Tensor, each (n_cells, n_candidates, *shape)
    sink : GradientSink
        Where they go.
    x : Tensor (n_cells, n_rows, ...)
        A batch of the shape to come.

    >>> from sklr.engines.stacked.kernels.mlp_chain import Linear
    >>> loss = StackedLoss(torch.nn.MSELoss(), torch.zeros(2, 1), torch.zeros(2, 1))
    >>> params, grads = {"w": torch.ones(1, 3, 1, 2)}, {"w": torch.zeros(1, 3, 1, 2)}
    >>> x, y = torch.ones(1, 4, 2), torch.zeros(1, 4, 1)
    >>> program = Program(Chain((Linear("w", None),)), loss, params, GradientSink(grads), x)
    >>> program.run(x, y, None).tolist(), grads["w"][0, 0].tolist()
    ([[4.0, 4.0, 4.0]], [[4.0, 4.0]])
    """

    def __init__(self, chain: Chain, loss: StackedLoss, params: Named, sink: GradientSink, x: Tensor):
        self.x = x.flatten(2).mT.clone(memory_format=torch.contiguous_format)
        self.forward, self.backward = Calls(), Calls()
        h, saved = chain.forward(self.forward, self.x, params)
        runs = next(iter(params.values())).shape[:2]
        self.loss = loss.prepared(h.view(*runs, *h.shape[1:]))
        chain.backward(self.backward, self.loss.gradient.flatten(0, 1), saved, params, sink)

    @torch.no_grad()
    def run(self, x: Tensor, y: Any, weight: Tensor | None, counted: Counted | None = None) -> Tensor:
        """Compute the gradients; return the losses (n_cells, n_candidates), which the next run will overwrite."""
        self.x.copy_(x.flatten(2).mT)
        self.forward.run()
        self.loss(y, weight, counted)
        self.backward.run()
        return self.loss.losses


class Evaluation:
    """The outputs of all runs for any number of rows, a block at a time: on a CPU what is in between fits a cache.

    >>> from sklr.engines.stacked.kernels.mlp_chain import Linear
    >>> evaluation = Evaluation(Chain((Linear("w", None),)), {"w": torch.ones(1, 3, 1, 2)}, torch.zeros(1, 2, 2))
    >>> evaluation(torch.arange(6.0).reshape(1, 3, 2))[0, 0].tolist()
    [[1.0], [5.0], [9.0]]
    """

    def __init__(self, chain: Chain, params: Named, x: Tensor):
        """Prepare for as many rows as `x` (n_cells, n_rows, ...) has, or a block of them."""
        rows = x[:, : self.n_block(x)].flatten(2).mT
        self.x = torch.empty_like(rows, memory_format=torch.contiguous_format)
        self.params, self.forward = params, Calls()
        self.outputs, _ = chain.forward(self.forward, self.x, params)

    @staticmethod
    def n_block(x: Tensor) -> int:
        """Return how many rows of `x` (n_cells, n_rows, ...) make a block."""
        return min(
            x.shape[1], 64 if x.device.type == "cpu" else 512
        )  # elsewhere small operations cost as much as large

    def __call__(self, x: Tensor) -> Tensor:
        """Return outputs (n_cells, n_candidates, n_rows, n_out) of `x` (n_cells, n_rows, ...), or of more rows."""
        rows, n_block, block = x.flatten(2).mT, self.x.shape[2], per_run(self.outputs, self.params)
        outputs = x.new_empty(*block.shape[:2], rows.shape[2], block.shape[3])
        for start in range(0, rows.shape[2], n_block):
            start = min(start, rows.shape[2] - n_block)  # the last block repeats some of the one before
            self.x.copy_(rows[..., start : start + n_block])
            self.forward.run()
            outputs[:, :, start : start + n_block] = block
        return outputs
