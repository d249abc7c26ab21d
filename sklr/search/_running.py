"""The part of a search that trains: the experiment it sets up, the loop of proposals and scores, and the refit."""

from __future__ import annotations

import time
import warnings
from collections.abc import Generator
from contextlib import nullcontext, suppress
from typing import Any

import numpy as np
from sklearn.base import clone, is_classifier
from sklearn.model_selection import check_cv

from sklr._utils.random import RandomStream
from sklr._utils.sklearn import count_rows, take_params, take_rows
from sklr.engines.sequential.monitor import ctrl_c_comes_through, is_lost
from sklr.exceptions import SettingsWarning, StorageError
from sklr.experiment.datasets import Brought, check_no_sampler, with_params
from sklr.experiment.experiment import Cell, Experiment
from sklr.experiment.folds import seeded
from sklr.experiment.validation_set import fixed_fold
from sklr.experiment.wrappers import criterion_of, net_of
from sklr.nets._mistakes import TWICE
from sklr.search._choice import extension
from sklr.search._cv_results import Record, warn_about_refit
from sklr.search._evaluator import Evaluator
from sklr.search._fitted import ConcludingSearchCV
from sklr.search._interrupts import TIMEOUT, Deadline
from sklr.search._progress import Progress
from sklr.search._sklearn_callbacks import SearchTasks
from sklr.search._study import Ledger
from sklr.search.storage.open import patiently
from sklr.search.storage.reading import SETTINGS, settings_of


class TrainingSearchCV(ConcludingSearchCV):
    """Train the candidates that a strategy proposes, then refit the best one."""

    def _experiment(
        self,
        data: Brought,
        params: dict[str, Any],
        random_state: np.random.RandomState,
        steady_folds: bool = False,
        cells: list[Cell] | None = None,
    ) -> Experiment:
        """Set `lr_param_`, `cells_`, `n_splits_` and `scorer_`; return what all runs share.

        `cells` are those of the search that this one starts from.
        """
        scorer, _ = self._get_scorers()
        routed = self._get_routed_params_for_fit(params)
        self.lr_param_ = self._known_lr_param()
        cv, rows = self._splitter(data, random_state, steady_folds)
        self.cells_ = cells or self._draw_cells(cv, data.X, data.y, routed.splitter.split, rows, random_state)
        self.n_splits_ = len(self.cells_) // self.n_seeds
        self.scorer_ = getattr(scorer, "_scorers", scorer)
        return Experiment(
            estimator=with_params(self.estimator, data),
            X=data.X,
            y=data.y,
            cells=self.cells_,
            scorer=scorer,
            metric=self.refit if isinstance(self.refit, str) else None,
            fit_params=routed.estimator.fit,
            score_params=routed.scorer.score,
            return_train_score=self.return_train_score,
            error_score=self.error_score,
            verbose=self.verbose,
            n_jobs=self.n_jobs,
            pre_dispatch=self.pre_dispatch,
            follow="always" if self._prunes() else "free",
            caller=self,
        )

    def _splitter(self, data: Brought, random_state: np.random.RandomState, steady_folds: bool) -> tuple[Any, Any]:
        """Return the splitter and the rows that it splits, None for all.

        With `steady_folds` a splitter that shuffles gets a seed, because other processes must draw the same folds.
        """
        rows = self._search_rows(count_rows(data.X) if data.n_train is None else data.n_train, random_state)
        if rows is not None:
            check_no_sampler(data, "subsample", "left out")
        if data.n_train is not None:
            return check_cv([fixed_fold(data, rows)]), None
        cv = check_cv(self.cv, data.y, classifier=is_classifier(self.estimator))
        return seeded(cv, random_state) if steady_folds else cv, rows

    def _evaluator(
        self, experiment: Experiment, tasks: SearchTasks, ledger: Ledger, deadline: Deadline, progress: Progress
    ) -> Evaluator:
        return Evaluator(
            experiment,
            engine=self.engine,
            ledger=ledger,
            record=Record(self.n_seeds, experiment.metric, criterion_of(experiment.estimator)),
            tasks=tasks,
            n_seeds=self.n_seeds,
            prunes=self._prunes(),
            deadline=deadline,
            progress=progress,
        )

    def _search(self, evaluator: Evaluator, space: Any, random_state: np.random.RandomState) -> None:
        """Train the proposals until there are no more, then set the results; Ctrl-C keeps what is finished."""
        count = self._n_candidates(space)
        n_runs = None if count is None or self.extend else count * len(evaluator.experiment.cells)
        why = "not finished: the search was interrupted"
        self._note_settings(count, finished=False)
        try:
            with evaluator.tasks.search(n_runs):
                self._try(self._propose(space, evaluator.ledger, random_state), evaluator)
                if self.extend and self.lr_param_ is not None:
                    self._try(extension(evaluator.record, self.lr_param_), evaluator)
            why = f"not finished: {TIMEOUT}"
            if not evaluator.deadline.passed():
                with suppress(StorageError):  # all scores are already in memory
                    self._note_settings(count, finished=True)
        except (KeyboardInterrupt, StorageError):
            with suppress(Exception):  # an error in the conclusions must not replace the interrupt
                self._conclude(evaluator)
            raise
        finally:
            evaluator.ledger.abandon(why)
        self._conclude(evaluator)

    def _note_settings(self, n_asked: int | None, finished: bool) -> None:
        """Write the settings that `load_search` needs into the study."""
        text = settings_of(self, n_asked, finished)
        patiently(lambda: self.study_.set_user_attr(SETTINGS, text))

    def _try(self, proposals: Generator[list[dict], np.ndarray, None], evaluator: Evaluator) -> None:
        candidates = None if evaluator.deadline.passed() and evaluator.record.outcomes else next(proposals, [])
        while candidates:
            scores = self._evaluate(evaluator, list(candidates))
            if len(scores) < len(candidates):
                return  # the timeout passed before all of them were finished
            try:
                candidates = proposals.send(scores)
            except StopIteration:
                return
            if evaluator.deadline.passed():
                return

    def _evaluate(self, evaluator: Evaluator, candidates: list[dict]) -> np.ndarray:
        """Train a batch of candidates in every cell, record the outcomes, return the mean scores."""
        return evaluator.evaluate(candidates)

    def _refit(self, experiment: Experiment, tasks: SearchTasks, seed: int, n_train: int | None) -> None:
        """Train the best candidate on the first `n_train` rows, or on all rows if that is None."""
        best = clone(experiment.estimator).set_params(**clone(self.best_params_, safe=False))
        data = (experiment.X,) if experiment.y is None else (experiment.X, experiment.y)
        fit_params = experiment.fit_params
        if n_train is not None:
            rows = np.arange(n_train)
            fit_params = take_params(experiment.X, params=fit_params, indices=rows)
            data = tuple(take_rows(part, rows) for part in data)
        stream = nullcontext() if self.random_state is None else RandomStream(int(seed))
        start = time.time()
        with tasks.refit(best), stream, ctrl_c_comes_through(), warnings.catch_warnings():
            needs_rows = net_of(best) is not best or not hasattr(experiment.X, "shape")
            but = f"(?!{TWICE})" if needs_rows else ""  # all others were issued before the search
            warnings.filterwarnings("ignore", but, SettingsWarning)
            best.fit(*data, **fit_params)
        self.best_estimator_, self.refit_time_ = best, time.time() - start
        if is_lost(best):
            warn_about_refit(self.best_params_)
        if hasattr(best, "feature_names_in_"):
            self.feature_names_in_ = best.feature_names_in_
