"""A Dataset or a DataLoader in the place of X: rows that are taken by number without being read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone
from sklearn.utils import indexable
from skorch import NeuralNet
from skorch.helper import SliceDataset
from skorch.utils import params_for
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, default_collate

from sklr._utils.random import global_generators_kept
from sklr._utils.validation import must_be
from sklr.experiment.dataset_labels import item_of, labels_of, pair_of
from sklr.experiment.loaders import check_reads_all, loaded_rows, loader_params, start_method


class DatasetRows(Subset):
    """Rows of a map-style dataset, in the form in which scikit-learn's splitters and skorch's nets both take them.

    Parameters
    ----------
    dataset : Dataset
        Whose items are those that skorch takes: ``(x, y)``, or what the net's collate function makes such pairs of.
    evaluation : Dataset, optional
        The same rows as they are to be predicted: without random augmentation, say.
    indices : array-like of int, optional
        Which rows; all of them by default.

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
        """One axis, of rows: scikit-learn asks."""
        return (len(self),)

    def __getitem__(self, row: Any) -> Any:
        """Return an item for a number, and rows for an array of numbers, without reading them."""
        if isinstance(row, tuple):  # scikit-learn's rows[numbers, ...]
            row = row[0]
        if np.ndim(row) or isinstance(row, slice):
            return DatasetRows(self.dataset, self.evaluation, self.indices[row])
        return item_of(self.dataset, int(self.indices[row]))

    def __getitems__(self, rows: list[int]) -> list[Any]:
        """Return the items of a batch, as a DataLoader asks for them."""
        numbers = [int(self.indices[row]) for row in rows]
        if callable(read := getattr(self.dataset, "__getitems__", None)):
            return list(read(numbers))
        return [item_of(self.dataset, number) for number in numbers]

    def evaluated(self) -> DatasetRows:
        """Return the same rows as they are to be predicted."""
        return self if self.evaluation is None else DatasetRows(self.evaluation, None, self.indices)


class Paired:
    """Collates items as they are, then makes a pair of a batch that is a dict with labels.

    >>> batch = Paired()([{"pixels": 0.5, "label": 1}, {"pixels": 1.5, "label": 0}])
    >>> batch[0]["pixels"].tolist(), batch[1].tolist()
    ([0.5, 1.5], [1, 0])
    """

    def __init__(self, collate_fn: Any = None):
        self.collate_fn = default_collate if collate_fn is None else collate_fn

    def __call__(self, items: list[Any]) -> Any:
        """Return the batch of some items."""
        return pair_of(self.collate_fn(items))


class Brought(NamedTuple):
    """Data as a search works with it.

    `params` are what DataLoaders say of those that the net is to make; `n_train` is how many rows come before those of
    a fixed validation set, None if there is none. With `paired`, items are dicts, or a collate function may return one.
    """

    X: Any
    y: Any
    params: dict[str, Any]
    n_train: int | None = None
    paired: bool = False


def indexed(data: Brought) -> Brought:
    """Return the data with rows that can be taken by number, as many in X as in y."""
    X, y = indexable(data.X, data.y)
    return data._replace(X=X, y=y)


def is_dataset(X: Any, y: Any = None) -> bool:
    """Say whether `X` is a dataset, or what loads one, rather than an array.

    Those of Hugging Face are known by `__getitems__`, which DataLoaders look for. As in PyTorch, so is anything with
    items and a length, if it is no table and no sequence, and its items bring their labels.

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
    X: Any, y: Any = None, evaluation: Any = None, *, net: Any = None, what: str = "X", whole: bool = False
) -> Brought:
    """Take a Dataset or DataLoader over; anything else is returned as it is.

    Parameters
    ----------
    X : Dataset, DataLoader, or array-like
    y : array-like, optional
        Labels, if they are known.
    evaluation : Dataset, optional
        As `DatasetRows` takes it.
    net : NeuralNet, optional
        Which is to be trained; its own collate function may take items of any kind.
    what : str
        What the user calls `X`.
    whole : bool
        Whether all rows are trained on together, so that a sampler may name them by number.

    Raises
    ------
    TypeError, ValueError
        If it is an `IterableDataset`, or a DataLoader that folds cannot take over.
    """
    if not is_dataset(X, y):
        if evaluation is not None:
            given = type(X).__name__
            raise TypeError(must_be("eval_dataset", "left out where X is no Dataset", given, "Give X as a Dataset."))
        return Brought(X, y, {})
    check_map_style(X.dataset if isinstance(X, DataLoader) else X, what)
    params: dict[str, Any] = {}
    if isinstance(X, DataLoader):
        params, X = loader_params(X, what, whole), loaded_rows(X)
    if evaluation is not None:
        evaluation = dataset_to_predict(evaluation, "eval_dataset")
        if len(evaluation) != len(X):
            rule = f"of the same {len(X)} rows as {what}"
            way = "Give a dataset of the same rows, with another transform, say."
            raise ValueError(must_be("eval_dataset", rule, len(evaluation), way))
    rows = X if isinstance(X, DatasetRows) else DatasetRows(X, evaluation)
    if collate_fn := params.get("iterator_train__collate_fn"):
        params["iterator_valid__collate_fn"] = collate_fn
    return labelled(X, Brought(rows, y, params), what, collate_fn or own_collate_fn(net, "iterator_train"))


def own_collate_fn(net: Any, part: str) -> Any:
    """Return the collate function that a net has been given, None without one."""
    return net.get_params_for(part).get("collate_fn") if isinstance(net, NeuralNet) else None


def labelled(dataset: Any, data: Brought, what: str, collate_fn: Any) -> Brought:
    """Return the rows of a dataset with its labels; what a custom collate function is given may be anything."""
    plain = collate_fn in (None, default_collate)
    paired = has_dicts(dataset, what) if plain else True
    y = labels_of(dataset, what, None if plain else collate_fn) if data.y is None else data.y
    return data._replace(y=y, paired=paired)


def dataset_to_predict(data: Any, what: str) -> Any:
    """Return a dataset to predict with, that of a DataLoader that reads all of its rows."""
    check_map_style(data.dataset if isinstance(data, DataLoader) else data, what)
    if not isinstance(data, DataLoader):
        return data
    check_reads_all(data, what)
    return loaded_rows(data)


def rows_to_predict(X: Any) -> Any:
    """Return the rows of a dataset, or of a DataLoader's, as a net takes them; anything else is returned as it is."""
    return DatasetRows(dataset_to_predict(X, "X")) if is_dataset(X) else X


