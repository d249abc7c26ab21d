"""The targets of a dataset's items, read from an attribute of the dataset if possible, and not item by item."""

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
MIN_VERIFIED, MAX_VERIFIED = 3, 100  # min and max number of items read to verify that an attribute holds their labels


def labels_of(dataset: Any, what: str = "X", collate_fn: Callable[[list], Any] | None = None) -> np.ndarray:
    """Return the targets of all items, from an attribute of the dataset if it has them; otherwise read each item once.

    >>> labels_of(Subset(TensorDataset(torch.zeros(4, 2), torch.tensor([3, 1, 0, 2])), [0, 3])).tolist()
    [3, 2]
    """
    target = _target if collate_fn is None else partial(_target_of_batch, collate_fn)
    found = _stored_labels(dataset, target)
    if found is None:
        with global_generators_kept():
            _check_numbers(target(item_of(dataset, 0)) if len(dataset) else np.empty(0), what)
        warn(
            f"All {len(dataset)} items of {what} are read once for their targets: {type(dataset).__name__} has no "
            "attribute `targets` or `labels` that agrees with its items. Pass the targets as y to avoid this.",
            SettingsWarning,
        )
        with global_generators_kept():
            found = _stacked([target(item_of(dataset, i)) for i in range(len(dataset))], what)
    _check_numbers(found, what)
    return found


def _check_numbers(targets: np.ndarray, what: str) -> None:
    """Raise an error for strings, which no loss takes: a net encodes the labels in an array, not those in a dataset."""
    if targets.dtype.kind in "US":
        given = targets.ravel()[0].item()
        advice = "Return the index of the class. Only y in an array may have labels of any type."
        raise ValueError(must_be(f"the targets in {what}", "numbers, as the loss gets them", given, advice))


def _stacked(targets: list[np.ndarray], what: str) -> np.ndarray:
    if others := {target.shape for target in targets} - {targets[0].shape}:
        rule = f"of one shape, {targets[0].shape} as the first, for folds and scores"
        raise ValueError(must_be(f"the targets in {what}", rule, others.pop(), "Pass y with one label per item."))
    return np.stack(targets)


def _stored_labels(dataset: Any, target: Callable[[Any], np.ndarray]) -> np.ndarray | None:
    """Return the labels stored in a dataset, None if there are none; `target` extracts the label of an item."""
    of_parts = partial(_of_parts, target)
    if type(dataset).__module__.partition(".")[0] in ("torch", "sklr") and not isinstance(dataset, TensorDataset):
        return of_parts(dataset)  # a subclass of the user's may change the items, so its labels are verified below
    ways: list[Callable[[Any], Any]] = [of_parts, *map(_attribute, ("targets", "labels", "y"))]
    for get in (*ways, *map(_column, ("label", "labels"))):
        if (found := _verified(get, dataset, target)) is not None:
            return found
    return None


def _of_parts(target: Callable[[Any], np.ndarray], dataset: Any) -> np.ndarray | None:
    """Return the labels of PyTorch's own dataset types from the datasets or tensors they are composed of."""
    if isinstance(dataset, Subset):
        known = _stored_labels(dataset.dataset, target)
        return None if known is None else known[np.asarray(dataset.indices, dtype=int)]
    if isinstance(dataset, ConcatDataset):
        parts = [_stored_labels(part, target) for part in dataset.datasets]
        return None if any(part is None for part in parts) else np.concatenate([p for p in parts if p is not None])
    return to_numpy(dataset.tensors[-1]) if isinstance(dataset, TensorDataset) else None


def _attribute(name: str) -> Callable[[Any], Any]:
    return lambda dataset: getattr(dataset, name, None)


def _column(name: str) -> Callable[[Any], Any]:
    """Return a function that looks up a column of a Hugging Face dataset."""
    return lambda dataset: dataset[name] if name in getattr(dataset, "column_names", ()) else None


def _verified(get: Callable[[Any], Any], dataset: Any, target: Callable[[Any], np.ndarray]) -> np.ndarray | None:
    """Return the labels that `get` finds if they agree with some items: a transform may change the stored labels."""
    try:
        found = _array(get(dataset))
        if found.ndim == 0 or len(found) != len(dataset) or found.dtype.kind == "O":
            return None
        with global_generators_kept():
            agree = [np.array_equal(target(dataset[i]), found[i]) for i in _some_rows(found)]
        return found if all(agree) else None
    except Exception:  # an attribute of that name may be anything; the items are read instead
        return None


def _some_rows(labels: np.ndarray) -> list[int]:
    """Return rows to compare: the first of each label, as a transform may change only some labels, and a few more.

    >>> _some_rows(np.array([0, 0, 0, 1, 0, 0])), _some_rows(np.array([0.5, 1.5, 2.5, 3.5])), _some_rows(np.empty(0))
    ([0, 3, 5], [0, 3, 2], [])
    """
    n, first = len(labels), list[int]()
    if labels.ndim == 1 and labels.dtype.kind not in "fc":
        first = np.unique(labels, return_index=True)[1][:MAX_VERIFIED].tolist()
    return list(dict.fromkeys([*first, 0, n - 1, n // 2]))[: max(MIN_VERIFIED, len(first))] if n else []


def item_of(dataset: Any, number: int) -> Any:
    """Read an item; an error gets a note that names the item."""
    try:
        return dataset[number]
    except Exception as error:
        error.add_note(f"Raised while reading item {number} of the {type(dataset).__name__}.")
        raise


def _target(item: Any) -> np.ndarray:
    _, y = unpack_data(pair_of(item))
    return _array(y)


def _target_of_batch(collate_fn: Callable[[list], Any], item: Any) -> np.ndarray:
    batch = pair_of(collate_fn([item]))
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        given = f"{len(batch)} values" if isinstance(batch, tuple | list) else type(batch).__name__
        rule = f"a function that returns a pair (x, y), or a dict with one of the keys {', '.join(LABELS)}"
        raise TypeError(must_be("collate_fn", rule, given))
    return _array(batch[1])[0]


def _array(values: Any) -> np.ndarray:
    return to_numpy(values) if isinstance(values, torch.Tensor) else np.asarray(values)


def pair_of(item: Any) -> Any:
    """Return an item as the pair that skorch takes; a dict with a label, as in Hugging Face's datasets, is split.

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
