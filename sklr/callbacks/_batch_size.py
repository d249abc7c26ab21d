"""A callback that increases the batch size during training, as an alternative to decaying the learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

from skorch.callbacks import Callback

from sklr._utils.validation import check_count, must_be
from sklr.callbacks._epochs import finished_epochs


class BatchSizeSchedule(Callback):
    r"""Increase the batch size by a factor every few epochs, as an alternative to decaying the learning rate.

    In epoch `e`, counted from 0, a batch has :math:`\min(\text{max}, \mathrm{round}(B f^n))` rows, where `B` is the
    net's `batch_size`, `f` the `factor` and `n` the number of increases up to `e`. Epochs are counted in the net's
    history, so a training that is continued by `partial_fit` or from a checkpoint continues with its batch size.

    A learning-rate schedule or warmup is not affected in terms of *epochs*: at the start of epoch `e` of `E` a cosine
    has the same value as with a constant batch size, and it is spread over the (fewer) steps of the epoch. To increase
    the batch size *instead* of decaying the lr, set no `schedule`.

    Parameters
    ----------
    factor : float, default=2
        The factor by which the batch size is multiplied, above 1.
    every : int, optional
        Number of epochs between two increases, and before the first one.
    at : sequence of int, optional
        The epochs before which the batch size increases. Set either `every` or `at`.
    max_batch_size : int, optional
        Upper limit of the batch size; by default the number of training rows.

    Raises
    ------
    ValueError, TypeError
        When training begins: if a parameter is invalid, the net has no `batch_size` to start from (-1 or a batch
        sampler), or it is not one of sklr's nets, since skorch's nets create their batches before the first epoch.

    Notes
    -----
    Smith, Kindermans, Ying and Le 2018 (arXiv 1711.00489, section 3): dividing SGD's lr by a factor and multiplying
    the batch size by it have the same effect on the noise scale `lr x rows / batch`, but the latter needs fewer steps.
    The rule fails if the batch size approaches the number of rows. For Adam, the factor of the batch size is the square
    of that of the lr.

    Examples
    --------
    >>> import numpy as np
    >>> from sklr import MLP, NeuralNetRegressor
    >>> grow = BatchSizeSchedule(1.5, every=2, max_batch_size=8)
    >>> net = NeuralNetRegressor(MLP, batch_size=4, max_epochs=6, callbacks=[grow]).fit(np.ones((16, 1)), np.ones(16))
    >>> net.history_[:, "batch_size"]
    [4, 4, 6, 6, 8, 8]
    >>> [BatchSizeSchedule(10, at=(1, 2), max_batch_size=64).batch_size(4, epoch) for epoch in (0, 1, 2)]
    [4, 40, 64]
    """

    def __init__(
        self,
        factor: float = 2,
        every: int | None = None,
        at: Sequence[int] | None = None,
        max_batch_size: int | None = None,
    ):
        self.factor = factor
        self.every = every
        self.at = at
        self.max_batch_size = max_batch_size

    def batch_size(self, first: int, epoch: int) -> int:
        """Return the batch size of an epoch, counted from 0, for a net that starts with `first` rows per batch."""
        growths = epoch // self.every if self.every is not None else sum(epoch >= start for start in self.at or ())
        try:
            grown = round(first * self.factor**growths)
        except OverflowError:  # far above any number of rows
            grown = 2**62
        return grown if self.max_batch_size is None else max(first, min(grown, self.max_batch_size))

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Check the parameters and the net before training."""
        self._check()
        if not hasattr(net, "rows_at_once"):
            advice = "skorch's own nets create their batches before the first epoch."
            raise TypeError(must_be("the net of a BatchSizeSchedule", "one of sklr's nets", type(net).__name__, advice))
        if net.rows_at_once(0) is None:
            advice = "A batch sampler, or -1 for all rows, has no batch size that could be increased."
            raise ValueError(must_be("batch_size", "at least 1 for a BatchSizeSchedule", net.batch_size, advice))

    def on_epoch_begin(self, net: Any, dataset_train: Any = None, dataset_valid: Any = None, **kwargs: Any) -> None:
        """Record the batch size of the epoch in the history."""
        net.history.record("batch_size", net.rows_at_once(len(finished_epochs(net))))

    def _check(self) -> None:
        if isinstance(self.factor, bool) or not isinstance(self.factor, Real) or not 1 < self.factor < float("inf"):
            raise ValueError(must_be("factor of BatchSizeSchedule", "a number above 1", self.factor))
        if (self.every is None) == (self.at is None):
            given = (self.every, self.at)
            raise ValueError(must_be("every and at of BatchSizeSchedule", "given one without the other", given))
        if self.every is not None:
            check_count("every of BatchSizeSchedule", self.every)
        for epoch in self.at or ():
            check_count("each epoch of at of BatchSizeSchedule", epoch)
        if self.max_batch_size is not None:
            check_count("max_batch_size of BatchSizeSchedule", self.max_batch_size)
