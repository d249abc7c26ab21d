"""The ways in which a stack can take its steps, each of which can be switched off: what is one worth?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from torch.nn import functional as F

from sklr.engines.stacked.checks import module_probe
from sklr.engines.stacked.kernels import convolution, replayed_runs
from sklr.engines.stacked.model import stack as stack_module
from sklr.engines.stacked.optim.probe import StackedOptimizer
from sklr.engines.stacked.replay import executor

Patch = tuple[Any, str, Any]  # object, attribute, value while a lane is switched off


def _traits(**changes: Any) -> list[Patch]:
    examine = module_probe.examine

    def changed(*args: Any) -> Any:
        return replace(examine(*args), **changes)

    return [(module_probe, "examine", changed)]


class _NoPictures(stack_module.RunMap):
    def __init__(self, *args: Any, pictures: bool = False, **kwargs: Any):
        super().__init__(*args, pictures=False, **kwargs)


class _NeverRunByRun(stack_module.RunMap):
    def __init__(self, *args: Any, run_by_run: bool = False, **kwargs: Any):
        super().__init__(*args, run_by_run=False, **kwargs)


LANES: dict[str, Callable[[], list[Patch]]] = {
    "chain": partial(_traits, chain=None, eval_chain=None),  # an MLP as batched products, without autograd
    "replay": lambda: [(executor, "WORTH_STEPS", float("inf"))],  # steps without Python
    "replayed-runs": lambda: [(replayed_runs, "WORTH_RUNS", float("inf"))],  # the same, run by run
    "run-by-run": lambda: [(stack_module, "RunMap", _NeverRunByRun)],  # large convolutions and few runs, not mapped
    "pictures": lambda: [(stack_module, "RunMap", _NoPictures)],  # convolutions of the data as products
    "halving-pool": lambda: [(convolution, "_halved", lambda x: F.max_pool2d(x, 2))],  # of those, the poolings
    "counted": lambda: [(stack_module.ModelStack, "counts_ahead", False)],  # what a loss knows before the step
    "heavy-ball": lambda: [(StackedOptimizer, "heavy_ball", lambda self: None)],  # SGD that accumulates in its buffer
}


@contextmanager
def switched_off(names: Sequence[str]) -> Iterator[None]:
    """Train without these lanes."""
    before: list[Patch] = []
    try:
        for name in names:
            for thing, attribute, value in LANES[name]():
                before.append((thing, attribute, getattr(thing, attribute)))
                setattr(thing, attribute, value)
        yield
    finally:
        for thing, attribute, value in reversed(before):
            setattr(thing, attribute, value)
