"""The losses of many runs at once: for each run what the criterion returns for it alone, without padded rows.

Outputs have shape `(n_cells, n_candidates, n_rows, ...)`, targets and weights `(n_cells, n_rows, ...)`: the candidates
of a cell share their batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.utils._pytree import tree_map

from sklr._utils.means import or_one
from sklr.engines.stacked.kernels.module_call import first_tensor

Transform = Callable[[Any], Any]
_log_softmax = torch.ops.aten._log_softmax.out
_CLASS_AXIS = (nn.CrossEntropyLoss, nn.NLLLoss)  # they take classes on axis 1, and divide by the sum of class weights


class RowLoss:
    """A criterion that is a (weighted) mean or sum over rows, so that rows can be masked and weighted.

    The loss of a run is `sum(weight * loss) / sum(weight)` over its rows for reduction="mean" (with class weights,
    `weight` is the product of both), `sum(weight * loss)` for reduction="sum".

    >>> loss = RowLoss(nn.MSELoss())
    >>> outputs, targets = torch.tensor([[[[1.0], [9.0]]]]), torch.zeros(1, 2, 1)
    >>> loss(outputs, targets, torch.tensor([[1.0, 0.0]])).tolist(), loss(outputs, targets, None).tolist()
    ([[1.0]], [[41.0]])
    """

    takes_weights = True

    def __init__(self, criterion: Any):
        self.criterion, self.mean = criterion, criterion.reduction == "mean"
        self.per_element = copy.copy(criterion)
        self.per_element.reduction = "none"

    def __call__(self, outputs: Tensor, targets: Tensor, weight: Tensor | None) -> Tensor:
        losses = self._losses(outputs, targets)
        n_per_row, total = losses.shape[3], losses.sum(3)
        total = (total if weight is None else total * weight.unsqueeze(1)).sum(2)
        if not self.mean:
            return total
        return total / or_one(self._divisor(targets, weight, n_per_row, outputs.dtype), weight).unsqueeze(1)

    def _divisor(self, targets: Tensor, weight: Tensor | None, n_per_row: int, dtype: torch.dtype) -> Tensor:
        """Return what reduction="mean" divides by, Tensor (n_cells,)."""
        if isinstance(self.criterion, _CLASS_AXIS) and not targets.is_floating_point():
            rows = self.class_weight(targets, dtype).reshape(*targets.shape[:2], -1).sum(2)
        else:
            rows = torch.full(targets.shape[:2], float(n_per_row), dtype=dtype, device=targets.device)
        return (rows if weight is None else rows * weight).sum(1)

    def class_weight(self, targets: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the weight of each target's class, 0 where the target is `ignore_index`."""
        kept = targets != self.criterion.ignore_index
        if self.criterion.weight is None:
            return kept.to(dtype)
        # `ignore_index` is no valid index (-100 by default): look up class 0 there
        return self.criterion.weight[torch.where(kept, targets, 0)] * kept

    def _losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the losses of each row, Tensor (n_cells, n_candidates, n_rows, n_per_row)."""
        lead, n_rows = outputs.shape[:2], outputs.shape[2]
        targets = targets.unsqueeze(1).expand(*lead, *targets.shape[1:])
        if isinstance(self.criterion, _CLASS_AXIS) and outputs.dim() == 4:
            # rows as the last axis: for few classes, log-softmax over a strided axis is faster
            outputs = outputs.transpose(2, 3)
            targets = targets if targets.dim() == 3 else targets.transpose(2, 3)
            losses = self.per_element(outputs.flatten(0, 1), targets.flatten(0, 1))
        else:
            losses = self.per_element(outputs.flatten(0, 2), targets.flatten(0, 2))
        return losses.reshape(*lead, n_rows, -1)


class WholeLoss:
    """A criterion that needs the whole batch: mapped over the runs, without weights, on batches without padding.

    >>> outputs = torch.arange(6.0).reshape(1, 2, 3)
    >>> WholeLoss(lambda output, target: (output - target).abs().max())(outputs, torch.zeros(1, 3), None).tolist()
    [[2.0, 5.0]]
    """

    takes_weights = False

    def __init__(self, criterion: Callable[[Any, Any], Tensor]):
        self.criterion = criterion

    def __call__(self, outputs: Any, targets: Any, weight: Tensor | None) -> Tensor:
        if weight is not None:
            raise ValueError(
                "weight must be None for a criterion that is not a mean or sum over rows, got a tensor. "
                "Give each group of cells with equally many rows its own Batch."
            )
        # mapped over the candidates, too: PyTorch's rules for the mean of `mse_loss`, `huber_loss` and `smooth_l1_loss`
        # fail where only the outputs are
        n_candidates = first_tensor(outputs).shape[1]
        targets = tree_map(lambda t: t.unsqueeze(1).expand(-1, n_candidates, *t.shape[1:]), targets)
        return vmap(vmap(self.criterion))(outputs, targets)


class StackedLoss:
    """The criterion of all runs, evaluated as a `RowLoss` if that is right on one run's batch, else as a `WholeLoss`.

    Parameters
    ----------
    criterion : callable (output, target) -> Tensor
        An initialized loss module.
    output, target : one run's output and targets, at least two rows
    transform : callable, optional
        Applied to the output before the criterion, such as the logarithm that skorch takes before `NLLLoss`.
    """

    def __init__(self, criterion: Any, output: Any, target: Any, transform: Transform | None = None):
        self.transform = _stacked_transform(transform, output)
        output = output if transform is None else transform(output)
        by_row = _is_row_loss(copy.deepcopy(criterion), output, target)  # a copy: the criterion may count its calls
        self.reduce = RowLoss(criterion) if by_row else WholeLoss(criterion)
        self.closed_form = self.transform is None and _has_closed_form(self.reduce, output, target)

    @property
    def takes_weights(self) -> bool:
        """Whether rows can be weighted, and thereby padding masked."""
        return self.reduce.takes_weights

    def __call__(self, outputs: Any, targets: Any, weight: Tensor | None) -> Tensor:
        """Return the losses, Tensor (n_cells, n_candidates), attached to autograd's graph."""
        return self.reduce(outputs if self.transform is None else self.transform(outputs), targets, weight)

    def prepared(self, outputs: Tensor) -> PreparedAutograd | PreparedCrossEntropy:
        """Return a callable that computes losses and gradients repeatedly, for outputs that stay in the same memory.

        Parameters
        ----------
        outputs : Tensor (n_cells, n_candidates, n_out, n_rows)
            Rows last, as `MLPKernel` lays them out.
        """
        if self.closed_form:
            assert isinstance(self.reduce, RowLoss)
            return PreparedCrossEntropy(self.reduce, outputs)
        return PreparedAutograd(self, outputs)


