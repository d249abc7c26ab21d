"""The callback that lets the batch grow while a net trains, instead of letting the learning rate fall."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

from skorch.callbacks import Callback

from sklr._utils.validation import check_count, must_be
from sklr.callbacks._epochs import finished_epochs


class BatchSizeSchedule(Callback):
    r"""Let the batch grow by a factor every few epochs, as an alternative to letting the learning rate fall.

    In epoch `e` (from 0) a batch has :math:`\min(\text{max}, \mathrm{round}(B f^n))` rows, with `B` the net's
    `batch_size`, `f` the `factor` and `n` the number of growths up to `e`. The epochs are counted in the net's
    history, so a training continued by `partial_fit` or from a checkpoint goes on with the batch it had come to.

    A learning-rate schedule or warmup beside it keeps its place in *epochs*: in epoch `e` of `E` a cosine is as far as
    it would be with batches of one size, and runs through the epoch's (now fewer) steps one by one. Where the batch
    is to grow *instead* of the lr falling, leave the `schedule` out.

    Parameters
    ----------
    factor : float, default=2
        What the batch is multiplied with, above 1.
    every : int, optional
        Epochs between two growths; the first comes after so many epochs.
    at : sequence of int, optional
        The epochs before which it grows, if not at even distances. Give `every` or `at`.
    max_batch_size : int, optional
        The batch grows no larger than this; by default than the training rows.

    Raises
    ------
    ValueError, TypeError
        When training begins: if a parameter is not what it must be, the net has no `batch_size` to start from (-1 or
        a batch sampler), or it is none of sklr's nets, since skorch's fix their batches before the first epoch.

    Notes
    -----
    Smith, Kindermans, Ying and Le 2018 (arXiv 1711.00489, section 3): where SGD's lr would fall by a factor, a batch
    that grows by that factor keeps the noise scale `lr x rows / batch` on the same course, with fewer steps. It fails
    where the batch comes near the number of rows, and for Adam the factor is the square of that of the lr.

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
        """Return the rows in a batch of an epoch, counted from 0, for a net that starts with `first`."""
        growths = epoch // self.every if self.every is not None else sum(epoch >= start for start in self.at or ())
        try:
            grown = round(first * self.factor**growths)
        except OverflowError:  # long past any number of rows
            grown = 2**62
        return grown if self.max_batch_size is None else max(first, min(grown, self.max_batch_size))

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Check the parameters, before any training."""
        self._check()
        if not hasattr(net, "rows_at_once"):
            advice = "skorch's own nets fix their batches before the first epoch."
            raise TypeError(must_be("the net of a BatchSizeSchedule", "one of sklr's nets", type(net).__name__, advice))
        if net.rows_at_once(0) is None:
            advice = "A batch sampler, or -1 for all rows, cannot grow."
            raise ValueError(must_be("batch_size", "at least 1 for a BatchSizeSchedule", net.batch_size, advice))

    def on_epoch_begin(self, net: Any, dataset_train: Any = None, dataset_valid: Any = None, **kwargs: Any) -> None:
        """Write down the batch size of the epoch."""
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
