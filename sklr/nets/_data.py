"""Data preparation for the nets: conversion of inputs and targets for torch, losses, and sample weights in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from scipy import sparse
from skorch.dataset import Dataset, unpack_data
from skorch.helper import SliceDataset
from skorch.utils import to_numpy
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from sklr._utils.means import or_one
from sklr._utils.validation import must_be

_TORCH_DATA = (Tensor, PackedSequence, Mapping, torch.utils.data.Dataset, SliceDataset)
_NUMPY_FLOATS = {torch.float16: np.float16, torch.float32: np.float32, torch.float64: np.float64}
_CLASS_LOSSES = (nn.CrossEntropyLoss, nn.NLLLoss)  # their mean divides by the sum of class weights, not by the rows
_ELEMENTWISE = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss)
_INDEX_LOSSES = (*_CLASS_LOSSES, nn.MultiMarginLoss, nn.MultiLabelMarginLoss)  # their targets must be int64


def is_table(X: Any) -> bool:
    """Whether `X` is tabular data that scikit-learn can validate, and not a type that only torch and skorch support.

    >>> [is_table(X) for X in (np.ones((2, 3)), [[1, 2]], sparse.eye(2), None)]
    [True, True, True, True]
    >>> [is_table(X) for X in (torch.ones(2, 3), {"a": [1]}, np.ones((2, 1, 8, 8)), (np.ones((2, 3)), np.ones((2, 1))))]
    [False, False, False, False]
    """
    if isinstance(X, np.ndarray):
        return X.ndim <= 2
    if isinstance(X, list | tuple) and X:  # either rows, or the several inputs of a module
        return not isinstance(X[0], _TORCH_DATA) and getattr(X[0], "ndim", 0) < 2
    return not isinstance(X, _TORCH_DATA)


def check_finite_rows(X: Any) -> None:
    """Raise a ValueError if a tensor of up to two dimensions is not finite, as scikit-learn does for an array.

    >>> check_finite_rows(torch.tensor([[0.0, 1.0], [2.0, float("nan")]]))
    Traceback (most recent call last):
    ValueError: Input X contains NaN: the first is in row 1, column 1. Impute or drop such rows first.
    """
    if not isinstance(X, Tensor) or X.ndim > 2 or bool(X.isfinite().all()):
        return
    missing = X.isnan()
    what, where = ("NaN", missing) if bool(missing.any()) else ("infinity", X.isinf())
    row, *column = where.nonzero()[0].tolist()
    place = f"row {row}{', column ' * bool(column)}{''.join(map(str, column))}"
    raise ValueError(f"Input X contains {what}: the first is in {place}. Impute or drop such rows first.")


def check_inputs(X: Any) -> None:
    """Raise an error for several inputs of a module, in a dict or a list, that do not have a row for each sample.

    >>> check_inputs({"X": np.ones((3, 2)), "lengths": [1, 2, 2]})
    Traceback (most recent call last):
    TypeError: X must be a dict of arrays or tensors, got 'a list for lengths'. Convert it with np.asarray.
    >>> check_inputs([torch.ones(3, 2), torch.ones(5, 2)])
    Traceback (most recent call last):
    ValueError: X as a list must be inputs of the module with as many rows each, got [3, 5]. Pad sequences to one array,
    or use a Dataset with a collate_fn that pads.
    """
    if isinstance(X, Mapping):
        for name, part in X.items():
            if isinstance(part, list | tuple):
                rule, given = "a dict of arrays or tensors", f"a {type(part).__name__} for {name}"
                raise TypeError(must_be("X", rule, given, "Convert it with np.asarray."))
    elif isinstance(X, list | tuple) and all(hasattr(part, "shape") and len(part.shape) for part in X):
        lengths = sorted({len(part) for part in X})
        if len(lengths) > 1:
            rule = "inputs of the module with as many rows each"
            advice = "Pad sequences to one array, or use a Dataset with a collate_fn that pads."
            raise ValueError(must_be("X as a list", rule, lengths, advice))


def as_numbers(X: Any, dtype: torch.dtype | None) -> Any:
    """Convert an array to what torch can read: floats to `dtype`, integers stay integers. Other types are unchanged.

    >>> as_numbers(np.ones((1, 2))[::-1], torch.float32).dtype, as_numbers(np.ones(2, "uint16"), None).dtype
    (dtype('float32'), dtype('int64'))
    """
    if not isinstance(X, np.ndarray) and not sparse.issparse(X):
        return X
    target = X.dtype
    if X.dtype.kind == "f":
        target = _NUMPY_FLOATS.get(dtype, np.float32)  # type: ignore[arg-type]
    elif X.dtype.kind == "u" and X.dtype.itemsize > 1:  # torch hardly supports uint16, uint32 and uint64
        target = np.int64
    if sparse.issparse(X):
        return sparse.csr_matrix(X, dtype=target)  # skorch indexes rows, and a row of a sparse *array* is 1-dimensional
    # torch rejects negative strides, and warns of read-only memory
    return np.require(X, target, ["C", "W"]) if X.dtype.kind in "fiub" else X


def cast_floats(x: Any, dtype: torch.dtype | None) -> Any:
    """Cast the floating-point tensors of a batch, which may be a tensor, dict or list, to `dtype`.

    >>> cast_floats({"a": torch.ones(1, dtype=torch.float64), "b": torch.ones(1, dtype=torch.int64)}, torch.float32)
    {'a': tensor([1.]), 'b': tensor([1])}
    """
    if isinstance(x, Tensor):
        return x.to(dtype) if x.is_floating_point() else x
    if isinstance(x, Mapping):
        return {name: cast_floats(value, dtype) for name, value in x.items()}
    return [cast_floats(value, dtype) for value in x] if isinstance(x, list) else x


def at_least_float32(x: Any) -> Any:
    """Return outputs in at least float32: NumPy has no bfloat16, and half precision is too coarse for scores.

    >>> [at_least_float32(torch.ones(1, dtype=dtype)).dtype for dtype in (torch.bfloat16, torch.float64)]
    [torch.float32, torch.float64]
    """
    narrow = isinstance(x, Tensor) and x.is_floating_point() and x.element_size() < 4
    return x.float() if narrow else x


def in_float32(nonlinearity: Callable[[Any], Any], x: Any) -> Any:
    """Apply a nonlinearity to outputs, with input, computation and result in at least float32."""
    return at_least_float32(nonlinearity(at_least_float32(x)))


def bce_probabilities(criterion: Any) -> Callable[[Tensor], Tensor] | None:
    """Return the function from the inputs of a binary cross entropy to probabilities; None for other losses."""
    if isinstance(criterion, nn.BCEWithLogitsLoss | nn.MultiLabelSoftMarginLoss):
        return torch.sigmoid
    return torch.clone if isinstance(criterion, nn.BCELoss) else None


def bce_columns(probabilities: Callable[[Tensor], Tensor], two_columns: bool, x: Tensor) -> Tensor:
    """Return the probabilities of outputs trained with a binary cross entropy, in the shape of the outputs.

    With `two_columns` and one output per row, return the probabilities of classes 0 and 1, shape (n_samples, 2).

    >>> logits = torch.zeros(3, 1)
    >>> [bce_columns(torch.sigmoid, two, x).shape[1:] for two in (True, False) for x in (logits, torch.zeros(3, 5))]
    [torch.Size([2]), torch.Size([5]), torch.Size([1]), torch.Size([5])]
    """
    found = probabilities(x)
    if not two_columns or found.numel() != len(found):
        return found
    positive = found.reshape(len(found))
    return torch.stack((1 - positive, positive), 1)


def float_dtype(module: nn.Module) -> torch.dtype | None:
    """Return the dtype of a module's first floating-point parameter; None if it has none."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), None)


