"""The search all strategies share: cells drawn once, candidates trained by an engine, scikit-learn's results."""

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
from sklr.experiment.lr_param import check_lr_range, check_select, find_lr_param, lr_names
from sklr.experiment.validation_set import bring_validation, check_refit_on, for_all_rows
from sklr.search._advice import warn_of_idle_pruner
from sklr.search._evaluator import Evaluator
from sklr.search._interrupts import Deadline, check_timeout, sigterm_is_ctrl_c
from sklr.search._plan import Plan, plan
from sklr.search._progress import Progress
from sklr.search._running import TrainingSearchCV
from sklr.search._sklearn_callbacks import SearchTasks
from sklr.search._start import check_same, check_start, tried_by
from sklr.search._study import Ledger
from sklr.search.pruning.lr_path import lr_path
from sklr.search.pruning.pruners import check_pruner, make_pruner
from sklr.search.storage.address import check_storage
from sklr.search.storage.fingerprint import HEAD, header
from sklr.search.storage.stages import Stages
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
        """Check every parameter of the strategy, before any training; return the space `_propose` is given."""

    @abstractmethod
    def _propose(
        self, space: Any, ledger: Ledger, random_state: np.random.RandomState
    ) -> Generator[list[dict], np.ndarray, None]:
        """Yield lists of candidates; each `yield` returns their mean scores, NaN where a candidate has none."""

    def _make_study(self, random_state: np.random.RandomState, stages: Stages = ()) -> optuna.Study:
        """Return the study that records the search."""
        return quiet_study()

    def _counts(self) -> list[float]:
        """Return how many candidates are asked for in each space, where they are not listed from the start."""
        return []

    def _search_rows(self, n_samples: int, random_state: np.random.RandomState) -> np.ndarray | None:
        """Return the rows to search on, None for all."""
        return None

    def _draw_cells(
        self, cv: Any, X: Any, y: Any, split_params: dict, rows: np.ndarray | None, random_state: np.random.RandomState
    ) -> list[Cell]:
        """Return the folds and seeds every candidate will meet."""
        return draw_cells(cv, X, y, split_params, n_seeds=self.n_seeds, rows=rows, random_state=random_state)

    def _n_candidates(self, space: Any) -> int | None:
        """Return how many candidates will be proposed, None if that is not known before."""
        return None

    def _prunes(self) -> bool:
        """Whether the study's pruner is asked after every epoch."""
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
            Training rows. Of a map-style Dataset items are read as they are needed, in every epoch anew. A DataLoader
            stands for its dataset; its batch size, shuffling, workers and collate function become the net's.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Targets. Those of a Dataset are looked up in its `targets`, `labels` or `tensors`, else each item is read
            once for them; folds and scores use them, while the training goes by the items.
        validation : Dataset, DataLoader, or tuple (X, y), default=None
            A fixed validation set in the place of `cv`: every candidate is trained on `X` and scored on it, with each
            of `n_seeds` seeds.
        eval_dataset : Dataset, default=None
            The items of `X`, by the same numbers, as they are to be predicted: without random augmentation, say.
            Without it test folds are read as `X` reads them.
        refit_on : {"train", "all"}, default="train"
            What the best candidate is trained on in the end, where there is a validation set. ``"train"``: `X` alone,
            so that `best_score_` is the score of such a net. ``"all"``: the validation rows as well, shuffled with
            those of `X`; in `sample_weight` they count 1.
        start : fitted search, optional
            A search of any of the three kinds, on the same data, from which to go on: with a strategy that learns after
            one that covers the space, or in a smaller space. Its folds and seeds are taken over. What it has tried is
            not trained again, stands first in `cv_results_`, and is known to the strategy where it lies in the new
            space; `n_iter`, `n_trials` and the grid come on top.
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
        NoScoreError
            If the scorer returned NaN for all candidates, so that there is none to refit.
        """
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
        """Return the data as a search works with it, checked as far as that can be done without reading it."""
        check_is_object("estimator", self.estimator)
        data = bring(X, y, eval_dataset, net=self.estimator, whole=validation is not None)
        check_takes_rows(self.estimator, data.X)
        check_rows(data.X)
        if validation is None:
            return data
        if self.cv is not None:
            raise ValueError(must_be("cv", "left out where there is a validation set", self.cv, "Give one of them."))
        return bring_validation(data, validation, self.estimator)

    def _fit(self, space: Any, data: Brought, params: dict[str, Any], refit_on: str, start: Any = None) -> None:
        deadline = Deadline(self.timeout)
        data = indexed(data)
        params = take_params(data.X, params=for_all_rows(params, data))
        book = None if self.storage is None else Book(self.storage, self.study_name, self.resume)
        random_state = check_random_state(self.random_state) if book is None else book.random_state(self.random_state)
        tasks = SearchTasks(self, data.X, data.y, params)
        cells = None if start is None else start.cells_
        experiment = self._experiment(data, params, random_state, steady_folds=book is not None, cells=cells)
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
        """Set `study_`, and say in it what the search is about."""
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
        """Count what a fitted search has tried."""
        candidates, rows = tried_by(start)
        in_study = evaluator.ledger.study is start.study_
        if not in_study:
            self._place(space, evaluator.ledger, candidates)
        evaluator.recall(candidates, rows, start.engine_, in_study)

    def _place(self, space: Any, ledger: Ledger, candidates: list[dict]) -> None:
        """Open trials for candidates that are known, where the study's sampler is to learn from them."""

    def plan(self, X: Any, y: Any = None, *, validation: Any = None, eval_dataset: Any = None, **params: Any) -> Plan:
        """Say what `fit` would cost, without training: candidates, runs, epochs, steps, stacks, memory.

        Parameters
        ----------
        X, y, validation, eval_dataset, **params
            As `fit` takes them.

        Returns
        -------
        plan : Plan
            Print it, or read its attributes. A strategy that proposes as it learns is taken to go on as it begins.
        """
        if hasattr(self.cv, "__next__"):
            self.cv: Any = list(self.cv)  # folds that can be read once only: `fit` is to have them too
        with global_generators_kept():
            return self._twin()._plan(self._bring(X, y, validation, eval_dataset), params)

    def _twin(self) -> BaseLRSearchCV:
        """Return a copy, on which everything that `fit` sets can be set, and drawn from what it draws from."""
        twin = copy(self)
        for name, value in self.get_params(deep=False).items():
            if name not in ("storage", "study", "callbacks"):
                with suppress(Exception):  # what cannot be copied is no generator of random numbers
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
        tags.target_tags = deepcopy(get_tags(self.estimator).target_tags)  # a search takes the targets it passes on
        return tags

    def _check(self, y: Any) -> Any:
        """Check all that can be checked without training, cheapest first."""
        check_lr_range(self.lr_range)
        check_count("n_seeds", self.n_seeds)
        check_engine(self.engine)
        check_select(self.select, self.confidence)
        check_flag("extend", self.extend)
        check_flag("progress", self.progress)
        if check_pruner(self.pruner):
            find_lr_param(self.estimator, self.lr_param)  # whose learning rates are pruned must be known
        check_timeout(self.timeout)
        check_storage(self.storage, self.study_name, self.resume)
        self._known_lr_param()
        self._get_scorers()
        if y is None and get_tags(self.estimator).target_tags.required:
            name = type(self.estimator).__name__
            raise ValueError(f"This {name} estimator requires y to be passed, but the target y is None.")
        return self._check_space()

    def _advise(self) -> None:
        """Warn of settings that have no effect, or another one than they seem to."""
        warn_of_idle_pruner(self)

    def _forget(self) -> None:
        """Drop what an earlier `fit` found: should this one be interrupted, the two must not stand side by side."""
        for name in [name for name in vars(self) if name.endswith("_") or name == "_cell_scores"]:
            delattr(self, name)

    def _known_lr_param(self) -> str | None:
        """Return the name of the learning rate, None where there is no telling; a strategy that needs it will ask."""
        if self.lr_param is None and len(lr_names(self.estimator)) != 1:
            return None
        return find_lr_param(self.estimator, self.lr_param)
