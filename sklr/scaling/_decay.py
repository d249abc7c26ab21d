"""AdamW's weight decay as a time: over how many epochs the weights remember their updates."""

from __future__ import annotations

from sklr.scaling._batch import check_positive


def adamw_timescale(lr: float, weight_decay: float, steps_per_epoch: float) -> float:
    r"""Say over how many epochs AdamW's weights average their updates: :math:`\tau = 1 / (lr \cdot wd \cdot M)`.

    AdamW's weights are an exponential moving average of its updates, with a memory of :math:`1 / (lr \cdot wd)` steps;
    `M` is the number of steps in an epoch (Wang and Aitchison 2024, arXiv 2405.13698, section 3). Between about one
    epoch and the whole training is usual. It stays the best one when the data or the batches grow, so keep it:
    a learning-rate search at a fixed `weight_decay` changes it, see `adamw_weight_decay`.

    Parameters
    ----------
    lr : float
        Peak learning rate.
    weight_decay : float
        As `torch.optim.AdamW` takes it, which multiplies it by the lr.
    steps_per_epoch : float
        Training rows over batch size.

    Returns
    -------
    timescale : float
        In epochs.

    Raises
    ------
    ValueError
        If a value is not a number above 0.

    Examples
    --------
    >>> round(adamw_timescale(1e-3, 0.1, steps_per_epoch=1000), 6)
    10.0
    """
    check_positive("lr", lr)
    check_positive("weight_decay", weight_decay)
    check_positive("steps_per_epoch", steps_per_epoch)
    return 1 / (lr * weight_decay * steps_per_epoch)


def adamw_weight_decay(lr: float, timescale: float, steps_per_epoch: float) -> float:
    r"""Say which `weight_decay` gives AdamW's weights a memory of so many epochs; undoes `adamw_timescale`.

    Parameters
    ----------
    lr : float
        Peak learning rate.
    timescale : float
        In epochs.
    steps_per_epoch : float
        Training rows over batch size.

    Returns
    -------
    weight_decay : float

    Raises
    ------
    ValueError
        If a value is not a number above 0.

    Examples
    --------
    A learning rate twice as large needs half the weight decay, for the same memory:

    >>> [round(adamw_weight_decay(lr, 10, steps_per_epoch=1000), 6) for lr in (1e-3, 2e-3)]
    [0.1, 0.05]
    """
    check_positive("lr", lr)
    check_positive("timescale", timescale)
    check_positive("steps_per_epoch", steps_per_epoch)
    return 1 / (lr * timescale * steps_per_epoch)
