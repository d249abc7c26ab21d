"""Columns of a table that are no numbers: named, with what to write instead."""

from __future__ import annotations

from typing import Any

from sklr._utils.validation import must_be

SHOWN = 5  # columns that a message lists
_NUMBERS = "fiub"  # kinds of NumPy's dtypes


def check_columns(X: Any, error: Exception) -> None:
    """Raise a ValueError for a table with columns of strings, dates or categories, which scikit-learn has refused.

    `error` is scikit-learn's, which a ValueError begins with.

    >>> check_columns([[0.1, "Rome"], [0.2, "Oslo"]], ValueError("could not convert string to float: 'Rome'"))
    Traceback (most recent call last):
    ValueError: could not convert string to float: 'Rome'. Every column of X must be numbers, got 'str' in column 1.
    Encode such columns first, for example in
    make_pipeline(make_column_transformer((OneHotEncoder(handle_unknown="ignore"), [1]), remainder="passthrough"), net).
    """
    found = _of_frame(X) if hasattr(X, "columns") and hasattr(X, "dtypes") else _of_rows(X)
    if not found:
        return
    names = list(found)[:SHOWN]
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    columns = f"column{'s' * (len(found) > 1)} {', '.join(map(repr, names))}{more}"
    kinds = ", ".join(sorted(set(found.values())))
    encoder = f'(OneHotEncoder(handle_unknown="ignore"), {names})'
    advice = (
        "Encode such columns first, for example in make_pipeline(make_column_transformer("
        f'{encoder}, remainder="passthrough"), net).'
    )
    rule = must_be("Every column of X", "numbers", kinds)
    cause = f"{error}. " if isinstance(error, ValueError) else ""  # a TypeError is about NumPy's dtypes
    raise ValueError(f"{cause}{rule[:-1]} in {columns}. {advice}") from error


def _of_frame(X: Any) -> dict[Any, str]:
    """Return the type of each column of a data frame, pandas' or another library's, that holds no numbers."""
    found = {}
    for name in X.columns:
        values = X[name]
        if not _are_numbers(values):
            found[name] = str(values.dtype) if _first_string(values) is None else "str"
    return found


def _are_numbers(values: Any) -> bool:
    kind = getattr(values.dtype, "kind", "O")
    if kind in "mM":  # NumPy would convert dates, but does not join them with numbers
        return False
    try:
        return kind in _NUMBERS or values.to_numpy().astype(float) is not None
    except (TypeError, ValueError):
        return False


def _of_rows(X: Any) -> dict[int, str]:
    """Return the numbers of the columns of an array or list of rows that hold strings."""
    if getattr(getattr(X, "dtype", None), "kind", "O") not in "OUS" or not len(X) or not hasattr(X[0], "__len__"):
        return {}
    columns = zip(*X, strict=False)
    return {i: "str" for i, values in enumerate(columns) if _first_string(values) is not None}


def _first_string(values: Any) -> str | None:
    """Return the first string that is no number; None if there is none."""
    for value in values:
        if isinstance(value, str):
            try:
                float(value)
            except ValueError:
                return value
    return None
