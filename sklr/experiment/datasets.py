"""A Dataset or a DataLoader in the place of X: rows that are taken by number without being read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import issparse, vstack
from sklearn.base import clone
from sklearn.utils import indexable
from skorch import NeuralNet
from skorch.helper import SliceDataset
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset

from sklr._utils.random import global_generators_kept
from sklr._utils.sklearn import count_rows
from sklr._utils.validation import must_be
from sklr.experiment.dataset_labels import labels_of, pair_of
from sklr.experiment.loaders import loader_params, reading_params


class DatasetRows(Subset):
    """Rows of a map-style dataset, in the form in which scikit-learn's splitters and skorch's nets both take them.

    Parameters
    ----------
    dataset : Dataset
        Whose items are those that skorch takes: ``(x, y)``, or what its module and criterion know.
    evaluation : Dataset, optional
        The same rows as they are to be predicted: without random augmentation, say.
    indices : array-like of int, optional
        Which rows; all of them by default.

    >>> from torch.utils.data import TensorDataset
    >>> rows = DatasetRows(TensorDataset(torch.arange(4.0), torch.arange(4)))
    >>> len(rows), rows.shape, rows[np.array([3, 1])][0]
    (4, (4,), (tensor(3.), tensor(3)))
    """

    def __init__(self, dataset: Any, evaluation: Any = None, indices: Any = None):
        rows: Any = np.arange(len(dataset)) if indices is None else np.asarray(indices)
        super().__init__(dataset, rows)
        self.evaluation = evaluation

    @property
    def shape(self) -> tuple[int]:
        """One axis, of rows: scikit-learn asks."""
        return (len(self),)

    def __getitem__(self, row: Any) -> Any:
        """Return an item for a number, and rows for an array of numbers, without reading them."""
        if isinstance(row, tuple):  # scikit-learn's rows[numbers, ...]
            row = row[0]
        if np.ndim(row) or isinstance(row, slice):
            return DatasetRows(self.dataset, self.evaluation, self.indices[row])
        return self._read(int(self.indices[row]))

    def __getitems__(self, rows: list[int]) -> list[Any]:
        """Return the items of a batch, as a DataLoader asks for them."""
        numbers = [int(self.indices[row]) for row in rows]
        if callable(read := getattr(self.dataset, "__getitems__", None)):
            return [pair_of(item) for item in read(numbers)]
        return [self._read(number) for number in numbers]

    def _read(self, number: int) -> Any:
        try:
            return pair_of(self.dataset[number])
        except Exception as error:
            error.add_note(f"It was raised by item {number} of the {type(self.dataset).__name__}.")
            raise

    def evaluated(self) -> DatasetRows:
        """Return the same rows as they are to be predicted."""
        return self if self.evaluation is None else DatasetRows(self.evaluation, None, self.indices)


class Brought(NamedTuple):
    """Data as a search works with it.

    `params` are what DataLoaders say of those that the net is to make; `n_train` is how many rows come before those of
    a fixed validation set, None if there is none.
    """

    X: Any
    y: Any
    params: dict[str, Any]
    n_train: int | None = None


def indexed(data: Brought) -> Brought:
    """Return the data with rows that can be taken by number, as many in X as in y."""
    X, y = indexable(data.X, data.y)
    return data._replace(X=X, y=y)


def is_dataset(X: Any) -> bool:
    """Say whether `X` is a dataset, or what loads one, rather than an array."""
    return isinstance(X, Dataset | DataLoader) and not isinstance(X, SliceDataset)


def bring(X: Any, y: Any = None, evaluation: Any = None, *, what: str = "X", whole: bool = False) -> Brought:
    """Take a Dataset or DataLoader over; anything else is returned as it is.

    Parameters
    ----------
    X : Dataset, DataLoader, or array-like
    y : array-like, optional
        Labels, if they are known.
    evaluation : Dataset, optional
        As `DatasetRows` takes it.
    what : str
        What the user calls `X`.
    whole : bool
        Whether all rows are trained on together, so that a sampler may name them by number.

    Raises
    ------
    TypeError, ValueError
        If it is an `IterableDataset`, or a DataLoader that folds cannot take over.
    """
    if not is_dataset(X):
        if evaluation is not None:
            given = type(X).__name__
            raise TypeError(must_be("eval_dataset", "left out where X is no Dataset", given, "Give X as a Dataset."))
        return Brought(X, y, {})
    check_map_style(X.dataset if isinstance(X, DataLoader) else X, what)
    params: dict[str, Any] = {}
    if isinstance(X, DataLoader):
        params, X = loader_params(X, what, whole), X.dataset
    if evaluation is not None:
        evaluation = evaluation.dataset if isinstance(evaluation, DataLoader) else evaluation
        check_map_style(evaluation, "eval_dataset")
        if len(evaluation) != len(X):
            rule = f"of the same {len(X)} rows as {what}"
            raise ValueError(
                must_be(
                    "eval_dataset",
                    rule,
                    len(evaluation),
                    "Give a dataset of the same rows, with another transform, say.",
                )
            )
    if "iterator_train__collate_fn" not in params:
        check_pair(X, what)
    rows = X if isinstance(X, DatasetRows) else DatasetRows(X, evaluation)
    return Brought(rows, labels_of(X, what) if y is None else y, params)


def bring_to(estimator: Any, X: Any, y: Any = None, *, whole: bool = True) -> tuple[Any, Any, Any]:
    """Take data over for a net; return a net that reads it as its DataLoader does, X and y."""
    data = bring(X, y, whole=whole)
    check_takes_rows(estimator, data.X)
    return with_params(estimator, data.params) if data.params else estimator, data.X, data.y


def with_params(estimator: Any, params: Mapping[str, Any]) -> Any:
    """Return a clone with these parameters; without any it is not asked to set them."""
    estimator = clone(estimator)
    return estimator.set_params(**params) if params else estimator


def check_takes_rows(estimator: Any, X: Any) -> None:
    """Refuse a Dataset for anything but a net."""
    if isinstance(X, DatasetRows) and not isinstance(estimator, NeuralNet):
        name = type(estimator).__name__
        raise TypeError(must_be("estimator", "a skorch net where X is a Dataset", name, "Give X as an array."))


def bring_validation(train: Brought, validation: Any) -> Brought:
    """Put the rows of a fixed validation set behind those to train on.

    Parameters
    ----------
    train : Brought
    validation : Dataset, DataLoader, or tuple (X, y) of arrays
        Of the same kind as the rows to train on.
    """
    if isinstance(train.X, DatasetRows):
        if not is_dataset(validation):
            given = type(validation).__name__
            raise TypeError(must_be("validation", "a Dataset or DataLoader, as X is one", given))
        held = bring(validation.dataset if isinstance(validation, DataLoader) else validation, what="validation")
        X = joined_rows(train.X, held.X)
    else:
        if not (isinstance(validation, tuple) and len(validation) == 2):
            given = type(validation).__name__
            raise TypeError(must_be("validation", "a tuple (X, y) of arrays, as X is one", given))
        held = Brought(*validation, {})
        X = joined(train.X, held.X, "X")
    params = {}
    if isinstance(validation, DataLoader):
        size = {} if validation.batch_size is None else {"batch_size": validation.batch_size}
        params = {f"iterator_valid__{name}": value for name, value in {**size, **reading_params(validation)}.items()}
    if not count_rows(held.X):
        raise ValueError(must_be("validation", "at least one row", 0))
    if (train.y is None) != (held.y is None):
        raise ValueError(must_be("validation", "a pair with targets where y is given, and without where not", held.y))
    y = None if train.y is None else joined(train.y, held.y, "y")
    return Brought(X, y, train.params | params, count_rows(train.X))


def fixed_fold(data: Brought, rows: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows to train on, all or those that are given, and those of the fixed validation set."""
    assert data.n_train is not None
    return np.arange(data.n_train) if rows is None else rows, np.arange(data.n_train, count_rows(data.X))


