"""The kernel that calls a module for one run after another, where that is faster than mapping it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from sklr.engines.stacked.data.batch import Batch
from sklr.engines.stacked.kernels.convolution import Columns, SharedPictures
from sklr.engines.stacked.kernels.module_call import Loss, Named, call, differentiated, in_blocks


class LoopKernel:
    """Goes forward and back through each run before the next one starts: what lies in between stays in the cache.

    Parameters
    ----------
    module : nn.Module
    loss : callable (outputs, y, weight) -> Tensor (n_cells, n_candidates)
    pictures : bool, default False
        Whether to look for convolutions of the data itself, which all candidates of a cell share, and for max-pooling.

    >>> kernel = LoopKernel(nn.Linear(2, 1), lambda out, y, weight: (out - y).sum((2, 3)))
    >>> params = {"weight": torch.ones(1, 3, 1, 2), "bias": torch.zeros(1, 3, 1)}
    >>> grads = {name: torch.empty_like(p) for name, p in params.items()}
    >>> batch = Batch(torch.ones(1, 4, 2), torch.ones(1, 4, 1))
    >>> losses, _ = kernel.gradients(params, {}, {}, batch, grads)
    >>> losses.tolist(), grads["bias"].flatten().tolist()
    ([[4.0, 4.0, 4.0]], [4.0, 4.0, 4.0])
    >>> kernel.outputs(params, {}, {}, batch.x).shape
    torch.Size([1, 3, 4, 1])
    """

    run_by_run = True
    recordable = False  # so long a step gains nothing
    precomputes_targets = False

    def __init__(self, module: nn.Module, loss: Loss, *, pictures: bool = False):
        self.module, self.loss, self.pictures = module, loss, pictures
        self._known: dict[Any, Columns] = {}

    def gradients(
        self, params: Named, constants: Named, buffers: Named, batch: Batch, into: Named
    ) -> tuple[Tensor, Named]:
        """As `Kernel.gradients`."""
        self.module.train()
        like = next(iter(params.values()))
        losses = like.new_empty(like.shape[:2])
        for cell, k in _runs(like):
            own, fixed = ({name: t[cell, k] for name, t in part.items()} for part in (params, constants))
            state, rows = {name: b[k, cell] for name, b in buffers.items()}, batch.of_cell(cell)
            grads, loss, after = self._differentiated(own, fixed, state, rows)
            losses[cell, k] = loss[0, 0]
            for name, grad in grads.items():
                into[name][cell, k] = grad
            for name, buffer in after.items():
                buffers[name][k, cell] = buffer
        return losses, buffers

    def _differentiated(self, params: Named, constants: Named, buffers: Named, rows: Batch) -> Any:
        x = tree_map(lambda t: t[0], rows.x)

        def calls(leaves: Named) -> tuple[Any, Named]:
            outputs, after = self._call(x, {**leaves, **constants, **buffers}, buffers)
            return tree_map(lambda t: t[None, None], outputs), after

        return differentiated(calls, self.loss, params, rows)

    def outputs(self, params: Named, constants: Named, buffers: Named, x: Any) -> Any:
        """As `Kernel.outputs`."""
        self.module.eval()
        return in_blocks(lambda rows: self._outputs({**params, **constants}, buffers, rows), x)

    def _outputs(self, params: Named, buffers: Named, x: Any) -> Any:
        like, found = next(iter(params.values())), []
        for cell, k in _runs(like):
            state = {name: p[cell, k] for name, p in params.items()} | {n: b[k, cell] for n, b in buffers.items()}
            found.append(self._call(tree_map(lambda t, cell=cell: t[cell], x), state, {})[0])
        return tree_map(lambda *runs: torch.stack(runs).unflatten(0, like.shape[:2]), *found)

    def forget(self) -> None:
        """Nothing is prepared."""

    def _call(self, x: Any, state: Named, buffers: Named) -> tuple[Any, Named]:
        """Return one run's outputs (n_rows, ...), and its buffers afterwards."""
        with SharedPictures(x, self._known) if self.pictures else nullcontext():
            state = dict(state)
            output = call(self.module, x, state)
            return output, {name: state[name] for name in buffers}


def _runs(like: Tensor) -> Iterator[tuple[int, int]]:
    """Yield cells and candidates; those of a cell draw the same random numbers, as they do where they are mapped."""
    for cell in range(like.shape[0]):
        start = torch.get_rng_state()
        for k in range(like.shape[1]):
            torch.set_rng_state(start)
            yield cell, k
