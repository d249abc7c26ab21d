"""Everything sklr takes from scikit-learn's private modules, in one place, so that a new release breaks one file."""

from sklearn.base import _fit_context as fit_context
from sklearn.model_selection._search import BaseSearchCV
from sklearn.model_selection._validation import _insert_error_scores as insert_error_scores
from sklearn.model_selection._validation import _score as score_estimator
from sklearn.model_selection._validation import _warn_or_raise_about_fit_failures as warn_or_raise_about_fit_failures
from sklearn.utils._metadata_requests import _routing_enabled as routing_enabled
from sklearn.utils.metaestimators import _safe_split as safe_split
from sklearn.utils.validation import _check_method_params as take_params

__all__ = [
    "BaseSearchCV",
    "fit_context",
    "insert_error_scores",
    "routing_enabled",
    "safe_split",
    "score_estimator",
    "take_params",
    "warn_or_raise_about_fit_failures",
]
