"""Calling a module on one run's batch or, through `torch.func`, on the batches of many runs; their gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils._pytree import tree_map

from sklr.engines.stacked.kernels.attention import attention_by_steps
from sklr.engines.stacked.kernels.convolution import Columns, SharedPictures

Named = dict[str, Tensor]
Gradients = Callable[[Named, Named, Named, Any, Any, Tensor | None], tuple[Named, Tensor, Named]]


def call(module: nn.Module, x: Any, state: Named | None = None) -> Any:
    """Call the module as skorch does: a dict by keyword, anything else as the one argument."""
    args, kwargs = ((), dict(x)) if isinstance(x, Mapping) else ((x,), {})
    return module(*args, **kwargs) if state is None else functional_call(module, state, args, kwargs)


class RunMap:
    """The module called for all candidates and cells: mapped over them, or run by run.

    Parameters
    ----------
    module : nn.Module
    attention : bool
        Whether it uses attention, which is then computed by steps where it is mapped.
    pictures : bool, default False
        Whether to look for convolutions of the data itself, and for max-pooling.
    run_by_run : bool, default False
        Whether the module is called for one run after the other instead of once.

    >>> module, ones = nn.Linear(2, 1, bias=False), torch.ones(3, 5, 1, 2)
    >>> outputs, _ = RunMap(module, attention=False)(torch.rand(3, 4, 2), {"weight": ones}, {}, {}, training=True)
    >>> outputs.shape
    torch.Size([3, 5, 4, 1])
    """

    def __init__(self, module: nn.Module, *, attention: bool, pictures: bool = False, run_by_run: bool = False):
        self.module, self.attention, self.pictures, self.run_by_run = module, attention, pictures, run_by_run
        self._known: dict[Any, Columns] = {}

    def plain(self) -> RunMap:
        """The same by PyTorch's own operations, mapped: what a compiler does well by itself."""
        return RunMap(self.module, attention=self.attention)

    def __call__(self, x: Any, params: Named, constants: Named, buffers: Named, *, training: bool) -> tuple[Any, Named]:
        """Outputs (n_cells, n_candidates, n_rows, ...) and the buffers afterwards.

        `x` leads with n_cells, parameters and constants with (n_cells, n_candidates), buffers with (n_candidates,
        n_cells). Dropout draws the same numbers for the candidates of a cell, and others for other cells.
        """
        self.module.train(training)
        with ExitStack() as modes:
            if self.attention and not self.run_by_run:
                modes.enter_context(attention_by_steps())
            if self.pictures:
                modes.enter_context(SharedPictures(x, self._known) if self.run_by_run else SharedPictures())
            return (self._one_by_one if self.run_by_run else self._mapped)(x, {**params, **constants}, buffers)

    def _mapped(self, x: Any, params: Named, buffers: Named) -> tuple[Any, Named]:
        def run(params: Named, buffers: Named, x: Any) -> tuple[Any, Named]:
            state = {**params, **buffers}
            output = call(self.module, x, state)
            return output, {name: state[name] for name in buffers}

        candidates = vmap(vmap(run, randomness="different"), in_dims=(1, 0, None), out_dims=(1, 0), randomness="same")
        return candidates(params, buffers, x)

    def _one_by_one(self, x: Any, params: Named, buffers: Named) -> tuple[Any, Named]:
        n_cells, n_candidates = next(iter(params.values())).shape[:2]
        # taken apart at once, so that the gradients of all runs are put together at once
        runs = {name: p.flatten(0, 1).unbind() for name, p in params.items()}
        outputs, after = [], []
        for cell in range(n_cells):
            rows, start = tree_map(lambda t, cell=cell: t[cell], x), torch.get_rng_state()
            for k in range(n_candidates):
                torch.set_rng_state(start)
                state = {name: run[cell * n_candidates + k] for name, run in runs.items()}
                state |= {name: b[k, cell] for name, b in buffers.items()}
                outputs.append(call(self.module, rows, state))
                after.append({name: state[name] for name in buffers})

        def stacked(*runs: Tensor) -> Tensor:
            return torch.stack(runs).unflatten(0, (n_cells, n_candidates))

        buffers = {name: stacked(*(b[name] for b in after)).transpose(0, 1).contiguous() for name in buffers}
        return tree_map(stacked, *outputs), buffers