def target_array(X: Any, y: Any) -> Any:
    """Return the targets as an array-like; None if they are in `X`, or of a type that only torch and skorch support."""
    if y is None or isinstance(X, torch.utils.data.Dataset):
        return None
    if isinstance(y, Tensor | SliceDataset):
        return to_numpy(y)
    ragged = isinstance(y, np.ndarray) and y.dtype == object and y.size > 0 and np.ndim(y.flat[0]) > 0
    return y if not ragged and (isinstance(y, np.ndarray) or is_table(y)) else None


def sample_shape(X: Any, y: Any) -> tuple[int | None, int | None]:
    """Return the number of values in a row of the input and of the target; None where a row is not 1-dimensional.

    >>> sample_shape(np.ones((5, 3)), np.ones(5)), sample_shape(np.ones((5, 1, 8, 8)), np.ones((5, 2)))
    ((3, 1), (None, 2))
    """
    if isinstance(X, torch.utils.data.Dataset):
        return _first_row(X)
    rows, n_axes = (X[0], 1) if isinstance(X, SliceDataset) else (X, 2)
    n_inputs = rows.shape[-1] if len(getattr(rows, "shape", ())) == n_axes else None
    return n_inputs, int(np.prod(y.shape[1:])) if hasattr(y, "shape") else None


