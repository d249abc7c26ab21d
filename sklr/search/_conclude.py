"""What a search concludes from its record: scikit-learn's attributes, the LR curve, the choice on it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from sklr._sklearn import BaseSearchCV
from sklr._validation import must_be
from sklr.search._decide import chosen_params, decide, searched_curve, warn_at_edge
from sklr.search._evaluate import Evaluator
from sklr.search._record import Record
from sklr.selection import edge, max_stable_lr, verdict


class ConcludingSearchCV(BaseSearchCV):
    """The half of a search that begins when the trainings are done."""

    @property
    def cell_scores_(self) -> np.ndarray:
        """Test scores of all runs, shape (n_candidates, n_cells)."""
        check_is_fitted(self, "_cell_scores")
        return np.array(self._cell_scores)

    def _conclude(self, evaluator: Evaluator) -> None:
        """Set the fitted attributes, and choose."""
        record = evaluator.record
        if not record.outcomes and evaluator.deadline.passed():
            advice = "Give it more, or train for fewer epochs."
            raise ValueError(must_be("timeout", "long enough for one candidate", self.timeout, advice))
        if not record.outcomes:
            raise ValueError("No fits were performed. Was the CV iterator empty? Were there no candidates?")
        self.engine_, self.engine_reasons_ = evaluator.engine_name, evaluator.reasons
        self.without_effect_ = evaluator.without_effect
        self.n_iter_ = len(record.candidates)
        self.history_ = record.history()
        # a list: where X is a GPU's tensor, scikit-learn expects every array that is an attribute to be one too
        self._cell_scores = record.cell_scores().tolist()
        self.cv_results_ = record.cv_results(self._format_results, self.error_score, callable(self.scoring))
        first = record.outcomes[0][0].test_scores
        self.multimetric_ = isinstance(first, dict)
        if callable(self.scoring) and self.multimetric_:
            self._check_refit_for_multimetric(first)
        if self.refit or not self.multimetric_:
            self._choose()
            self._decide(record)

    def _choose(self) -> None:
        metric = self.refit if self.multimetric_ else "score"
        self.best_index_ = self._select_best_index(self.refit, metric, self.cv_results_)
        self.best_params_ = self.cv_results_["params"][self.best_index_]
        if not callable(self.refit):
            self.best_score_ = self.cv_results_[f"mean_test_{metric}"][self.best_index_]

    def _decide(self, record: Record) -> None:
        """Draw the LR curve and choose on it; unless ``select="best"`` the choice is the curve's, not the ranking's."""
        if self.lr_param_ is not None:
            self.best_lr_ = self.best_params_.get(self.lr_param_, self.estimator.get_params()[self.lr_param_])
        curve = searched_curve(record, self.lr_param_)
        decision = None if curve is None else decide(curve, self.cell_scores_, self.select, self.confidence)
        if decision is None:
            return
        self.lr_curve_, self.lr_choice_, self.best_score_corrected_ = decision
        self.lr_interval_ = self.lr_choice_.interval
        self.lr_edge_, self.max_stable_lr_ = edge(self.lr_curve_), max_stable_lr(self.lr_curve_)
        if self.select != "best" and not callable(self.refit):
            self._take(self.lr_choice_.lr)
        warn_at_edge(self.lr_curve_, self.extend)

    def _take(self, lr: float) -> None:
        """Make a learning rate of the curve the best one; the index is that of the nearest one that was tried."""
        assert self.lr_param_ is not None
        curve = self.lr_curve_
        tried = np.flatnonzero(curve.usable)
        nearest = tried[np.abs(np.log(curve.lr[tried] / lr)).argmin()]
        self.best_index_ = int(curve.candidate[nearest])
        self.best_params_ = chosen_params(self.cv_results_["params"][self.best_index_], self.lr_param_, lr)
        self.best_lr_ = lr
        metric = self.refit if self.multimetric_ else "score"
        self.best_score_ = self.cv_results_[f"mean_test_{metric}"][self.best_index_]

    def summary(self) -> str:
        """Return the result in plain words: the choice, its noise, the edge, what diverged, what to do next."""
        check_is_fitted(self, "cv_results_")
        if not hasattr(self, "lr_choice_"):
            if not hasattr(self, "best_params_"):
                return "Chosen: nothing, there are several scores and refit=False names none of them."
            score = f", score {self.best_score_:.4f}" if hasattr(self, "best_score_") else ""
            return f"Chosen: {self.best_params_}{score}. No learning rate was searched."
        said = verdict(self.lr_curve_, self.lr_choice_, self.best_score_corrected_)
        return "\n".join([said, *(f"Note: {sentence}" for sentence in self.without_effect_)])

    def report(self, path: Any) -> Any:
        """Write one self-contained HTML page about the search, and return its path.

        Parameters
        ----------
        path : str or path-like
            Where to write, such as ``"lr.html"``.
        """
        check_is_fitted(self, "cv_results_")
        return import_module("sklr.report").write_report(self, path)  # a page is drawn from a search, not the reverse
