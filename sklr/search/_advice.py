"""Checks and warnings before any training: invalid learning rates, settings without effect or easily misread."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from inspect import signature
from typing import Any

import numpy as np
import torch

from sklr._utils.validation import must_be
from sklr._utils.warnings import warn
from sklr.experiment.lr_param import LR_NAMES, is_number
from sklr.experiment.wrappers import trains_nets
from sklr.search.proposals.dimension_types import Choices, Dimension, Quantiles, Range

DECADES = 100  # high / low above which a linear scale is hardly meant for a learning rate
RATIO = 10  # high / low of a two-number list; closer numbers are likely meant as two choices


def is_lr(name: str, lr_param: str | None) -> bool:
    """Return whether a parameter is a learning rate, judged by its name.

    >>> is_lr("net__lr", None), is_lr("module__rate", "module__rate"), is_lr("alpha", None)
    (True, True, False)
    """
    return name == lr_param or name.rpartition("__")[2] in LR_NAMES


def check_lr_dimension(what: str, dimension: Dimension, present: Any = 0.1) -> None:
    """Check that all values of a learning rate are finite numbers above 0.

    Parameters
    ----------
    what : str
        Its name in the error message, such as ``"param_grid['lr']"``.
    dimension : Dimension
    present : object
        The parameter's current value. If it is a string, as scikit-learn's ``learning_rate="optimal"``, strings are
        valid; if it is None, None is.

    Raises
    ------
    ValueError
        For the first invalid value, which the message names.

    >>> check_lr_dimension("param_grid['learning_rate']", Choices(("optimal", "adaptive")), present="optimal")
    >>> check_lr_dimension("param_grid['lr']", Choices((0.1, "high")))
    Traceback (most recent call last):
    ValueError: param_grid['lr'] must be learning rates, finite and above 0, got 'high'. Leave that value out.
    >>> check_lr_dimension("param_grid['lr']", Choices((0.1, 0.0)))
    Traceback (most recent call last):
    ValueError: param_grid['lr'] must be learning rates, finite and above 0, got 0.0. Leave that value out.
    >>> check_lr_dimension("param_grid['lr']", Range(0.0, 0.1))
    Traceback (most recent call last):
    ValueError: param_grid['lr'] must be learning rates, finite and above 0, got a range from 0.0.
    Begin the range above 0, for example (1e-05, 0.1, 'log-uniform').
    """
    rule = "learning rates, finite and above 0"
    for value in dimension.values if isinstance(dimension, Choices) else ():
        if not _may_be_lr(value, present):
            raise ValueError(must_be(what, rule, value, "Leave that value out."))
    lowest = dimension.low if isinstance(dimension, Range) else 1.0
    if isinstance(dimension, Quantiles):
        lowest = min(dimension.grid(1000))
    if not lowest > 0:
        advice = "Begin the range above 0, for example (1e-05, 0.1, 'log-uniform')."
        raise ValueError(f"{what} must be {rule}, got a range from {lowest!r}. {advice}")


def _may_be_lr(value: Any, present: Any) -> bool:
    if isinstance(value, str) or value is None:
        return type(value) is type(present)
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        value = value.item()
    return is_number(value) and value > 0


def lr_now(estimator: Any, name: str, searched: Iterable[str]) -> Any:
    """Return the current value of a learning rate, whose type decides whether strings are valid values.

    A parameter that the estimator does not list, such as ``optimizer__lr``, counts as a number. If the sub-estimator
    that has the parameter is itself searched, strings are valid, unless the parameter is called "lr".

    >>> from sklearn.linear_model import SGDClassifier
    >>> lr_now(SGDClassifier(), "learning_rate", []), lr_now(SGDClassifier(), "optimizer__lr", [])
    ('optimal', 0.1)
    """
    parts = name.split("__")
    if parts[-1] != "lr" and {"__".join(parts[:i]) for i in range(1, len(parts))} & set(searched):
        return "of a part that may be of several kinds"
    return estimator.get_params().get(name, 0.1)


def warn_of_two_choices(what: str, given: Any, present: Any, lr: bool) -> None:
    """Warn about a list of two numbers, which other tuners read as the ends of a range.

    Parameters
    ----------
    what : str
        Its name in the warning, such as `"search_spaces['lr']"`.
    given : object
        What the user wrote.
    present : object
        The parameter's current value. A string or a bool has no range, so there is no warning.
    lr : bool
        Whether it is a learning rate.
    """
    if not isinstance(given, (list, np.ndarray)) or len(given) != 2 or not all(map(is_number, given)):
        return
    low, high = sorted(value.item() if isinstance(value, np.generic) else value for value in given)
    # up to rounding: [0.01, 0.1] counts as far apart for a learning rate, [1, 10] does not for anything else
    far = low > 0 and (high / low >= 0.999 * RATIO if lr else high / low > 1.001 * RATIO)
    if not far or isinstance(present, (str, bool)):
        return
    log = ", 'log-uniform'" if lr and low > 0 else ""
    warn(
        f"{what} is a list, so its two values are two choices and nothing between them is tried. For the range between "
        f"them write ({low!r}, {high!r}{log}).",
        UserWarning,
    )


def warn_of_linear_lr(what: str, dimension: Dimension) -> None:
    """Warn about a range of learning rates that covers decades on a linear scale, where low ones are hardly tried.

    Parameters
    ----------
    what : str
        Its name in the warning, such as `"search_spaces['lr']"`.
    dimension : Dimension
    """
    if isinstance(dimension, Range) and not dimension.log and dimension.high > DECADES * dimension.low > 0:
        low, high = dimension.low, dimension.high
        warn(
            f"{what} is a range on a linear scale, so nine of ten values are above {high / 10:.3g}, and those near "
            f"{low:.3g} are hardly tried. For a logarithmic scale write ({low!r}, {high!r}, 'log-uniform').",
            UserWarning,
        )


def has_lr(names: Iterable[str], lr_param: str | None) -> bool:
    """Return whether a space with these parameters has a learning rate.

    >>> has_lr(["net__lr", "batch_size"], None), has_lr(["optimizer__momentum"], None)
    (True, False)
    """
    return any(is_lr(name, lr_param) for name in names)


def warn_of_idle_settings(
    search: Any, instead: str, spaces: Iterable[Iterable[str]] = (), lrs: Sequence[Dimension] = ()
) -> None:
    """Warn if `lr_range` or `n_lrs` is set but not used.

    Parameters
    ----------
    search : BaseLRSearchCV
    instead : str
        The parameter that defines the search space, such as ``"param_grid"``.
    spaces : iterable of iterable of str
        The names of the parameters in each space. A space without a learning rate is searched with that of `lr_range`.
    lrs : sequence of Dimension
        The learning rates of a grid.
    """
    if search.lr_range is not None and not all(has_lr(names, search.lr_param) for names in spaces):
        return
    idle = [name for name in ("lr_range", "n_lrs") if _is_set(search, name)]
    if any(not isinstance(dimension, Choices) for dimension in lrs):
        idle = [name for name in idle if name != "n_lrs"]  # n_lrs is how many values such a range is cut into
    for name in idle:
        advice = "Leave it out." if instead == "lrs" else f"Leave it out, or give {_how_to_search(name, instead)}."
        warn(f"{name}={getattr(search, name)!r} has no effect if {instead} is given. {advice}", UserWarning)


def _how_to_search(name: str, instead: str) -> str:
    if name == "n_lrs":
        return f"lr_range too, if {instead} has no learning rate"
    return f"the learning rates in {instead} alone, for example 'lr': (1e-05, 1.0, 'log-uniform')"


def _is_set(search: Any, name: str) -> bool:
    parameter = signature(type(search).__init__).parameters.get(name)
    return parameter is not None and getattr(search, name) != parameter.default


def warn_of_idle_pruner(search: Any) -> None:
    """Warn if there is a pruner but the estimator does not train in epochs that can be watched."""
    if search._prunes() and not trains_nets(search.estimator):
        name = type(search.estimator).__name__
        warn(
            f"The pruner has no effect: {name} is neither a skorch net nor a Pipeline or TransformedTargetRegressor "
            "around one, so it has no epochs after which to prune, and every candidate is trained to the end. "
            "Leave the pruner out.",
            UserWarning,
        )
