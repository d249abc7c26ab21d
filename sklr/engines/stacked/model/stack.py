"""Many copies of one module trained together: `n_candidates x n_cells` runs per batched step, without skorch or folds.

The module is used unmodified, by the kernel that `choose_kernel` picks. `checks.module_probe` finds out beforehand
which modules cannot be stacked.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from sklr.engines.stacked.data.batch import Batch
from sklr.engines.stacked.kernels.kernel import choose_kernel
from sklr.engines.stacked.kernels.loss import Transform
from sklr.engines.stacked.kernels.mlp import MLPKernel
from sklr.engines.stacked.kernels.module_call import Named, forget_activations
from sklr.engines.stacked.kernels.traits import Traits, examine
from sklr.engines.stacked.model.state import FixedState, stacked
from sklr.engines.stacked.optim.clipping import Clip, StackedClip
from sklr.engines.stacked.optim.optimizer import Groups, StackedOptimizer
from sklr.engines.stacked.replay.replay import Replays


class ModelStack:
    """`n_candidates x n_cells` copies of one module, trained in batched steps with the semantics of a stock optimizer.

    Parameters
    ----------
    modules : sequence of nn.Module, one per cell
        Initialized, of the same structure, on the device to train on; they are not changed. Every candidate of a cell
        starts from its module's weights.
    n_candidates : int
    criterion : nn.Module
        An initialized loss. A mean or a sum over rows can be masked and weighted; any other callable
        `(output, target) -> loss` needs batches without padding (`mixes_rows` is then True).
    optimizer : type
        A `torch.optim.Optimizer` class for which `optimizer_reasons` is empty.
    optimizer_kwargs : dict, or sequence of dict, one per candidate
        Arguments of the optimizer but `lr`.
    example : (x, y)
        A small batch of one run, at least two rows, on the same device.
    groups : sequence of (names, overrides), default one group of all
        Parameter groups; together they name every trained parameter exactly once.
    transform : callable, optional
        Applied to the output before the criterion.
    clips : sequence of Clip, optional
        How the gradients of each run are clipped, applied in this order.
    traits : Traits, optional
        The traits of another stack of the same module and criterion; by default they are found out on `example`.
    seed : int, optional
        Seed of dropout's masks, if the stack draws them from its own generator (`traits.draws_apart`).

    Attributes
    ----------
    kernel : Kernel
        Computes gradients and predictions.
    mixes_rows : bool
        Whether the loss or gradient of a row depends on the other rows of the batch (batch statistics, a criterion of
        whole batches). Padding would then change the result: pass cells with different numbers of rows as a `Batch`
        of their own each, all in one `step`.

    >>> stack = ModelStack([nn.Linear(2, 1)], 3, nn.MSELoss(), torch.optim.SGD, {},
    ...                    example=(torch.rand(4, 2), torch.rand(4, 1)))
    >>> batch = Batch(torch.rand(1, 4, 2), torch.rand(1, 4, 1))
    >>> losses = stack.step(torch.tensor([[0.0], [0.1], [1.0]]), batch)
    >>> losses.shape, stack.outputs(batch.x).shape
    (torch.Size([3, 1]), torch.Size([3, 1, 4, 1]))
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        n_candidates: int,
        criterion: Any,
        optimizer: type,
        optimizer_kwargs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        *,
        example: tuple[Any, Any],
        groups: Groups | None = None,
        transform: Transform | None = None,
        clips: Sequence[Clip] = (),
        traits: Traits | None = None,
        seed: int | None = None,
    ):
        self.module = copy.deepcopy(modules[0])  # kernels switch its mode
        self.n_cells = len(modules)
        per_candidate = [optimizer_kwargs] * n_candidates if isinstance(optimizer_kwargs, Mapping) else optimizer_kwargs
        trained = [name for name, p in self.module.named_parameters() if p.requires_grad]
        self._state = FixedState(modules, n_candidates)
        params = {name: stacked([m.get_parameter(name) for m in modules], n_candidates) for name in trained}
        self.optimizer = StackedOptimizer(params, optimizer, per_candidate, groups)
        self._clips = [StackedClip(clip, next(iter(params.values()))) for clip in clips]
        self._norms: list[Tensor] = []  # of gradients, since `take_norms` was last called: (n_steps, n_clips, ...)
        self.traits = traits or examine(self.module, example, criterion, transform)
        self.loss = copy.deepcopy(self.traits.loss)  # a criterion may count its calls: stacks must not share it
        self.mixes_rows = self.traits.mixes_rows
        self.device = next(iter(params.values())).device
        generator = torch.Generator() if self.traits.draws_apart else None  # on the CPU, as `draws_apart` requires
        if generator is not None:
            generator.manual_seed(torch.initial_seed() if seed is None else seed)
        self.kernel = choose_kernel(self.module, self.loss, self.traits, generator)
        self._replays = self._make_replays()

    def __getstate__(self) -> dict[str, Any]:
        forget_activations(self.module)
        return {**vars(self), "_replays": self._make_replays()}  # recordings hold addresses of this process's memory

    @property
    def n_candidates(self) -> int:
        """How many candidates are in the stack now."""
        return len(self.optimizer.kwargs)

    @property
    def _is_replayed(self) -> bool:
        """Whether steps may be recorded and replayed.

        On CUDA, random draws in a graph have been compared with those of plain steps for `MLPKernel` only.
        """
        on_cuda = self.device.type == "cuda" and (isinstance(self.kernel, MLPKernel) or not self.traits.draws)
        return self.device.type == "cpu" or on_cuda

    @property
    def n_groups(self) -> int:
        """How many parameter groups there are."""
        return len(self.optimizer.groups)

    def step(self, lr: Any, *batches: Batch) -> Tensor:
        """Take one optimizer step in every cell of these batches, without synchronizing with the device.

        Parameters
        ----------
        lr : Tensor (n_candidates, n_cells) or (n_groups, n_candidates, n_cells)
            This step's learning rates.
        *batches : Batch
            Each cell is in at most one of them. Cells that are in none take no step.

        Returns
        -------
        losses : Tensor (n_candidates, n_cells)
            Each run's loss before the step, detached; NaN in cells that take no step.
        """
        self._make_room(1)
        return self._noted(self._step(lr, *batches).unsqueeze(0))[0]

    def _step(self, lr: Any, *batches: Batch) -> Tensor:
        """Take a step; return the losses, or with clipping (1 + n_clips, ...): the losses, then the gradient norms."""
        cells, losses = self._gradients(batches)
        norms = self._clip_gradients(cells)
        if self.optimizer.step(self._rates(lr), cells):  # its memory has moved: prepared calls use the old addresses
            self.release_memory()
        return (torch.stack([losses, *(each.to(losses) for each in norms)]) if norms else losses).mT

    def steps(self, lr: Tensor, batches: Batch, n_more: int = 0) -> Tensor:
        """Take several steps of all cells on batches of one shape, without Python in between if they can be replayed.

        Parameters
        ----------
        lr : Tensor (n_steps, n_groups, n_candidates, n_cells)
        batches : Batch
            Its tensors have a leading axis of steps.
        n_more : int
            About how many steps of this shape will follow: recording a step pays off only if there are enough.

        Returns
        -------
        losses : Tensor (n_steps, n_candidates, n_cells)
        """
        if not self._is_replayed:
            return torch.stack([self.step(lr[i], batches.part(i)) for i in range(len(lr))])
        self._make_room(len(lr), n_more)
        return self._noted(self._replays.steps(self._step, lr, batches, n_more))

    def _make_room(self, n_steps: int, n_more: int = 0) -> None:
        """Let the norm tables grow for `n_steps` steps, and about `n_more` after them."""
        tables = [clip.norms for clip in self._clips if clip.norms is not None]
        moved = [table.make_room(n_steps, n_more) for table in tables]
        if any(moved):  # recorded steps would still write to the old memory
            self._replays.forget()

    def _noted(self, found: Tensor) -> Tensor:
        """Store the norms in what `_step` has returned for some steps; return the losses."""
        if not self._clips:
            return found
        self._norms.append(found[:, 1:])
        return found[:, 0]

    def take_norms(self) -> Tensor | None:
        """Return the gradient norms of all steps since the last call; None without clipping.

        Returns
        -------
        norms : Tensor (n_steps, n_clips, n_candidates, n_cells)
            Each before its clipping, and after the ones ahead of it.
        """
        norms, self._norms = self._norms, []
        return torch.cat(norms) if norms else None

    @torch.no_grad()
    def outputs(self, x: Any) -> Any:
        """Return the outputs of every run in evaluation mode.

        Parameters
        ----------
        x : Tensor (n_cells, n_rows, ...), or a dict or tuple of such

        Returns
        -------
        outputs : Tensor (n_candidates, n_cells, n_rows, ...), or a structure of such
        """
        out = self.kernel.outputs(self.optimizer.params, *self._state.of_cells(None), x)
        return tree_map(lambda t: t.transpose(0, 1), out)

    def keep(self, candidates: Sequence[int]) -> None:
        """Keep only these candidates, in this order, with their optimizer state."""
        candidates = [int(k) for k in candidates]
        self.optimizer.keep(candidates)
        index = torch.as_tensor(candidates, device=self.device)
        self._state.keep(index)
        for clip in self._clips:
            if clip.norms is not None:
                clip.norms.keep(index)
        self.release_memory()

    @torch.no_grad()
    def load_run(self, candidate: int, cell: int, module: nn.Module) -> nn.Module:
        """Copy the parameters and buffers of one run into `module`; return it."""
        state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        for name, tensor in self.run_state(candidate, cell).items():
            state[name].copy_(tensor)
        return module

    @torch.no_grad()
    def store_run(self, candidate: int, cell: int, module: nn.Module) -> None:
        """Copy the parameters and buffers of `module` into one run."""
        state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        for name, tensor in self.run_state(candidate, cell).items():
            tensor.copy_(state[name])

    def run_state(self, candidate: int, cell: int) -> Named:
        """Return views of one run's parameters and buffers, by name."""
        trained = {name: p[cell, candidate] for name, p in self.optimizer.params.items()}
        return trained | self._state.of_run(candidate, cell)

    def optimizer_state(self, candidate: int, cell: int) -> dict[str, Any]:
        """Return one run's optimizer state, for `torch.optim.Optimizer.load_state_dict`."""
        return self.optimizer.state_dict(candidate, cell)

    def _make_replays(self) -> Replays:
        return Replays(self.module, self.loss, self.optimizer)  # all that a step calls, and that may hold state

    def _rates(self, lr: Any) -> Tensor:
        """Return the learning rates as the optimizer is given them, (n_groups, n_cells, n_candidates)."""
        like = next(iter(self.optimizer.params.values()))
        lr = torch.as_tensor(lr).to(like.device, like.dtype, non_blocking=True).mT
        return lr.expand(self.n_groups, *lr.shape[-2:])

    def release_memory(self) -> None:
        """Release the working memory of steps and evaluations; it is allocated again on demand."""
        self.kernel.forget()
        self._replays.forget()

    def _gradients(self, batches: Sequence[Batch]) -> tuple[list[int] | None, Tensor]:
        """Write the gradients; return the cells that got one (None: all) and the losses (n_cells, n_candidates)."""
        if len(batches) == 1 and batches[0].cells is None:
            return None, self.write_gradients(batches[0])
        # some cells only: copy their parameters out and their gradients back
        like = next(iter(self.optimizer.params.values()))
        losses, cells = like.new_full((self.n_cells, self.n_candidates), torch.nan), []
        for batch in batches:
            chosen = list(range(self.n_cells)) if batch.cells is None else list(batch.cells)
            index = torch.as_tensor(chosen).to(like.device, non_blocking=True)
            params = {name: p.index_select(0, index) for name, p in self.optimizer.params.items()}
            grads = {name: torch.empty_like(p) for name, p in params.items()}
            losses.index_copy_(0, index, self._batch_gradients(batch, params, grads, index).to(losses.dtype))
            for name, grad in grads.items():
                self.optimizer.grads[name].index_copy_(0, index, grad)
            cells += chosen
        return cells, losses

    def write_gradients(self, batch: Batch) -> Tensor:
        """Write every run's gradients on a batch to `optimizer.grads`; return the losses (n_cells, n_candidates)."""
        return self._batch_gradients(batch, self.optimizer.params, self.optimizer.grads)

    @torch.no_grad()
    def _batch_gradients(self, batch: Batch, params: Named, grads: Named, index: Tensor | None = None) -> Tensor:
        losses, buffers = self.kernel.gradients(params, *self._state.of_cells(index), batch, grads)
        self._state.update(buffers, index)
        return losses

    def _clip_gradients(self, cells: Sequence[int] | None) -> list[Tensor]:
        """Apply every clip; return for each the norms before it, (n_cells, n_candidates). `cells` take this step."""
        grads = list(self.optimizer.grads.values())
        return [clip.apply(grads, cells) for clip in self._clips]
