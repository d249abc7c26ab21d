"""Tracing a module: which torch functions a call makes, and whether they are a chain that `MLPKernel` can compute."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sklr.engines.stacked.kernels.mlp_chain import Chain, Dropout, Function, LinearLayer, Operation
from sklr.engines.stacked.kernels.mlp_norm import BatchNorm
from sklr.engines.stacked.purity.untouched import Untouched, is_hooked


def record(module: nn.Module, x: Any) -> Chain | None:
    """Trace the module, in its current mode, on one run's batch; return None if it is not a chain.

    It is traced twice, and the two traces must be equal. A module with hooks, with other buffers than those of batch
    normalization, or with attributes that a call changes is never a chain: running its operations without the module
    would leave these out.

    >>> chain = record(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.zeros(5, 4))
    >>> [type(operation).__name__ for operation in chain.operations]
    ['LinearLayer', 'Function', 'LinearLayer']
    >>> record(nn.GRU(4, 3), torch.zeros(5, 4)) is None
    True
    """
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() < 2 or _is_stateful(module):
        return None
    module = copy.deepcopy(module) if any(True for _ in module.buffers()) else module  # a call changes them
    names = {id(p): name for name, p in _named_tensors(module)}
    first, untouched = _operations(module, x, names), Untouched(module)
    if first is None or first != _operations(module, x, names) or not untouched.holds(strict=False):
        return None
    used = [n for op in first if isinstance(op, LinearLayer | BatchNorm) for n in (op.weight, op.bias) if n is not None]
    trained = [name for name, p in module.named_parameters() if p.requires_grad]
    # each parameter must be used once: gradients of shared ones would have to be added up
    return Chain(_overwriting(first)) if sorted(used) == sorted(trained) else None


def _is_stateful(module: nn.Module) -> bool:
    layers = list(module.modules())
    known = sum(len(layer._buffers) for layer in layers if type(layer) is nn.BatchNorm1d and layer.affine)
    return any(map(is_hooked, layers)) or known != sum(len(layer._buffers) for layer in layers)


def _named_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]


def _operations(module: nn.Module, x: Tensor, names: dict[int, str]) -> list[Operation] | None:
    """Return the operations of one forward pass, None if they are not a chain that starts at `x`."""
    recorder = CallRecorder(x.device.type)
    try:
        module.train(module.training)  # as every training step does; the user may have overridden `train`
        devices = [x.device] if x.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.no_grad(), recorder:
            output = module(x)
    except Exception:  # a module may raise anything; VmapKernel meets the same error and reports it
        return None
    if recorder.precision is not None:
        return None  # autocast: it computes in another dtype than that of its parameters
    operations: list[Operation] = []
    current: Any = x
    for name, args, kwargs, result in recorder.calls:
        if name == "add_" and names.get(id(result), "").endswith("num_batches_tracked"):
            continue  # part of the batch normalization that follows
        if not args or args[0] is not current:  # e.g. a skip connection
            return None
        if name == "batch_norm" and not any(isinstance(op, LinearLayer) for op in operations):
            return None  # the candidates of a cell share the batch, but not its normalization
        found = _recognize(name, args, kwargs, current, result, names)
        if found is None:
            return None
        if any(isinstance(op, BatchNorm) and op.training != module.training for op in found):
            return None  # a layer kept in evaluation mode, for which no gradient is written
        operations += found
        current = result
    plain = output is current and current.dim() == 2
    return operations if plain and any(isinstance(op, LinearLayer) for op in operations) else None


class CallRecorder(TorchFunctionMode):
    """Record the torch functions called within the context, except queries of a shape.

    Parameters
    ----------
    device_type : str
        The type of the device that the module is on, such as "cpu".

    Attributes
    ----------
    calls : list of (name, args, kwargs, result)
    precision : torch.dtype or None
        The dtype of `torch.autocast`, if it was enabled during a call.

    >>> with CallRecorder("cpu") as recorder, torch.autocast("cpu"):
    ...     _ = torch.ones(2).exp()
    >>> sorted(recorder.names), recorder.precision
    (['exp', 'ones'], torch.bfloat16)
    """

    def __init__(self, device_type: str) -> None:
        super().__init__()
        self.device_type = device_type
        self.precision: torch.dtype | None = None
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any], Any]] = []

    @property
    def names(self) -> set[str]:
        """The names of the functions called."""
        return {name for name, *_ in self.calls}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if isinstance(result, Tensor) or name not in ("size", "dim", "__get__", "__len__"):
            self.calls.append((name, args, kwargs or {}, result))
        if torch.is_autocast_enabled(self.device_type):
            self.precision = torch.get_autocast_dtype(self.device_type)
        return result


def _recognize(
    name: str, args: Any, kwargs: dict[str, Any], h: Tensor, result: Any, names: dict[int, str]
) -> tuple[Operation, ...] | None:
    """Return the operations equivalent to a recorded call on activations `h`; None if there are none.

    Calls that change nothing, such as `h.to(...)` that returns `h`, give an empty tuple.
    """

    def arg(position: int, key: str, default: Any = None) -> Any:
        return args[position] if len(args) > position else kwargs.get(key, default)

    if name in ("to", "float", "double", "contiguous") and result is h:
        return ()
    if name in ("flatten", "view", "reshape"):
        return () if result.shape == h.flatten(1).shape else None
    if h.dim() != 2:  # the kernel's activations are (n_features, n_rows) per run
        return None
    if name == "linear":
        weight, bias = arg(1, "weight"), arg(2, "bias")
        known = id(weight) in names and (bias is None or id(bias) in names)
        return (LinearLayer(names[id(weight)], None if bias is None else names[id(bias)]),) if known else None
    if name == "batch_norm":
        return _batch_norm([arg(i, key) for i, key in enumerate(_BATCH_NORM)][1:], names)
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


_BATCH_NORM = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")


def _batch_norm(args: list[Any], names: dict[int, str]) -> tuple[Operation, ...] | None:
    """Return the operation of a call of an `nn.BatchNorm1d` with parameters and running statistics; else None."""
    *tensors, training, momentum, eps = args
    mean, var, weight, bias = (names.get(id(t)) for t in tensors)
    if None in (mean, var, weight, bias):
        return None
    n_batches = f"{str(mean).removesuffix('running_mean')}num_batches_tracked"
    return (BatchNorm(str(weight), str(bias), str(mean), str(var), n_batches, momentum, eps, training),)


def _overwriting(operations: list[Operation]) -> tuple[Operation, ...]:
    """Work in place after a layer or dropout, whose backward passes do not need their outputs."""
    result = operations[:1]
    for before, operation in pairwise(operations):
        if isinstance(operation, Function | BatchNorm) and not isinstance(before, Function):
            operation = replace(operation, in_place=True)
        result.append(operation)
    return tuple(result)
