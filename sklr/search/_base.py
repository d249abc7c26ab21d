"""The base class of the searches: parameters, checks, and the steps of `fit`."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Generator
from contextlib import suppress
from copy import copy, deepcopy
from typing import Any

import numpy as np
import optuna
from sklearn.utils import Tags, check_random_state, get_tags
from sklearn.utils.metadata_routing import UNUSED

from sklr._utils.quiet_optuna import quiet_study
from sklr._utils.random import global_generators_kept
from sklr._utils.sklearn import fit_context, take_params
from sklr._utils.validation import check_count, check_flag, check_is_object, must_be
from sklr.engines import check_engine
from sklr.experiment.cell_data import check_rows
from sklr.experiment.datasets import Brought, bring, check_takes_rows, indexed
from sklr.experiment.experiment import Cell, Experiment
from sklr.experiment.folds import MAX_SEED, draw_cells
from sklr.experiment.lr_param import check_select, find_lr_param, lr_names, range_to_search
from sklr.experiment.validation_set import bring_validation, check_refit_on, for_all_rows
from sklr.experiment.wrappers import net_name, net_of
from sklr.nets._parts import NetParts
from sklr.search._advice import warn_of_idle_pruner
from sklr.search._evaluator import Evaluator
from sklr.search._interrupts import Deadline, check_timeout, sigterm_is_ctrl_c
from sklr.search._plan import Plan, plan
from sklr.search._progress import Progress
from sklr.search._running import TrainingSearchCV
from sklr.search._scoring import check_scoring_arguments, check_scoring_names
from sklr.search._sklearn_callbacks import SearchTasks
from sklr.search._start import check_same, check_start, tried_by
from sklr.search._study import Ledger
from sklr.search.pruning.lr_path import lr_path
from sklr.search.pruning.pruners import check_pruner, make_pruner
from sklr.search.storage.address import check_storage
from sklr.search.storage.fingerprint import HEAD, header
from sklr.search.storage.stages import Stages
from sklr.search.storage.stored_estimator import check_given_again
from sklr.search.storage.stored_study import Book


class BaseLRSearchCV(TrainingSearchCV):
    """Cross-validated search for the learning rate; a strategy adds `_check_space` and `_propose`.

    Parameters are described in the strategies. See `LRGridSearchCV`, `BayesSearchCV` and `OptunaSearchCV`.
    """

    # data, not metadata that scikit-learn could route
    __metadata_request__fit = {"validation": UNUSED, "eval_dataset": UNUSED, "refit_on": UNUSED, "start": UNUSED}  # noqa: RUF012

    def __init__(
        self,
        estimator: Any,
        *,
        lr_range: Any = None,
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
        select: str = "best",
        confidence: float = 0.9,
        extend: bool = False,
        pruner: Any = None,
        timeout: float | None = None,
        storage: Any = None,
        study_name: str | None = None,
        resume: bool = False,
        progress: bool = False,
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
        self.select = select
        self.confidence = confidence
        self.extend = extend
        self.pruner = pruner
        self.timeout = timeout
        self.storage = storage
        self.study_name = study_name
        self.resume = resume
        self.progress = progress

    @abstractmethod
    def _check_space(self) -> Any:
        """Check every parameter of the strategy before any training; return the space that `_propose` receives."""

    @abstractmethod
    def _propose(
        self, space: Any, ledger: Ledger, random_state: np.random.RandomState
    ) -> Generator[list[dict], np.ndarray, None]:
        """Yield lists of candidates; each `yield` returns their mean scores, NaN for a candidate without one."""

    def _make_study(self, random_state: np.random.RandomState, stages: Stages = ()) -> optuna.Study:
        """Return the study that records the search."""
        return quiet_study()

    def _counts(self) -> list[float]:
        """Return the budget of each search space, in candidates; empty where they are all listed from the start."""
        return []

    def _search_rows(self, n_samples: int, random_state: np.random.RandomState) -> np.ndarray | None:
        """Return the indices of the rows to search on; None means all rows."""
        return None

    def _draw_cells(
        self, cv: Any, X: Any, y: Any, split_params: dict, rows: np.ndarray | None, random_state: np.random.RandomState
    ) -> list[Cell]:
        """Return the cells, the pairs of fold and seed, in which every candidate is trained."""
        return draw_cells(cv, X, y, split_params, n_seeds=self.n_seeds, rows=rows, random_state=random_state)

    def _n_candidates(self, space: Any) -> int | None:
        """Return how many candidates will be proposed; None if that is not known in advance."""
        return None

    def _prunes(self) -> bool:
        """Whether the study's pruner is called after every epoch."""
        return self.pruner is not None

    @fit_context(prefer_skip_nested_validation=False)
    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        validation: Any = None,
        eval_dataset: Any = None,
        refit_on: str = "train",
        start: Any = None,
        **params: Any,
    ) -> BaseLRSearchCV:
        """Search, then train the best candidate on all rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), Dataset, DataLoader, or whatever the estimator takes
            Training rows. The items of a map-style Dataset are read when they are needed, again in every epoch. A
            DataLoader is replaced by its dataset; the net takes over its batch size, shuffling, workers and collate
            function.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Targets. For a Dataset they are taken from its `targets`, `labels` or `tensors`; if it has none of these,
            each item is read once. Folds and scores use these targets, training uses those in the items.
        validation : Dataset, DataLoader, or tuple (X, y), default=None
            A fixed validation set instead of `cv`: every candidate is trained on `X` and scored on this set, with each
            of `n_seeds` seeds.
        eval_dataset : Dataset, default=None
            The same items as `X`, at the same indices, as they are read for prediction, for example without random
            augmentation. By default test folds are read from `X`.
        refit_on : {"train", "all"}, default="train"
            What the best candidate is finally trained on when there is a validation set. ``"train"``: `X` alone, so
            that `best_score_` belongs to a net trained on the same rows. ``"all"``: `X` and the validation rows,
            shuffled together; a validation row has weight 1 in `sample_weight`.
        start : fitted search, optional
            A fitted search of any of the three kinds, on the same data, to continue from: for example with a strategy
            that learns from scores, after a grid, or in a smaller space. Its folds and seeds are reused. Its candidates
            are not trained again; they come first in `cv_results_`, and the strategy learns from those that lie in the
            new space. `n_iter`, `n_trials` and the grid are counted in addition to them.
        **params : dict
            ``groups`` is passed to the splitter; the rest, such as ``sample_weight``, to the estimator's `fit` and to
            the scorer, split by rows, as in scikit-learn's searches.

        Returns
        -------
        self : object
            The fitted search.

        Raises
        ------
        ValueError
            Before any training, if a parameter is invalid; after it, if all fits failed.
        AllDivergedError
            If all candidates diverged or failed and at least one diverged.
        NoScoreError
            If the scorer returned NaN for every candidate, so that there is nothing to refit.
        """
        check_given_again(self)
        data = self._bring(X, y, validation, eval_dataset)
        check_refit_on(refit_on, data)
        if start is not None:
            check_start(start, self)
        space = self._check(data.y)
        self._advise()
        self._forget()
        with sigterm_is_ctrl_c():
            self._fit(space, data, params, refit_on, start)
        return self

    def _bring(self, X: Any, y: Any, validation: Any, eval_dataset: Any) -> Brought:
        """Return the data in the form that the search uses, after the checks that need no reading of the data."""
        data = bring(X, y, eval_dataset, net=self.estimator, whole=validation is not None)
        check_takes_rows(self.estimator, data.X)
        check_rows(data.X)
        if validation is None:
            return data
        if self.cv is not None:
            raise ValueError(must_be("cv", "left out if there is a validation set", self.cv, "Give one of them."))
        return bring_validation(data, validation, self.estimator)

    def _fit(self, space: Any, data: Brought, params: dict[str, Any], refit_on: str, start: Any = None) -> None:
        deadline = Deadline(self.timeout)
        data = indexed(data)
        params = take_params(data.X, params=for_all_rows(params, data))
        book = None if self.storage is None else Book(self.storage, self.study_name, self.resume)
        try:
            self._fit_in_book(book, deadline, space, data, params, refit_on, start)
        finally:
            if book is not None:
                book.close("not finished: an error ended the search")

    def _fit_in_book(
        self,
        book: Book | None,
        deadline: Deadline,
        space: Any,
        data: Brought,
        params: dict[str, Any],
        refit_on: str,
        start: Any,
    ) -> None:
        random_state = check_random_state(self.random_state) if book is None else book.random_state(self.random_state)
        tasks = SearchTasks(self, data.X, data.y, params)
        cells = None if start is None else start.cells_
        experiment = self._experiment(data, params, random_state, steady_folds=book is not None, cells=cells)
        # a seed for each part, so that the number of draws in one does not change the others
        for_study, for_proposals, for_refit = random_state.randint(MAX_SEED, size=3)
        head = header(self, experiment, params)
        if start is not None:
            check_same(head, json.loads(start.study_.user_attrs[HEAD]))
        ledger = self._open_ledger(book, experiment, head, np.random.RandomState(for_study))
        with Progress(self.progress, None if self.extend else self._n_candidates(space)) as progress:
            evaluator = self._evaluator(experiment, tasks, ledger, deadline, progress)
            if start is not None:
                self._start_from(start, evaluator, space)
            self._search(evaluator, space, np.random.RandomState(for_proposals))
        if self.refit:
            self._refit(experiment, tasks, for_refit, data.n_train if refit_on == "train" else None)
        tasks.end()

    def _open_ledger(
        self, book: Book | None, experiment: Experiment, head: dict[str, Any], random_state: np.random.RandomState
    ) -> Ledger:
        """Set `study_` and store the search's header in it."""
        stages: Stages = [self._counts()]
        if book is not None:
            book.agree(head)
            stages = book.stages(self._counts())
        study = self._make_study(random_state, stages)
        if self.pruner is not None:
            path = lr_path(experiment.estimator, {}, len(self.cells_[0].train))
            study.pruner = make_pruner(self.pruner, self.lr_param_, path)
        if book is None:
            study.set_user_attr(HEAD, json.dumps(head))
        self.study_ = study if book is None else book.study
        return Ledger(study, [self.lr_param_] if self.lr_param_ else [], book, experiment.metric, stages)

    def _start_from(self, start: Any, evaluator: Evaluator, space: Any) -> None:
        """Take over the candidates and outcomes of a fitted search."""
        candidates, rows = tried_by(start)
        in_study = evaluator.ledger.study is start.study_
        if not in_study:
            self._place(space, evaluator.ledger, candidates)
        evaluator.recall(candidates, rows, start.engine_, in_study)

    def _place(self, space: Any, ledger: Ledger, candidates: list[dict]) -> None:
        """Open trials for candidates of an earlier search, if the study's sampler is to learn from them."""

    def plan(self, X: Any, y: Any = None, *, validation: Any = None, eval_dataset: Any = None, **params: Any) -> Plan:
        """Estimate the cost of `fit` without training: candidates, runs, epochs, steps, stacks, memory.

        Parameters
        ----------
        X, y, validation, eval_dataset, **params
            As in `fit`.

        Returns
        -------
        plan : Plan
            Print it, or read its attributes. For a strategy that learns from scores, later candidates are assumed to
            cost as much as those proposed first.
        """
        if hasattr(self.cv, "__next__"):
            self.cv: Any = list(self.cv)  # an iterator can be read only once, and `fit` needs the folds too
        with global_generators_kept():
            return self._twin()._plan(self._bring(X, y, validation, eval_dataset), params)

    def _twin(self) -> BaseLRSearchCV:
        """Return a copy whose attributes can be set, and whose random generators can be used, without side effects."""
        twin = copy(self)
        for name, value in self.get_params(deep=False).items():
            if name not in ("storage", "study", "callbacks"):
                with suppress(Exception):  # only random generators need a copy, and those can be copied
                    setattr(twin, name, deepcopy(value))
        return twin

    def _plan(self, data: Brought, params: dict[str, Any]) -> Plan:
        space = self._check(data.y)
        random_state = check_random_state(self.random_state)
        data = indexed(data)
        experiment = self._experiment(data, take_params(data.X, params=for_all_rows(params, data)), random_state)
        ledger = Ledger(quiet_study(), stages=[self._counts()])
        batch = next(self._propose(space, ledger, np.random.RandomState(0)))
        ledger.abandon()
        return plan(experiment, self.engine, list(batch), self._n_candidates(space))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags = deepcopy(get_tags(self.estimator).target_tags)  # the search passes the targets on unchanged
        return tags

    def _validate_params(self) -> None:
        check_is_object("estimator", self.estimator)
        check_scoring_names(self.scoring)  # scikit-learn's own message lists all names there are
        super()._validate_params()

    def _check(self, y: Any) -> Any:
        """Check everything that can be checked without training, the cheapest first."""
        if isinstance(net := net_of(self.estimator), NetParts):
            net.check_names()  # `learning_rate`, which nets do not have, would count as a second learning rate
        range_to_search(self.lr_range)
        check_count("n_seeds", self.n_seeds)
        check_engine(self.engine)
        check_select(self.select, self.confidence)
        check_flag("extend", self.extend)
        check_flag("progress", self.progress)
        if check_pruner(self.pruner):
            find_lr_param(self.estimator, self.lr_param)  # LRPruner needs to know which parameter is the lr
        check_timeout(self.timeout)
        check_storage(self.storage, self.study_name, self.resume)
        self._known_lr_param()
        self._get_scorers()
        if net_name(self.estimator) is not None:  # for other estimators scikit-learn warns, and scores NaN
            check_scoring_arguments(self.scoring, y)
        if y is None and get_tags(self.estimator).target_tags.required:
            name = type(self.estimator).__name__
            raise ValueError(f"This {name} estimator requires y to be passed, but the target y is None.")
        return self._check_space()

    def _advise(self) -> None:
        """Warn about settings that have no effect, or not the effect they seem to have."""
        warn_of_idle_pruner(self)

    def _forget(self) -> None:
        """Delete the results of an earlier `fit`: if this one is interrupted, the two must not be mixed."""
        for name in [name for name in vars(self) if name.endswith("_") or name == "_cell_scores"]:
            delattr(self, name)

    def _known_lr_param(self) -> str | None:
        """Return the name of the learning rate, None if it is ambiguous; a strategy that needs it raises an error."""
        if self.lr_param is None and len(lr_names(self.estimator)) != 1:
            return None
        return find_lr_param(self.estimator, self.lr_param)
