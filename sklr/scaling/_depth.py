"""The learning rate for another depth: by what power of the depth it falls, and what the blocks must be like."""

from __future__ import annotations

from typing import Any

import torch

from sklr._utils.validation import check_count, must_be
from sklr._utils.warnings import warn
from sklr.exceptions import TransferWarning
from sklr.scaling._batch import FAR, Transfer, check_optimizer, check_positive


def transfer_lr_depth(
    lr: float, *, depth: tuple[int, int], optimizer: Any, residual_exponent: float | None = None
) -> Transfer:
    r"""Carry a learning rate to a deeper net of the same width, the batch size and the steps unchanged.

    With :math:`L = L'/L_0`, the new depth over the old:

    - A net whose blocks add :math:`L^{-a} f(x)` to what they are given, `a` the `residual_exponent`: in the blocks
      :math:`lr' = lr \cdot L^{a-1}` for Adam, AdamW and RMSprop, :math:`lr \cdot L^{2a-1}` for SGD. `a` = 1/2 is
      depth-muP (Yang et al. 2023, arXiv 2310.02244); `a` = 1 is CompleteP (Dey et al. 2025, arXiv 2505.01618), with
      which the learning rate of Adam stays.
    - A plain ReLU net without residual connections, trained by SGD: :math:`lr' = lr \cdot L^{-3/2}` (Jelassi et al.
      2023, arXiv 2305.07810).

    The rule fails where blocks add :math:`f(x)` without that factor, as most do: for these no rule is known.

    Parameters
    ----------
    lr : float
        Peak learning rate of the shallow net.
    depth : tuple of int, (old, new)
        Number of blocks, or of hidden layers of a plain net.
    optimizer : {"sgd", "adam", "adamw", "rmsprop"} or class
    residual_exponent : float, default=None
        `a` above, between 0.5 and 1; None for a plain net.

    Returns
    -------
    transfer : Transfer
        For the parameters in the blocks; its `needs` say what else must hold.

    Raises
    ------
    ValueError
        If a value is not what it must be, or a plain net is not trained by SGD.

    Warns
    -----
    TransferWarning
        If the net becomes more than 8 times as deep, or `a` is below 1, where the rule holds for blocks of one layer
        alone: attention and feed-forward blocks have several.

    Examples
    --------
    >>> print(transfer_lr_depth(0.1, depth=(4, 16), optimizer="sgd"))
    Set lr=0.0125.
    Rule: lr' = lr (L'/L)^-1.5 (Jelassi et al. 2023).
    Needs: ReLU and no residual connections.
    Needs: the same width, batch size and number of steps.
    Needs: a look at your data, as sklr.suggest_center(depth=...) searches around it.
    >>> transfer_lr_depth(0.003, depth=(4, 16), optimizer="adamw", residual_exponent=1).ratio
    1.0
    """
    check_positive("lr", lr)
    growth = growth_of("depth", depth)
    power, paper = depth_power(optimizer, residual_exponent)
    if residual_exponent is not None and residual_exponent < 1:
        message = "residual_exponent below 1 is known to hold for blocks of one layer alone."
        warn(f"{message} Search around this learning rate, with sklr.suggest_center.", TransferWarning)
    if growth > FAR:
        message = f"depth grows {growth:g} times, further than the rule is known to hold."
        warn(f"{message} Search around this learning rate, with sklr.suggest_center.", TransferWarning)
    rule = f"lr' = lr (L'/L)^{power:g} ({paper})"
    return Transfer(lr * growth**power, lr, growth, {}, rule, (_block_rule(residual_exponent), *_NEEDS))


_NEEDS = (
    "the same width, batch size and number of steps",
    "a look at your data, as sklr.suggest_center(depth=...) searches around it",
)


def _block_rule(residual_exponent: float | None) -> str:
    if residual_exponent is None:
        return "ReLU and no residual connections"
    return f"blocks that add (L'/L)^-{residual_exponent:g} f(x); what is outside of them keeps its lr"


def growth_of(name: str, pair: Any) -> float:
    """Return new over old of a pair of counts."""
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise ValueError(must_be(name, "a pair (old, new)", pair))
    old, new = (check_count(f"each of {name}", value) for value in pair)
    return new / old


def depth_power(optimizer: Any, residual_exponent: float | None) -> tuple[float, str]:
    """Return the power of the depth that the learning rate follows, and the papers that say so."""
    is_sgd = check_optimizer(optimizer) is torch.optim.SGD
    if residual_exponent is None:
        if not is_sgd:
            advice = "Scale the residual blocks and name residual_exponent, or search the learning rate anew."
            raise ValueError(must_be("optimizer", "'sgd' for a plain net", optimizer, advice))
        return -1.5, "Jelassi et al. 2023"
    if not 0.5 <= residual_exponent <= 1:
        raise ValueError(must_be("residual_exponent", "between 0.5 and 1", residual_exponent))
    power = 2 * residual_exponent - 1 if is_sgd else residual_exponent - 1
    return power, "Yang et al. 2023, Dey et al. 2025"
