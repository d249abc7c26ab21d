"""Callbacks that stop a training early: when its loss diverges, or no longer improves."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Real
from typing import Any

import skorch.callbacks
from skorch.callbacks import Callback

from sklr._utils.divergence import exploded
from sklr._utils.validation import must_be
from sklr.callbacks._epochs import finished_epochs
from sklr.exceptions import TrainingDiverged


class StopOnDivergence(Callback):
    """Stop a training as soon as its loss diverges: it is not finite, or more than 10,000 times the first loss.

    The first loss is that of the first batch of the whole training, including earlier calls of `partial_fit`, and at
    least 0.01; see `sklr._utils.divergence.exploded`.

    Raises
    ------
    sklr.exceptions.TrainingDiverged
        With the step, counted from 0 over the whole training, and its loss.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skorch import NeuralNetRegressor
    >>> net = NeuralNetRegressor(
    ...     torch.nn.Linear, module__in_features=1, module__out_features=1, lr=1e30, batch_size=4,
    ...     train_split=None, verbose=0, callbacks=[StopOnDivergence()],
    ... )
    >>> X = np.arange(1, 9, dtype="float32").reshape(-1, 1)
    >>> net.fit(X, 9 * X)
    Traceback (most recent call last):
    ...
    sklr.exceptions.TrainingDiverged: diverged at step 1: loss inf
    """

    def on_batch_end(
        self, net: Any, batch: Any = None, training: bool | None = None, loss: Any = None, **kwargs: Any
    ) -> None:
        """Compare the loss of the batch with the first loss of the training."""
        if not training:
            return
        value = loss.item()
        if exploded(value, _first_loss(net, value)):
            raise TrainingDiverged(_n_steps(net) - 1, value)


class EarlyStopping(skorch.callbacks.EarlyStopping):
    """Stop a training when a value has not improved for some epochs; skorch's callback, made safe for resuming.

    **Inside a search the net's own `train_split` is used.** Each training fold is split once more: the net trains on
    one part and is stopped by its loss on the other. The search's validation fold is used only for the score, and the
    training never sees its rows. Stopping by the validation fold would select the epoch on the same rows that score
    it, and all scores would be biased upwards. The price is that part of each training fold is not trained on, for all
    candidates alike.

    The best learning rate is then the best one for a net that *may stop early*. The refitted net is stopped by the
    `train_split` of all rows.

    Parameters
    ----------
    monitor : str, default="valid_loss"
        A column of the history with one number per epoch. Values on held-out rows need a `train_split`.
    patience : int, default=5
        Number of epochs without improvement after which the training stops.
    threshold, threshold_mode, lower_is_better
        As in `skorch.callbacks.EarlyStopping`.
    sink : callable, default=print
        Called with a message when the training stops, if the net is `verbose`.
    load_best : bool, default=False
        Whether to restore the weights of the best epoch at the end. A resumed training only has the weights of the
        epochs since it was resumed.

    Raises
    ------
    ValueError
        After the first epoch, if the history has no such column.

    Examples
    --------
    >>> import numpy as np
    >>> from skorch.dataset import ValidSplit
    >>> from sklr import MLP, NeuralNetRegressor
    >>> X = np.linspace(-1, 1, 40)[:, None]
    >>> net = NeuralNetRegressor(MLP, module__hidden=(), lr=0.5, max_epochs=100, random_state=0,
    ...                          callbacks=[EarlyStopping()], train_split=ValidSplit(5))
    >>> len(net.fit(X, np.ones(40)).history_) < 100
    True
    >>> net.set_params(train_split=None).fit(X, X)
    Traceback (most recent call last):
    ValueError: monitor of EarlyStopping must be a column of the net's history, got 'valid_loss'. Give the net a
    train_split, such as skorch.dataset.ValidSplit(5), to hold rows out for it.
    """

    misses_: int

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Start counting epochs, including those of an earlier part of this training."""
        super().on_train_begin(net, X=X, y=y, **kwargs)
        for row in finished_epochs(net):
            self._count(row)

    def on_epoch_end(self, net: Any, dataset_train: Any = None, dataset_valid: Any = None, **kwargs: Any) -> None:
        """Stop the training if there was no improvement for `patience` epochs."""
        if self.monitor not in net.history[-1]:
            columns = [name for name, value in net.history[-1].items() if isinstance(value, Real)]
            advice = f"It has {', '.join(columns)}."
            if "valid_loss" not in columns:
                advice = "Give the net a train_split, such as skorch.dataset.ValidSplit(5), to hold rows out for it."
            rule = "a column of the net's history"
            raise ValueError(must_be("monitor of EarlyStopping", rule, self.monitor, advice))
        super().on_epoch_end(net, **kwargs)

    def _count(self, row: dict[str, Any]) -> None:
        """Count an epoch of an earlier part as `on_epoch_end` did; restart the count where the training was stopped."""
        improved = self.monitor in row and self._is_score_improved(row[self.monitor])
        if improved:
            self.dynamic_threshold_ = self._calc_new_threshold(row[self.monitor])
            self.best_epoch_ = row["epoch"]
        self.misses_ = 0 if improved or self.misses_ + 1 == self.patience else self.misses_ + 1


def _training_losses(net: Any) -> Any:
    return (batch["train_loss"] for row in net.history for batch in row["batches"] if "train_loss" in batch)


def _first_loss(net: Any, otherwise: float) -> float:
    return next(_training_losses(net), otherwise)


def _n_steps(net: Any) -> int:
    return sum(1 for _ in _training_losses(net))


def best_weights(callbacks: Iterable[tuple[str, Callback]]) -> list[Any]:
    """Return the best weights that callbacks hold; skorch's `EarlyStopping` drops them when it is pickled."""
    return [vars(callback).get("best_model_weights_") for _, callback in callbacks]


def remember_best(callbacks: Iterable[tuple[str, Callback]], weights: Iterable[Any]) -> None:
    """Restore in unpickled callbacks the weights that `best_weights` returned for them."""
    for (_, callback), best in zip(callbacks, weights, strict=True):
        if best is not None:
            vars(callback)["best_model_weights_"] = best