def _first_row(dataset: torch.utils.data.Dataset) -> tuple[int | None, int | None]:
    try:
        X, y = unpack_data(dataset[0])
    except (TypeError, ValueError, NotImplementedError, IndexError):  # IterableDataset, empty dataset, items are dicts
        return None, None
    n_inputs = len(X) if len(getattr(X, "shape", ())) == 1 else None
    return n_inputs, int(np.prod(np.shape(y)))


def input_note(x: Any) -> str:
    """Return a sentence about a batch that a module could not compute with.

    >>> input_note(torch.tensor([[3, 0], [9, 1]]))
    'The module was given a batch of shape (2, 2), int64 from 0 to 9. Integers stay integers, as for nn.Embedding.'
    >>> input_note({"X": torch.ones(5, 3), "mask": None})
    'The module was given a batch of X: shape (5, 3), float32; mask: NoneType.'
    """
    if isinstance(x, Mapping):
        return f"The module was given a batch of {'; '.join(f'{k}: {_described(part)}' for k, part in x.items())}."
    integers = isinstance(x, Tensor) and not x.is_floating_point() and x.dtype != torch.bool
    return (
        f"The module was given a batch of {_described(x)}.{' Integers stay integers, as for nn.Embedding.' * integers}"
    )


def _described(x: Any) -> str:
    if not isinstance(x, Tensor):
        return type(x).__name__
    text = f"shape {tuple(x.shape)}, {str(x.dtype).removeprefix('torch.')}"
    whole = x.device.type == "cpu" and x.numel() > 0 and not (x.is_floating_point() or x.is_complex())
    return f"{text} from {int(x.min())} to {int(x.max())}" if whole else text  # a failed CUDA device cannot be read


def class_codes(y: np.ndarray, classes: np.ndarray) -> np.ndarray | None:
    """Return the index of each label in `classes`, int64 of shape (n_samples,); None if a label is not in `classes`.

    >>> class_codes(np.array(["b", "a"]), np.array(["b", "c", "a"])), class_codes(np.array([3]), np.array([1, 2]))
    (array([0, 2]), None)
    """
    order = np.argsort(classes, kind="stable")
    place = np.searchsorted(classes, y, sorter=order)
    codes = order[np.minimum(place, len(classes) - 1)]
    return codes.astype(np.int64) if np.array_equal(classes[codes], y) else None


def fit_target(y: Tensor, y_pred: Tensor, criterion: Any) -> Tensor:
    """Return a batch's targets in the dtype and shape that the loss expects, so that they are not broadcast.

    >>> fit_target(torch.ones(3, dtype=torch.float64), torch.ones(3, 1), nn.MSELoss()).shape
    torch.Size([3, 1])
    """
    if isinstance(criterion, _INDEX_LOSSES):
        _check_classes(y, y_pred, criterion)
        return y.to(y_pred.dtype) if y.is_floating_point() else y.long()  # floats are class probabilities
    if not y.is_floating_point() and type(criterion).__module__ != nn.MSELoss.__module__:
        return y  # a custom loss may expect integers
    same_rows = [n for n in y.shape if n != 1] == [n for n in y_pred.shape if n != 1]
    y = (y.reshape(y_pred.shape) if same_rows else y).to(y_pred.dtype)
    if isinstance(criterion, _ELEMENTWISE) and y.shape != y_pred.shape:  # they would broadcast one to the other
        rule = f"of shape {tuple(y.shape[1:]) or (1,)} for each row, as the target is"
        advice = "Set the module's number of outputs, or reshape y."
        raise ValueError(must_be("the module's output", rule, tuple(y_pred.shape[1:]), advice))
    return y


def _check_classes(y: Tensor, y_pred: Tensor, criterion: Any) -> None:
    """Raise a ValueError for targets that are neither indices of classes nor the probabilities of each class."""
    if not isinstance(criterion, nn.CrossEntropyLoss):
        return
    name = type(criterion).__name__
    if y.is_floating_point() and y.ndim < y_pred.ndim:
        rule = f"integers, the indices of the classes, for criterion {name}"
        raise ValueError(must_be("the targets in a dataset", rule, str(y.dtype), "Return for example int(y)."))
    if not y.is_floating_point() and y.ndim == y_pred.ndim == 2 and y.shape[1] > 1:
        rule = f"of shape (n_samples,) for criterion {name}"
        advice = "Of one-hot rows write y.argmax(axis=1)."
        raise ValueError(must_be("y", rule, f"rows of {y.shape[1]} integers", advice))


