"""Profile of a stacked search: time by part, floating-point operations, and memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import torch
from torch.profiler import ProfilerActivity, profile

from sklr.engines.stacked.engine import StackedEngine
from sklr.engines.stacked.kernels.loss import PreparedAutograd, PreparedCrossEntropy, StackedLoss
from sklr.engines.stacked.model.feed import Feed
from sklr.engines.stacked.model.pack import Pack
from sklr.engines.stacked.model.stack import ModelStack
from sklr.engines.stacked.optim.optimizer import StackedOptimizer
from sklr.engines.stacked.replay.replay import Replay, Replays
from sklr.engines.stacked.scored_pack import ScoredPack

Methods = Sequence[tuple[type, str]]

PARTS: dict[str, Methods] = {  # time goes to the innermost part: gathering rows within a step is not "gradients"
    "replayed steps": [(Replay, "__call__")],
    "gradients": [(ModelStack, "_step")],
    "optimizer": [(StackedOptimizer, "step")],
    "loss": [(PreparedCrossEntropy, "__call__"), (PreparedAutograd, "__call__"), (StackedLoss, "__call__")],
    "recording": [(Replays, "_recorded")],
    "gather": [(Feed, "_gathered")],
    "scoring": [(ScoredPack, "train_epoch"), (ScoredPack, "finish")],
    "set-up": [(StackedEngine, "unsupported"), (StackedEngine, "start")],
    "book-keeping": [(Pack, "train_epoch")],
}


class Stopwatch:
    """Divide wall time among named parts of a program, attributing each second to the innermost active part.

    >>> class Clockwork:
    ...     def outer(self): return self.inner() + 1
    ...     def inner(self): return 1
    >>> watch = Stopwatch({"in": [(Clockwork, "inner")], "out": [(Clockwork, "outer")]})
    >>> with watch.running():
    ...     Clockwork().outer()
    2
    >>> list(watch.seconds), min(watch.seconds.values()) > 0
    (['in', 'out', 'search'], True)
    """

    def __init__(self, parts: Mapping[str, Methods], rest: str = "search", finish: Callable[[], Any] = lambda: None):
        self.parts, self.finish = parts, finish
        self.seconds = dict.fromkeys([*parts, rest], 0.0)
        self._at_work = [rest]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measure within this context; `finish` is called whenever the active part changes, to wait for a device."""
        with ExitStack() as stack:
            for part, methods in self.parts.items():
                for owner, name in methods:
                    stack.enter_context(patch.object(owner, name, self._watched(part, getattr(owner, name))))
            self._since = time.perf_counter()
            yield
            self._pass()

    def _watched(self, part: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._pass()
            self._at_work.append(part)
            try:
                return method(*args, **kwargs)
            finally:
                self._pass()
                self._at_work.pop()

        return call

    def _pass(self) -> None:
        self.finish()
        now = time.perf_counter()
        self.seconds[self._at_work[-1]] += now - self._since
        self._since = now


def where_time_goes(function: Callable[[], Any], device: str) -> dict[str, float]:
    """Return the seconds of each part of a stacked search; they sum to the total time."""
    watch = Stopwatch(PARTS, finish=torch.cuda.synchronize if device.startswith("cuda") else lambda: None)
    with watch.running():
        function()
    return watch.seconds


def peak_bytes(function: Callable[[], Any], device: str) -> int:
    """Return the peak memory of the tensors that are allocated during the call, in bytes.

    On the CPU, PyTorch's profiler reports every allocation. Python objects and the caller's data are not counted.
    """
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    taken = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        taken += event.nbytes()
        most = max(most, taken)
    return most


def mlp_flops(widths: Sequence[int], n_rows: int) -> int:
    """Return the floating-point operations in the matrix products of training an MLP on each row once.

    They are 2 x in x out per row for the forward pass, for the gradients of the weights, and, in all layers but the
    first, for the gradients of the inputs.

    >>> mlp_flops((3, 2), 1)  # 6 multiplications and 6 additions forward, and as many for the gradient
    24
    """
    sizes = [n_in * n_out for n_in, n_out in pairwise(widths)]
    return 2 * n_rows * (3 * sum(sizes) - sizes[0])


def bmm_rate(widths: Sequence[int], n_runs: int, batch_size: int, device: str, repeat: int = 7) -> float:
    """Return the floating-point operations per second of `torch.bmm` for the matrix products of an MLP's step.

    These are each layer's forward product and its two gradients, with one matrix per run, written to preallocated
    memory. The result is the median of `repeat` rounds of 10 steps.
    """
    products = [p for i, (n_in, n_out) in enumerate(pairwise(widths)) for p in _products(n_in, n_out, i > 0)]
    operands = [
        [torch.randn(n_runs, *shape, device=device) for shape in ((a, b), (b, c), (a, c))]
        for a, b, c in (tuple(batch_size if n is None else n for n in p) for p in products)
    ]
    rates = [_steps(operands, device) for _ in range(repeat + 2)][2:]
    return 10 * n_runs * mlp_flops(widths, batch_size) / sorted(rates)[repeat // 2]


def _products(n_in: int, n_out: int, has_input_gradient: bool) -> list[tuple[int | None, int | None, int | None]]:
    """Return the (rows, inner, columns) of a layer's products, where None stands for the batch size."""
    forward_and_weights: list[tuple[int | None, int | None, int | None]] = [(n_out, n_in, None), (n_out, None, n_in)]
    return forward_and_weights + [(n_in, n_out, None)] * has_input_gradient


def _steps(operands: Sequence[Sequence[torch.Tensor]], device: str) -> float:
    finish = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    finish()
    start = time.perf_counter()
    for _ in range(10):
        for a, b, out in operands:
            torch.bmm(a, b, out=out)
    finish()
    return time.perf_counter() - start
