"""The kernel for any module: `torch.func.vmap` maps it over candidates and cells, and autograd differentiates that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Set
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from torch import Tensor, nn
from torch.func import vmap
from torch.utils._pytree import tree_map

from sklr.engines.stacked.data.batch import Batch
from sklr.engines.stacked.kernels.attention import ATTENTION, attention_by_steps
from sklr.engines.stacked.kernels.blocks import Blocks
from sklr.engines.stacked.kernels.convolution import PaddedConvolutions, gains_by_padding
from sklr.engines.stacked.kernels.module_call import Loss, Named, call, differentiated, first_tensor
from sklr.engines.stacked.kernels.recurrent import RECURRENT, BatchableRecurrence, leave_weights_apart


class VmapKernel:
    """Call a module once for all runs, or for one block of runs after another.

    Dropout draws one mask per cell, shared by the cell's candidates: so candidates differ by their parameters alone.

    Parameters
    ----------
    module : nn.Module
        The stack's own: its mode is switched, and recurrent layers leave their weights where they are.
    loss : callable (outputs, y, weight) -> Tensor (n_cells, n_candidates)
    names : set of str
        The torch functions that the module calls. Attention and recurrent layers are computed from basic operations;
        see `BatchableAttention` and `BatchableRecurrence`.

    >>> import torch
    >>> kernel = VmapKernel(nn.Linear(2, 1), lambda out, y, weight: (out - y).sum((2, 3)))
    >>> params, grads = {"weight": torch.ones(1, 3, 1, 2), "bias": torch.zeros(1, 3, 1)}, {}
    >>> grads = {name: torch.empty_like(p) for name, p in params.items()}
    >>> batch = Batch(torch.ones(1, 4, 2), torch.ones(1, 1, 4, 1))
    >>> losses, _ = kernel.gradients(params, {}, {}, batch, grads)
    >>> losses.tolist(), grads["bias"].flatten().tolist()
    ([[4.0, 4.0, 4.0]], [4.0, 4.0, 4.0])
    >>> kernel.outputs(params, {}, {}, batch.x).shape
    torch.Size([1, 3, 4, 1])
    """

    def __init__(self, module: nn.Module, loss: Loss, names: Set[str] = frozenset(), blocks: Blocks | None = None):
        self.module, self.loss, self.blocks = module, loss, blocks or Blocks()
        self._shared = [(layer, dict(layer._parameters), dict(layer._buffers)) for layer in _with_many_names(module)]
        self._rewrites: list[Callable[[], AbstractContextManager[Any]]] = [
            *([PaddedConvolutions] if gains_by_padding(module) else []),
            *([attention_by_steps] if names & ATTENTION else []),
            *([BatchableRecurrence] if names & RECURRENT else []),
        ]
        if names & RECURRENT:
            leave_weights_apart(module)

    def gradients(
        self, params: Named, constants: Named, buffers: Named, batch: Batch, into: Named
    ) -> tuple[Tensor, Named]:
        """As `Kernel.gradients`."""

        def compute(cells: slice, candidates: slice) -> tuple[Tensor, Named]:
            own, fixed, state = _of_block(cells, candidates, params, constants, buffers)
            part = batch.part(cells)
            grads, losses, after = differentiated(
                lambda leaves: self._call(part.x, {**leaves, **fixed}, state, training=True), self.loss, own, part
            )
            for name, grad in grads.items():
                into[name][cells, candidates].copy_(grad)
            return losses, {name: b.transpose(0, 1) for name, b in after.items()}

        losses, after = self.blocks.join(compute, _shape(params, batch.x))
        return losses, {name: b.transpose(0, 1) for name, b in after.items()}

    def outputs(self, params: Named, constants: Named, buffers: Named, x: Any) -> Any:
        """As `Kernel.outputs`."""

        def compute(cells: slice, candidates: slice) -> Any:
            own, fixed, state = _of_block(cells, candidates, params, constants, buffers)
            return self._call(tree_map(lambda t: t[cells], x), {**own, **fixed}, state, training=False)[0]

        return self.blocks.without_draws.join(compute, _shape(params, x))

    def forget(self) -> None:
        """Do nothing: this kernel preallocates no memory."""

    def _call(self, x: Any, params: Named, buffers: Named, *, training: bool) -> tuple[Any, Named]:
        """Return the outputs (n_cells, n_candidates, n_rows, ...) and the updated buffers."""
        self.module.train(training)
        with ExitStack() as rewritten:
            rewritten.callback(self._restore)
            for rewrite in self._rewrites:
                rewritten.enter_context(rewrite())
            # over candidates first: parameters are (n_cells, n_candidates, ...), buffers (n_candidates, n_cells, ...)
            output, after = vmap(self._run, in_dims=(1, 0, None), randomness="same")(params, buffers, x)
            # not by `out_dims=1`, with which `vmap` mixes up the axes of outputs that are the same for all candidates
            return tree_map(lambda t: t.transpose(0, 1), output), after

    def _restore(self) -> None:
        """Give layers with several names their own tensors back, which a functional call puts back for one of them."""
        for layer, params, buffers in self._shared:
            layer._parameters.update(params)
            layer._buffers.update(buffers)

    def _run(self, params: Named, buffers: Named, x: Any) -> tuple[Any, Named]:
        """Call the module for one candidate in all cells."""

        def in_cell(params: Named, buffers: Named, x: Any) -> tuple[Any, Named]:
            state = {**params, **buffers}
            output = call(self.module, x, state)  # a functional call writes new buffers into `state`
            return output, {name: state[name] for name in buffers}

        return vmap(in_cell, randomness="different")(params, buffers, x)


def _of_block(
    cells: slice, candidates: slice, params: Named, constants: Named, buffers: Named
) -> tuple[Named, Named, Named]:
    """Return the parameters, constants and buffers of these runs."""
    own, fixed = ({name: p[cells, candidates] for name, p in named.items()} for named in (params, constants))
    # Under `vmap`, batch normalization loses its new running statistics where their memory has gaps.
    return own, fixed, {name: b[candidates, cells].contiguous() for name, b in buffers.items()}


def _shape(params: Named, x: Any) -> tuple[int, int, int]:
    """Return (n_cells, n_candidates, n_rows)."""
    n_cells, n_candidates = next(iter(params.values())).shape[:2]
    return n_cells, n_candidates, first_tensor(x).shape[1]


def _with_many_names(module: nn.Module) -> list[nn.Module]:
    """Return the submodules that a module, or its submodules, hold under several names.

    >>> shared = nn.Tanh()
    >>> _with_many_names(nn.Sequential(nn.Linear(1, 1), shared, nn.Linear(1, 1), shared))
    [Tanh()]
    """
    n_names = Counter(layer for _, layer in module.named_modules(remove_duplicate=False))
    return [layer for layer, n in n_names.items() if n > 1]
