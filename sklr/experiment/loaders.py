"""What a DataLoader says of those that a net is to make in its place."""

from __future__ import annotations

from typing import Any

from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, default_collate

from sklr._utils.validation import must_be


def loader_params(loader: DataLoader, what: str, whole: bool) -> dict[str, Any]:
    """Return the parameters with which a net makes such a DataLoader for training.

    >>> import torch
    >>> from torch.utils.data import TensorDataset
    >>> loader = DataLoader(TensorDataset(torch.zeros(8, 1)), batch_size=4, shuffle=True, drop_last=True)
    >>> loader_params(loader, "X", whole=False)
    {'batch_size': 4, 'iterator_train__shuffle': True, 'iterator_train__drop_last': True}
    """
    if type(loader.batch_sampler) not in (BatchSampler, type(None)):
        raise ValueError(_no_loader(what, "batch_sampler", loader.batch_sampler, "batch_size="))
    if loader.generator is not None:
        raise ValueError(_no_loader(what, "generator", loader.generator, "the net's random_state="))
    if loader.batch_size is None:
        raise ValueError(must_be(f"batch_size of the DataLoader in {what}", "a number of rows", None))
    params: dict[str, Any] = {"batch_size": loader.batch_size}
    if type(loader.sampler) is RandomSampler and not loader.sampler.replacement:
        params["iterator_train__shuffle"] = True
    elif type(loader.sampler) is not SequentialSampler:
        if not whole:
            advice = "sample_weight=, or validation= with a fixed validation set"
            raise ValueError(_no_loader(what, "sampler", loader.sampler, advice))
        params |= {"iterator_train__sampler": loader.sampler, "iterator_train__shuffle": False}
    if loader.drop_last:
        params["iterator_train__drop_last"] = True
    return params | {f"iterator_train__{name}": value for name, value in reading_params(loader).items()}


def reading_params(loader: DataLoader) -> dict[str, Any]:
    """Return how a DataLoader reads, where that is not its default: workers, collate function, pinned memory."""
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


def _no_loader(what: str, part: str, value: Any, instead: str) -> str:
    return (
        f"{what} cannot be a DataLoader with a {part} of its own, got {type(value).__name__}: it is for one training "
        f"on all rows, and a search trains many. Give the dataset, and {instead} instead."
    )
