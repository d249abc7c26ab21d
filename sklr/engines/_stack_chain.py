"""A fast lane for plain networks: Linear layers with elementwise functions between, forward and backward by hand.

The unmodified module is run once and its calls are recorded; where they are a chain of the operations below, all runs
are trained by batched matrix products in reused memory, at two to three times the speed of `torch.func.vmap`.
Anything else is left to `vmap`: being fast is this file's only duty.

Activations lie `(n_runs, n_features, n_rows)`, rows last: then no product needs a transposed copy, gradients come
out contiguous, and the candidates of a cell, which share their batch, are one product in the first layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

aten = torch.ops.aten
Work = dict[str, Tensor]  # what one operation keeps between forward and backward, and from step to step


@dataclass(frozen=True)
class Linear:
    """`weight @ h + bias` for every run; for a batch shared by the candidates of a cell, one product per cell."""

    weight: str
    bias: str | None

    def forward(self, h: Tensor, params: dict[str, Tensor], work: Work) -> Tensor:
        weight = params[self.weight]
        n_cells, n_candidates, n_out, n_in = weight.shape
        n = h.shape[0]
        if "y" not in work:
            work["y"] = h.new_empty(n_cells * n_candidates, n_out, h.shape[2])
        work["h"], y = h, work["y"].view(n, -1, h.shape[2])
        if self.bias is None:
            torch.bmm(weight.view(n, -1, n_in), h, out=y)
        else:
            torch.baddbmm(params[self.bias].view(n, -1, 1), weight.view(n, -1, n_in), h, out=y)
        return work["y"]

    def backward(self, g: Tensor, params: dict[str, Tensor], grads: dict[str, Tensor], work: Work) -> None:
        h = work["h"]
        torch.bmm(g.view(h.shape[0], -1, g.shape[2]), h.mT, out=grads[self.weight].view(h.shape[0], -1, h.shape[1]))
        if self.bias is not None:
            torch.sum(g, 2, out=grads[self.bias].view(g.shape[:2]))

    def pull_back(self, g: Tensor, params: dict[str, Tensor], work: Work) -> Tensor:
        """The gradient in the layer's input."""
        if "g" not in work:
            work["g"] = torch.empty_like(work["h"])
        return torch.bmm(params[self.weight].flatten(0, 1).mT, g, out=work["g"])


@dataclass(frozen=True)
class Function:
    """An elementwise function, or a softmax over features; `in_place` where nobody else needs its input."""

    name: str
    args: tuple[Any, ...] = ()
    in_place: bool = False

    def forward(self, h: Tensor, params: dict[str, Tensor], work: Work) -> Tensor:
        rule = _RULES[self.name]
        y = (rule.forward_ if self.in_place and rule.forward_ else rule.forward)(h, *self.args)
        work["saved"] = y if rule.from_output else h
        return y

    def pull_back(self, g: Tensor, params: dict[str, Tensor], work: Work) -> Tensor:
        return _RULES[self.name].backward(g, work["saved"], *self.args)


@dataclass(frozen=True)
class Dropout:
    """Dropout whose mask is drawn per cell: its candidates share it."""

    p: float

    def forward(self, h: Tensor, params: dict[str, Tensor], work: Work) -> Tensor:
        n_cells = next(iter(params.values())).shape[0]
        if "mask" not in work:
            work["mask"] = h.new_empty(n_cells, 1, *h.shape[1:])
        work["mask"].bernoulli_(1 - self.p)
        if self.p < 1:
            work["mask"].div_(1 - self.p)
        return self.pull_back(h, params, work)

    def pull_back(self, g: Tensor, params: dict[str, Tensor], work: Work) -> Tensor:
        return (g.view(work["mask"].shape[0], -1, *g.shape[1:]) * work["mask"]).view(g.shape)


Operation = Linear | Function | Dropout


@dataclass(frozen=True)
class _Rule:
    """A function, its in-place form, its gradient (overwriting the one given), and what the gradient is made from."""

    forward: Callable[..., Tensor]
    backward: Callable[..., Tensor]
    from_output: bool = True
    forward_: Callable[..., Tensor] | None = None


def _softmax_rule(forward: Callable[..., Tensor], backward: Callable[..., Tensor]) -> _Rule:
    return _Rule(lambda h: forward(h, 1), lambda g, y: backward(g, y, 1, y.dtype))


_RULES = {
    "relu": _Rule(
        torch.relu, lambda g, y: aten.threshold_backward.grad_input(g, y, 0, grad_input=g), forward_=torch.relu_
    ),
    "tanh": _Rule(torch.tanh, lambda g, y: aten.tanh_backward.grad_input(g, y, grad_input=g), forward_=torch.tanh_),
    "sigmoid": _Rule(
        torch.sigmoid, lambda g, y: aten.sigmoid_backward.grad_input(g, y, grad_input=g), forward_=torch.sigmoid_
    ),
    "leaky_relu": _Rule(
        nn.functional.leaky_relu, lambda g, x, slope: aten.leaky_relu_backward(g, x, slope, False), from_output=False
    ),
    "elu": _Rule(
        nn.functional.elu, lambda g, x, alpha: aten.elu_backward(g, alpha, 1.0, 1.0, False, x), from_output=False
    ),
    "gelu": _Rule(
        lambda h, approximate: nn.functional.gelu(h, approximate=approximate),
        lambda g, x, approximate: aten.gelu_backward(g, x, approximate=approximate),
        from_output=False,
    ),
    "silu": _Rule(nn.functional.silu, aten.silu_backward, from_output=False),
    "softmax": _softmax_rule(torch.softmax, aten._softmax_backward_data),
    "log_softmax": _softmax_rule(torch.log_softmax, aten._log_softmax_backward_data),
}


