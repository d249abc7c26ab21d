"""Convert every way of writing a search dimension into `Choices`, `Range` or `Quantiles`, which all strategies use.

Accepted are lists of anything, numpy arrays, scikit-optimize's dimensions and tuples, Optuna's distributions and frozen
scipy distributions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import optuna.distributions as od
import skopt.space as sk

from sklr.experiment.lr_param import is_number
from sklr.search.proposals.dimension_types import PRIORS, Choices, Dimension, Quantiles, Range


def line_of(dimensions: Mapping[str, Dimension]) -> Range | None:
    """Return the only dimension of a space if it is a continuous range; None otherwise.

    >>> line_of({"lr": Range(1e-4, 1.0, log=True)}) is not None, line_of({"degree": Range(1, 8, integer=True)})
    (True, None)
    """
    only = next(iter(dimensions.values()))
    return only if len(dimensions) == 1 and isinstance(only, Range) and math.isinf(only.size) else None


def raw_point(candidate: Mapping[str, Any], dimensions: Mapping[str, Dimension]) -> dict[str, Any] | None:
    """Return the raw values of a candidate in the order of the dimensions; None if it lies outside of the space.

    >>> space = {"lr": Range(1e-4, 1.0, log=True), "sizes": Choices(((64,), (64, 32)))}
    >>> raw_point({"sizes": (64, 32), "lr": 0.1}, space), raw_point({"sizes": (8,), "lr": 0.1}, space)
    ({'lr': 0.1, 'sizes': '(64, 32)'}, None)
    """
    if candidate.keys() != dimensions.keys():
        return None
    raw = {name: dimension.encode(candidate[name]) for name, dimension in dimensions.items()}
    return None if any(value is None for value in raw.values()) else raw


def ranges_of(spaces: Sequence[Mapping[str, Dimension]]) -> dict[str, Range]:
    """Return the parameters that are ranges in all spaces that contain them, each with the union of its ranges.

    >>> ranges_of([{"decay": Range(0.1, 1.0), "width": Choices((8, 16))}, {"decay": Range(0.5, 3.0)}])
    {'decay': Range(low=0.1, high=3.0, log=False, integer=False, step=None)}
    """
    found: dict[str, list[Dimension]] = {}
    for space in spaces:
        for name, dimension in space.items():
            found.setdefault(name, []).append(dimension)
    whole = {name: [d for d in dimensions if isinstance(d, Range)] for name, dimensions in found.items()}
    return {
        name: Range(min(r.low for r in ranges), max(r.high for r in ranges), log=all(r.log for r in ranges))
        for name, ranges in whole.items()
        if len(ranges) == len(found[name])
    }


def to_dimension(what: str, given: Any, *, tuples_are_choices: bool = False) -> Dimension:
    """Return the dimension for what a user wrote.

    Parameters
    ----------
    what : str
        Its name in error messages, such as `"search_spaces['lr']"`.
    given : object
        A list, array or other sequence of choices; a scikit-optimize dimension or its tuple `(low, high)`,
        `(low, high, "log-uniform")`; an Optuna distribution; a frozen scipy distribution.
    tuples_are_choices : bool
        Whether `(1, 10)` means two choices, as in `GridSearchCV`; `(1, 10, "log-uniform")` is a range either way.

    Raises
    ------
    ValueError
        If it is none of these, has no choices, or is not a valid finite range.

    >>> to_dimension("space['lr']", (1e-5, 1.0, "log-uniform"))
    Range(low=1e-05, high=1.0, log=True, integer=False, step=None)
    >>> to_dimension("space['lr']", (1.0, 10.0), tuples_are_choices=True)
    Choices(values=(1.0, 10.0), weights=None, verbatim=False)
    >>> to_dimension("space['lr']", 0.1)
    Traceback (most recent call last):
    ValueError: space['lr'] must be a list of choices, a range or a distribution, got 0.1. Write [0.1] for one value.
    """
    if isinstance(given, Dimension):
        return given
    if isinstance(given, sk.Dimension):
        return _from_skopt(what, given)
    if isinstance(given, od.BaseDistribution):
        return _from_optuna(what, given)
    if hasattr(given, "ppf") and hasattr(given, "dist"):
        return _from_scipy(what, given)
    if isinstance(given, tuple) and _is_range(given, tuples_are_choices):
        return _from_tuple(what, given)
    return _choices(what, given)


def _is_range(given: tuple[Any, ...], tuples_are_choices: bool) -> bool:
    if not 2 <= len(given) <= 4 or not all(map(_is_real, given[:2])):
        return False
    return not tuples_are_choices if len(given) == 2 else isinstance(given[2], str)


def _is_real(value: Any) -> bool:
    return is_number(value) or (isinstance(value, (float, np.floating)) and not math.isfinite(value))


def _from_tuple(what: str, given: tuple[Any, ...]) -> Dimension:
    low, high, prior = (*given, "uniform")[:3]
    if prior not in PRIORS:
        raise ValueError(f"{what} must have the prior 'uniform' or 'log-uniform', got {prior!r}. Use one of the two.")
    whole = isinstance(low, Integral) and isinstance(high, Integral)
    return _range(what, low, high, log=prior == "log-uniform", integer=whole)


def _from_skopt(what: str, given: sk.Dimension) -> Dimension:
    if isinstance(given, sk.Categorical):
        return _choices(what, given.categories, given.prior)
    whole = isinstance(given, sk.Integer)
    return _range(what, given.low, given.high, log=given.prior == "log-uniform", integer=whole)


def _from_optuna(what: str, given: od.BaseDistribution) -> Dimension:
    if isinstance(given, od.CategoricalDistribution):
        return _choices(what, given.choices)
    if isinstance(given, od.IntDistribution):
        step = given.step if given.step != 1 else None
        return _range(what, given.low, given.high, log=given.log, integer=True, step=step)
    if isinstance(given, od.FloatDistribution):
        return _range(what, given.low, given.high, log=given.log, step=given.step)
    raise ValueError(
        f"{what} must be an Optuna Float-, Int- or CategoricalDistribution, got {given!r}. Use one of these."
    )


def _from_scipy(what: str, given: Any) -> Dimension:
    name, discrete = given.dist.name, hasattr(given, "pmf")
    low, high = given.support()
    located = given.dist._parse_args(*given.args, **given.kwds)[1] != 0  # shifted: not log-uniform between its ends
    if name == "uniform" or (name in ("loguniform", "reciprocal") and not located):
        return _range(what, low, high, log=name != "uniform")
    if name == "randint":
        return _range(what, low, high, integer=True)
    return Quantiles(given, integer=discrete)


def _range(what: str, low: Any, high: Any, *, log: bool = False, integer: bool = False, step: Any = None) -> Dimension:
    cast = int if integer else float
    if is_number(low) and low == high:
        return Choices((cast(low),))
    if not (is_number(low) and is_number(high) and low < high and (low > 0 or not log)):
        rule = "0 < low < high" if log else "low < high"
        raise ValueError(
            f"{what} must be a range of finite numbers with {rule}, got low={low!r}, high={high!r}. "
            "Swap or replace the ends, or write a list to search single values."
        )
    return Range(cast(low), cast(high), log=log, integer=integer, step=step)


def _choices(what: str, given: Any, weights: Any = None) -> Choices:
    if isinstance(given, (str, bytes)) or not isinstance(given, (Sequence, np.ndarray)):
        raise ValueError(
            f"{what} must be a list of choices, a range or a distribution, got {given!r}. "
            f"Write [{given!r}] for one value."
        )
    if isinstance(given, np.ndarray) and given.ndim != 1:
        raise ValueError(
            f"{what} must be one-dimensional, got an array of shape {given.shape}. Write a list of arrays."
        )
    values = tuple(value.item() if isinstance(value, np.generic) else value for value in given)
    if not values:
        raise ValueError(f"{what} must be a non-empty list of choices, got {given!r}. Write at least one value.")
    return Choices(values, None if weights is None else tuple(weights))
