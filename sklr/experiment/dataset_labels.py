"""The targets of a dataset's items, without reading what need not be read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
N_TRIED = 3  # items read to see whether an attribute that is called like labels holds them


def labels_of(dataset: Any, what: str = "X") -> np.ndarray:
    """Return the targets of all items; they are looked up where the dataset holds them, else each item is read once.

    >>> labels_of(Subset(TensorDataset(torch.zeros(4, 2), torch.tensor([3, 1, 0, 2])), [0, 3])).tolist()
    [3, 2]
    """
    found = _held_labels(dataset)
    if found is None:
        warn(
            f"All {len(dataset)} items of {what} are read once for their targets: {type(dataset).__name__} has no "
            "attribute `targets` or `labels` that holds them. Give them as y.",
            SettingsWarning,
        )
        with global_generators_kept():
            found = np.stack([_target(dataset[i]) for i in range(len(dataset))]) if len(dataset) else np.empty(0)
    return found


def _held_labels(dataset: Any) -> np.ndarray | None:
    if isinstance(dataset, Subset):
        known = _held_labels(dataset.dataset)
        return None if known is None else known[np.asarray(dataset.indices)]
    if isinstance(dataset, ConcatDataset):
        parts = [_held_labels(part) for part in dataset.datasets]
        return None if any(part is None for part in parts) else np.concatenate([p for p in parts if p is not None])
    if type(dataset) is TensorDataset and len(dataset.tensors) > 1:
        return to_numpy(dataset.tensors[-1])
    for get in (*map(_attribute, ("targets", "labels", "y")), *map(_column, ("label", "labels"))):
        if (found := _tried(get, dataset)) is not None:
            return found
    return None


def _attribute(name: str) -> Callable[[Any], Any]:
    return lambda dataset: getattr(dataset, name, None)


def _column(name: str) -> Callable[[Any], Any]:
    """Look a column up as the datasets of Hugging Face have it."""
    return lambda dataset: dataset[name] if name in getattr(dataset, "column_names", ()) else None


def _tried(get: Callable[[Any], Any], dataset: Any) -> np.ndarray | None:
    """Return what `get` finds, if the items have it: an attribute may be what a transform is still to change."""
    try:
        found = _array(get(dataset))
        if found.ndim == 0 or len(found) != len(dataset) or found.dtype.kind == "O":
            return None
        with global_generators_kept():
            alike = [np.array_equal(_target(dataset[i]), found[i]) for i in _some_rows(len(dataset))]
        return found if all(alike) else None
    except Exception:  # whatever a foreign attribute is, the items themselves say what is right
        return None


def _some_rows(n: int) -> list[int]:
    return sorted({round(i * (n - 1) / (N_TRIED - 1)) for i in range(N_TRIED)}) if n else []


def _target(item: Any) -> np.ndarray:
    _, y = unpack_data(pair_of(item))
    return _array(y)


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
