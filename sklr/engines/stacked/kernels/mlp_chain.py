"""Plain MLPs: Linear layers, elementwise functions and batch normalization, forward and backward written by hand.

The operations are set up once, as calls on preallocated memory, and repeated in every step: batched matrix products
with almost no Python in between. Any other module is left to `torch.func.vmap`, so this file only adds speed (1.5 to
1.75 times on the MLPs of `benchmarks/README.md`).

Activations have shape `(n_runs, n_features, n_rows)`, rows last. With this layout no matrix product needs a transposed
copy, gradients come out contiguous, and the candidates of a cell, which share their batch, are a single product in the
first layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten
Named = Mapping[str, Tensor]


class Calls:
    """A list of calls to run in order, any number of times.

    Parameters
    ----------
    generator : torch.Generator, optional
        Draws dropout's masks; by default torch's global generator.

    >>> calls, x = Calls(), torch.zeros(2)
    >>> calls.add(x.add_, 1)
    >>> calls.run(), calls.run(), x.tolist()
    (None, None, [2.0, 2.0])
    """

    def __init__(self, generator: torch.Generator | None = None) -> None:
        self.generator = generator
        self._calls: list[Callable[[], Any]] = []

    def add(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._calls.append(partial(function, *args, **kwargs))

    def run(self) -> None:
        for call in self._calls:
            call()


class Operation:
    """A step of a chain: `forward` appends the calls that compute it, `pull_back` those of its input's gradient.

    `backward` appends those that write the gradients of its parameters, if it has any.
    """

    mixes_rows = False

    def forward(self, calls: Calls, h: Tensor, state: Named) -> tuple[Tensor, Any]:
        """Return the output, and what `pull_back` and `backward` need."""
        raise NotImplementedError

    def backward(self, calls: Calls, g: Tensor, saved: Any, into: Named) -> None:
        """Write the gradients of the parameters `into` these tensors, given the gradient `g` of the output."""

    def pull_back(self, calls: Calls, g: Tensor, saved: Any, state: Named) -> Tensor:
        """Return the gradient of the input."""
        raise NotImplementedError


@dataclass(frozen=True)
class LinearLayer(Operation):
    """`weight @ h + bias` for every run; the fields are names of parameters.

    In the first layer the candidates of a cell share the input `h`: their weights are then laid on top of each other,
    and each cell is one product instead of one per run. `h.shape[0]` tells the cases apart: n_cells, or n_runs.
    """

    weight: str
    bias: str | None

    def forward(self, calls: Calls, h: Tensor, state: Named) -> tuple[Tensor, Tensor]:
        weight, n = state[self.weight], h.shape[0]
        n_cells, n_candidates, n_out, n_in = weight.shape
        y = h.new_empty(n_cells * n_candidates, n_out, h.shape[2])
        calls.add(torch.bmm, weight.view(n, -1, n_in), h, out=y.view(n, -1, h.shape[2]))
        if self.bias is not None:
            calls.add(y.add_, state[self.bias].view(-1, n_out, 1))  # cheaper than torch.baddbmm
        return y, h

    def backward(self, calls: Calls, g: Tensor, h: Tensor, into: Named) -> None:
        n, n_in, n_rows = h.shape
        calls.add(torch.bmm, g.view(n, -1, n_rows), h.mT, out=into[self.weight].view(n, -1, n_in))
        if self.bias is not None:
            calls.add(torch.sum, g, 2, out=into[self.bias].view(g.shape[:2]))

    def pull_back(self, calls: Calls, g: Tensor, h: Tensor, state: Named) -> Tensor:
        into = torch.empty_like(h)
        calls.add(torch.bmm, state[self.weight].flatten(0, 1).mT, g, out=into)
        return into


@dataclass(frozen=True)
class Function(Operation):
    """An elementwise function, or a softmax over features; `in_place` if nothing else needs its input."""

    name: str
    args: tuple[Any, ...] = ()
    in_place: bool = False

    def forward(self, calls: Calls, h: Tensor, state: Named) -> tuple[Tensor, Tensor]:
        rule = _RULES[self.name]
        y = h if self.in_place and rule.from_output and rule.elementwise else torch.empty_like(h)
        calls.add(rule.forward, h, *self.args, out=y)
        return y, y if rule.from_output else h

    def pull_back(self, calls: Calls, g: Tensor, saved: Tensor, state: Named) -> Tensor:
        rule = _RULES[self.name]
        into = g if rule.elementwise else torch.empty_like(g)
        calls.add(rule.backward, g, saved, *self.args, into)
        return into


@dataclass(frozen=True)
class Dropout(Operation):
    """Dropout with one mask per cell, shared by its candidates, so that these differ by their parameters alone."""

    p: float

    def forward(self, calls: Calls, h: Tensor, state: Named) -> tuple[Tensor, Tensor]:
        n_cells = next(iter(state.values())).shape[0]
        mask, y = h.new_empty(n_cells, 1, *h.shape[1:]), torch.empty_like(h)
        calls.add(mask.bernoulli_, 1 - self.p, generator=calls.generator)
        if self.p < 1:  # p=1 zeroes everything; scaling would make 0 / 0
            calls.add(mask.div_, 1 - self.p)
        self._masked(calls, h, mask, y)
        return y, mask

    def pull_back(self, calls: Calls, g: Tensor, mask: Tensor, state: Named) -> Tensor:
        self._masked(calls, g, mask, g)
        return g

    @staticmethod
    def _masked(calls: Calls, h: Tensor, mask: Tensor, out: Tensor) -> None:
        by_cell = (mask.shape[0], -1, *h.shape[1:])
        calls.add(torch.mul, h.view(by_cell), mask, out=out.view(by_cell))


@dataclass(frozen=True)
class _Rule:
    """A function and its gradient, which is computed from the function's output or from its input.

    An elementwise gradient may overwrite `g`, and a function whose gradient needs its output alone may overwrite `h`.
    """

    forward: Callable[..., Tensor]
    backward: Callable[..., Tensor]
    from_output: bool = True
    elementwise: bool = True


def _relu(h: Tensor, out: Tensor) -> Tensor:
    return torch.clamp_min(h, 0, out=out)  # aten.relu.out allocates the result and then copies it


_RULES = {
    "relu": _Rule(_relu, lambda g, y, into: aten.threshold_backward.grad_input(g, y, 0, grad_input=into)),
    "tanh": _Rule(torch.tanh, lambda g, y, into: aten.tanh_backward.grad_input(g, y, grad_input=into)),
    "sigmoid": _Rule(torch.sigmoid, lambda g, y, into: aten.sigmoid_backward.grad_input(g, y, grad_input=into)),
    # `False` in the next two: they are given the input, not the result
    "leaky_relu": _Rule(
        aten.leaky_relu.out,
        lambda g, x, slope, into: aten.leaky_relu_backward.grad_input(g, x, slope, False, grad_input=into),
        from_output=False,
    ),
    "elu": _Rule(
        aten.elu.out,
        lambda g, x, alpha, into: aten.elu_backward.grad_input(g, alpha, 1.0, 1.0, False, x, grad_input=into),
        from_output=False,
    ),
    "gelu": _Rule(
        lambda h, approximate, out: aten.gelu.out(h, approximate=approximate, out=out),
        lambda g, x, approximate, into: aten.gelu_backward.grad_input(g, x, approximate=approximate, grad_input=into),
        from_output=False,
    ),
    "silu": _Rule(
        aten.silu.out, lambda g, x, into: aten.silu_backward.grad_input(g, x, grad_input=into), from_output=False
    ),
    "softmax": _Rule(
        lambda h, out: aten._softmax.out(h, 1, False, out=out),
        lambda g, y, into: aten._softmax_backward_data.out(g, y, 1, y.dtype, grad_input=into),
        elementwise=False,
    ),
    "log_softmax": _Rule(
        lambda h, out: aten._log_softmax.out(h, 1, False, out=out),
        lambda g, y, into: aten._log_softmax_backward_data.out(g, y, 1, y.dtype, out=into),
        elementwise=False,
    ),
}


@dataclass(frozen=True)
class Chain:
    """The operations of a module, in the order in which it calls them.

    >>> chain = Chain((LinearLayer("w", None), Function("relu", in_place=True)))
    >>> calls, params = Calls(), {"w": torch.tensor([[[[2.0]], [[-3.0]]]])}
    >>> outputs, _ = chain.forward(calls, torch.tensor([[[1.0, -1.0]]]), params)
    >>> calls.run(), outputs.tolist()
    (None, [[[2.0, 0.0]], [[0.0, 3.0]]])
    """

    operations: tuple[Operation, ...]

    @property
    def mixes_rows(self) -> bool:
        """Whether a row's output depends on the other rows."""
        return any(operation.mixes_rows for operation in self.operations)

    def forward(self, calls: Calls, x: Tensor, state: Named) -> tuple[Tensor, list[Any]]:
        """Append the calls that compute the outputs from `x` (n_cells, n_in, n_rows).

        `state` has the parameters, followed by the buffers.

        Returns
        -------
        outputs : Tensor (n_runs, n_out, n_rows)
        saved : list, one item per operation
            What `backward` needs of each: an input, an output or a mask.
        """
        h, saved = x, list[Any]()
        for operation in self.operations:
            h, kept = operation.forward(calls, h, state)
            saved.append(kept)
        return h, saved

    def backward(self, calls: Calls, g: Tensor, saved: list[Any], state: Named, into: Named) -> None:
        """Append the calls that compute the parameters' gradients from the outputs' gradient.

        They overwrite that gradient, `g` (n_runs, n_out, n_rows). Nothing is computed below the first Linear layer:
        the batch needs no gradient.
        """
        first = next(i for i, operation in enumerate(self.operations) if isinstance(operation, LinearLayer))
        for i in range(len(self.operations) - 1, first - 1, -1):
            operation = self.operations[i]
            operation.backward(calls, g, saved[i], into)
            if i > first:
                g = operation.pull_back(calls, g, saved[i], state)


def per_run(h: Tensor, params: Named) -> Tensor:
    """View activations (n_runs, n_features, n_rows) as (n_cells, n_candidates, n_rows, n_features)."""
    return h.view(*next(iter(params.values())).shape[:2], *h.shape[1:]).mT
