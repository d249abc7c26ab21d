"""The interface of kernels, which compute the gradients and the predictions of all runs of a stack, and the choice."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sklr.engines.stacked.data.batch import Batch
from sklr.engines.stacked.kernels.loss import StackedLoss
from sklr.engines.stacked.kernels.mlp import MLPKernel
from sklr.engines.stacked.kernels.module_call import Named
from sklr.engines.stacked.kernels.traits import Traits
from sklr.engines.stacked.kernels.vmap import VmapKernel


class Kernel(Protocol):
    """Compute losses, gradients and predictions of `n_candidates x n_cells` runs of one module.

    Parameters, and frozen parameters (`constants`), have leading axes (n_cells, n_candidates); buffers have
    (n_candidates, n_cells), see `FixedState`. `choose_kernel` picks the kernel of a stack.
    """

    def gradients(
        self, params: Named, constants: Named, buffers: Named, batch: Batch, into: Named
    ) -> tuple[Tensor, Named]:
        """Write the gradients of a batch `into` tensors like `params`.

        Returns
        -------
        losses : Tensor (n_cells, n_candidates)
            Before the step, detached.
        buffers : dict of str to Tensor
            The updated buffers; those passed in may be changed in place.
        """

    def outputs(self, params: Named, constants: Named, buffers: Named, x: Any) -> Any:
        """Return what each run predicts in evaluation mode, (n_cells, n_candidates, n_rows, ...), or a structure.

        `x` is (n_cells, n_rows, ...), or a dict or tuple of such.
        """

    def forget(self) -> None:
        """Discard preallocated memory: the tensors have moved, or the number of runs has changed."""


def choose_kernel(
    module: nn.Module, loss: StackedLoss, traits: Traits, generator: torch.Generator | None = None
) -> Kernel:
    """Choose the kernel for a stack of copies of a module.

    A chain of Linear layers, elementwise functions and batch normalization is computed as batched products; any other
    module is mapped over the runs by `torch.func.vmap`, block by block where what it computes is large. Alternatives
    that gained too little on real tasks are listed in `benchmarks/README.md`.

    >>> from sklr.engines.stacked.kernels.traits import examine
    >>> example, criterion = (torch.rand(4, 3), torch.rand(4, 1)), nn.MSELoss()
    >>> for module in nn.Linear(3, 1), nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 1)):
    ...     traits = examine(module, example, criterion, None)
    ...     print(type(choose_kernel(module, traits.loss, traits)).__name__)
    MLPKernel
    VmapKernel
    """
    if traits.chain is not None and traits.eval_chain is not None:
        return MLPKernel(traits.chain, traits.eval_chain, loss, generator)
    return VmapKernel(module, loss, traits.names, traits.blocks)