class RunGradients:
    """The losses of many runs and their gradients, as a function of tensors alone, so that it can be compiled.

    Parameters
    ----------
    run_map : RunMap
    loss : callable (outputs, y, weight) -> Tensor (n_cells, n_candidates)

    >>> square = RunGradients(RunMap(nn.Linear(2, 1), attention=False), lambda out, y, weight: (out - y).sum((2, 3)))
    >>> params = {"weight": torch.ones(1, 3, 1, 2), "bias": torch.zeros(1, 3, 1)}
    >>> grads, losses, _ = square(params, {}, {}, torch.ones(1, 4, 2), torch.ones(1, 1, 4, 1), None)
    >>> grads["bias"].flatten().tolist(), losses.tolist()
    ([4.0, 4.0, 4.0], [[4.0, 4.0, 4.0]])
    """

    def __init__(self, run_map: RunMap, loss: Callable[[Any, Any, Tensor | None], Tensor]):
        self.run_map, self.loss = run_map, loss

    def __call__(
        self, params: Named, constants: Named, buffers: Named, x: Any, y: Any, weight: Tensor | None
    ) -> tuple[Named, Tensor, Named]:
        """Each parameter's gradient, the losses (n_cells, n_candidates) and the buffers afterwards, all detached.

        The buffers that are given may be written to.
        """
        together = self._one_by_one if self.run_map.run_by_run else self._together
        return together(params, constants, buffers, x, y, weight)

    def forget(self) -> None:
        """Let go what was prepared for this number of runs, if anything."""

    def _together(
        self, params: Named, constants: Named, buffers: Named, x: Any, y: Any, weight: Tensor | None
    ) -> tuple[Named, Tensor, Named]:
        with torch.enable_grad():
            leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
            outputs, buffers = self.run_map(x, leaves, constants, buffers, training=True)
            losses = self.loss(outputs, y, weight)
            grads = torch.autograd.grad(losses.sum(), list(leaves.values()))
        return dict(zip(leaves, grads, strict=True)), losses.detach(), {n: b.detach() for n, b in buffers.items()}

    def _one_by_one(
        self,
        params: Named,
        constants: Named,
        buffers: Named,
        x: Any,
        y: Any,
        weight: Tensor | None,
        *,
        of_run: Gradients | None = None,
    ) -> tuple[Named, Tensor, Named]:
        """Go back through each run before the next one starts: what it leaves for that stays in the cache."""
        of_run = of_run or self._together
        grads = {name: torch.empty_like(p) for name, p in params.items()}
        like = next(iter(params.values()))
        losses = like.new_empty(like.shape[:2])
        for cell in range(len(losses)):
            one, start = slice(cell, cell + 1), torch.get_rng_state()
            rows = tree_map(lambda t, one=one: None if t is None else t[one], (x, y, weight))
            for k in range(losses.shape[1]):
                torch.set_rng_state(start)
                this = slice(k, k + 1)
                own, fixed = ({name: t[one, this] for name, t in named.items()} for named in (params, constants))
                found, loss, after = of_run(own, fixed, {n: b[this, one] for n, b in buffers.items()}, *rows)
                losses[cell, k] = loss[0, 0]
                for name, grad in found.items():
                    grads[name][one, this] = grad
                for name, buffer in after.items():
                    buffers[name][this, one] = buffer
        return grads, losses, buffers


def mixes_rows(module: nn.Module, x: Any) -> bool:
    """Whether the first row's output changes, in the module's present mode, when others take the other rows' places."""
    outputs = []
    for other in (None, 0, -1):  # rows that there are: not every number is a category
        rows = x if other is None else tree_map(lambda t, k=other: torch.cat([t[:1], t[k].expand_as(t[1:])]), x)
        with rng_kept(x), torch.no_grad():
            outputs.append(first_tensor(call(copy.deepcopy(module), rows))[0])
    return not all(torch.allclose(outputs[0], changed, rtol=1e-5, equal_nan=True) for changed in outputs[1:])


def has_rows(outputs: Tensor, n_rows: int) -> bool:
    """Whether outputs of many runs are (..., ..., n_rows, ...); a module may return one thing for all rows, too."""
    return outputs.dim() > 2 and outputs.shape[2] == n_rows


def first_tensor(output: Any) -> Tensor:
    """The first tensor of a structure of tuples and dicts."""
    while not isinstance(output, Tensor):
        output = next(iter(output.values() if isinstance(output, Mapping) else output))
    return output


@contextmanager
def rng_kept(x: Any) -> Iterator[None]:
    """Within it torch's generators for `x`, the CPU's and its device's, start from 0; afterwards they are as before."""
    device = first_tensor(x).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(0)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(0)
        yield


def generator_states(x: Any) -> list[Tensor]:
    """What a call on `x` may draw from: the states of the CPU's generator and of its device's."""
    device = first_tensor(x).device
    own = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *own]
