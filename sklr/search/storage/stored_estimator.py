"""The placeholder for the estimator of a search that was loaded from a study, which stores no estimators.

Before such a search can be fitted, the estimator has to be given, and so have other parameters that are not stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.utils import Tags

from sklr.exceptions import StudyError

GIVE_ONE = (
    "The study stores scores, not estimators. Give it one, search.set_params(estimator=net).fit(X, y), with the data "
    "of the study: that reads the study and trains only the best candidate. Or train a net with search.best_params_."
)


class _Described(str):
    """The description of a value, whose `repr` is that of the value."""

    __repr__ = str.__str__


class StoredEstimator(BaseEstimator):
    """An estimator as a study describes it: the name of its class, its parameters as text, the lr as a number.

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
        """Return the parameters as the study describes them; with ``deep=False``, as for a `repr`, without callbacks'.

        They are objects that every net makes for itself, and dozens of lines.
        """
        if deep:
            return dict(self.params)
        shown = {name: text for name, text in self.params.items() if "callbacks" not in name.split("__")[:-1]}
        return {name: _Described(text) if isinstance(text, str) else text for name, text in shown.items()}

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.estimator_type = self.kind
        return tags

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """Raise `NotFittedError` with advice."""
        raise NotFittedError(f"A search from load_search has no estimator to train or to predict with. {GIVE_ONE}")

    predict = predict_proba = score = fit
    set_params = fit  # and thus `check_names` accepts every name: those searched were checked before the study began


def stored_estimator(name: str, kind: str | None, params: Mapping[str, Any]) -> StoredEstimator:
    """Return a `StoredEstimator` whose class has the given name.

    >>> stored_estimator("SVC", "classifier", {"C": "1.0"})
    SVC(C=1.0)
    """
    return type(name, (StoredEstimator,), {"__module__": __name__})(kind, params)


def check_given_again(search: Any) -> None:
    """Raise an error if a search from `load_search` still has placeholders for what its study does not store.

    Otherwise it would be taken for another search, or would train other candidates.

    Raises
    ------
    StudyError
    """
    to_give = getattr(search, "_to_give", {})
    missing = [name for name, placeholder in to_give.items() if getattr(search, name) is placeholder]
    if missing:
        named = " and ".join(filter(None, (", ".join(missing[:-1]), missing[-1])))
        given = ", ".join(f"{name}={'net' if name == 'estimator' else '...'}" for name in missing)
        raise StudyError(
            f"{named} must be set before a search from load_search is fitted, because its study does not store "
            f"{'them' if len(missing) > 1 else 'it'}. Write search.set_params({given}), as in that search."
        )
