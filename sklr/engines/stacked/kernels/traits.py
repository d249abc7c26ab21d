"""What a stack must know about a module and its criterion, found out once by calling them on one run's batch."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from sklr.engines.stacked.kernels.attention import attention_by_steps
from sklr.engines.stacked.kernels.blocks import Blocks, OutputSizes
from sklr.engines.stacked.kernels.loss import StackedLoss, Transform
from sklr.engines.stacked.kernels.mlp_chain import Chain
from sklr.engines.stacked.kernels.mlp_trace import CallRecorder, record
from sklr.engines.stacked.kernels.module_call import call, first_tensor, generator_states, mixes_rows, rng_kept
from sklr.engines.stacked.kernels.recurrent import BatchableRecurrence
from sklr.engines.stacked.purity.untouched import Untouched


@dataclass(frozen=True)
class Traits:
    """Properties of a module and its criterion.

    Attributes
    ----------
    chain, eval_chain : Chain or None
        The module's operations in training and in evaluation mode, if `MLPKernel` can compute them.
    names : set of str
        Names of the torch functions that a forward pass calls.
    draws : bool
        Whether a forward pass in training mode draws random numbers.
    loss : StackedLoss
    mixes_rows : bool
        Whether the loss or gradient of a row depends on the other rows of the batch, as in batch normalization.
    device : torch.device
    precision : torch.dtype or None
        The dtype of `torch.autocast`, if the module uses it.
    counts : str
        What a forward pass changes besides tensors, in words: "changes its attribute 'n_calls' ..."; empty if nothing.
    bytes_per_row : float
        Size of what an operation of `VmapKernel`'s forward pass returns, on average, divided by the rows of the batch.
    """

    chain: Chain | None
    eval_chain: Chain | None
    names: set[str]
    draws: bool
    loss: StackedLoss
    mixes_rows: bool
    device: torch.device
    precision: torch.dtype | None
    counts: str
    bytes_per_row: float

    @property
    def thread_safe(self) -> bool:
        """Whether stacks of this module may train in several threads.

        Not with autocast, whose state is thread-local, and not if they draw from torch's one global generator.
        """
        return self.precision is None and (not self.draws or self.draws_apart)

    @property
    def draws_apart(self) -> bool:
        """Whether a stack can draw from its own generator.

        `MLPKernel` passes one to its operations. `torch.func.vmap` and CUDA graphs know the global generator only.
        """
        return self.draws and self.is_chain and self.device.type == "cpu"

    @property
    def is_chain(self) -> bool:
        """Whether `MLPKernel` can compute the module."""
        return self.chain is not None and self.eval_chain is not None

    @property
    def blocks(self) -> Blocks:
        """How many runs `VmapKernel` computes at once; on other devices than the CPU, all."""
        return Blocks(self.bytes_per_row, self.draws) if self.device.type == "cpu" else Blocks()


def examine(module: nn.Module, example: tuple[Any, Any], criterion: Any, transform: Transform | None) -> Traits:
    """Find out the traits on a batch of at least two rows; the module is left in training mode, otherwise unchanged.

    >>> traits = examine(nn.Sequential(nn.Linear(2, 1), nn.Dropout()), (torch.rand(4, 2), torch.rand(4, 1)),
    ...                  nn.MSELoss(), None)
    >>> len(traits.chain.operations), len(traits.eval_chain.operations), traits.draws, traits.mixes_rows
    (2, 1, True, False)
    """
    x, y = example
    rows = first_tensor(x)
    with rng_kept(x):
        # evaluation first: the module is to be left in training mode
        eval_chain, chain = record(module.eval(), x), record(module.train(), x)
        before = generator_states(x)
        once = copy.deepcopy(module)  # batch normalization counts its calls
        seen, sizes = CallRecorder(rows.device.type), OutputSizes(once)
        # outermost: `seen` sees a layer's own function, and `sizes` the operations that `VmapKernel` calls instead
        with attention_by_steps(), BatchableRecurrence(), seen, sizes, torch.no_grad():
            output = call(once, x)
        draws = not all(map(torch.equal, before, generator_states(x)))
        loss = StackedLoss(criterion, output, y, transform)
        mixes = not loss.takes_weights or (mixes_rows(module, x) if chain is None else chain.mixes_rows)
        counts = ""
        if chain is None or not loss.takes_weights:  # a chain's module is never called again
            counts = _remembers(copy.deepcopy(module), example, copy.deepcopy(loss))
    return Traits(
        chain, eval_chain, seen.names, draws, loss, mixes, rows.device, seen.precision, counts, sizes.mean / len(rows)
    )


def _remembers(module: nn.Module, example: tuple[Any, Any], loss: StackedLoss) -> str:
    """Return in words what a forward pass and a loss keep from call to call besides tensors; empty if nothing."""
    x, y = example

    def step() -> None:
        module.train()
        with torch.no_grad():
            outputs = call(module, x)
            loss(tree_map(lambda t: t[None, None], outputs), tree_map(lambda t: t[None], y), None)

    return Untouched.by_second(step, module, loss).what_changed()
