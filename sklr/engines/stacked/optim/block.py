"""The updates of many runs from one stock optimizer, on flat vectors, or from a faster form of plain momentum SGD."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_FUSED = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)  # with a fused step on the CPU and on CUDA
_SET_BY_STACK = ("lr", "weight_decay", "params")


@dataclass(frozen=True)
class Blocks:
    """The layout of the parameters of one group in a flat vector: one contiguous block each.

    An elementwise optimizer does not need to know which element belongs to which parameter. It is given the flat
    vector as its only parameter, and makes one call instead of one per parameter.

    >>> [tuple(view.shape) for view in Blocks((torch.Size([3]), torch.Size([])), 5, 2).views(torch.zeros(40))]
    [(5, 2, 3), (5, 2)]
    """

    shapes: tuple[torch.Size, ...]
    n_cells: int
    n_candidates: int

    @property
    def numel(self) -> int:
        """The length of the vector."""
        return self.n_cells * self.n_candidates * sum(shape.numel() for shape in self.shapes)

    def views(self, flat: Tensor) -> list[Tensor]:
        """Return a view of each parameter, (n_cells, n_candidates, *shape)."""
        n_runs = self.n_cells * self.n_candidates
        pieces = flat.split([n_runs * shape.numel() for shape in self.shapes])
        return [p.view(self.n_cells, self.n_candidates, *s) for p, s in zip(pieces, self.shapes, strict=True)]

    def select(self, flat: Tensor, cells: Sequence[int], candidates: Sequence[int]) -> Tensor:
        """Return the flat vector of some cells and candidates, a copy."""
        cell, candidate = indices(cells, candidates, flat.device)
        return torch.cat([view[cell, candidate].reshape(-1) for view in self.views(flat)])


class Part:
    """Runs that share one stock optimizer: they have equal hyperparameters and have taken equally many steps.

    Parameters
    ----------
    optimizer : type
    kwargs, overrides
        The optimizer's arguments, and those of each parameter group.
    shapes : sequence of tuple of torch.Size
        The parameters' shapes, by group.
    cells, candidates : list of int
        The runs: all pairs of these.
    like : Tensor
        Its dtype and device are those of the parameters.
    """

    def __init__(
        self,
        optimizer: type,
        kwargs: Mapping[str, Any],
        overrides: Sequence[Mapping[str, Any]],
        shapes: Sequence[tuple[torch.Size, ...]],
        cells: list[int],
        candidates: list[int],
        like: Tensor,
    ):
        self.recipe = (optimizer, kwargs, overrides, shapes)
        self.cells, self.candidates, self.like = cells, candidates, like
        self.index = indices(cells, candidates, like.device)
        self.blocks = [Blocks(s, len(cells), len(candidates)) for s in shapes]
        # The optimizer steps a vector of zeros. What it leaves there is the update itself; computing it from the
        # parameters, as (p + update) - p, would add rounding.
        self.updates = [like.new_zeros(b.numel) for b in self.blocks]
        self._link()
        groups = [
            {**own_kwargs(override), "params": [update]}
            for override, update in zip(overrides, self.updates, strict=True)
        ]
        self.optimizer = optimizer(groups, lr=1.0, **_stack_kwargs(optimizer, kwargs, like))

    def _link(self) -> None:
        """Allocate the gradients of the flat vectors, and make the views of both by parameter."""
        for update in self.updates:
            update.grad = torch.zeros_like(update)
        self.grad_views = [v for b, u in zip(self.blocks, self.updates, strict=True) for v in b.views(_grad(u))]
        self.update_views = [v for b, u in zip(self.blocks, self.updates, strict=True) for v in b.views(u)]
        self._momentum_views: list[Tensor] = []

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if not k.endswith("_views")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._link()  # pickle would turn views into copies, and drops `grad`
        # PyTorch sets this when an optimizer is made, and loses it in a pickle: without it a capturable one warns that
        # its steps are not captured.
        vars(self.optimizer)["_warned_capturable_if_run_uncaptured"] = True

    def step(self) -> list[Tensor]:
        """Return the updates at lr=1, one tensor per parameter."""
        for update in self.updates:
            update.zero_()
        self.optimizer.step()
        return self.update_views

    @property
    def is_heavy_ball(self) -> bool:
        """Whether the optimizer is SGD with at most momentum: its update is minus the momentum buffer."""
        extras = ("nesterov", "dampening", "maximize")
        groups = self.optimizer.param_groups
        return self.recipe[0] is torch.optim.SGD and not any(group[extra] for group in groups for extra in extras)

    def heavy_ball_step(self) -> list[Tensor]:
        """Return minus the updates at lr=1 of such an optimizer, with two thirds of the passes over memory of `step`.

        This makes searches of wide networks 5 to 10 % faster. The momentum buffer is the stock optimizer's own state.
        """
        sums = []
        for update, group in zip(self.updates, self.optimizer.param_groups, strict=True):
            if group["momentum"]:
                state = self.optimizer.state[update]
                if "momentum_buffer" not in state:  # PyTorch copies the first gradient; added to 0 it is the same
                    state["momentum_buffer"] = torch.zeros_like(update)
                sums.append(state["momentum_buffer"])
                torch.add(_grad(update), sums[-1], alpha=group["momentum"], out=sums[-1])
            else:
                sums.append(_grad(update))
        if not self._momentum_views:
            self._momentum_views = [v for b, s in zip(self.blocks, sums, strict=True) for v in b.views(s)]
        return self._momentum_views

    def select(self, cells: Sequence[int], candidates: Sequence[int], names: list[int] | None = None) -> Part:
        """Return a part of some of the runs, by their positions in this one, with their optimizer state.

        `names` are the new numbers of its candidates, if they change.
        """
        kept = [self.candidates[k] for k in candidates] if names is None else names
        part = Part(*self.recipe, [self.cells[c] for c in cells], kept, self.like)
        for blocks, old, new in zip(self.blocks, self.updates, part.updates, strict=True):
            for key, value in self.optimizer.state.get(old, {}).items():
                per_run = isinstance(value, Tensor) and value.shape == old.shape
                part.optimizer.state[new][key] = blocks.select(value, cells, candidates) if per_run else copied(value)
        return part

    def own(self, value: Any) -> Any:
        """Return a copy of state that all runs share, such as the step count, where the user's optimizer keeps it.

        PyTorch keeps step counts on the CPU, where reading them waits for no device, unless the optimizer is fused or
        capturable. The stack's optimizer is often fused when the user's own is not.
        """
        kwargs = self.recipe[1]
        if isinstance(value, Tensor) and not (kwargs.get("fused") or kwargs.get("capturable")):
            return value.detach().to("cpu", copy=True)
        return copied(value)

    def split(self, cells: set[int]) -> list[Part]:
        """Return two parts, the cells that step now and the others; or this part alone if one of these is empty."""
        now = [i for i, c in enumerate(self.cells) if c in cells]
        later = [i for i, c in enumerate(self.cells) if c not in cells]
        if not now or not later:
            return [self]
        everyone = range(len(self.candidates))
        return [self.select(now, everyone), self.select(later, everyone)]


def own_kwargs(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments without those that the stack applies itself: the learning rate and the weight decay."""
    return {k: v for k, v in kwargs.items() if k not in _SET_BY_STACK}


