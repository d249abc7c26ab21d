"""Checks of `scoring`: a misspelt name, or a metric in place of a scorer, is found before training."""

from __future__ import annotations

import inspect
from difflib import get_close_matches
from typing import Any

from sklearn.metrics import get_scorer_names

from sklr._utils.validation import must_be

_CALLED_ELSEWHERE = {  # in Keras, PyTorch and torchmetrics
    "acc": "accuracy",
    "auc": "roc_auc",
    "auroc": "roc_auc",
    "loss": "neg_log_loss",
    "cross_entropy": "neg_log_loss",
    "mse": "neg_mean_squared_error",
    "rmse": "neg_root_mean_squared_error",
    "mae": "neg_mean_absolute_error",
}


def check_scoring_names(scoring: Any) -> None:
    """Raise a ValueError for names that scikit-learn has no scorer for, and for a metric in place of a scorer.

    Everything else is left to scikit-learn.

    >>> check_scoring_names(["accuracy", "neg_log_loss"])
    >>> check_scoring_names("acuracy")
    Traceback (most recent call last):
    ValueError: scoring must be a scorer or the name of one, got 'acuracy'. Did you mean 'accuracy'?
    >>> from sklearn.metrics import accuracy_score
    >>> check_scoring_names(accuracy_score)
    Traceback (most recent call last):
    ValueError: scoring must be a scorer or the name of one, got 'the metric accuracy_score'. Write
    sklearn.metrics.make_scorer(accuracy_score).
    """
    rule, known = "a scorer or the name of one", get_scorer_names()
    for part in _parts(scoring):
        module, name = getattr(part, "__module__", None) or "", getattr(part, "__name__", "")
        if isinstance(part, str) and part not in known:
            found = _CALLED_ELSEWHERE.get(part.lower()) or f"neg_{part}"
            near = [found] if found in known else get_close_matches(part, known, n=1)
            advice = f"Did you mean {near[0]!r}?" if near else "sklearn.metrics.get_scorer_names() lists them."
            raise ValueError(must_be("scoring", rule, part, advice))
        if callable(part) and name and module.startswith("sklearn.metrics.") and "_scorer" not in module:
            advice = f"Write sklearn.metrics.make_scorer({name})."
            raise ValueError(must_be("scoring", rule, f"the metric {name}", advice))


def check_scoring_arguments(scoring: Any, y: Any) -> None:
    """Raise a ValueError for a function as scorer that does not take an estimator, rows and their targets.

    >>> def error_rate(y_true, y_pred):
    ...     return (y_true != y_pred).mean()
    >>> check_scoring_arguments(error_rate, [0, 1])
    Traceback (most recent call last):
    ValueError: scoring must be a function of (estimator, X, y), got 'error_rate(y_true, y_pred)'. For a function of
    targets and predictions write sklearn.metrics.make_scorer(error_rate).
    """
    given = ("estimator", "X") if y is None else ("estimator", "X", "y")
    for part in _parts(scoring):
        try:
            signature = inspect.signature(part) if callable(part) else None
        except (TypeError, ValueError):  # some callables have none
            continue
        try:
            if signature is not None:
                signature.bind(*given)
        except TypeError:
            name = getattr(part, "__name__", type(part).__name__)
            advice = f"For a function of targets and predictions write sklearn.metrics.make_scorer({name})."
            rule = f"a function of ({', '.join(given)})"
            raise ValueError(must_be("scoring", rule, f"{name}{signature}", advice)) from None


def _parts(scoring: Any) -> list[Any]:
    """Return the single scorers in what is given as `scoring`; [] where scikit-learn says what is wrong."""
    parts = [scoring] if isinstance(scoring, str) or callable(scoring) else scoring
    if isinstance(parts, dict):
        parts = list(parts.values())
    return list(parts) if isinstance(parts, list | tuple | set) else []
