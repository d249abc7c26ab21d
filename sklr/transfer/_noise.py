"""Measurement of the gradient noise scale of a net on its data, at its current weights."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from sklearn.utils import check_random_state
from torch.utils.data import DataLoader, Subset

from sklr._utils.random import RandomStream
from sklr._utils.validation import check_count, must_be
from sklr.scaling import NoiseScale, noise_scale


def gradient_noise_scale(
    net: Any,
    X: Any,
    y: Any = None,
    *,
    batch_sizes: tuple[int, int] | None = None,
    n_repeats: int = 20,
    confidence: float = 0.9,
    random_state: Any = None,
) -> NoiseScale:
    """Measure the gradient noise scale, in rows: the batch size above which larger batches help little.

    A fitted net is measured at its weights, an unfitted one at initial weights; the net itself is not changed. The
    noise scale increases as the loss decreases, so measure it at weights that are typical of the training. It is an
    estimate for the distribution from which the rows were sampled. See `sklr.scaling.noise_scale`.

    Parameters
    ----------
    net : skorch net
    X, y : as in `fit`
    batch_sizes : tuple of int, (small, large), optional
        `large` must be a multiple of `small`, as the gradient of a large batch is the mean of those of its small
        batches. By default as large as the number of rows allows, up to (32, 512).
    n_repeats : int, default=20
        Number of large batches, each drawn without replacement from all rows.
    confidence : float, default=0.9
        Confidence level of the interval.
    random_state : int, RandomState instance or None
        Determines the batches, dropout, and the initial weights of an unfitted net.

    Returns
    -------
    noise_scale : NoiseScale

    Raises
    ------
    ValueError
        If `large` is not a multiple of `small`, or larger than the number of rows.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklr import MLP, NeuralNetClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> net = NeuralNetClassifier(MLP, optimizer="adam", lr=0.01, random_state=0)
    >>> before = gradient_noise_scale(net, X / 16, y, random_state=0)
    >>> after = gradient_noise_scale(net.fit(X / 16, y), X / 16, y, random_state=0)
    >>> before.value < after.value
    True
    """
    state = check_random_state(random_state)
    n_repeats = check_count("n_repeats", n_repeats, minimum=2)
    with RandomStream(int(state.randint(2**31 - 1))):  # initial weights, and dropout
        ready, dataset = _made_ready(net, X, y)
        small, large = _check_sizes(batch_sizes, len(dataset))
        pairs = [_squared(ready, dataset, state.permutation(len(dataset))[:large], small) for _ in range(n_repeats)]
    lengths = np.array(pairs)
    return noise_scale(lengths[:, 0], lengths[:, 1], (small, large), confidence)


def _made_ready(net: Any, X: Any, y: Any) -> tuple[Any, Any]:
    """Return a copy of the net with its weights, and the dataset it would train on."""
    if getattr(net, "initialized_", False):
        ready = copy.deepcopy(net).set_params(warm_start=True, verbose=0)
    else:
        ready = clone(net).set_params(verbose=0)
    if hasattr(ready, "start_fit"):
        X, y = ready.start_fit(X, y)
    elif not getattr(ready, "initialized_", False):
        ready.initialize()
    ready._set_training(True)
    return ready, ready.get_dataset(X, y)


def _check_sizes(batch_sizes: Any, n_rows: int) -> tuple[int, int]:
    if batch_sizes is None:
        small = max(min(32, n_rows // 16), 1)
        return small, small * min(16, n_rows // small)
    small, large = (check_count("each of batch_sizes", size) for size in batch_sizes)
    if not small < large <= n_rows or large % small:
        rule = f"(small, large), large a multiple of small and at most the {n_rows} rows there are"
        raise ValueError(must_be("batch_sizes", rule, batch_sizes))
    return small, large


def _squared(net: Any, dataset: Any, rows: np.ndarray, small: int) -> tuple[float, float]:
    """Return the mean squared norm of the gradients of small batches, and the squared norm of their mean."""
    loader = DataLoader(Subset(dataset, rows.tolist()), batch_size=small)
    gradients = [_gradient(net, *batch) for batch in loader]
    mean = [sum(parts) / len(parts) for parts in zip(*gradients, strict=True)]
    return float(np.mean([_length(gradient) for gradient in gradients])), _length(mean)


def _gradient(net: Any, x: Any, y: Any) -> list[torch.Tensor]:
    parameters = [p for p in net.module_.parameters() if p.requires_grad]
    loss = net.get_loss(net.infer(x), y, X=x, training=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def _length(gradient: list[torch.Tensor]) -> float:
    # in float64, since the noise scale is computed from differences of these numbers
    return float(sum((g.cpu().double() ** 2).sum() for g in gradient))
