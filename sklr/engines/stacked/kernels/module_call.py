"""Calling a module as skorch does, differentiating through the call, and probing what a call depends on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves, tree_map

from sklr.engines.stacked.data.batch import Batch
from sklr.engines.stacked.data.cell_rows import PackRows

# most rows of a cell, and most input elements, predicted in one call: a whole fold's activations can be gigabytes
ROWS, NUMBERS = 512, 2**22
Named = dict[str, Tensor]
Loss = Callable[[Any, Any, Tensor | None], Tensor]


def call(module: nn.Module, x: Any, state: Named | None = None) -> Any:
    """Call the module as skorch does: a dict is passed by keyword, anything else as the only argument.

    With `state`, parameters and buffers by name, it is a functional call.
    """
    args, kwargs = ((), dict(x)) if isinstance(x, Mapping) else ((x,), {})
    return module(*args, **kwargs) if state is None else functional_call(module, state, args, kwargs)


def differentiated(
    calls: Callable[[Named], tuple[Any, Named]], loss: Loss, params: Named, batch: Batch
) -> tuple[Named, Tensor, Named]:
    """Return each parameter's gradient, the losses and the updated buffers, all detached.

    `calls(params)` returns the outputs for the batch and the updated buffers. The runs' losses are summed: each depends
    on the parameters of its own run only, so the gradient of the sum holds the gradients of all runs.
    """
    with torch.enable_grad():
        leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
        outputs, buffers = calls(leaves)
        losses = loss(outputs, batch.y, batch.weight)
        grads = torch.autograd.grad(losses.sum(), list(leaves.values()))
    return dict(zip(leaves, grads, strict=True)), losses.detach(), {name: b.detach() for name, b in buffers.items()}


def in_blocks(calls: Callable[[Any], Any], rows: PackRows, at_most: int | None = None) -> Any:
    """Call `calls` on blocks of at most so many rows of all cells (default: `ROWS`), and concatenate what it returns.

    It is given (n_cells, n_rows, ...) and returns tensors (..., ..., n_rows, ...), or a structure of such.

    >>> from sklr.engines.stacked.data.cell_rows import CellRows
    >>> rows = PackRows([CellRows.all_of(torch.zeros(1024, 2))])
    >>> in_blocks(lambda x: x.unsqueeze(0) + len(x[0]), rows).mean().item()
    512.0
    """
    n_cells, n_rows = rows.numbers.shape
    at_once = rows_at_once(n_cells, rows.row_numel, at_most)
    # Blocks of about equal size, so that none has a single row: modules that call `squeeze` would drop that axis.
    blocks = rows.numbers.tensor_split(-(-n_rows // at_once), 1)
    sizes, memory = [block.shape[1] for block in blocks], list[Tensor]()  # reused: new memory for each block adds up
    found = [tree_map(lambda t: _apart(t, memory), calls(rows.at(block, memory))) for block in blocks]

    def joined(*parts: Tensor) -> Tensor:
        return torch.cat(parts, 2) if all(map(has_rows, parts, sizes)) else parts[0]

    return tree_map(joined, *found)


def _apart(tensor: Tensor, memory: Sequence[Tensor]) -> Tensor:
    """Return the tensor, or a copy of one that lies in `memory`, which is about to be overwritten."""
    places = [t.untyped_storage().data_ptr() for t in memory]
    return tensor.clone() if tensor.untyped_storage().data_ptr() in places else tensor


def rows_at_once(n_cells: int, row_numel: int, at_most: int | None = None) -> int:
    """Return the most rows of a cell that `in_blocks` predicts in one call.

    >>> rows_at_once(3, 10), rows_at_once(3, 10, 50), rows_at_once(2, 2**20)
    (512, 50, 2)
    """
    return max(2, min(at_most or ROWS, NUMBERS // (n_cells * row_numel)))


def mixes_rows(module: nn.Module, x: Any) -> bool:
    """Whether the first or last row's output changes, in the module's current mode, when other rows are replaced.

    >>> layer, rows = nn.RNN(2, 2), torch.eye(2)  # which takes rows without a batch for time steps
    >>> mixes_rows(nn.Linear(2, 2), rows), mixes_rows(nn.Sequential(layer), rows)
    (False, True)
    """

    def outputs(rows: Any) -> Tensor:
        with rng_kept(x), torch.no_grad():
            return first_tensor(call(copy.deepcopy(module), rows))

    given = outputs(x)
    for kept in (0, -1):
        for other in (0, -1):  # replaced by rows of the batch: made-up numbers may not be valid categories
            changed = outputs(tree_map(lambda t, kept=kept, other=other: _replaced(t, kept, other), x))
            if not torch.allclose(given[kept], changed[kept], rtol=1e-5, equal_nan=True):
                return True
    return False


def _replaced(rows: Tensor, kept: int, other: int) -> Tensor:
    """Return rows of which all but one are replaced by another one."""
    replaced = rows[other].expand_as(rows).clone()
    replaced[kept] = rows[kept]
    return replaced


def has_rows(outputs: Tensor, n_rows: int) -> bool:
    """Whether outputs of many runs are (..., ..., n_rows, ...): a module may also return one value for all rows."""
    return outputs.dim() > 2 and outputs.shape[2] == n_rows


class Forgotten:
    """Takes the place of a tensor that a module has kept from a call; computing with it raises an error."""

    def __repr__(self) -> str:
        return "Forgotten()"


def forget_activations(module: nn.Module) -> None:
    """Replace the tensors that a module has kept from calls under `torch.func.vmap`, since they cannot be pickled.

    Most modules that keep one, such as the last attention weights, replace it in the next call without reading it.

    >>> module = nn.Linear(2, 1)
    >>> def keeping(x):
    ...     module.kept = [x, 3]
    ...     return module(x)
    >>> _ = torch.func.vmap(keeping)(torch.ones(4, 2))
    >>> forget_activations(module)
    >>> module.kept
    [Forgotten(), 3]
    """
    for layer in module.modules():
        if isinstance(layer, nn.RNNBase):  # a functional call with shared weights leaves its own in this list
            layer._flat_weights = [getattr(layer, name, None) for name in layer._flat_weights_names]
        for name, value in list(vars(layer).items()):
            if any(map(_is_batched, tree_leaves(value))):
                vars(layer)[name] = tree_map(lambda kept: Forgotten() if _is_batched(kept) else kept, value)


def _is_batched(thing: Any) -> bool:
    return isinstance(thing, Tensor) and torch._C._functorch.is_batchedtensor(thing)


def first_tensor(output: Any) -> Tensor:
    """Return the first tensor in a structure of tuples and dicts."""
    while not isinstance(output, Tensor):
        output = next(iter(output.values() if isinstance(output, Mapping) else output))
    return output


@contextmanager
def rng_kept(x: Any) -> Iterator[None]:
    """Seed torch's generators of the CPU and of `x`'s device with 0, and restore their states afterwards."""
    device = first_tensor(x).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(0)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(0)
        yield


def generator_states(x: Any) -> list[Tensor]:
    """Return the states of the generators that a call on `x` may draw from: the CPU's and that of its device."""
    device = first_tensor(x).device
    own = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *own]
