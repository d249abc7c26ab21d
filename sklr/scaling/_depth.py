"""The learning rate for another depth: a power law in the depth, and its conditions on the residual blocks."""

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
    r"""Scale a learning rate to a deeper net of the same width, for the same batch size and number of steps.

    With :math:`L = L'/L_0`, the ratio of the new depth to the old:

    - A net whose residual blocks add :math:`L^{-a} f(x)` to their input, where `a` is the `residual_exponent`: in the
      blocks :math:`lr' = lr \cdot L^{a-1}` for Adam, AdamW and RMSprop, :math:`lr \cdot L^{2a-1}` for SGD. `a` = 1/2 is
      depth-muP (Yang et al. 2023, arXiv 2310.02244); `a` = 1 is CompleteP (Dey et al. 2025, arXiv 2505.01618), which
      keeps the learning rate of Adam constant.
    - A plain ReLU net without residual connections, trained with SGD: :math:`lr' = lr \cdot L^{-3/2}` (Jelassi et al.
      2023, arXiv 2305.07810).

    The rule fails if residual blocks add :math:`f(x)` without that factor, as most do; for these no rule is known.

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
        For the parameters in the blocks; its `needs` list the preconditions.

    Raises
    ------
    ValueError
        If a value is invalid, or a plain net is not trained with SGD.

    Warns
    -----
    TransferWarning
        If the net becomes more than 8 times as deep, or if `a` is below 1: the rule then holds only for blocks of one
        layer, and attention and feed-forward blocks have several.

    Examples
    --------
    >>> print(transfer_lr_depth(0.1, depth=(4, 16), optimizer="sgd"))
    Set lr=0.0125.
    Rule: lr' = lr (L'/L)^-1.5 (Jelassi et al. 2023).
    Needs: ReLU and no residual connections.
    Needs: the same width, batch size and number of steps.
    Needs: a check on your data, with a search around it as sklr.suggest_center(depth=...) suggests.
    >>> transfer_lr_depth(0.003, depth=(4, 16), optimizer="adamw", residual_exponent=1).ratio
    1.0
    """
    check_positive("lr", lr)
    growth = growth_of("depth", depth)
    power, paper = depth_power(optimizer, residual_exponent)
    if residual_exponent is not None and residual_exponent < 1:
        message = "The rule for a residual_exponent below 1 is only known to hold for blocks of one layer."
        warn(f"{message} Search around this learning rate, with sklr.suggest_center.", TransferWarning)
    if growth > FAR:
        message = f"depth grows {growth:g} times, further than the rule is known to hold."
        warn(f"{message} Search around this learning rate, with sklr.suggest_center.", TransferWarning)
    rule = f"lr' = lr (L'/L)^{power:g} ({paper})"
    return Transfer(lr * growth**power, lr, growth, {}, rule, (_block_rule(residual_exponent), *_NEEDS))


_NEEDS = (
    "the same width, batch size and number of steps",
    "a check on your data, with a search around it as sklr.suggest_center(depth=...) suggests",
)


def _block_rule(residual_exponent: float | None) -> str:
    if residual_exponent is None:
        return "ReLU and no residual connections"
    return f"blocks that add (L'/L)^-{residual_exponent:g} f(x); parameters outside of them keep their lr"


def growth_of(name: str, pair: Any) -> float:
    """Return the ratio new / old of a pair of counts."""
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise ValueError(must_be(name, "a pair (old, new)", pair))
    old, new = (check_count(f"each of {name}", value) for value in pair)
    return new / old


def depth_power(optimizer: Any, residual_exponent: float | None) -> tuple[float, str]:
    """Return the exponent of the depth in the rule for the learning rate, and the papers."""
    is_sgd = check_optimizer(optimizer) is torch.optim.SGD
    if residual_exponent is None:
        if not is_sgd:
            advice = "Scale the residual blocks and give residual_exponent, or search the learning rate again."
            raise ValueError(must_be("optimizer", "'sgd' for a plain net", optimizer, advice))
        return -1.5, "Jelassi et al. 2023"
    if not 0.5 <= residual_exponent <= 1:
        raise ValueError(must_be("residual_exponent", "between 0.5 and 1", residual_exponent))
    power = 2 * residual_exponent - 1 if is_sgd else residual_exponent - 1
    return power, "Yang et al. 2023, Dey et al. 2025"
