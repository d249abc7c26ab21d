"""Everything sklr imports from scikit-learn's private modules, in one place, so that a new release breaks one file."""

from sklearn.base import _fit_context as fit_context
from sklearn.model_selection._search import BaseSearchCV
from sklearn.model_selection._search import _search_estimator_has as search_estimator_has
from sklearn.model_selection._validation import _fit_and_score as fit_and_score
from sklearn.model_selection._validation import _insert_error_scores as insert_error_scores
from sklearn.model_selection._validation import _score as score_estimator
from sklearn.utils import _safe_indexing as take_rows
from sklearn.utils._metadata_requests import RequestMethod
from sklearn.utils.metaestimators import _safe_split as safe_split
from sklearn.utils.validation import _check_method_params as take_params
from sklearn.utils.validation import _check_sample_weight as check_sample_weight
from sklearn.utils.validation import _num_samples as count_rows

__all__ = [
    "BaseSearchCV",
    "RequestMethod",
    "check_sample_weight",
    "count_rows",
    "fit_and_score",
    "fit_context",
    "insert_error_scores",
    "safe_split",
    "score_estimator",
    "search_estimator_has",
    "take_params",
    "take_rows",
]