@dataclass(frozen=True)
class Chain:
    """A recorded chain of operations.

    >>> chain = record(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.zeros(5, 4))
    >>> [type(operation).__name__ for operation in chain.operations]
    ['Linear', 'Function', 'Linear']
    >>> record(nn.GRU(4, 3), torch.zeros(5, 4)) is None
    True
    """

    operations: tuple[Operation, ...]

    def forward(self, x: Tensor, params: dict[str, Tensor], work: list[Work]) -> Tensor:
        """Outputs (n_cells, n_candidates, n_rows, n_out) of `x` (n_cells, n_rows, ...)."""
        h = x.flatten(2).mT
        for operation, own in zip(self.operations, work, strict=True):
            h = operation.forward(h, params, own)
        n_cells, n_candidates = next(iter(params.values())).shape[:2]
        return h.view(n_cells, n_candidates, *h.shape[1:]).mT

    def backward(self, g: Tensor, params: dict[str, Tensor], grads: dict[str, Tensor], work: list[Work]) -> None:
        """Write the gradients of the parameters, given that of the outputs; `g` may be overwritten."""
        g = g.mT.contiguous().flatten(0, 1)
        first = next(i for i, operation in enumerate(self.operations) if isinstance(operation, Linear))
        for i in range(len(self.operations) - 1, first - 1, -1):
            operation = self.operations[i]
            if isinstance(operation, Linear):
                operation.backward(g, params, grads, work[i])
            if i > first:
                g = operation.pull_back(g, params, work[i])

    def workspace(self) -> list[Work]:
        return [{} for _ in self.operations]


def record(module: nn.Module, x: Any) -> Chain | None:
    """Watch the module at work on one run's batch, in its present mode; None where it is no chain.

    A module with hooks or with state of its own is never a chain: replaying its operations would leave that out.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() < 2 or _is_stateful(module):
        return None
    names = {id(p): name for name, p in module.named_parameters(remove_duplicate=False)}
    first, second = (_operations(module, x, names) for _ in range(2))
    if first is None or first != second:
        return None
    used = [n for op in first if isinstance(op, Linear) for n in (op.weight, op.bias) if n is not None]
    trained = [name for name, p in module.named_parameters() if p.requires_grad]
    return Chain(_overwriting(first)) if sorted(used) == sorted(trained) else None


@contextmanager
def called() -> Iterator[set[str]]:
    """The names of the torch functions called within, once it is left."""
    names: set[str] = set()
    with _Recorder() as recorder:
        yield names
    names.update(name for name, *_ in recorder.calls)


def _is_stateful(module: nn.Module) -> bool:
    hooked = any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in module.modules())
    return hooked or any(True for _ in module.buffers())


def _operations(module: nn.Module, x: Tensor, names: dict[int, str]) -> list[Operation] | None:
    recorder = _Recorder()
    try:
        devices = [x.device] if x.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.no_grad(), recorder:
            output = module(x)
    except Exception:  # whatever it is, the general lane will meet it and report it
        return None
    operations: list[Operation] = []
    current: Any = x
    for name, args, kwargs, result in recorder.calls:
        if not args or args[0] is not current:
            return None
        found = _understand(name, args, kwargs, current, result, names)
        if found is None:
            return None
        operations += found
        current = result
    plain = output is current and current.dim() == 2 and bool(operations)
    return operations if plain and any(isinstance(op, Linear) for op in operations) else None


class _Recorder(TorchFunctionMode):
    """Writes down every torch call that makes a tensor, and questions about a shape pass."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if isinstance(result, Tensor) or name not in ("size", "dim", "__get__", "__len__"):
            self.calls.append((name, args, kwargs or {}, result))
        return result


def _understand(
    name: str, args: Any, kwargs: dict[str, Any], h: Tensor, result: Any, names: dict[int, str]
) -> tuple[Operation, ...] | None:
    """The operations that a recorded call stands for; None for a call that is none of ours."""

    def arg(position: int, key: str, default: Any = None) -> Any:
        return args[position] if len(args) > position else kwargs.get(key, default)

    if name in ("to", "float", "double", "contiguous") and result is h:
        return ()
    if name in ("flatten", "view", "reshape"):
        return () if result.shape == h.flatten(1).shape else None
    if h.dim() != 2:
        return None
    if name == "linear":
        weight, bias = arg(1, "weight"), arg(2, "bias")
        known = id(weight) in names and (bias is None or id(bias) in names)
        return (Linear(names[id(weight)], None if bias is None else names[id(bias)]),) if known else None
    if name == "dropout":
        if result is h:
            return ()
        return (Dropout(arg(1, "p", 0.5)),) if arg(2, "training", True) and arg(1, "p", 0.5) > 0 else ()
    if name in ("softmax", "log_softmax"):
        return (Function(name),) if arg(1, "dim") in (1, -1) and kwargs.get("dtype") is None else None
    options = {"leaky_relu": ("negative_slope", 0.01), "elu": ("alpha", 1.0), "gelu": ("approximate", "none")}
    if name in options:
        return (Function(name, (arg(1, *options[name]),)),)
    name = name.removesuffix("_")
    return (Function(name),) if name in ("relu", "tanh", "sigmoid", "silu") else None


def _overwriting(operations: list[Operation]) -> tuple[Operation, ...]:
    """Let functions work in place where the operation before made the memory and will not need it again."""
    result = operations[:1]
    for before, operation in pairwise(operations):
        if isinstance(operation, Function) and isinstance(before, Linear | Dropout):
            operation = Function(operation.name, operation.args, in_place=True)
        result.append(operation)
    return tuple(result)
