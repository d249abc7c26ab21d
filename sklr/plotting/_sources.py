"""Checks of what is given to a plot function: an object of another kind is refused with the plot that is for it."""

from __future__ import annotations

from typing import Any

from sklearn.utils.validation import check_is_fitted

from sklr._utils.sklearn import BaseSearchCV
from sklr._utils.validation import check_is_object, must_be

PLOT_OF = {"RangeTest": "plot_range_test(result)", "CoordinateCheck": "plot_coordinate_check(check)"}


def check_search(source: Any, *, of_sklr: bool = False) -> None:
    """Raise an error if `source` is not a fitted search, with `of_sklr` one that has a history and a learning rate.

    Raises
    ------
    TypeError
        If it is no search, or one of another library.
    sklearn.exceptions.NotFittedError

    Examples
    --------
    >>> check_search([0.1, 0.9])
    Traceback (most recent call last):
    TypeError: the first argument must be a fitted search, got 'list'. Fit for example LRGridSearchCV, and pass it.
    """
    check_is_object("the first argument", source)
    if not isinstance(source, BaseSearchCV) and not hasattr(source, "cv_results_"):
        raise wrong_source("a fitted search", source, "Fit for example LRGridSearchCV, and pass it.")
    check_is_fitted(source, "cv_results_")
    if of_sklr and not hasattr(source, "lr_param_"):
        raise wrong_source("a fitted search of sklr", source, "Write LRGridSearchCV, which takes the same arguments.")


def wrong_source(rule: str, source: Any, advice: str) -> TypeError:
    """Return the error for an object of another kind, with the plot for it if there is one, else the advice."""
    name = type(source).__name__
    if (plot := _plot_of(source)) is not None:
        advice = f"Of this object draw {plot}."
    return TypeError(must_be("the first argument", rule, name, advice))


def _plot_of(source: Any) -> str | None:
    if (plot := PLOT_OF.get(type(source).__name__)) is not None:
        return plot
    if isinstance(source, BaseSearchCV):
        return "plot_lr_curve(search)" if hasattr(source, "lr_curve_") else None
    return "plot_training_curves(net)" if getattr(source, "history_", None) else None