def for_all_rows(params: Mapping[str, Any], data: Brought) -> dict[str, Any]:
    """Return the parameters of `fit`, those for each row to train on with ones for the rows of a validation set."""
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
    """Return the rows of two datasets, one behind the other."""
    both = [ConcatDataset[Any]([part, held]) for part in (train, train.evaluated())]
    return DatasetRows(both[0], None if train.evaluation is None else both[1])


def joined(first: Any, second: Any, what: str) -> Any:
    """Return arrays of the same kind as one, the second behind the first.

    >>> joined(np.zeros(2), [1.0], "y")
    array([0., 0., 1.])
    """
    if isinstance(first, torch.Tensor):
        return torch.cat([first, torch.as_tensor(second, dtype=first.dtype)])
    if issparse(first):
        return vstack([first, second], format="csr")
    if hasattr(first, "iloc"):
        import pandas as pd  # whoever has a data frame has it

        return pd.concat([first, second])
    if isinstance(first, Mapping):
        return type(first)(**{name: joined(value, second[name], f"{what}[{name!r}]") for name, value in first.items()})
    first, second = np.asarray(first), np.asarray(second)
    if first.shape[1:] != second.shape[1:]:
        rule = f"rows of shape {first.shape[1:]} in {what}, as the rows to train on"
        raise ValueError(must_be("validation", rule, second.shape[1:]))
    return np.concatenate([first, second])


def check_map_style(dataset: Any, what: str) -> None:
    """Refuse a dataset whose items cannot be taken by number."""
    if isinstance(dataset, IterableDataset):
        raise TypeError(
            f"{what} must be a dataset whose items can be taken by number, got the IterableDataset "
            f"{type(dataset).__name__}. Folds, seeds and candidates each read it in an order of their own: give a "
            "Dataset with __getitem__ and __len__, such as list(dataset) if it fits into memory."
        )
    missing = [name for name in ("__getitem__", "__len__") if not hasattr(type(dataset), name)]
    if missing:
        rule = f"a dataset with {' and '.join(missing)}"
        raise TypeError(must_be(what, rule, type(dataset).__name__, "Its rows are taken by number."))


def check_pair(dataset: Any, what: str) -> None:
    """Refuse a dataset whose first item is not what skorch takes."""
    if not len(dataset):
        raise ValueError(must_be(what, "a dataset with items", f"{type(dataset).__name__} without any"))
    with global_generators_kept():
        item = pair_of(dataset[0])
    if not isinstance(item, tuple | list) or len(item) != 2:
        given = f"{len(item)} values" if isinstance(item, tuple | list) else type(item).__name__
        rule = "pairs (x, y) of what the module and the criterion take"
        raise TypeError(must_be(f"the items of {what}", rule, given, "Have __getitem__ return two values."))
