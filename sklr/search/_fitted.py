"""The part of a search after training: scikit-learn's fitted attributes, the LR curve and the choice on it."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.exceptions import NotFittedError
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from sklr._utils.errors import cause_of
from sklr._utils.sklearn import BaseSearchCV, search_estimator_has
from sklr._utils.validation import must_be
from sklr._utils.warnings import warn
from sklr.exceptions import NoScoreError, NoScoreWarning
from sklr.experiment.datasets import labels_to_score, rows_to_predict
from sklr.report import write_report
from sklr.search._choice import at_candidate, chosen_curve, chosen_params, warn_at_edge, without_luck
from sklr.search._cv_results import Record
from sklr.search._edges import ParamEdge, edges_text, param_edges, warn_of_param_edges
from sklr.search._evaluator import Evaluator
from sklr.search._failures import causes_text
from sklr.search.proposals.dimension_types import Range
from sklr.search.storage.stored_estimator import GIVE_ONE, StoredEstimator
from sklr.selection import SearchVariance, choose, edge, max_stable_lr, search_variance, verdict


class _NotRefitted:
    """Descriptor that raises an error saying why there is no `best_estimator_`; an instance attribute overrides it."""

    def __get__(self, search: Any, kind: type) -> Any:
        if search is None or "cv_results_" not in vars(search):
            raise AttributeError(f"{kind.__name__!r} object has no attribute 'best_estimator_'")
        if isinstance(search.estimator, StoredEstimator):
            raise NotFittedError(f"This {kind.__name__} has no best_estimator_. {GIVE_ONE}")
        raise NotFittedError(
            f"This {kind.__name__} has no best_estimator_: the training of the best candidate on all rows failed, was "
            f"interrupted, or was not requested (refit={search.refit!r}). The results of the search are kept; train "
            "the best candidate with clone(search.estimator).set_params(**search.best_params_).fit(X, y)."
        )


class ConcludingSearchCV(BaseSearchCV):
    """Set the fitted attributes of a search from the outcomes of its runs."""

    @property
    def cell_scores_(self) -> np.ndarray:
        """Test scores of all runs, shape (n_candidates, n_cells): fold by fold, the seeds of a fold side by side."""
        check_is_fitted(self, "_cell_scores")
        return np.array(self._cell_scores)

    best_estimator_: Any = _NotRefitted()

    @available_if(search_estimator_has("predict"))
    def predict(self, X: Any) -> Any:
        """Return the predictions of the best estimator; `X` may also be a Dataset or a DataLoader."""
        return super().predict(rows_to_predict(X))

    @available_if(search_estimator_has("predict_proba"))
    def predict_proba(self, X: Any) -> Any:
        """Return the class probabilities of the best estimator; `X` may also be a Dataset or a DataLoader."""
        return super().predict_proba(rows_to_predict(X))

    def score(self, X: Any, y: Any = None, **params: Any) -> Any:
        """Return the score of the best estimator; a Dataset or DataLoader as `X` needs no `y`."""
        if isinstance(self.estimator, StoredEstimator):
            return self.estimator.score()
        if hasattr(self, "best_estimator_"):
            X, y = rows_to_predict(X), labels_to_score(self.best_estimator_, X, y)
        return super().score(X, y, **params)

    def _conclude(self, evaluator: Evaluator) -> None:
        """Set the fitted attributes and choose the best candidate."""
        record = evaluator.record
        if not record.outcomes and evaluator.deadline.passed():
            advice = "Increase it, or train for fewer epochs."
            raise ValueError(must_be("timeout", "long enough for one candidate", self.timeout, advice))
        if not record.outcomes:
            raise ValueError("No fits were performed. Was the CV iterator empty? Were there no candidates?")
        self.engine_, self.engine_reasons_ = evaluator.engine_name, evaluator.reasons
        self.without_effect_ = evaluator.without_effect
        self.n_iter_ = len(record.candidates)
        self.history_ = record.history()
        # A list, because for X on a GPU scikit-learn's array API check wants every array attribute on that device.
        self._cell_scores = record.cell_scores().tolist()
        self.cv_results_ = record.cv_results(self._format_results, self.error_score, callable(self.scoring))
        first = record.outcomes[0][0].test_scores
        self.multimetric_ = isinstance(first, dict)
        if callable(self.scoring) and self.multimetric_:
            self._check_refit_for_multimetric(first)
        self.param_edges_ = self._param_edges()
        if (self.refit or not self.multimetric_) and self._has_scores(record):
            self._choose()
            self._decide(record)
        warn_of_param_edges(self.param_edges_)

    def _ranges(self) -> dict[str, Range]:
        """Return the parameters that are searched in a range."""
        return {}

    def _param_edges(self) -> dict[str, ParamEdge]:
        """Return the other parameters than the lr whose best value is at an end, by the score that `refit` names."""
        scores = self.cv_results_.get(f"mean_test_{self.refit if self.multimetric_ else 'score'}")
        return {} if scores is None else param_edges(self.cv_results_["params"], scores, self._ranges(), self.lr_param_)

    def _has_scores(self, record: Record) -> bool:
        """Return whether any candidate has a score; if not, raise an error if `refit` is set, else warn."""
        if record.has_scores() or callable(self.refit) or self.lr_param_ is None:
            return True  # without a learning rate, behave as scikit-learn does
        failed = record.failures()
        message = (
            f"no candidate has a score, so there is none to choose. The first of {len(record.candidates)} was trained, "
            f"with status {record.statuses()[0]!r}; it was scored by {self._scorer_name()}. "
        )
        if failed:
            message += f"Some fits failed{causes_text(failed)}"
        elif (error := record.score_error()) is not None:
            message += f"It raised {cause_of(error)}"
        else:
            message += "Check that this can score the estimator's predictions."
        if self.refit:
            raise NoScoreError(f"N{message[1:]}")
        # starts like scikit-learn's own warning, so that a filter for that one also matches this one
        message = f"One or more of the test scores are non-finite: {message}"
        warn(message, NoScoreWarning)
        return False

    def _scorer_name(self) -> str:
        if self.multimetric_ and isinstance(self.refit, str):
            return f"the scorer {self.refit!r}"
        if self.scoring is None:
            return f"the score method of {type(self.estimator).__name__}"
        name = self.scoring if isinstance(self.scoring, str) else getattr(self.scoring, "__name__", repr(self.scoring))
        return f"scoring={name!r}" if isinstance(self.scoring, str) else f"the scorer {name}"

    def _choose(self) -> None:
        metric = self.refit if self.multimetric_ else "score"
        self.best_index_ = self._select_best_index(self.refit, metric, self.cv_results_)
        self.best_params_ = self.cv_results_["params"][self.best_index_]
        if not callable(self.refit):
            self.best_score_ = self.cv_results_[f"mean_test_{metric}"][self.best_index_]

    def _decide(self, record: Record) -> None:
        """Make the LR curve and choose on it; unless ``select="best"`` the curve decides, not the ranking."""
        if self.lr_param_ is not None:
            self.best_lr_ = self.best_params_.get(self.lr_param_, self.estimator.get_params()[self.lr_param_])
        curve = chosen_curve(record, self.lr_param_, self.best_index_)
        if curve is None or curve.best < 0:
            return
        self.lr_curve_, self.lr_choice_ = curve, choose(curve, self.select, self.confidence)
        if self.select != "best" and curve.joined and not callable(self.refit):
            self._take(self.lr_choice_.lr)
        else:
            score, method = record.score(record.outcomes[self.best_index_]), "refit" if callable(self.refit) else "best"
            choice = at_candidate(self.lr_choice_, curve, self.best_index_, self.best_lr_, score, method)
            self.lr_choice_ = choice
        self.best_score_corrected_ = without_luck(
            record, self.lr_choice_, self.lr_param_, getattr(self, "best_score_", np.inf)
        )
        self.lr_interval_ = self.lr_choice_.interval
        self.lr_edge_, self.max_stable_lr_ = edge(curve), max_stable_lr(curve)
        warn_at_edge(curve, self.extend)

    def _take(self, lr: float) -> None:
        """Make `lr` the best learning rate; `best_index_` is that of the nearest one that was tried."""
        assert self.lr_param_ is not None
        curve = self.lr_curve_
        tried = np.flatnonzero(curve.usable)
        nearest = tried[np.abs(np.log(curve.lr[tried] / lr)).argmin()]
        self.best_index_ = int(curve.candidate[nearest])
        self.best_params_ = chosen_params(self.cv_results_["params"][self.best_index_], self.lr_param_, lr)
        self.best_lr_ = lr
        metric = self.refit if self.multimetric_ else "score"
        self.best_score_ = self.cv_results_[f"mean_test_{metric}"][self.best_index_]

    @property
    def search_variance_(self) -> SearchVariance:
        """How much the chosen lr would vary with other seeds and folds, and what that costs in score."""
        check_is_fitted(self, "lr_choice_")
        if self.lr_choice_.method == "refit":  # a callable `refit` cannot be applied to the noisy copies of the curve
            return SearchVariance(np.nan, (np.nan, np.nan), np.nan)
        return search_variance(self.lr_curve_, self.select)

    def summary(self) -> str:
        """Return the result as text: the choice, its uncertainty, the edge, divergence, and what to do next."""
        check_is_fitted(self, "cv_results_")
        at_edge = [f"Edge of other parameters: {edges_text(self.param_edges_)}."] if self.param_edges_ else []
        return "\n".join([self._conclusion(), *at_edge, *(f"Note: {sentence}" for sentence in self.without_effect_)])

    def _conclusion(self) -> str:
        if not hasattr(self, "best_params_"):
            means = [means for key, means in self.cv_results_.items() if key.startswith("mean_test_")]
            if not self.refit and np.isfinite(means).any():
                return "Chosen: nothing: there are several scores, and refit=False does not say which one decides."
            return f"Chosen: nothing, no candidate has a score; {self._scorer_name()} returned nan."
        if hasattr(self, "lr_choice_"):
            others = {name: value for name, value in self.best_params_.items() if name != self.lr_param_}
            text = verdict(self.lr_curve_, self.lr_choice_, self.best_score_corrected_, others)
            variance = self.search_variance_
            repeated = f"\nRepeated: {variance}.".replace(",\n", ", ") if np.isfinite(variance.decades) else ""
            return text + repeated + self._repeated_seeds()
        score = f", score {self.best_score_:.4f}" if hasattr(self, "best_score_") else ""
        lr = "" if self.lr_param_ in self.best_params_ else " No learning rate was searched."
        return f"Chosen: {self.best_params_}{score}.{lr}"

    def _repeated_seeds(self) -> str:
        """Return a line of text if all seeds of a fold gave the same scores; otherwise an empty string."""
        if self.n_seeds == self.lr_curve_.n_seeds:
            return ""
        return (
            f"\nSeeds: the {self.n_seeds} seeds of a fold gave the same scores and count as one. If the training is "
            "random, check for a fixed random_state, or for a module given as an instance."
        )

    def report(self, path: Any) -> Any:
        """Write a self-contained HTML report of the search and return its path.

        Parameters
        ----------
        path : str or path-like
            Where to write, such as ``"lr.html"``.
        """
        check_is_fitted(self, "cv_results_")
        return write_report(self, path)
