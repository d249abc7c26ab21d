"""A Dataset or DataLoader given as X: rows are selected by index, without reading them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone
from sklearn.utils import indexable
from skorch import NeuralNet
from skorch.helper import SliceDataset
from skorch.utils import params_for
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, default_collate

from sklr._utils.random import global_generators_kept
from sklr._utils.validation import check_labels, must_be
from sklr.experiment.dataset_labels import item_of, labels_of, pair_of
from sklr.experiment.loaders import check_reads_all, loaded_rows, loader_params, start_method


class DatasetRows(Subset):
    """Rows of a map-style dataset, in a form that both scikit-learn's splitters and skorch's nets accept.

    Parameters
    ----------
    dataset : Dataset
        Its items are pairs ``(x, y)`` as skorch expects, or are turned into such pairs by the net's collate function.
    evaluation : Dataset, optional
        The same rows for prediction, for example without random augmentation.
    indices : array-like of int, optional
        The selected rows; all of them by default.

    >>> import torch
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
        """The shape ``(n_rows,)``, which scikit-learn reads."""
        return (len(self),)

    def __getitem__(self, row: Any) -> Any:
        """Return an item for an integer, and `DatasetRows` for an array of integers, without reading the items."""
        if isinstance(row, tuple):  # scikit-learn indexes as rows[indices, ...]
            row = row[0]
        if np.ndim(row) or isinstance(row, slice):
            return DatasetRows(self.dataset, self.evaluation, self.indices[row])
        return item_of(self.dataset, int(self.indices[row]))

    def __getitems__(self, rows: list[int]) -> list[Any]:
        """Return the items of a batch; a DataLoader calls this."""
        numbers = [int(self.indices[row]) for row in rows]
        if callable(read := getattr(self.dataset, "__getitems__", None)):
            return list(read(numbers))
        return [item_of(self.dataset, number) for number in numbers]

    def evaluated(self) -> DatasetRows:
        """Return the same rows of the evaluation dataset, if there is one."""
        return self if self.evaluation is None else DatasetRows(self.evaluation, None, self.indices)


class Paired:
    """Collate function that applies another one, and splits a resulting dict with labels into a pair (x, y).

    >>> batch = Paired()([{"pixels": 0.5, "label": 1}, {"pixels": 1.5, "label": 0}])
    >>> batch[0]["pixels"].tolist(), batch[1].tolist()
    ([0.5, 1.5], [1, 0])
    """

    def __init__(self, collate_fn: Any = None):
        self.collate_fn = default_collate if collate_fn is None else collate_fn

    def __call__(self, items: list[Any]) -> Any:
        """Return the batch made of these items."""
        return pair_of(self.collate_fn(items))


class Brought(NamedTuple):
    """Data in the form that a search uses.

    `params` are the net's parameters that reproduce the DataLoaders given by the user. `n_train` is the number of rows
    before those of a fixed validation set, None if there is none. `paired` is whether batches may be dicts that have
    to be split into (x, y): items are dicts, or a custom collate function may return one.
    """

    X: Any
    y: Any
    params: dict[str, Any]
    n_train: int | None = None
    paired: bool = False


def indexed(data: Brought) -> Brought:
    """Return the data with X and y made indexable and checked to be of the same length."""
    X, y = indexable(data.X, data.y)
    return data._replace(X=X, y=y)


def is_dataset(X: Any, y: Any = None) -> bool:
    """Whether `X` is a dataset or DataLoader, and not an array.

    Hugging Face's datasets are recognized by `__getitems__`, which DataLoaders use too. As in PyTorch, any object with
    `__getitem__` and `__len__` is a dataset, if it is not an array, table, sequence or mapping, no `y` is given, and
    its items contain labels.

    >>> class Pairs:
    ...     def __len__(self):
    ...         return 2
    ...     def __getitem__(self, row):
    ...         return 0.5, row
    >>> [is_dataset(X) for X in (Pairs(), Subset(Pairs(), [1]), np.zeros((2, 2)), [(0.5, 1)])]
    [True, True, False, False]
    """
    if isinstance(X, SliceDataset):
        return False
    if isinstance(X, Dataset | DataLoader) or hasattr(type(X), "__getitems__"):
        return True
    is_other = isinstance(X, Sequence | Mapping) or any(hasattr(X, name) for name in ("shape", "__array__", "iloc"))
    has_items = hasattr(type(X), "__getitem__") and hasattr(type(X), "__len__")
    return y is None and not is_other and has_items and len(X) > 0 and _brings_label(X)


