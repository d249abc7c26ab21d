"""Translation of a user's DataLoader into the parameters with which a net creates an equal one for each run."""

from __future__ import annotations

import multiprocessing
import random
from typing import Any

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    default_collate,
)

from sklr._utils.validation import must_be


def loaded_rows(loader: DataLoader) -> Any:
    """Return the dataset of a DataLoader, or the subset of it that a `SubsetRandomSampler` draws from."""
    if type(loader.sampler) is SubsetRandomSampler:
        return Subset(loader.dataset, [int(row) for row in loader.sampler.indices])
    return loader.dataset


def loader_params(loader: DataLoader, what: str, whole: bool) -> dict[str, Any]:
    """Return the parameters with which a net creates an equal DataLoader for training.

    >>> import torch
    >>> from torch.utils.data import TensorDataset
    >>> loader = DataLoader(TensorDataset(torch.zeros(8, 1)), batch_size=4, shuffle=True, drop_last=True)
    >>> loader_params(loader, "X", whole=False)
    {'batch_size': 4, 'iterator_train__shuffle': True, 'iterator_train__drop_last': True}
    """
    check_batches(loader, what)
    if (generator := _generator(loader)) is not None:
        raise ValueError(_no_loader(what, "generator", generator, "the net's random_state="))
    if loader.batch_size is None:  # DataLoader(batch_size=None) reads items and makes no batches
        raise ValueError(must_be(f"batch_size of the DataLoader in {what}", "a number of rows", None))
    params: dict[str, Any] = {"batch_size": loader.batch_size}
    if shuffles(loader):
        params["iterator_train__shuffle"] = True
    elif not _is_in_order(loader):
        if not whole:
            advice = "sample_weight=, or validation= with a fixed validation set"
            raise ValueError(_no_loader(what, "sampler", loader.sampler, advice))
        # a DataLoader does not accept both, and the net may have been given a shuffle
        params |= {"iterator_train__sampler": loader.sampler, "iterator_train__shuffle": False}
    if loader.drop_last:
        params["iterator_train__drop_last"] = True
    return params | {f"iterator_train__{name}": value for name, value in reading_params(loader).items()}


def check_batches(loader: DataLoader, what: str) -> None:
    """Raise a ValueError if a DataLoader has a custom batch sampler."""
    own = loader.batch_sampler is not None and loader.batch_size is None
    if own or type(loader.batch_sampler) not in (BatchSampler, type(None)):
        raise ValueError(_no_loader(what, "batch_sampler", loader.batch_sampler, "batch_size="))


def check_reads_all(loader: DataLoader, what: str) -> None:
    """Raise a ValueError if a DataLoader for prediction may skip rows, or read some twice."""
    check_batches(loader, what)
    if not (shuffles(loader) or _is_in_order(loader)):
        advice = "a Subset of the rows to score"
        raise ValueError(_no_loader(what, "sampler", loader.sampler, advice))


def shuffles(loader: DataLoader) -> bool:
    """Whether a DataLoader reads each of its rows once, in random order."""
    sampler = loader.sampler
    if type(sampler) is RandomSampler:
        return not sampler.replacement and len(sampler) == len(loader.dataset)  # type: ignore[arg-type]
    return type(sampler) is SubsetRandomSampler


def _is_in_order(loader: DataLoader) -> bool:
    return type(loader.sampler) is SequentialSampler and len(loader.sampler) == len(loader.dataset)  # type: ignore[arg-type]


def _generator(loader: DataLoader) -> Any:
    """Return the random generator of a DataLoader or its sampler, which every training would advance; None without."""
    kinds = torch.Generator | np.random.Generator | np.random.RandomState | random.Random
    own = getattr(loader.sampler, "__dict__", {}).values()
    return next((value for value in (loader.generator, *own) if isinstance(value, kinds)), None)


def reading_params(loader: DataLoader) -> dict[str, Any]:
    """Return the options of a DataLoader that differ from the defaults: workers, collate function, pinned memory."""
    defaults = {
        "num_workers": 0,
        "collate_fn": default_collate,
        "pin_memory": False,
        "timeout": 0,
        "worker_init_fn": None,
        "multiprocessing_context": None,
        "persistent_workers": False,
    }
    found = {name: getattr(loader, name) for name in defaults if getattr(loader, name) != defaults[name]}
    if loader.num_workers and loader.prefetch_factor != 2:
        found["prefetch_factor"] = loader.prefetch_factor
    return found


def start_method() -> str:
    """Return the default start method of processes, to pass to DataLoaders: joblib's workers have another default."""
    return multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]


def _no_loader(what: str, part: str, value: Any, instead: str) -> str:
    return (
        f"{what} cannot be a DataLoader with a {part} of its own, got {type(value).__name__}: it serves a single "
        f"training on all rows, but a search runs many. Pass the dataset, and {instead} instead."
    )