class PreparedAutograd:
    """Losses and their gradients with respect to the outputs, by autograd.

    Attributes
    ----------
    losses : Tensor (n_cells, n_candidates)
    gradient : Tensor (n_cells, n_candidates, n_out, n_rows)
        Every call writes both; the caller may overwrite `gradient` afterwards.
    """

    def __init__(self, loss: StackedLoss, outputs: Tensor):
        self.loss, self.outputs = loss, outputs.mT
        self.losses, self.gradient = outputs.new_empty(outputs.shape[:2]), torch.empty_like(outputs)

    def __call__(self, targets: Any, weight: Tensor | None) -> None:
        with torch.enable_grad():
            leaf = self.outputs.detach().requires_grad_()
            losses = self.loss(leaf, targets, weight)
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        self.losses.copy_(losses.detach())
        self.gradient.copy_(gradient.mT)


class PreparedCrossEntropy:
    """Plain cross entropy and its gradient `softmax - one_hot`, computed in preallocated memory without a graph.

    The attributes are those of `PreparedAutograd`.

    >>> loss = PreparedCrossEntropy(RowLoss(nn.CrossEntropyLoss()), torch.zeros(1, 1, 2, 2))
    >>> loss(torch.tensor([[0, 1]]), None)
    >>> loss.losses.exp().tolist(), loss.gradient.tolist()
    ([[2.0]], [[[[-0.25, 0.25], [0.25, -0.25]]]])
    """

    def __init__(self, loss: RowLoss, outputs: Tensor):
        self.loss = loss
        self.losses, self.gradient = outputs.new_empty(outputs.shape[:2]), torch.empty_like(outputs)
        self.picked = outputs.new_empty(*outputs.shape[:2], 1, outputs.shape[3])
        self.one_hot = outputs.new_empty(outputs.shape[0], 1, *outputs.shape[2:])  # for all candidates of a cell
        self.log_softmax = partial(_log_softmax, outputs.flatten(0, 1), 1, False, out=self.gradient.flatten(0, 1))

    def __call__(self, targets: Tensor, weight: Tensor | None) -> None:
        labels, share = self._shares(targets, weight)
        log_p, picked = self.gradient, self.picked  # log-probabilities lie where the gradient will
        self.log_softmax()
        torch.gather(log_p, 2, labels.expand(-1, log_p.shape[1], -1, -1), out=picked)
        torch.mul(picked, share, out=picked)
        torch.sum(picked, (2, 3), out=self.losses).neg_()  # loss = -sum(share * log_p[label])
        # gradient = share * softmax - share * one_hot
        torch.addcmul(self.one_hot.zero_().scatter_(2, labels, -share), log_p.exp_(), share, out=log_p)

    def _shares(self, targets: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the classes to look up and each row's share of the loss, (n_cells, 1, 1, n_rows)."""
        kept, share = targets != self.loss.criterion.ignore_index, self.loss.class_weight(targets, self.gradient.dtype)
        if weight is not None:
            share = share * weight
        if self.loss.mean:
            share = share / or_one(share.sum(-1), weight).unsqueeze(-1)
        return torch.where(kept, targets, 0)[:, None, None], share[:, None, None]


def _has_closed_form(loss: RowLoss | WholeLoss, output: Any, target: Any) -> bool:
    return (
        isinstance(loss, RowLoss)
        and type(loss.criterion) is nn.CrossEntropyLoss
        and loss.criterion.label_smoothing == 0
        and output.dim() == 2
        and not target.is_floating_point()
    )


def _is_row_loss(criterion: Any, output: Any, target: Any) -> bool:
    """Whether `RowLoss` with the last rows masked equals the criterion on the batch without those rows.

    Always False for criteria that are not PyTorch's own: what their mean divides by cannot be inferred from a few rows.
    """
    if type(criterion).__module__ != nn.CrossEntropyLoss.__module__ or not isinstance(output, Tensor):
        return False
    if getattr(criterion, "reduction", None) not in ("mean", "sum"):
        return False
    if not isinstance(target, Tensor) or output.shape[:1] != target.shape[:1]:
        return False
    n_rows = output.shape[0]
    weight = (torch.arange(n_rows, device=output.device) < max(1, n_rows // 2)).to(output.dtype)
    kept = int(weight.sum())
    try:
        if not criterion(output, target).isfinite():  # a masked row's infinity would be NaN
            output, target = _moderate(output), _moderate(target)
        masked = RowLoss(criterion)(output[None, None], target[None], weight[None]).squeeze()
        whole = RowLoss(criterion)(output[None, None], target[None], None).squeeze()
        expected = criterion(output[:kept], target[:kept]), criterion(output, target)
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError):  # its loss is not one number per element
        return False
    return all(torch.allclose(a, b, rtol=1e-4, equal_nan=True) for a, b in zip((masked, whole), expected, strict=True))


def _moderate(numbers: Tensor) -> Tensor:
    """Return numbers between -1 and 1 for any numbers, and labels as they are."""
    return numbers.nan_to_num().clamp(-1, 1) if numbers.is_floating_point() else numbers


def _stacked_transform(transform: Transform | None, output: Any) -> Transform | None:
    """Return the transform itself if it can be applied with two more leading axes, else mapped over them."""
    if transform is None:
        return None
    mapped = vmap(vmap(transform))
    if isinstance(output, Tensor):
        stacked = output[None, None].repeat(2, 3, *[1] * output.dim())
        try:
            direct, expected = transform(stacked), mapped(stacked)
            if direct.shape == expected.shape and torch.equal(direct, expected):
                return transform
        except (RuntimeError, IndexError, AttributeError):
            pass
    return mapped