def _brings_label(X: Any) -> bool:
    with global_generators_kept():
        item = item_of(X, 0)
    return isinstance(item, Mapping) or (isinstance(item, tuple) and len(item) == 2)


def bring(
    X: Any,
    y: Any = None,
    evaluation: Any = None,
    *,
    net: Any = None,
    what: str = "X",
    whole: bool = False,
    second: str = "Pass a dataset to validate on as validation=.",
) -> Brought:
    """Convert a Dataset or DataLoader to rows and parameters of the net; anything else is returned unchanged.

    Parameters
    ----------
    X : Dataset, DataLoader, or array-like
    y : array-like, optional
        Labels, if they are known.
    evaluation : Dataset, optional
        As in `DatasetRows`.
    net : NeuralNet, optional
        The net to train. Its collate function may accept items of any type.
    what : str
        The name of the argument `X` in error messages.
    whole : bool
        Whether training uses all rows. Only then can a sampler, which yields row indices, be used.
    second : str
        The advice if `y` is a second dataset.

    Raises
    ------
    TypeError, ValueError
        If it is an `IterableDataset`, or a DataLoader that cannot be reproduced on a fold.
    """
    if isinstance(y, Dataset | DataLoader):
        raise TypeError(must_be("y", "the targets, or left out if X has them", type(y).__name__, second))
    if isinstance(X, Iterator):
        advice = "It can be read only once, but each run reads it again. Pass what it iterates over."
        raise TypeError(
            must_be(what, "an array, a Dataset or a DataLoader", f"the iterator {type(X).__name__}", advice)
        )
    if not is_dataset(X, y):
        if evaluation is not None:
            given = type(X).__name__
            raise TypeError(must_be("eval_dataset", "left out if X is not a Dataset", given, "Pass X as a Dataset."))
        check_labels(y)
        return Brought(X, y, {})
    check_map_style(X.dataset if isinstance(X, DataLoader) else X, what)
    params: dict[str, Any] = {}
    if isinstance(X, DataLoader):
        params, X = loader_params(X, what, whole), loaded_rows(X)
    if evaluation is not None:
        evaluation = dataset_to_predict(evaluation, "eval_dataset")
        if len(evaluation) != len(X):
            rule = f"of the same {len(X)} rows as {what}"
            advice = "Pass a dataset of the same rows, for example with another transform."
            raise ValueError(must_be("eval_dataset", rule, len(evaluation), advice))
    rows = X if isinstance(X, DatasetRows) else DatasetRows(X, evaluation)
    if collate_fn := params.get("iterator_train__collate_fn"):
        params["iterator_valid__collate_fn"] = collate_fn
    return labelled(X, Brought(rows, y, params), what, collate_fn or own_collate_fn(net, "iterator_train"))


def own_collate_fn(net: Any, part: str) -> Any:
    """Return the collate function set on a net, None if there is none."""
    return net.get_params_for(part).get("collate_fn") if isinstance(net, NeuralNet) else None


def labelled(dataset: Any, data: Brought, what: str, collate_fn: Any) -> Brought:
    """Return the rows of a dataset with their labels; items for a custom collate function are not checked."""
    plain = collate_fn in (None, default_collate)
    paired = has_dicts(dataset, what) if plain else True
    y = labels_of(dataset, what, None if plain else collate_fn) if data.y is None else data.y
    return data._replace(y=y, paired=paired)


def dataset_to_predict(data: Any, what: str) -> Any:
    """Return the dataset to predict on; of a DataLoader, its dataset, if the DataLoader reads all rows once."""
    check_map_style(data.dataset if isinstance(data, DataLoader) else data, what)
    if not isinstance(data, DataLoader):
        return data
    check_reads_all(data, what)
    return loaded_rows(data)


