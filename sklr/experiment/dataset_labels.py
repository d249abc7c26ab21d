"""The targets of a dataset's items, without reading what need not be read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from skorch.dataset import unpack_data
from skorch.utils import to_numpy
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from sklr._utils.random import global_generators_kept
from sklr._utils.validation import must_be
from sklr._utils.warnings import warn
from sklr.exceptions import SettingsWarning

LABELS = ("labels", "label", "target", "targets", "y")
N_TRIED, MOST_TRIED = 3, 100  # items read to see whether an attribute that is called like labels holds them


def labels_of(dataset: Any, what: str = "X", collate_fn: Callable[[list], Any] | None = None) -> np.ndarray:
    """Return the targets of all items; they are looked up where the dataset holds them, else each item is read once.

    >>> labels_of(Subset(TensorDataset(torch.zeros(4, 2), torch.tensor([3, 1, 0, 2])), [0, 3])).tolist()
    [3, 2]
    """
    target = _target if collate_fn is None else partial(_target_of_batch, collate_fn)
    found = _held_labels(dataset, target)
    if found is None:
        warn(
            f"All {len(dataset)} items of {what} are read once for their targets: {type(dataset).__name__} has no "
            "attribute `targets` or `labels` that holds them. Give them as y.",
            SettingsWarning,
        )
        with global_generators_kept():
            found = _stacked([target(item_of(dataset, i)) for i in range(len(dataset))], what)
    return found


def _stacked(targets: list[np.ndarray], what: str) -> np.ndarray:
    if others := {target.shape for target in targets} - {targets[0].shape}:
        rule = f"of one shape, {targets[0].shape} as the first, for folds and scores"
        raise ValueError(must_be(f"the targets in {what}", rule, others.pop(), "Give y, one label for each item."))
    return np.stack(targets)


def _held_labels(dataset: Any, target: Callable[[Any], np.ndarray]) -> np.ndarray | None:
    """Return labels that a dataset holds; `target` says what the label of an item is."""
    of_parts = partial(_of_parts, target)
    if type(dataset).__module__.partition(".")[0] in ("torch", "sklr") and not isinstance(dataset, TensorDataset):
        return of_parts(dataset)  # the items are those of the parts; those of someone's subclass need not be
    ways: list[Callable[[Any], Any]] = [of_parts, *map(_attribute, ("targets", "labels", "y"))]
    for get in (*ways, *map(_column, ("label", "labels"))):
        if (found := _tried(get, dataset, target)) is not None:
            return found
    return None


def _of_parts(target: Callable[[Any], np.ndarray], dataset: Any) -> np.ndarray | None:
    """Return the labels that PyTorch's own kinds of datasets have from what they are made of."""
    if isinstance(dataset, Subset):
        known = _held_labels(dataset.dataset, target)
        return None if known is None else known[np.asarray(dataset.indices, dtype=int)]
    if isinstance(dataset, ConcatDataset):
        parts = [_held_labels(part, target) for part in dataset.datasets]
        return None if any(part is None for part in parts) else np.concatenate([p for p in parts if p is not None])
    return to_numpy(dataset.tensors[-1]) if isinstance(dataset, TensorDataset) else None


def _attribute(name: str) -> Callable[[Any], Any]:
    return lambda dataset: getattr(dataset, name, None)


def _column(name: str) -> Callable[[Any], Any]:
    """Look a column up as the datasets of Hugging Face have it."""
    return lambda dataset: dataset[name] if name in getattr(dataset, "column_names", ()) else None


def _tried(get: Callable[[Any], Any], dataset: Any, target: Callable[[Any], np.ndarray]) -> np.ndarray | None:
    """Return what `get` finds, if the items have it: an attribute may be what a transform is still to change."""
    try:
        found = _array(get(dataset))
        if found.ndim == 0 or len(found) != len(dataset) or found.dtype.kind == "O":
            return None
        with global_generators_kept():
            alike = [np.array_equal(target(dataset[i]), found[i]) for i in _some_rows(found)]
        return found if all(alike) else None
    except Exception:  # whatever a foreign attribute is, the items themselves say what is right
        return None


def _some_rows(labels: np.ndarray) -> list[int]:
    """Return rows to compare: the first of every label, as a transform may change some alone, and a few more.

    >>> _some_rows(np.array([0, 0, 0, 1, 0, 0])), _some_rows(np.array([0.5, 1.5, 2.5, 3.5])), _some_rows(np.empty(0))
    ([0, 3, 5], [0, 3, 2], [])
    """
    n, first = len(labels), list[int]()
    if labels.ndim == 1 and labels.dtype.kind not in "fc":
        first = np.unique(labels, return_index=True)[1][:MOST_TRIED].tolist()
    return list(dict.fromkeys([*first, 0, n - 1, n // 2]))[: max(N_TRIED, len(first))] if n else []


def item_of(dataset: Any, number: int) -> Any:
    """Read an item; where that fails the error names it."""
    try:
        return dataset[number]
    except Exception as error:
        error.add_note(f"It was raised by item {number} of the {type(dataset).__name__}.")
        raise


def _target(item: Any) -> np.ndarray:
    _, y = unpack_data(pair_of(item))
    return _array(y)


def _target_of_batch(collate_fn: Callable[[list], Any], item: Any) -> np.ndarray:
    return _target(collate_fn([item]))[0]


def _array(values: Any) -> np.ndarray:
    return to_numpy(values) if isinstance(values, torch.Tensor) else np.asarray(values)


def pair_of(item: Any) -> Any:
    """Return an item as skorch takes it: of a dict with a label, as Hugging Face's datasets have it, the others and it.

    >>> pair_of({"pixels": 0.5, "label": 1}), pair_of((0.5, 1))
    (({'pixels': 0.5}, 1), (0.5, 1))
    """
    if not isinstance(item, Mapping):
        return item
    name = next((name for name in LABELS if name in item), None)
    if name is None:
        rule = f"a pair (x, y), or a dict with one of the keys {', '.join(LABELS)}"
        raise ValueError(must_be("an item of a dataset", rule, sorted(item)))
    return {key: value for key, value in item.items() if key != name}, item[name]
