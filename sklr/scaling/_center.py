"""Where to search again for a longer training or a deeper net: rough rules, which return a range to search."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from sklr._utils.html import ShownAsText
from sklr._utils.validation import must_be
from sklr.scaling._batch import check_positive
from sklr.scaling._depth import depth_power, growth_of


@dataclass(frozen=True)
class SearchCenter(ShownAsText):
    """The center and the range of a new, narrow search.

    Parameters
    ----------
    lr : float
        Peak learning rate to search around.
    lr_range : tuple of float, (low, high)
        For `LRGridSearchCV(lr_range=...)`.
    rule : str
        Formulas and papers.
    """

    lr: float
    lr_range: tuple[float, float]
    rule: str

    def __str__(self) -> str:
        low, high = self.lr_range
        return f"Search from {low:.3g} to {high:.3g}, around {self.lr:.3g}: {self.rule}."


def suggest_center(
    lr: float,
    *,
    steps: tuple[int, int] | None = None,
    depth: tuple[int, int] | None = None,
    optimizer: Any = None,
    residual_exponent: float | None = None,
    exponent: float = 0.33,
    spread: float = 0.5,
) -> SearchCenter:
    r"""Suggest the range of a new search for a longer training or a deeper net.

    - `steps`, from :math:`T` to :math:`T'`: :math:`lr' = lr (T'/T)^{-0.33}`. The best constant learning rate decreases
      with the length of the training; measured exponents are 0.23 to 0.44, 0.32 for language models (Bjorck et al.
      2024, arXiv 2409.19913), and sometimes there is no dependence at all.
    - `depth`: the rules of `transfer_lr_depth`, which also documents their preconditions.

    Parameters
    ----------
    lr : float
        The best peak learning rate of the short training or the shallow net.
    steps : tuple of int, (old, new), optional
        Number of optimizer steps, for the same batch size.
    depth : tuple of int, (old, new), optional
        Number of blocks, or of hidden layers of a plain net.
    optimizer : {"sgd", "adam", "adamw", "rmsprop"} or class, optional
        Required for `depth`.
    residual_exponent : float, optional
        As in `transfer_lr_depth`, between 0.5 and 1; None for a plain net.
    exponent : float, default=0.33
        The exponent of `steps` in the rule above.
    spread : float, default=0.5
        How many decades to search on each side; the rules are not more accurate than that.

    Returns
    -------
    center : SearchCenter

    Raises
    ------
    ValueError
        If neither `steps` nor `depth` is given, a value is invalid, or a plain net is not trained with SGD.

    Examples
    --------
    >>> print(suggest_center(0.1, steps=(1000, 8000)))
    Search from 0.0159 to 0.159, around 0.0503: lr' = lr (T'/T)^-0.33 (Bjorck et al. 2024, rough).
    >>> print(suggest_center(0.1, depth=(4, 16), optimizer="adam", residual_exponent=0.5))
    Search from 0.0158 to 0.158, around 0.05: lr' = lr (L'/L)^-0.5 (Yang et al. 2023, Dey et al. 2025).
    >>> print(suggest_center(0.1, depth=(4, 16), optimizer="sgd"))
    Search from 0.00395 to 0.0395, around 0.0125: lr' = lr (L'/L)^-1.5 (Jelassi et al. 2023).
    """
    check_positive("lr", lr)
    check_positive("spread", spread)
    if steps is None and depth is None:
        raise ValueError(must_be("steps or depth", "given", None, "Write for example steps=(1000, 8000)."))
    factors, rules = [], []
    if steps is not None:
        check_positive("exponent", exponent)
        factors.append(growth_of("steps", steps) ** -exponent)
        rules.append(f"lr' = lr (T'/T)^-{exponent:g} (Bjorck et al. 2024, rough)")
    if depth is not None:
        power, paper = depth_power(optimizer, residual_exponent)
        factors.append(growth_of("depth", depth) ** power)
        rules.append(f"lr' = lr (L'/L)^{power:g} ({paper})")
    center = lr * math.prod(factors)
    return SearchCenter(center, (center / 10**spread, center * 10**spread), "; ".join(rules))
