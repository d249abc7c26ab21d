"""Validation of a search's arguments: learning-rate ranges and lists, and parameter names of the estimator.

The types of search dimensions are in `search.proposals.dimension_types`. Nothing here trains or proposes candidates.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches
from itertools import pairwise
from numbers import Real
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from skorch import NeuralNet

from sklr._utils.names import resolve_optimizer
from sklr._utils.validation import check_is_object, must_be, unknown_name
from sklr.experiment.wrappers import net_name, net_of
from sklr.nets._instances import takes

LR_NAMES = ("lr", "learning_rate", "learning_rate_init", "eta0")
# skorch passes on what follows these prefixes, and does not list it in `get_params`
OPEN_PREFIXES = ("module", "criterion", "optimizer", *NeuralNet.prefixes_)


def is_number(value: Any) -> bool:
    """Whether `value` is a finite real number; booleans do not count.

    >>> [is_number(v) for v in (0.1, np.float32(2), True, "optimal", float("inf"))]
    [True, True, False, False, False]
    """
    return isinstance(value, Real) and not isinstance(value, (bool, np.bool_)) and math.isfinite(value)


LR_RANGE = (1e-5, 1.0)  # what a search covers if no range is given


def range_to_search(lr_range: Any) -> tuple[float, float]:
    """Return the validated `lr_range` of a search, or the default range if it is None.

    >>> range_to_search(None), range_to_search((0.01, 0.1))
    ((1e-05, 1.0), (0.01, 0.1))
    """
    return LR_RANGE if lr_range is None else check_lr_range(lr_range)


def check_lr_range(lr_range: Any) -> tuple[float, float]:
    """Return the lowest and the highest learning rate to search as floats, after checking them.

    >>> check_lr_range((1e-5, 1))
    (1e-05, 1.0)
    >>> check_lr_range((1.0, 1e-5))
    Traceback (most recent call last):
    ValueError: lr_range must be a tuple (low, high) of finite numbers with 0 < low < high, got (1.0, 1e-05).
    Swap the two.
    """
    rule = "lr_range must be a tuple (low, high) of finite numbers with 0 < low < high"
    if not isinstance(lr_range, tuple) or len(lr_range) != 2 or not all(map(is_number, lr_range)):
        raise ValueError(f"{rule}, got {lr_range!r}. Write for example lr_range=(1e-5, 1.0).")
    low, high = lr_range
    if not 0 < low < high:
        advice = "Swap the two." if 0 < high < low else "Write for example lr_range=(1e-5, 1.0)."
        raise ValueError(f"{rule}, got {lr_range!r}. {advice}")
    return float(low), float(high)


def check_select(select: Any, confidence: Any) -> None:
    """Check the arguments `select` and `confidence` of a search.

    >>> check_select("fit", 0.9)
    >>> check_select("best", 90)
    Traceback (most recent call last):
    ValueError: confidence must be a number between 0 and 1, got 90. Write for example confidence=0.9.
    """
    if select not in ("best", "one_se", "fit"):
        raise unknown_name("select", select, ("best", "one_se", "fit"))
    if not is_number(confidence) or not 0 < confidence < 1:
        advice = "Write for example confidence=0.9."
        raise ValueError(must_be("confidence", "a number between 0 and 1", confidence, advice))


def check_lrs(lrs: Any) -> list[float]:
    """Return a list of learning rates as floats, in the given order, after checking them.

    >>> check_lrs(np.array([0.1, 0.01]))
    [0.1, 0.01]
    """
    rule = "lrs must be a non-empty list of different, finite numbers > 0"
    advice = "Write for example lrs=[1e-3, 1e-2, 1e-1]."
    if isinstance(lrs, (str, dict)) or not isinstance(lrs, Iterable):
        raise ValueError(f"{rule}, got {lrs!r}. {advice}")
    values = list(lrs)
    for lr in values:
        if not (is_number(lr) and lr > 0):
            raise ValueError(f"{rule}, got {lr!r} among {lrs!r}. {advice}")
    if not values or len(set(values)) < len(values):
        raise ValueError(f"{rule}, got {lrs!r}. {advice}")
    return [float(lr) for lr in values]


def log_grid(low: float, high: float, n: int) -> list[float]:
    """Return `n` values from `low` to `high`, evenly spaced on a logarithmic scale.

    The ends are exact. Values in between are rounded to 12 significant digits, so that a decade is printed as `0.001`.
    For ``n=1`` the value is the geometric mean.

    >>> log_grid(1e-3, 1.0, 4)
    [0.001, 0.01, 0.1, 1.0]
    >>> log_grid(1e-4, 1.0, 1)
    [0.01]
    """
    if n == 1:
        return [float(f"{math.sqrt(low * high):.12g}")]
    inner = [float(f"{value:.12g}") for value in np.geomspace(low, high, n)[1:-1]]
    return [float(low), *inner, float(high)]


def between_neighbours(best: Collection[float], lrs: Sequence[float], n: int) -> list[float]:
    """Return `n` learning rates that divide the gaps of `lrs` next to the best ones; the widest gaps come first.

    Parameters
    ----------
    best : collection of float
        Some of `lrs`.
    lrs : sequence of float
        Ascending, above 0.
    n : int
        Number of learning rates to place, shared out evenly among the gaps. If there are more gaps than `n`, only the
        `n` widest get one.

    Returns
    -------
    between : list of float
        Ascending. Each gap is divided evenly on a logarithmic scale, and skipped if the steps were below 0.02 decade.

    >>> between_neighbours([0.1], [0.001, 0.1, 1.0], 2), between_neighbours([1.0], [0.001, 1.0], 2)
    ([0.01, 0.316227766017], [0.01, 0.1])
    >>> between_neighbours([0.1], [0.1], 2), between_neighbours([0.1], [0.1, 0.101], 2)
    ([], [])
    >>> between_neighbours([0.01, 1.0], [0.01, 0.1, 1.0], 2)
    [0.0316227766017, 0.316227766017]
    """
    gaps = [(low, high) for low, high in pairwise(lrs) if low in best or high in best]
    widest = sorted(gaps, key=lambda gap: -round(math.log10(gap[1] / gap[0]), 9))[:n]
    grids = [log_grid(*gap, 2 + n // len(widest) + (i < n % len(widest))) for i, gap in enumerate(widest)]
    return sorted(lr for grid in grids if math.log10(grid[1] / grid[0]) >= 0.02 for lr in grid[1:-1])


def lr_names(estimator: Any) -> list[str]:
    """Return the names of the parameters of `estimator` that hold a learning rate, only the least nested ones.

    A name counts if its last part is `lr`, `learning_rate`, `learning_rate_init` or `eta0` and its value is a
    number: the `learning_rate="optimal"` of `SGDClassifier` is the name of a schedule. A value of None, the default of
    xgboost's `learning_rate`, counts if no number is found.

    >>> from sklearn.linear_model import SGDClassifier
    >>> from sklearn.svm import SVC
    >>> lr_names(SGDClassifier()), lr_names(SVC())
    (['eta0'], [])
    """
    check_is_object("estimator", estimator)
    params = estimator.get_params(deep=True)
    named = [name for name in params if name.rsplit("__", 1)[-1] in LR_NAMES]
    found = [name for name in named if is_number(params[name])] or [n for n in named if params[n] is None]
    depth = min((name.count("__") for name in found), default=0)
    return sorted(name for name in found if name.count("__") == depth)


def find_lr_param(estimator: Any, lr_param: str | None = None) -> str:
    """Return the name under which the learning rate of `estimator` is set, such as `"lr"` or `"net__lr"`.

    Parameters
    ----------
    estimator : estimator
        A net, a Pipeline or other meta-estimator around one, or any estimator with a learning rate.
    lr_param : str, optional
        The name given by the user; it must be a parameter of `estimator`.

    Raises
    ------
    ValueError
        If there is no learning rate, or several at the same depth; the message lists the parameters.

    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.neural_network import MLPClassifier
    >>> from sklearn.preprocessing import StandardScaler
    >>> find_lr_param(make_pipeline(StandardScaler(), MLPClassifier()))
    'mlpclassifier__learning_rate_init'
    """
    if lr_param is not None:
        _check_lr_param(estimator, lr_param)
        return lr_param
    found = lr_names(estimator)
    if len(found) == 1:
        return found[0]
    kind = type(estimator).__name__
    if found:
        raise ValueError(
            f"lr_param must be given if an estimator has several learning rates, got None for {kind} with "
            f"{', '.join(found)}. Write for example lr_param={found[0]!r}."
        )
    check_single_lr(estimator)
    raise ValueError(
        f"lr_param must be given if no parameter is called {', '.join(LR_NAMES)}, got None for {kind} with "
        f"{', '.join(sorted(estimator.get_params()))}. Name the learning rate with lr_param=, or pass a search space."
    )


def check_single_lr(estimator: Any) -> None:
    """Raise a ValueError for several learning rates in place of one, which belong to the search."""
    for name, value in estimator.get_params().items():
        if name.rsplit("__", 1)[-1] in LR_NAMES and isinstance(value, list | tuple | np.ndarray):
            raise ValueError(must_be(name, "a number", value, f"Give several to the search: lrs={value!r}."))


def _check_lr_param(estimator: Any, lr_param: Any) -> None:
    if not isinstance(lr_param, str):
        raise ValueError(
            f"lr_param must be the name of a parameter, got {lr_param!r}. Write for example lr_param='lr'."
        )
    try:
        check_names(estimator, [lr_param])
    except ValueError as error:
        raise ValueError(f"lr_param must be a parameter of the estimator. {error}") from None


def check_names(estimator: Any, names: Iterable[str]) -> None:
    """Check that `estimator` has every parameter in `names`, and suggest similar names for one that it does not have.

    Names with a skorch prefix (`module__`, `optimizer__`, `callbacks__` ...) are accepted, since skorch passes them to
    objects that are created later. So is a name below a parameter that is itself searched, such as `clf__C` beside
    `clf`, and any name for an estimator that overrides `set_params`.

    Raises
    ------
    ValueError
        If a name is unknown; the message names the first one.

    >>> from sklearn.svm import SVC
    >>> check_names(SVC(), ["C", "gamma"])
    >>> check_names(SVC(), ["gama"])
    Traceback (most recent call last):
    ValueError: Invalid parameter 'gama' for estimator SVC: every searched name must be a parameter of the estimator,
    got 'gama'. Did you mean 'gamma'?
    """
    names = list(names)
    for name in names:
        if not isinstance(name, str):
            raise ValueError(f"A parameter name must be a string, got {name!r}. Write for example 'lr'.")
        parts = name.split("__")
        ancestors = {"__".join(parts[:i]) for i in range(1, len(parts))}
        if not ancestors & set(names) and not _knows(estimator, parts):
            raise ValueError(_unknown_name(estimator, name))


def _knows(estimator: Any, parts: Sequence[str]) -> bool:
    if not hasattr(estimator, "get_params"):
        return False
    params = estimator.get_params(deep=True)
    if "__".join(parts) in params:
        return True
    if isinstance(estimator, NeuralNet):
        return len(parts) > 1 and parts[0] in (*OPEN_PREFIXES, *estimator.prefixes_)
    if type(estimator).set_params is not BaseEstimator.set_params and not _composes(estimator):
        return True
    return len(parts) > 1 and parts[0] in params and _knows(params[parts[0]], parts[1:])


def _composes(estimator: Any) -> bool:
    """Whether an estimator overrides `set_params` only for named steps, as Pipeline and VotingClassifier do."""
    return hasattr(estimator, "_set_params")


def _parts_of_net(net: NeuralNet, name: str) -> list[str]:
    """Return the parameters of a net that are meant by a name without `__`, or by another name of the learning rate."""
    if name.lower() in LR_NAMES:
        return ["lr"]
    prefix = next((p for p in OPEN_PREFIXES if name.startswith(f"{p}_")), None)
    if prefix is not None:
        return [f"{prefix}__{name.removeprefix(prefix).lstrip('_')}"]
    parts = {"module": net.module, "optimizer": resolve_optimizer(net.optimizer)}
    return [f"{part}__{name}" for part, make in parts.items() if takes(make, name)]


def _unknown_name(estimator: Any, name: str) -> str:
    known = sorted(estimator.get_params(deep=True))
    below = [other for other in known if other.endswith(f"__{name}")]  # 'lr' for 'net__lr'
    if isinstance(net := net_of(estimator), NeuralNet) and not below:
        prefix = f"{net_name(estimator)}__" if net is not estimator else ""
        below = [f"{prefix}{meant}" for meant in _parts_of_net(net, name)]
        known = [other for other in known if not other.startswith((f"{prefix}callbacks__", f"{prefix}_"))]
    near = below[:3] or get_close_matches(name, known, n=3, cutoff=0.6)
    advice = f"Did you mean {' or '.join(map(repr, near))}?" if near else f"Choose among {', '.join(known)}."
    return (
        f"Invalid parameter {name!r} for estimator {type(estimator).__name__}: every searched name must be a "
        f"parameter of the estimator, got {name!r}. {advice}"
    )
