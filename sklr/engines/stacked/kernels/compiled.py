"""The gradients of a training step, compiled: one graph per shape of batch, on a CUDA device as CUDA graphs.

Capture and replay are left to `torch.compile`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_leaves, tree_map

from sklr.engines.stacked.kernels.loss import StackedLoss
from sklr.engines.stacked.kernels.mlp_chain import Chain, GradientSink
from sklr.engines.stacked.kernels.mlp_step import Program
from sklr.engines.stacked.kernels.vmap import Gradients, Named, rng_kept

Shapes = tuple[torch.Size | None, ...]


@dataclass(frozen=True)
class ChainGradients:
    """What `RunGradients` is for modules in general, for the ones that are a chain: fewer and larger products.

    Memory is not reused from call to call as it is outside of a graph; in one, the compiler sees to that.
    """

    chain: Chain
    loss: StackedLoss

    @torch.no_grad()
    def __call__(
        self, params: Named, constants: Named, buffers: Named, x: Any, y: Any, weight: Tensor | None
    ) -> tuple[Named, Tensor, Named]:
        """The gradients, the losses (n_cells, n_candidates), and no buffers: a chain has none."""
        grads = {name: torch.empty_like(p) for name, p in params.items()}
        losses = Program(self.chain, self.loss, params, GradientSink(grads), x).run(x, y, weight)
        return grads, losses, {}


class CompiledGradients:
    """Gradients whose operations are recorded once per shape of batch, and compiled.

    What is compiled is a recording of tensor operations, not the module's Python code: that keeps out of the
    compiler's way (mapped attention, hooks), and each shape has a graph of its own instead of a share of the
    compiler's limit of recompilations. The price is that Python code in the module runs when it is recorded and
    never again.

    Parameters
    ----------
    plain : RunGradients or ChainGradients
    """

    def __init__(self, plain: Gradients):
        self.plain = plain
        self._graphs: dict[Shapes, Callable[..., Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"plain": self.plain, "_graphs": {}}  # compiled code stays in its process

    @torch.no_grad()
    def __call__(
        self, params: Named, constants: Named, buffers: Named, x: Any, y: Any, weight: Tensor | None
    ) -> tuple[Named, Tensor, Named]:
        """As the plain ones, but the buffers stay as they are, and the gradients hold until the next call only.

        Raises
        ------
        ValueError
            If the module does other operations each time.
        Exception
            Whatever the compiler raises, such as `torch._inductor.exc.InductorError` without a C++ compiler.
        """
        x, y, weight = tree_map(_as_compiled, (x, y, weight))  # equal strides, or the compiler starts over
        inputs = (params, constants, buffers, x, y, weight)
        shapes = tuple(None if t is None else t.shape for t in tree_leaves((x, y, weight)))
        if shapes not in self._graphs:
            return self._compile(shapes, inputs)
        return _run(self._graphs[shapes], inputs)

    def forget(self) -> None:
        """Let the graphs go: the number of runs has changed."""
        self._graphs.clear()

    def _compile(self, shapes: Shapes, inputs: tuple[Any, ...]) -> tuple[Named, Tensor, Named]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch's, about parts of torch
            mode = "reduce-overhead" if _on_cuda(inputs) else "default"
            graph = torch.compile(_recorded(self.plain, inputs), fullgraph=True, dynamic=False, mode=mode)
            results = _run(graph, inputs)
        self._graphs[shapes] = graph
        return results


def _as_compiled(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.contiguous()


def _run(graph: Callable[..., Any], inputs: tuple[Any, ...]) -> tuple[Named, Tensor, Named]:
    """Run a graph, and copy what is kept beyond its next run, which will write into the same memory."""
    if _on_cuda(inputs):
        torch.compiler.cudagraph_mark_step_begin()
    grads, losses, buffers = graph(*inputs)
    return grads, losses.clone(), {name: t.clone() for name, t in buffers.items()}


def _on_cuda(inputs: tuple[Any, ...]) -> bool:
    return next(iter(inputs[0].values())).is_cuda


def _recorded(plain: Gradients, inputs: tuple[Any, ...]) -> GraphModule:
    """Record the operations, twice: a module that counts its calls, say, would be frozen at one count."""

    def pure(params: Named, constants: Named, buffers: Named, *batch: Any) -> tuple[Named, Tensor, Named]:
        # a graph that writes to its inputs is not run as a CUDA graph
        return plain(params, constants, {name: t.clone() for name, t in buffers.items()}, *batch)

    recordings = []
    for _ in range(2):
        with rng_kept(inputs[3]):
            recordings.append(make_fx(pure)(*inputs))
    first, second = recordings
    constants = second.state_dict()
    if first.code != second.code or not all(torch.equal(t, constants[n]) for n, t in first.state_dict().items()):
        raise ValueError("the module does other operations, or the same with other numbers, each time it is called")
    return first
