"""The attributes and methods through which a fitted `OptunaSearchCV` shows its study."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.trial import FrozenTrial
from sklearn.utils.validation import check_is_fitted


class StudyAttributes:
    """Mixin: what optuna-integration's `OptunaSearchCV` shows of its study."""

    study_: optuna.Study

    @property
    def trials_(self) -> list[FrozenTrial]:
        """All trials of the study, in the order in which they were proposed."""
        check_is_fitted(self, "study_")
        return self.study_.trials

    @property
    def n_trials_(self) -> int:
        """How many trials the study has, those from before this `fit` included."""
        return len(self.trials_)

    @property
    def best_trial_(self) -> FrozenTrial:
        """The trial with the highest mean score."""
        check_is_fitted(self, "study_")
        return self.study_.best_trial

    @property
    def user_attrs_(self) -> dict[str, Any]:
        """The user's notes on the study."""
        check_is_fitted(self, "study_")
        return {key: value for key, value in self.study_.user_attrs.items() if not key.startswith("sklr:")}

    def set_user_attr(self, key: str, value: Any) -> None:
        """Note something on the study; `value` must be what JSON can hold."""
        check_is_fitted(self, "study_")
        self.study_.set_user_attr(key, value)

    def trials_dataframe(self, *args: Any, **kwargs: Any) -> Any:
        """Return all trials as a pandas DataFrame; arguments as in `optuna.Study.trials_dataframe`."""
        check_is_fitted(self, "study_")
        return self.study_.trials_dataframe(*args, **kwargs)
