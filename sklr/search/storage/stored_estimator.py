"""What stands for the estimator of a search that was read from a study, which holds no estimators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.utils import Tags

GIVE_ONE = (
    "The study holds scores, no estimators. Give it one, search.set_params(estimator=net).fit(X, y), with the data of "
    "the study: that reads the study and trains the best candidate alone. Or train a net with search.best_params_."
)


class StoredEstimator(BaseEstimator):
    """An estimator as a study describes it: its class by name, its parameters as text; the learning rate is a number.

    Parameters
    ----------
    kind : {"classifier", "regressor"} or None
    params : mapping
    """

    def __init__(self, kind: str | None, params: Mapping[str, Any]):
        self.kind, self.params = kind, params

    def __reduce__(self) -> tuple[Any, ...]:
        return stored_estimator, (type(self).__name__, self.kind, self.params)

    def __sklearn_clone__(self) -> StoredEstimator:
        return self

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters as the study describes them."""
        return dict(self.params)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.estimator_type = self.kind
        return tags

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """Say what to do instead."""
        raise NotFittedError(f"A search from load_search has no estimator to train or to predict with. {GIVE_ONE}")

    predict = predict_proba = score = fit


def stored_estimator(name: str, kind: str | None, params: Mapping[str, Any]) -> StoredEstimator:
    """Return one that is called as the class was.

    >>> stored_estimator("SVC", "classifier", {"C": "1.0"})
    SVC(C='1.0')
    """
    return type(name, (StoredEstimator,), {"__module__": __name__})(kind, params)
