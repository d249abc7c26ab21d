"""The study's attributes and methods on a fitted `OptunaSearchCV`."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.trial import FrozenTrial
from sklearn.utils.validation import check_is_fitted


class StudyAttributes:
    """Mixin with the study attributes of optuna-integration's `OptunaSearchCV`."""

    study_: optuna.Study

    @property
    def trials_(self) -> list[FrozenTrial]:
        """All trials of the study, in the order in which they were proposed."""
        check_is_fitted(self, "study_")
        return self.study_.trials

    @property
    def n_trials_(self) -> int:
        """Number of trials in the study, including those from before this `fit`."""
        return len(self.trials_)

    @property
    def best_trial_(self) -> FrozenTrial:
        """The trial with the highest mean score."""
        check_is_fitted(self, "study_")
        return self.study_.best_trial

    @property
    def user_attrs_(self) -> dict[str, Any]:
        """The user attributes of the study, without sklr's own."""
        check_is_fitted(self, "study_")
        return {key: value for key, value in self.study_.user_attrs.items() if not key.startswith("sklr:")}

    def set_user_attr(self, key: str, value: Any) -> None:
        """Set a user attribute of the study; `value` must be serializable as JSON."""
        check_is_fitted(self, "study_")
        self.study_.set_user_attr(key, value)

    def trials_dataframe(self, *args: Any, **kwargs: Any) -> Any:
        """Return all trials as a pandas DataFrame; the arguments are those of `optuna.Study.trials_dataframe`."""
        check_is_fitted(self, "study_")
        return self.study_.trials_dataframe(*args, **kwargs)
