"""All rows of a dataset as tensors on the net's device, and whether reading them again would give the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from joblib import hash as joblib_hash
from scipy.sparse import csc_matrix, csr_matrix, issparse
from skorch import NeuralNet
from skorch.dataset import Dataset, unpack_data
from skorch.helper import SliceDataset, SliceDict
from torch import Tensor
from torch.utils.data import default_collate

from sklr._utils.random import global_generators_kept
from sklr._utils.sklearn import count_rows, take_rows
from sklr.engines.stacked.data.index_batches import Rows, map_tensors
from sklr.experiment.datasets import DatasetRows

# libraries whose data give the same rows each time they are read
_FIXED = ("builtins", "numpy", "scipy", "pandas", "polars", "pyarrow", "torch", "skorch")


def reads_alike(X: Any) -> bool:
    """Say whether the first rows of data are the same when they are read twice; types of known libraries are trusted.

    >>> class Noisy:
    ...     def __len__(self):
    ...         return 3
    ...     def __getitem__(self, row):
    ...         return np.random.normal(size=2)
    >>> reads_alike(np.zeros((3, 2))), reads_alike(Noisy())
    (True, False)
    """
    if isinstance(X, DatasetRows) or type(X).__module__.partition(".")[0] in _FIXED:
        return True
    rows = np.arange(min(8, count_rows(X)))
    with global_generators_kept():
        first, again = (joblib_hash(take_rows(X, rows)) for _ in range(2))
    return first == again


def is_in_memory(dataset: Any) -> bool:
    """Say whether a dataset certainly gives the same items each time: one of arrays does, another need not.

    >>> is_in_memory(Dataset(np.zeros((3, 1)))), is_in_memory(Dataset([lambda: 1]))
    (True, False)
    """
    if type(dataset) in (torch.utils.data.Subset, DatasetRows):
        return is_in_memory(dataset.dataset)
    if type(dataset) is torch.utils.data.ConcatDataset:
        return all(map(is_in_memory, dataset.datasets))
    if type(dataset) is SliceDataset:
        return is_in_memory(dataset.dataset)
    return type(dataset) is torch.utils.data.TensorDataset or (
        type(dataset) is Dataset and _is_data(dataset.X) and _is_data(dataset.y)
    )


_VALUES = (np.ndarray, np.generic, Tensor, int, float, complex, str, bytes)


def _is_data(value: Any) -> bool:
    """Say whether a value is data in memory, or a structure of such; other objects may compute their items."""
    if isinstance(value, Mapping):
        return type(value) in (dict, SliceDict) and all(map(_is_data, value.values()))
    if type(value) in (list, tuple):
        return all(map(_is_data, value[:1] if all(type(v) is type(value[0]) for v in value) else value))
    if isinstance(value, torch.utils.data.Dataset | SliceDataset):
        return is_in_memory(value)
    is_pandas = hasattr(value, "iloc") and type(value).__module__.startswith("pandas.")
    return value is None or is_pandas or issparse(value) or isinstance(value, _VALUES)


def all_rows(net: NeuralNet, dataset: Any) -> tuple[Rows, Rows]:
    """Return all rows of X and y on the net's device, as its DataLoader would collate them in one batch."""
    X = _dense(getattr(dataset, "X", None))
    y = getattr(dataset, "y", None)
    loader = net.get_iterator(dataset, training=False)
    known = _are_arrays(X) and (y is None or _is_array(y))
    if type(dataset) is Dataset and loader.collate_fn is default_collate and known:
        no_targets = torch.zeros(len(dataset), 1)  # skorch's dataset returns zeros where y is None
        rows = map_tensors(torch.as_tensor, X), no_targets if y is None else torch.as_tensor(y)
    else:
        rows = unpack_data(loader.collate_fn([dataset[i] for i in range(len(dataset))]))
    return tuple(map_tensors(lambda t: t.to(net.device), part) for part in rows)


def _dense(X: Any) -> Any:
    """Return a sparse matrix as an array, as skorch's dataset does with each row that is read."""
    return X.toarray() if isinstance(X, csr_matrix | csc_matrix) else X


def all_targets(net: NeuralNet, dataset: Any) -> Rows:
    """Return y of a dataset as `all_rows` does, without reading X where that can be avoided."""
    if type(dataset) is Dataset and _is_array(dataset.y):
        return torch.as_tensor(dataset.y).to(net.device)
    return all_rows(net, dataset)[1]


def _is_array(value: Any) -> bool:
    return isinstance(value, (np.ndarray, Tensor))


def _are_arrays(value: Any) -> bool:
    return _is_array(value) or (isinstance(value, dict) and all(map(_is_array, value.values())))
