"""AdamW's weight decay as a timescale: the number of epochs over which the weights average their updates."""

from __future__ import annotations

from sklr.scaling._batch import check_positive


def adamw_timescale(lr: float, weight_decay: float, steps_per_epoch: float) -> float:
    r"""Return the number of epochs over which AdamW's weights average their updates, :math:`1 / (lr \cdot wd \cdot M)`.

    AdamW's weights are an exponential moving average of its updates, with a timescale of :math:`1 / (lr \cdot wd)`
    steps; `M` is the number of steps per epoch (Wang and Aitchison 2024, arXiv 2405.13698, section 3). Values between
    about one epoch and the whole training are usual. The best timescale does not depend on the size of the data or of
    the batch, so keep it constant: a learning-rate search at a fixed `weight_decay` changes it, see
    `adamw_weight_decay`.

    Parameters
    ----------
    lr : float
        Peak learning rate.
    weight_decay : float
        As in `torch.optim.AdamW`, which multiplies it by the lr.
    steps_per_epoch : float
        Number of training rows divided by the batch size.

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
    r"""Return the `weight_decay` for a given timescale of AdamW's weights; the inverse of `adamw_timescale`.

    Parameters
    ----------
    lr : float
        Peak learning rate.
    timescale : float
        In epochs.
    steps_per_epoch : float
        Number of training rows divided by the batch size.

    Returns
    -------
    weight_decay : float

    Raises
    ------
    ValueError
        If a value is not a number above 0.

    Examples
    --------
    For the same timescale, a learning rate twice as large needs half the weight decay:

    >>> [round(adamw_weight_decay(lr, 10, steps_per_epoch=1000), 6) for lr in (1e-3, 2e-3)]
    [0.1, 0.05]
    """
    check_positive("lr", lr)
    check_positive("timescale", timescale)
    check_positive("steps_per_epoch", steps_per_epoch)
    return 1 / (lr * timescale * steps_per_epoch)