def labels_to_score(net: Any, X: Any, y: Any) -> Any:
    """Return `y`, or if there is none the labels of a dataset's items, as the net reads them."""
    if y is not None or not is_dataset(X):
        return y
    return labels_of(dataset_to_predict(X, "X"), "X", own_collate_fn(net, "iterator_valid"))


def bring_to(estimator: Any, X: Any, y: Any = None, *, whole: bool = True) -> tuple[Any, Any, Any]:
    """Take data over for a net; return a net that reads it as its DataLoader does, X and y."""
    data = bring(X, y, net=estimator, whole=whole)
    check_takes_rows(estimator, data.X)
    return with_params(estimator, data), data.X, data.y


def with_params(estimator: Any, data: Brought) -> Any:
    """Return a clone that reads the data as its DataLoaders do; without any it is not asked to set parameters."""
    estimator, params = clone(estimator), dict(data.params)
    for part in ("iterator_train", "iterator_valid") if isinstance(estimator, NeuralNet) else ():
        known = estimator.get_params_for(part) | params_for(part, params)
        if data.paired:
            params[f"{part}__collate_fn"] = Paired(known.get("collate_fn"))
        if known.get("num_workers") and known.get("multiprocessing_context") is None:
            params[f"{part}__multiprocessing_context"] = start_method()
    return estimator.set_params(**params) if params else estimator


def check_takes_rows(estimator: Any, X: Any) -> None:
    """Refuse a Dataset for anything but a net."""
    if isinstance(X, DatasetRows) and not isinstance(estimator, NeuralNet):
        name = type(estimator).__name__
        raise TypeError(must_be("estimator", "a skorch net where X is a Dataset", name, "Give X as an array."))


def check_no_sampler(data: Brought, what: str, rule: str) -> None:
    """Refuse what needs other rows than those a DataLoader's own sampler names by number."""
    if (sampler := data.params.get("iterator_train__sampler")) is not None:
        rule = f"{rule} where the DataLoader in X has a sampler of its own"
        raise ValueError(must_be(what, rule, type(sampler).__name__, "Its row numbers are for the rows of X alone."))


def check_map_style(dataset: Any, what: str) -> None:
    """Refuse a dataset whose items cannot be taken by number."""
    if isinstance(dataset, IterableDataset):
        raise TypeError(
            f"{what} must be a dataset whose items can be taken by number, got the IterableDataset "
            f"{type(dataset).__name__}. Folds, seeds and candidates each read it in an order of their own: give a "
            "Dataset with __getitem__ and __len__. If it fits into memory: items = list(dataset), then "
            "torch.utils.data.Subset(items, range(len(items)))."
        )
    missing = [name for name in ("__getitem__", "__len__") if not hasattr(type(dataset), name)]
    if missing:
        rule = f"a dataset with {' and '.join(missing)}"
        raise TypeError(must_be(what, rule, type(dataset).__name__, "Its rows are taken by number."))


def has_dicts(dataset: Any, what: str) -> bool:
    """Say whether the items of a dataset are dicts; refuse one whose first item is not what skorch takes."""
    if not len(dataset):
        raise ValueError(must_be(what, "a dataset with items", f"{type(dataset).__name__} without any"))
    with global_generators_kept():
        first = item_of(dataset, 0)
    item = pair_of(first)
    if not isinstance(item, tuple | list) or len(item) != 2:
        given = f"{len(item)} values" if isinstance(item, tuple | list) else type(item).__name__
        rule = "pairs (x, y) of what the module and the criterion take"
        raise TypeError(must_be(f"the items of {what}", rule, given, "Have __getitem__ return two values."))
    return item is not first
