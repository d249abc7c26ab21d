"""Argument validation, and the format of error messages: "<what> must be <rule>, got <value>. <next step>"."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from numbers import Integral
from typing import Any

import numpy as np
from torch import nn


def must_be(what: str, rule: str, value: Any, next_step: str = "") -> str:
    """Return the error message for a value that violates a rule.

    Parameters
    ----------
    what : str
        The name of the argument, as the user wrote it.
    rule : str
        What the value must be.
    value : object
        The value that was given.
    next_step : str, optional
        A sentence with what the user can do about it.

    Examples
    --------
    >>> must_be("lr", "above 0", -1)
    'lr must be above 0, got -1.'
    >>> must_be("lr", "above 0", "high", "Name a number.")
    "lr must be above 0, got 'high'. Name a number."
    """
    return f"{what} must be {rule}, got {without_address(repr(value))}.{' ' * bool(next_step)}{next_step}"


def without_address(text: str) -> str:
    """Return a text without the addresses of objects, which say nothing, and differ between copies of an object.

    >>> without_address("got <Net object at 0x7fe71a>.")
    'got <Net object>.'
    """
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def unknown_name(
    what: str, value: Any, known: Iterable[str], others: str = "", elsewhere: Mapping[str, str] | None = None
) -> ValueError:
    """Return the error for an unknown name: it lists the known names, and suggests the closest one.

    `others` says in words which other names are valid. `elsewhere` maps names that other libraries use to the names
    here, which are suggested first.

    Examples
    --------
    >>> print(unknown_name("optimizer", "adamm", ["adam", "sgd"]))
    optimizer must be one of 'adam', 'sgd', got 'adamm'. Did you mean 'adam'?
    >>> print(unknown_name("optimizer", "newton", ["adam", "sgd"]))
    optimizer must be one of 'adam', 'sgd', got 'newton'.
    """
    names = list(known)
    near = get_close_matches(str(value).lower(), names, n=1)
    rule = f"one of {', '.join(map(repr, names))}{f', or {others}' if others else ''}"
    if (meant := (elsewhere or {}).get(value)) in names:
        return ValueError(must_be(what, rule, value, f"It is called {meant!r} here."))
    return ValueError(must_be(what, rule, value, f"Did you mean {near[0]!r}?" if near else ""))


def check_is_object(what: str, value: Any) -> None:
    """Raise a TypeError if `value` is a class or a module where an estimator is expected.

    Raises
    ------
    TypeError

    Examples
    --------
    >>> check_is_object("estimator", dict)
    Traceback (most recent call last):
    TypeError: estimator must be an object, got the class dict. Write dict(...).
    """
    if isinstance(value, type):
        name = value.__name__
        raise TypeError(f"{what} must be an object, got the class {name}. Write {name}(...).")
    if isinstance(value, nn.Module):
        advice = "Write NeuralNetClassifier(module), or one of the other nets."
        raise TypeError(must_be(what, "an object with a fit method", f"the module {type(value).__name__}", advice))


def check_count(what: str, value: Any, minimum: int = 1, next_step: str = "") -> int:
    """Return `value` as an int, after checking that it is an integer of at least `minimum`.

    Raises
    ------
    ValueError
        If it is not an integer, or smaller than `minimum`. True and False do not count as integers.

    Examples
    --------
    >>> check_count("n_trials", 3)
    3
    >>> check_count("n_trials", 2.0)
    Traceback (most recent call last):
    ValueError: n_trials must be an integer >= 1, got 2.0.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        raise ValueError(must_be(what, f"an integer >= {minimum}", value, next_step))
    return int(value)


def check_flag(what: str, value: Any) -> bool:
    """Return `value` as a bool, after checking that it is True or False.

    Examples
    --------
    >>> check_flag("extend", "yes")
    Traceback (most recent call last):
    ValueError: extend must be True or False, got 'yes'.
    """
    if not isinstance(value, bool | np.bool_):
        raise ValueError(must_be(what, "True or False", value))
    return bool(value)


_OF_OBJECTS = ("O", "T")  # kinds of dtypes: Python objects, and NumPy's strings of any length


def check_labels(y: Any) -> None:
    """Raise a ValueError for an array or list of objects with missing labels, or labels that cannot be sorted.

    Numbers are left to scikit-learn's own checks.

    Examples
    --------
    >>> check_labels(["a", "b", None])
    Traceback (most recent call last):
    ValueError: y must be labels without missing values, got None in row 2. Drop such rows, or write a label for them.
    >>> check_labels(np.array(["a", 1], dtype=object))
    Traceback (most recent call last):
    ValueError: y must be labels of one type, got 'int, str'. Convert them, for example with np.asarray(y).astype(str).
    """
    if not isinstance(y, list) and getattr(getattr(y, "dtype", None), "kind", "") not in _OF_OBJECTS:
        return
    values = list(y) if getattr(y, "ndim", 1) == 1 else []
    kinds = {type(value) for value in values}
    if not any(issubclass(kind, str) for kind in kinds):
        return
    for row, value in enumerate(values):
        if _is_missing(value):
            advice = "Drop such rows, or write a label for them."
            raise ValueError(f"y must be labels without missing values, got {value!r} in row {row}. {advice}")
    if not all(issubclass(kind, str) for kind in kinds):
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        advice = "Convert them, for example with np.asarray(y).astype(str)."
        raise ValueError(must_be("y", "labels of one type", names, advice))


def _is_missing(value: Any) -> bool:
    """Whether a value is None, NaN or one of pandas' missing values, which are not equal to themselves."""
    if value is None or type(value).__name__ == "NAType":
        return True
    return isinstance(value, float | np.floating) and bool(value != value)