def rows_to_predict(X: Any) -> Any:
    """Return a Dataset or DataLoader as rows that a net accepts; anything else is returned unchanged."""
    return DatasetRows(dataset_to_predict(X, "X")) if is_dataset(X) else X


def labels_to_score(net: Any, X: Any, y: Any) -> Any:
    """Return `y`, or if it is None the labels of the dataset's items, as the net's collate function returns them."""
    if y is not None or not is_dataset(X):
        return y
    return labels_of(dataset_to_predict(X, "X"), "X", own_collate_fn(net, "iterator_valid"))


def bring_to(estimator: Any, X: Any, y: Any = None, *, whole: bool = True) -> tuple[Any, Any, Any]:
    """Return a clone of the estimator that reads the data as the user's DataLoader does, and X and y as rows."""
    data = bring(X, y, net=estimator, whole=whole, second="Only training rows are used: leave the second dataset out.")
    check_takes_rows(estimator, data.X)
    return with_params(estimator, data), data.X, data.y


def with_params(estimator: Any, data: Brought) -> Any:
    """Return a clone whose parameters reproduce the DataLoaders; without any, `set_params` is not called."""
    estimator, params = clone(estimator), dict(data.params)
    for part in ("iterator_train", "iterator_valid") if isinstance(estimator, NeuralNet) else ():
        known = estimator.get_params_for(part) | params_for(part, params)
        if data.paired:
            params[f"{part}__collate_fn"] = Paired(known.get("collate_fn"))
        if known.get("num_workers") and known.get("multiprocessing_context") is None:
            params[f"{part}__multiprocessing_context"] = start_method()
    return estimator.set_params(**params) if params else estimator


def check_takes_rows(estimator: Any, X: Any) -> None:
    """Raise a TypeError if X is a Dataset and the estimator is not a net."""
    if isinstance(X, DatasetRows) and not isinstance(estimator, NeuralNet):
        name = type(estimator).__name__
        raise TypeError(must_be("estimator", "a skorch net if X is a Dataset", name, "Pass X as an array."))


def check_no_sampler(data: Brought, what: str, rule: str) -> None:
    """Raise a ValueError if the DataLoader has its own sampler, whose row indices are only valid for the rows of X."""
    if (sampler := data.params.get("iterator_train__sampler")) is not None:
        rule = f"{rule} where the DataLoader in X has a sampler of its own"
        raise ValueError(must_be(what, rule, type(sampler).__name__, "Its indices are only valid for the rows of X."))


def check_map_style(dataset: Any, what: str) -> None:
    """Raise a TypeError if the items of a dataset cannot be accessed by index."""
    if isinstance(dataset, IterableDataset):
        raise TypeError(
            f"{what} must be a map-style dataset, got the IterableDataset {type(dataset).__name__}. Folds, seeds and "
            "candidates each read it in a different order: pass a Dataset with __getitem__ and __len__. If it fits "
            "into memory: items = list(dataset), then torch.utils.data.Subset(items, range(len(items)))."
        )
    missing = [name for name in ("__getitem__", "__len__") if not hasattr(type(dataset), name)]
    if missing:
        rule = f"a dataset with {' and '.join(missing)}"
        raise TypeError(must_be(what, rule, type(dataset).__name__, "Its items are accessed by index."))


def has_dicts(dataset: Any, what: str) -> bool:
    """Whether the items of a dataset are dicts; raise an error if its first item is not a pair (x, y)."""
    if not len(dataset):
        raise ValueError(must_be(what, "a dataset with items", f"{type(dataset).__name__} without any"))
    with global_generators_kept():
        first = item_of(dataset, 0)
    item = pair_of(first)
    if not isinstance(item, tuple | list) or len(item) != 2:
        given = f"{len(item)} values" if isinstance(item, tuple | list) else type(item).__name__
        rule = "pairs (x, y) of a module input and a target"
        raise TypeError(must_be(f"the items of {what}", rule, given, "Have __getitem__ return two values."))
    return item is not first