@contextmanager
def unreduced(criterion: Any) -> Iterator[None]:
    """Context in which a loss has ``reduction="none"`` and returns one value per sample."""
    if not hasattr(criterion, "reduction"):
        rule = "a loss with a `reduction` for sample_weight, such as torch's own"
        raise ValueError(must_be("criterion", rule, criterion))
    before, criterion.reduction = criterion.reduction, "none"
    try:
        yield
    finally:
        criterion.reduction = before


def weighted_loss(losses: Tensor, weight: Tensor, y: Tensor, criterion: Any) -> Tensor:
    """Return the loss of a batch with sample weights, equal to the loss with each sample repeated by its weight.

    Parameters
    ----------
    losses : Tensor of shape (n_samples, ...)
        The unreduced losses, already multiplied by class weights.
    weight : Tensor of shape (n_samples,)
        The sample weights. If all are 0, the loss is 0.
    y : Tensor
        The targets.
    criterion : torch.nn.Module
        The loss; its `reduction`, class `weight` and `ignore_index` determine the divisor of the mean.

    Examples
    --------
    >>> logits, y = torch.tensor([[2.0, 0.0], [1.0, 3.0]]), torch.tensor([0, 1])
    >>> loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0]))
    >>> with unreduced(loss):
    ...     losses = loss(logits, y)
    >>> repeated = loss(logits[[0, 1, 1]], y[[0, 1, 1]])
    >>> bool(torch.isclose(weighted_loss(losses, torch.tensor([1.0, 2.0]), y, loss), repeated))
    True
    """
    weight = weight.to(losses).reshape(-1, *[1] * (losses.ndim - 1))
    total = (weight * losses).sum()
    if criterion.reduction == "sum":
        return total
    divisor = (weight * share_in_mean(losses, y, criterion)).sum()
    return total / or_one(divisor, weight.flatten())


def share_in_mean(losses: Tensor, y: Tensor, criterion: Any) -> Tensor:
    """Return the contribution of each loss to the divisor of the mean, same shape as `losses`: class weight, or 1."""
    share = torch.ones_like(losses)
    if not isinstance(criterion, _CLASS_LOSSES) or y.is_floating_point():
        return share
    counted = y != criterion.ignore_index
    if criterion.weight is not None:
        share = criterion.weight[torch.where(counted, y, 0)]
    return share * counted


class WeightedDataset(Dataset):
    """A dataset whose items have the sample weight as a third element.

    It is a skorch dataset with the `X` and `y` of the wrapped one, which skorch's scoring callbacks read.
    """

    def __init__(self, inside: Any, weights: np.ndarray):
        self.inside, self.weights = inside, weights
        self.X, self.y = getattr(inside, "X", None), getattr(inside, "y", None)

    def __len__(self) -> int:
        return len(self.weights)

    def __getitem__(self, i: int) -> tuple[Any, Any, Any]:
        return *unpack_data(self.inside[i]), self.weights[i]


def carries_weights(dataset: Any) -> bool:
    """Whether the items of a dataset, or of a subset of it, contain sample weights."""
    if isinstance(dataset, torch.utils.data.Subset):
        return carries_weights(dataset.dataset)
    return isinstance(dataset, WeightedDataset)


class FreshBatches:
    """A batch iterable that makes a new iterator in each epoch, since the batch size may have changed."""

    def __init__(self, make: Callable[[], Any]):
        self.make = make

    def __len__(self) -> int:
        return len(self.make())

    def __iter__(self) -> Iterator[Any]:
        return iter(self.make())


def of_one_epoch(batches: Any) -> Any:
    """Return the batch iterator of the next epoch, if a new one is made for each; otherwise `batches` itself."""
    return batches.make() if isinstance(batches, FreshBatches) else batches


class WeightedBatches:
    """Batches (X, y) whose sample weights are passed to the callback `tell` just before each batch is yielded."""

    def __init__(self, batches: Any, tell: Any):
        self.batches, self.tell = batches, tell

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Sequence[Any]]:
        for X, y, weight in self.batches:
            self.tell(weight)
            yield X, y
