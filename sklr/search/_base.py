"""The search all strategies share: cells drawn once, candidates trained by an engine, scikit-learn's results."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, NamedTuple

import numpy as np
import optuna
from sklearn.base import clone, is_classifier
from sklearn.utils import check_random_state, indexable
from sklearn.utils.validation import _num_samples

from sklr._random import RandomStream
from sklr._sklearn import BaseSearchCV, fit_context, take_params
from sklr._validation import check_count
from sklr.engines import check_engine, pick_engine
from sklr.engines._base import Experiment, Training
from sklr.results import Outcome
from sklr.search._cells import MAX_SEED, check_folds, draw_cells
from sklr.search._ledger import Ledger, quiet_study
from sklr.search._record import Record
from sklr.search._space import check_lr_range, check_names, find_lr_param, lr_names
from sklr.selection import lr_curve


class _Setting(NamedTuple):
    """What one `fit` works with, besides the search's own parameters."""

    experiment: Experiment
    ledger: Ledger
    record: Record
    context: Any  # scikit-learn's callback context of the search task, None where there are no callbacks


class BaseLRSearchCV(BaseSearchCV):
    """Cross-validated search for the learning rate; a strategy adds `_check_space` and `_propose`.

    Parameters are described in the strategies. See `LRGridSearchCV`, `BayesSearchCV` and `OptunaSearchCV`.
    """

    def __init__(
        self,
        estimator: Any,
        *,
        lr_range: Any = (1e-5, 1.0),
        scoring: Any = None,
        n_jobs: int | None = None,
        refit: Any = True,
        cv: Any = None,
        n_seeds: int = 1,
        engine: Any = "auto",
        verbose: int = 0,
        pre_dispatch: Any = "2*n_jobs",
        error_score: Any = np.nan,
        return_train_score: bool = False,
        random_state: Any = None,
        lr_param: str | None = None,
    ):
        super().__init__(
            estimator,
            scoring=scoring,
            n_jobs=n_jobs,
            refit=refit,
            cv=cv,
            verbose=verbose,
            pre_dispatch=pre_dispatch,
            error_score=error_score,
            return_train_score=return_train_score,
        )
        self.lr_range = lr_range
        self.n_seeds = n_seeds
        self.engine = engine
        self.random_state = random_state
        self.lr_param = lr_param

    @abstractmethod
    def _check_space(self) -> Any:
        """Check every parameter of the strategy, before any training; return the space `_propose` is given."""

    @abstractmethod
    def _propose(
        self, space: Any, ledger: Ledger, random_state: np.random.RandomState
    ) -> Generator[list[dict], np.ndarray, None]:
        """Yield lists of candidates; each `yield` returns their mean scores, NaN where a candidate has none."""

    def _make_study(self, random_state: np.random.RandomState) -> optuna.Study:
        """Return the study that records the search."""
        return quiet_study()

    def _search_rows(self, n_samples: int, random_state: np.random.RandomState) -> np.ndarray | None:
        """Return the rows to search on, None for all."""
        return None

    def _n_candidates(self, space: Any) -> int | None:
        """Return how many candidates will be proposed, None if that is not known before."""
        return None

    def _prunes(self) -> bool:
        """Whether the study's pruner is asked after every epoch."""
        return False

    @fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Any, y: Any = None, **params: Any) -> BaseLRSearchCV:
        """Search, then train the best candidate on all rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or whatever the estimator takes
            Training rows.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Targets.
        **params : dict
            ``groups`` goes to the splitter; the rest, such as ``sample_weight``, to the estimator's `fit` and to the
            scorer, row by row, as in scikit-learn's searches.

        Returns
        -------
        self : object
            The fitted search.

        Raises
        ------
        ValueError
            Before any training, if a parameter is out of its range.
        AllDivergedError
            If no candidate could be trained.
        """
        space = self._check()
        self._forget()
        random_state = check_random_state(self.random_state)
        X, y = indexable(X, y)
        params = take_params(X, params=params)
        root = self._begin_task(X, y, params)
        experiment = self._experiment(X, y, params, random_state)
        seeds = random_state.randint(MAX_SEED, size=3)
        self.lr_param_ = self._known_lr_param()
        self.study_ = self._make_study(np.random.RandomState(seeds[0]))
        setting = self._setting(experiment, space, root)
        try:
            self._search(setting, self._propose(space, setting.ledger, np.random.RandomState(seeds[1])))
        except KeyboardInterrupt:
            with suppress(Exception):  # nothing may hide that it was Ctrl-C
                self._conclude(setting)
            raise
        self._conclude(setting)
        if self.refit:
            world = nullcontext() if self.random_state is None else RandomStream(int(seeds[2]))
            self._refit(experiment, root, world)
        root.call_on_fit_task_end(estimator=self, X=X, y=y, metadata=_metadata(params))
        return self

    def _check(self) -> Any:
        """Check all that can be checked without training, cheapest first."""
        check_lr_range(self.lr_range)
        check_count("n_seeds", self.n_seeds)
        check_engine(self.engine)
        self._known_lr_param()
        return self._check_space()

    def _forget(self) -> None:
        """Drop what an earlier `fit` found: should this one be interrupted, the two must not stand side by side."""
        for name in [name for name in vars(self) if name.endswith("_")]:
            delattr(self, name)

    def _known_lr_param(self) -> str | None:
        """Return the name of the learning rate, None where there is no telling; a strategy that needs it will ask."""
        if self.lr_param is None and len(lr_names(self.estimator)) != 1:
            return None
        return find_lr_param(self.estimator, self.lr_param)

    def _begin_task(self, X: Any, y: Any, params: dict[str, Any]) -> Any:
        context = self._init_callback_context(max_subtasks=1 + (self.refit is not False))
        return context.call_on_fit_task_begin(estimator=self, X=X, y=y, metadata=_metadata(params))

    def _experiment(self, X: Any, y: Any, params: dict[str, Any], random_state: np.random.RandomState) -> Experiment:
        scorer, _ = self._get_scorers()
        routed = self._get_routed_params_for_fit(params)
        split_params = routed.splitter.split
        cv = check_folds(self.cv, y, is_classifier(self.estimator))
        rows = self._search_rows(_num_samples(X), random_state)
        self.cells_ = draw_cells(cv, X, y, split_params, n_seeds=self.n_seeds, rows=rows, random_state=random_state)
        self.n_splits_ = len(self.cells_) // self.n_seeds
        self.scorer_ = getattr(scorer, "_scorers", scorer)
        return Experiment(
            estimator=clone(self.estimator),
            X=X,
            y=y,
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
            caller=self,
        )

    def _setting(self, experiment: Experiment, space: Any, root: Any) -> _Setting:
        count = self._n_candidates(space)
        context = root.subcontext(
            task_name="search",
            max_subtasks=None if count is None else count * len(experiment.cells),
            sequential_subtasks=False,
        ).call_on_fit_task_begin(estimator=self)
        ledger = Ledger(self.study_, [self.lr_param_] if self.lr_param_ else [])
        return _Setting(experiment, ledger, Record(self.n_seeds, experiment.metric), context)

    def _search(self, setting: _Setting, proposals: Generator[list[dict], np.ndarray, None]) -> None:
        try:
            candidates = next(proposals, [])
            while candidates:
                scores = self._evaluate(setting, list(candidates))
                candidates = proposals.send(scores)
        except StopIteration:
            pass
        finally:
            setting.ledger.abandon()
        setting.context.call_on_fit_task_end(estimator=self)

    def _evaluate(self, setting: _Setting, candidates: list[dict]) -> np.ndarray:
        """Train a batch of candidates in every cell, write it down, return its mean scores."""
        experiment, ledger, _, _ = setting
        check_names(self.estimator, {name for candidate in candidates for name in candidate})
        engine, reasons = pick_engine(self.engine, experiment, candidates)
        self.engine_, self.engine_reasons_ = engine.name, reasons
        self._announce(len(candidates))
        ledger.open(candidates)
        training = engine.start(experiment, candidates, self._contexts(setting, len(candidates)))
        try:
            if self._prunes():
                _prune_by_epoch(training, ledger)
            return self._write_down(setting, candidates, dict(enumerate(training.finish())))
        except KeyboardInterrupt:
            if finished := training.finished():
                self._write_down(setting, candidates, finished)
            raise

    def _write_down(self, setting: _Setting, candidates: list[dict], ended: Mapping[int, list[Outcome]]) -> np.ndarray:
        """Add the candidates of a batch that have ended to record and ledger; return their mean scores."""
        scores = setting.record.add([candidates[i] for i in ended], list(ended.values()))
        setting.ledger.close(ended, scores)
        return scores

    def _announce(self, n_candidates: int) -> None:
        if self.verbose > 0:
            folds = f"{self.n_splits_} folds" + (f" x {self.n_seeds} seeds" if self.n_seeds > 1 else "")
            total = n_candidates * len(self.cells_)
            print(f"Fitting {folds} for each of {n_candidates} candidates, totalling {total} fits")

    def _contexts(self, setting: _Setting, n_candidates: int) -> list | None:
        """Return a callback context per run, or None where nobody listens."""
        if not _has_callbacks(self):
            return None
        first = len(setting.record.candidates) * len(self.cells_)
        return [
            setting.context.subcontext(task_name="candidate-split-evaluation", task_id=first + i)
            for i in range(n_candidates * len(self.cells_))
        ]

    def _conclude(self, setting: _Setting) -> None:
        """Set the fitted attributes, and choose."""
        record = setting.record
        if not record.outcomes:
            raise ValueError("No fits were performed. Was the CV iterator empty? Were there no candidates?")
        self.history_, self.cell_scores_ = record.history(), record.cell_scores()
        self.cv_results_ = record.cv_results(self._format_results, self.error_score, callable(self.scoring))
        first = record.outcomes[0][0].test_scores
        self.multimetric_ = isinstance(first, dict)
        if callable(self.scoring) and self.multimetric_:
            self._check_refit_for_multimetric(first)
        if self.refit or not self.multimetric_:
            self._choose()

    def _choose(self) -> None:
        metric = self.refit if self.multimetric_ else "score"
        self.best_index_ = self._select_best_index(self.refit, metric, self.cv_results_)
        self.best_params_ = self.cv_results_["params"][self.best_index_]
        if not callable(self.refit):
            self.best_score_ = self.cv_results_[f"mean_test_{metric}"][self.best_index_]
        if self.lr_param_ is not None:
            default = self.estimator.get_params()[self.lr_param_]
            self.best_lr_ = self.best_params_.get(self.lr_param_, default)
            lrs = [params.get(self.lr_param_, default) for params in self.cv_results_["params"]]
            self.lr_curve_ = lr_curve(lrs, self.cell_scores_, self.cv_results_["status"])

    def _refit(self, experiment: Experiment, root: Any, world: AbstractContextManager) -> None:
        self.best_estimator_ = clone(experiment.estimator).set_params(**clone(self.best_params_, safe=False))
        X, y, params = experiment.X, experiment.y, experiment.fit_params
        context = root.subcontext(task_name="refit-with-best-params")
        hook = {"estimator": self, "X": X, "y": y, "metadata": _metadata(params)}
        start = time.time()
        with context.propagate_callback_context(self.best_estimator_), world:
            context.call_on_fit_task_begin(**hook)
            self.best_estimator_.fit(*((X,) if y is None else (X, y)), **params)
        self.refit_time_ = time.time() - start
        if hasattr(self.best_estimator_, "feature_names_in_"):
            self.feature_names_in_ = self.best_estimator_.feature_names_in_
        context.call_on_fit_task_end(**hook)


def _metadata(params: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what scikit-learn's callbacks may see of the fit parameters."""
    weight = params.get("sample_weight")
    return None if weight is None else {"sample_weight": weight}


def _has_callbacks(search: BaseSearchCV) -> bool:
    """Say whether scikit-learn's callbacks are set on the search or on anything in it."""
    parts = [search, search.estimator, *search.estimator.get_params().values()]
    return any(getattr(part, "_skl_callbacks", None) for part in parts)


def _prune_by_epoch(training: Training, ledger: Ledger) -> None:
    """Train epoch by epoch, and stop the candidates whose mean over the cells the study's pruner rejects."""
    epoch = 0
    while not training.done:
        scores = training.advance(1).valid_score
        if scores.shape[-1] == 0:
            continue
        ledger.report(epoch, scores[..., -1].mean(axis=1))
        epoch += 1
        pruned = ledger.should_prune()
        if pruned.any() and not training.done:
            training.stop(np.repeat(pruned[:, None], scores.shape[1], axis=1), f"pruned after {epoch} epochs")
