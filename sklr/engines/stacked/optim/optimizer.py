"""Stock optimizers for many runs at once: one `torch.optim` step at lr=1, scaled by each run's own learning rate.

`torch.optim` takes one learning rate per parameter group, not one per run: a tensor `lr` must have a single element.

Parameters are stacked as `(n_cells, n_candidates, *shape)`. Cells lead, so that `MLPKernel` can view the weights of
the candidates of a cell, which share their batch, as one matrix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sklr.engines.stacked.optim.block import Part, over_runs, own_kwargs
from sklr.engines.stacked.optim.known import decay_form

Groups = Sequence[tuple[Sequence[str], Mapping[str, Any]]]


class StackedOptimizer:
    """The semantics of a stock optimizer for `n_cells x n_candidates` runs, each at its own learning rate.

    Exact, up to rounding, for the optimizer classes for which `optimizer_reasons` is empty.

    Parameters
    ----------
    params : dict of str to Tensor, each (n_cells, n_candidates, *shape)
        Updated in place. One dtype, one device.
    optimizer : type
        A `torch.optim.Optimizer` class.
    kwargs : sequence of dict, one per candidate
        The optimizer's arguments but `lr`. Candidates that differ in `weight_decay` only share one optimizer: the
        decay is applied here.
    groups : sequence of (names, overrides), default one group of all
        Parameter groups. An `lr` among the overrides is ignored: `step` is given the learning rates of each group.

    Attributes
    ----------
    grads : dict of str to Tensor, each (n_cells, n_candidates, *shape)
        Write the gradients here before `step`, which may change them.

    >>> params = {"w": torch.zeros(1, 2, 3)}
    >>> optimizer = StackedOptimizer(params, torch.optim.SGD, [{}, {}])
    >>> _ = optimizer.grads["w"].fill_(1.0)
    >>> optimizer.step(torch.tensor([[[0.5, 0.0]]]))
    False
    >>> params["w"].tolist()
    [[[-0.5, -0.5, -0.5], [0.0, 0.0, 0.0]]]
    """

    def __init__(
        self,
        params: dict[str, Tensor],
        optimizer: type,
        kwargs: Sequence[Mapping[str, Any]],
        groups: Groups | None = None,
    ):
        self.params, self.optimizer_class = params, optimizer
        self.groups = [(list(params), {})] if groups is None else [(list(n), dict(o)) for n, o in groups]
        self.names = [name for names, _ in self.groups for name in names]
        self._group_of = [g for g, (names, _) in enumerate(self.groups) for _ in names]
        self.kwargs = [dict(k) for k in kwargs]
        like = next(iter(params.values())).detach()
        self._set_decay(like)
        self._set_parts(self._first_parts(like))

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k != "grads"}  # views; `_set_parts` makes them again

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._set_parts(self._parts)

    @property
    def n_cells(self) -> int:
        """How many cells the parameters are stacked over."""
        return self.params[self.names[0]].shape[0]

    def step(self, lr: Tensor, cells: Sequence[int] | None = None) -> bool:
        """Update the parameters of every run; return whether the optimizer's state has moved to other memory.

        Parameters
        ----------
        lr : Tensor (n_groups, n_cells, n_candidates)
            This step's learning rates, on the parameters' device and of their dtype.
        cells : sequence of int, default all
            The cells that take this step; the others keep their parameters and optimizer state unchanged.
        """
        self._decay_gradients()
        n_parts = len(self._parts)
        if cells is not None and len(cells) < self.n_cells:
            self._split(set(cells))
            # lr=0 keeps the parameters of the other cells; their optimizers do not step at all
            lr = lr * _mask(cells, self.n_cells, lr)
        updates, sign = self._updates(cells)
        for name, group, update in zip(self.names, self._group_of, updates, strict=True):
            param = self.params[name]
            # decay before the update, as AdamW does
            if (decay := self._decoupled[group]) is not None:
                param.mul_(over_runs(1 - lr[group] * decay, param))
            param.addcmul_(update, over_runs(lr[group], param), value=sign)
        return len(self._parts) > n_parts

    def keep(self, candidates: Sequence[int]) -> None:
        """Keep only these candidates, in this order, with their optimizer state."""
        index = torch.as_tensor(list(candidates), device=self.params[self.names[0]].device)
        self.params = {name: p.index_select(1, index) for name, p in self.params.items()}
        self.kwargs = [self.kwargs[k] for k in candidates]
        self._set_decay(self.params[self.names[0]])
        self._set_parts([kept for part in self._parts if (kept := _kept(part, list(candidates))) is not None])

    def state_dict(self, candidate: int, cell: int) -> dict[str, Any]:
        """Return one run's optimizer state, as `torch.optim.Optimizer.load_state_dict` takes it.

        Parameters are numbered group by group, in the order of `groups`. The learning rates are 1, or those among the
        groups' overrides: the caller sets the actual ones.
        """
        (part,) = (p for p in self._parts if cell in p.cells and candidate in p.candidates)
        at = (part.cells.index(cell), part.candidates.index(candidate))
        state: dict[int, dict[str, Any]] = {}
        for blocks, update in zip(part.blocks, part.updates, strict=True):
            run = [dict[str, Any]() for _ in blocks.shapes]
            for key, value in part.optimizer.state.get(update, {}).items():
                per_run = isinstance(value, Tensor) and value.shape == update.shape
                values = [v[at].clone() for v in blocks.views(value)] if per_run else [part.own(value) for _ in run]
                for entry, v in zip(run, values, strict=True):
                    entry[key] = v
            state.update({len(state) + i: entry for i, entry in enumerate(run)})
        return {"state": state if any(state.values()) else {}, "param_groups": self._param_groups(candidate)}

    def _param_groups(self, candidate: int) -> list[dict[str, Any]]:
        templates = _template(self.optimizer_class, self.kwargs[candidate], self.groups).param_groups
        start, described = 0, []
        for (names, _), template in zip(self.groups, templates, strict=True):
            described.append({**template, "params": list(range(start, start + len(names)))})
            start += len(names)
        return described

    def _first_parts(self, like: Tensor) -> list[Part]:
        alike: list[tuple[dict[str, Any], list[int]]] = []
        for k, kwargs in enumerate(self.kwargs):
            own = own_kwargs(kwargs)
            # compared, not hashed: arguments may be lists or dicts
            home = next((members for known, members in alike if known == own), None)
            if home is None:
                alike.append((own, [k]))
            else:
                home.append(k)
        shapes = [tuple(self.params[n].shape[2:] for n in names) for names, _ in self.groups]
        overrides = [override for _, override in self.groups]
        cells = list(range(self.n_cells))
        return [Part(self.optimizer_class, own, overrides, shapes, cells, ks, like) for own, ks in alike]

    def _set_parts(self, parts: list[Part]) -> None:
        self._parts = parts
        if len(parts) == 1:  # no copy: the gradients are written where the optimizer reads them
            self.grads = dict(zip(self.names, parts[0].grad_views, strict=True))
        else:
            self.grads = {name: torch.zeros_like(self.params[name]) for name in self.names}

    def _split(self, cells: set[int]) -> None:
        """Give the cells that step now their own optimizers: from now on the step counts of cells differ."""
        parts = [piece for part in self._parts for piece in part.split(cells)]
        if len(parts) == len(self._parts):
            return
        grads = self.grads
        self._set_parts(parts)
        for name, grad in grads.items():
            self.grads[name].copy_(grad)

    def _set_decay(self, like: Tensor) -> None:
        """Set the weight decay of each group and candidate, by `decay_form`; None for a group without.

        It cannot be left to the stock optimizer, which steps a vector of zeros instead of the parameters.
        """
        n_groups, n_candidates = len(self.groups), len(self.kwargs)
        by_form = {form: like.new_zeros(n_groups, n_candidates) for form in ("coupled", "opposed", "decoupled")}
        for k, kwargs in enumerate(self.kwargs):
            for g, group in enumerate(_template(self.optimizer_class, kwargs, self.groups).param_groups):
                by_form[decay_form(self.optimizer_class, group)][g, k] = group.get("weight_decay", 0.0)
        coupled = by_form["coupled"] - by_form["opposed"]
        # None saves a pass over the parameters
        self._coupled = [row if bool(row.any()) else None for row in coupled]
        self._decoupled = [row if bool(row.any()) else None for row in by_form["decoupled"]]

    def _decay_gradients(self) -> None:
        for name, group in zip(self.names, self._group_of, strict=True):
            decay = self._coupled[group]
            if decay is not None:
                self.grads[name].addcmul_(self.params[name], over_runs(decay, self.params[name]))

    def _updates(self, cells: Sequence[int] | None) -> tuple[list[Tensor], int]:
        """Return the updates at lr=1, one tensor per parameter, and the sign to add them with."""
        if len(self._parts) == 1:
            (part,) = self._parts
            return (part.heavy_ball_step(), -1) if part.is_heavy_ball else (part.step(), 1)
        updates = [torch.zeros_like(self.params[name]) for name in self.names]
        stepping = set(range(self.n_cells) if cells is None else cells)
        for part in self._parts:
            if stepping.isdisjoint(part.cells):
                continue
            for name, own in zip(self.names, part.grad_views, strict=True):
                own.copy_(self.grads[name][part.index])
            for update, own in zip(updates, part.step(), strict=True):
                update[part.index] = own
        return updates, 1


def _template(optimizer: type, kwargs: Mapping[str, Any], groups: Groups) -> torch.optim.Optimizer:
    """Return the optimizer that the user's arguments make, on placeholders, to read its defaults from the groups."""
    described = [{**override, "params": [torch.zeros(1, requires_grad=True)]} for _, override in groups]
    return optimizer(described, **{"lr": 1.0, **kwargs})


def _kept(part: Part, candidates: list[int]) -> Part | None:
    """Return a part of those of `candidates` that are in `part`, renumbered by their places in `candidates`."""
    new = [i for i, k in enumerate(candidates) if k in part.candidates]
    if not new:
        return None
    return part.select(range(len(part.cells)), [part.candidates.index(candidates[i]) for i in new], new)


def _mask(cells: Sequence[int], n_cells: int, like: Tensor) -> Tensor:
    mask = [1.0 if cell in set(cells) else 0.0 for cell in range(n_cells)]
    # made on the CPU and copied: a step never waits for the device
    return torch.tensor(mask, dtype=like.dtype).to(like.device, non_blocking=True).unsqueeze(1)
