"""A fixed validation set: its rows are appended to the training rows, and are the test rows of the only fold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse, vstack
from torch.utils.data import ConcatDataset, DataLoader

from sklr._utils.sklearn import count_rows
from sklr._utils.validation import check_labels, must_be, unknown_name
from sklr.experiment.datasets import (
    Brought,
    DatasetRows,
    check_no_sampler,
    dataset_to_predict,
    is_dataset,
    labelled,
    own_collate_fn,
)
from sklr.experiment.loaders import reading_params


def bring_validation(train: Brought, validation: Any, net: Any = None) -> Brought:
    """Append the rows of a fixed validation set to the training rows.

    Parameters
    ----------
    train : Brought
        The training data.
    validation : Dataset, DataLoader, or tuple (X, y) of arrays
        Of the same type as the training data.
    net : NeuralNet, optional
        The net to train.
    """
    if isinstance(train.X, DatasetRows):
        if not is_dataset(validation):
            given = type(validation).__name__
            raise TypeError(must_be("validation", "a Dataset or DataLoader, as X is one", given))
        held = _held_out(train, validation, net)
        X = joined_rows(train.X, held.X)
    else:
        if not (isinstance(validation, tuple) and len(validation) == 2):
            given = type(validation).__name__
            raise TypeError(must_be("validation", "a tuple (X, y) of arrays, as X is one", given))
        held = Brought(*validation, {})
        check_labels(held.y)
        X = joined(train.X, held.X, "X")
    if not count_rows(held.X):
        raise ValueError(must_be("validation", "at least one row", 0))
    if (train.y is None) != (held.y is None):
        raise ValueError(must_be("validation", "a pair with targets if y is given, and without if not", held.y))
    y = None if train.y is None else joined(train.y, held.y, "y")
    return Brought(X, y, train.params | held.params, count_rows(train.X), train.paired or held.paired)


def _held_out(train: Brought, validation: Any, net: Any) -> Brought:
    """Return the rows of a validation set with the net's parameters for reading them: its DataLoader's, else X's."""
    dataset, params = dataset_to_predict(validation, "validation"), {}
    collate_fn = train.params.get("iterator_valid__collate_fn") or own_collate_fn(net, "iterator_valid")
    if isinstance(validation, DataLoader):
        size = {} if validation.batch_size is None else {"batch_size": validation.batch_size}
        found = {**size, **reading_params(validation), "collate_fn": validation.collate_fn}
        params = {f"iterator_valid__{name}": value for name, value in found.items()}
        collate_fn = validation.collate_fn
    return labelled(dataset, Brought(DatasetRows(dataset), None, params), "validation", collate_fn)


def fixed_fold(data: Brought, rows: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the training rows, all of them or the given ones, and the rows of the fixed validation set."""
    assert data.n_train is not None
    return np.arange(data.n_train) if rows is None else rows, np.arange(data.n_train, count_rows(data.X))


def for_all_rows(params: Mapping[str, Any], data: Brought) -> dict[str, Any]:
    """Return the parameters of `fit`, with ones appended for the validation rows to those with a value per row."""
    if data.n_train is None:
        return dict(params)
    n_more = count_rows(data.X) - data.n_train
    return {
        name: np.append(value, np.ones(n_more)) if _is_per_row(value, data.n_train) else value
        for name, value in params.items()
    }


def _is_per_row(value: Any, n: int) -> bool:
    return np.ndim(value) == 1 and len(value) == n


def joined_rows(train: DatasetRows, held: DatasetRows) -> DatasetRows:
    """Concatenate the rows of two datasets."""
    both = [ConcatDataset[Any]([part, held]) for part in (train, train.evaluated())]
    return DatasetRows(both[0], None if train.evaluation is None else both[1])


def joined(first: Any, second: Any, what: str) -> Any:
    """Concatenate two arrays, tensors, data frames, sparse matrices or dicts of them.

    >>> joined(np.zeros(2), [1.0], "y")
    array([0., 0., 1.])
    """
    if isinstance(first, torch.Tensor):
        return torch.cat([first, torch.as_tensor(second, dtype=first.dtype)])
    if issparse(first):
        return vstack([first, second], format="csr")
    if hasattr(first, "iloc"):
        import pandas as pd  # not a dependency of sklr, but installed if X is a data frame

        return pd.concat([first, second])
    if isinstance(first, Mapping):
        return type(first)(**{name: joined(value, second[name], f"{what}[{name!r}]") for name, value in first.items()})
    first, second = np.asarray(first), np.asarray(second)
    if first.shape[1:] != second.shape[1:]:
        rule = f"rows of shape {first.shape[1:]} in {what}, as the rows to train on"
        raise ValueError(must_be("validation", rule, second.shape[1:]))
    return np.concatenate([first, second])


def check_refit_on(refit_on: Any, data: Brought) -> None:
    """Raise a ValueError if `refit_on` is not "train" or "all", or a sampler does not allow "all"."""
    if refit_on not in ("train", "all"):
        raise unknown_name("refit_on", refit_on, ["train", "all"])
    if refit_on == "all" and data.n_train is not None:
        check_no_sampler(data, "refit_on", "'train'")
