"""The kernel for plain MLPs: gradients and outputs of a chain of layers, set up once for each shape of batch.

After that a call allocates no activations and looks up no parameters.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sklr.engines.stacked.data.batch import Batch
from sklr.engines.stacked.kernels.loss import StackedLoss
from sklr.engines.stacked.kernels.mlp_chain import Calls, Chain, per_run
from sklr.engines.stacked.kernels.module_call import Named


class MLPKernel:
    """Compute a chain of layers as batched matrix products, forward and backward written by hand.

    Parameters
    ----------
    chain, eval_chain : Chain
        The module's operations in training and in evaluation mode.
    loss : StackedLoss
    generator : torch.Generator, optional
        Draws dropout's masks instead of torch's global generator, so that kernels can run in several threads.
    """

    def __init__(self, chain: Chain, eval_chain: Chain, loss: StackedLoss, generator: torch.Generator | None = None):
        self.chain, self.eval_chain, self.loss, self.generator = chain, eval_chain, loss, generator
        self.forget()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_programs": {}, "_evaluations": {}}  # addresses of this process's memory

    def gradients(
        self, params: Named, constants: Named, buffers: Named, batch: Batch, into: Named
    ) -> tuple[Tensor, Named]:
        """As `Kernel.gradients`."""
        if batch.cells is not None:  # `params` and `into` are then new tensors in every step: nothing to keep
            return self._program({**params, **buffers}, batch, into).run(batch), buffers
        if (key := batch.x.shape) not in self._programs:
            self._programs[key] = self._program({**params, **buffers}, batch, into)
        return self._programs[key].run(batch).clone(), buffers  # the next step overwrites the original

    def _program(self, state: Named, batch: Batch, into: Named) -> Program:
        return Program(self.chain, self.loss, state, into, batch.x, self.generator)

    def outputs(self, params: Named, constants: Named, buffers: Named, x: Tensor) -> Tensor:
        """As `Kernel.outputs`."""
        if (key := (x.shape[0], Evaluation.n_block(x), *x.shape[2:])) not in self._evaluations:
            self._evaluations[key] = Evaluation(self.eval_chain, {**params, **buffers}, x)
        return self._evaluations[key](x)

    def forget(self) -> None:
        """Discard the preallocated memory."""
        self._programs: dict[Any, Program] = {}
        self._evaluations: dict[Any, Evaluation] = {}


class Program:
    """Forward pass, loss and backward pass of all runs, as calls on preallocated memory.

    Parameters
    ----------
    chain : Chain
    loss : StackedLoss
    state : mapping of str to Tensor
        The parameters, each (n_cells, n_candidates, *shape), followed by the buffers, (n_candidates, n_cells, *shape).
    into : mapping of str to Tensor
        Receives their gradients.
    x : Tensor (n_cells, n_rows, ...)
        A batch of the shape that `run` will be given; its values do not matter.
    generator : torch.Generator, optional
        Draws dropout's masks.

    >>> from sklr.engines.stacked.kernels.mlp_chain import LinearLayer
    >>> loss = StackedLoss(torch.nn.MSELoss(), torch.zeros(2, 1), torch.zeros(2, 1))
    >>> params, grads = {"w": torch.ones(1, 3, 1, 2)}, {"w": torch.zeros(1, 3, 1, 2)}
    >>> x, y = torch.ones(1, 4, 2), torch.zeros(1, 4, 1)
    >>> program = Program(Chain((LinearLayer("w", None),)), loss, params, grads, x)
    >>> program.run(Batch(x, y)).tolist(), grads["w"][0, 0].tolist()
    ([[4.0, 4.0, 4.0]], [[4.0, 4.0]])
    """

    def __init__(
        self,
        chain: Chain,
        loss: StackedLoss,
        state: Named,
        into: Named,
        x: Tensor,
        generator: torch.Generator | None = None,
    ):
        self.x = x.flatten(2).mT.clone(memory_format=torch.contiguous_format)
        self.forward, self.backward = Calls(generator), Calls()
        h, saved = chain.forward(self.forward, self.x, state)
        runs = next(iter(state.values())).shape[:2]
        self.loss = loss.prepared(h.view(*runs, *h.shape[1:]))
        chain.backward(self.backward, self.loss.gradient.flatten(0, 1), saved, state, into)

    @torch.no_grad()
    def run(self, batch: Batch) -> Tensor:
        """Compute the gradients; return the losses (n_cells, n_candidates), which the next call overwrites."""
        self.x.copy_(batch.x.flatten(2).mT)
        self.forward.run()
        self.loss(batch.y, batch.weight)
        self.backward.run()
        return self.loss.losses


class Evaluation:
    """The outputs of all runs for any number of rows, computed in blocks so that activations stay in a CPU's cache.

    >>> from sklr.engines.stacked.kernels.mlp_chain import LinearLayer
    >>> evaluation = Evaluation(Chain((LinearLayer("w", None),)), {"w": torch.ones(1, 3, 1, 2)}, torch.zeros(1, 2, 2))
    >>> evaluation(torch.arange(6.0).reshape(1, 3, 2))[0, 0].tolist()
    [[1.0], [5.0], [9.0]]
    """

    def __init__(self, chain: Chain, state: Named, x: Tensor):
        """Preallocate memory for one block of `x` (n_cells, n_rows, ...)."""
        rows = x[:, : self.n_block(x)].flatten(2).mT
        self.x = torch.empty_like(rows, memory_format=torch.contiguous_format)
        self.state, self.forward = state, Calls()
        self.outputs, _ = chain.forward(self.forward, self.x, state)

    @staticmethod
    def n_block(x: Tensor) -> int:
        """Return how many rows of `x` (n_cells, n_rows, ...) make a block."""
        most = 64 if x.device.type == "cpu" else 512  # on a GPU a small operation costs as much as a large one
        return min(x.shape[1], most)

    def __call__(self, x: Tensor) -> Tensor:
        """Return outputs (n_cells, n_candidates, n_rows, n_out) of `x` (n_cells, n_rows, ...), of any n_rows."""
        rows, n_block, block = x.flatten(2).mT, self.x.shape[2], per_run(self.outputs, self.state)
        outputs = x.new_empty(*block.shape[:2], rows.shape[2], block.shape[3])
        for start in range(0, rows.shape[2], n_block):
            start = min(start, rows.shape[2] - n_block)  # the memory is for whole blocks: the last one may overlap
            self.x.copy_(rows[..., start : start + n_block])
            self.forward.run()
            outputs[:, :, start : start + n_block] = block
        return outputs