def _stack_kwargs(optimizer: type, kwargs: Mapping[str, Any], like: Tensor) -> dict[str, Any]:
    own = own_kwargs(kwargs)
    if "weight_decay" in inspect.signature(optimizer).parameters:
        own["weight_decay"] = 0.0  # explicitly: AdamW decays by 0.01 by default
    chosen = any(own.get(k) for k in ("foreach", "fused", "capturable", "differentiable"))
    if optimizer in _FUSED and like.device.type in ("cpu", "cuda") and not chosen:
        own["fused"] = True
        if like.is_cuda and "capturable" in inspect.signature(optimizer).parameters:
            own["capturable"] = True  # needed in CUDA graphs; nothing else changes: a fused step counts on the device
    return own


def indices(cells: Sequence[int], candidates: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the index of the runs of some cells and candidates in a tensor (n_cells, n_candidates, ...)."""
    return (torch.as_tensor(list(cells), device=device).unsqueeze(1), torch.as_tensor(list(candidates), device=device))


def over_runs(values: Tensor, param: Tensor) -> Tensor:
    """Reshape `values` (..., n_candidates) to broadcast against a stacked parameter."""
    if values.dim() == 1:
        values = values.unsqueeze(0)
    return values.reshape(*values.shape, *[1] * (param.dim() - 2))


def _grad(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def copied(value: Any) -> Any:
    """Return a copy of an entry of an optimizer's state: a tensor or a number."""
    return value.clone() if isinstance(value, Tensor) else value
