"""Calling a module on one run's batch or, through `torch.func`, on the batches of many runs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils._pytree import tree_map

from sklr.engines._stack_attention import attention_by_steps

Named = dict[str, Tensor]


def call(module: nn.Module, x: Any, state: Named | None = None) -> Any:
    """Call the module as skorch does: a dict by keyword, anything else as the one argument."""
    args, kwargs = ((), dict(x)) if isinstance(x, Mapping) else ((x,), {})
    return module(*args, **kwargs) if state is None else functional_call(module, state, args, kwargs)


class RunMap:
    """The module mapped over candidates and cells.

    Parameters
    ----------
    module : nn.Module
    attention : bool
        Whether it uses attention, which is then computed by steps.

    >>> module, ones = nn.Linear(2, 1, bias=False), torch.ones(3, 5, 1, 2)
    >>> outputs, _ = RunMap(module, attention=False)(torch.rand(3, 4, 2), {"weight": ones}, {}, {}, training=True)
    >>> outputs.shape
    torch.Size([3, 5, 4, 1])
    """

    def __init__(self, module: nn.Module, *, attention: bool):
        self.module = module
        self._mode: Callable[[], AbstractContextManager[None]] = attention_by_steps if attention else nullcontext

    def __call__(self, x: Any, params: Named, constants: Named, buffers: Named, *, training: bool) -> tuple[Any, Named]:
        """Outputs (n_cells, n_candidates, n_rows, ...) and the buffers afterwards.

        `x` leads with n_cells, parameters and constants with (n_cells, n_candidates), buffers with (n_candidates,
        n_cells). Dropout draws the same numbers for the candidates of a cell, and others for other cells.
        """

        def run(params: Named, constants: Named, buffers: Named, x: Any) -> tuple[Any, Named]:
            state = {**params, **constants, **buffers}
            output = call(self.module, x, state)
            return output, {name: state[name] for name in buffers}

        self.module.train(training)
        candidates = vmap(
            vmap(run, randomness="different"), in_dims=(1, 1, 0, None), out_dims=(1, 0), randomness="same"
        )
        with self._mode():
            return candidates(params, constants, buffers, x)


def mixes_rows(module: nn.Module, x: Any) -> bool:
    """Whether the first row's training output changes when the other rows do."""
    first_row_only = tree_map(lambda t: t[:1].expand_as(t).contiguous(), x)
    outputs = []
    for rows in (x, first_row_only):
        with rng_kept(x), torch.no_grad():
            outputs.append(first_tensor(call(copy.deepcopy(module), rows))[0])
    return not torch.allclose(outputs[0], outputs[1], rtol=1e-5, equal_nan=True)


def first_tensor(output: Any) -> Tensor:
    """The first tensor of a structure of tuples and dicts."""
    while not isinstance(output, Tensor):
        output = next(iter(output.values() if isinstance(output, Mapping) else output))
    return output


@contextmanager
def rng_kept(x: Any) -> Iterator[None]:
    """Within it torch's generators start from 0; afterwards they stand where they stood."""
    device = first_tensor(x).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        yield
