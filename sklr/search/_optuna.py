"""Search with Optuna: any of its samplers, an existing study, callbacks."""

from __future__ import annotations

import copy
import time
from collections.abc import Generator, Mapping
from functools import partial
from typing import Any

import numpy as np
import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, BruteForceSampler, GridSampler
from sklearn.exceptions import FitFailedWarning
from sklearn.utils.metadata_routing import UNUSED

from sklr._utils.quiet_optuna import quiet_study
from sklr._utils.validation import check_count, must_be
from sklr._utils.warnings import warn
from sklr.experiment.lr_param import check_names, find_lr_param, range_to_search
from sklr.search._advice import (
    check_lr_dimension,
    has_lr,
    is_lr,
    lr_now,
    warn_of_idle_settings,
    warn_of_linear_lr,
    warn_of_two_choices,
)
from sklr.search._base import BaseLRSearchCV
from sklr.search._evaluator import Evaluator
from sklr.search._interrupts import stopped_by_callback
from sklr.search._study import Ledger
from sklr.search._study_attributes import StudyAttributes
from sklr.search.proposals.dimension_types import Range
from sklr.search.proposals.dimensions import ranges_of, raw_point
from sklr.search.proposals.even_cover import batch_size, start_size
from sklr.search.proposals.optuna_args import (
    Asked,
    ask_for,
    check_callbacks,
    check_catch,
    check_left_to_study,
    check_limits,
    check_sampler,
    check_subsample,
    drawn_rows,
)
from sklr.search.proposals.optuna_samplers import BLIND, make_sampler, with_seed
from sklr.search.storage.stages import Stages, left_in_stage

BLIND_BATCH = 4  # trials at a time from a sampler that does not learn, if a callback or a timeout may end the search
# Trials at a time from TPE for several parameters. It draws at random from a region, so four at a time find as much as
# one by one, while stacks of different shapes keep every core busy.
SEVERAL = 4


class OptunaSearchCV(StudyAttributes, BaseLRSearchCV):
    """Search for the learning rate with one of Optuna's samplers and cross-validation.

    `OptunaSearchCV(net).fit(X, y)` starts with an even cover of 1e-5 to 1; then TPE proposes. Every trial is in
    `study_`, an `optuna.Study`. Code for optuna-integration's `OptunaSearchCV` runs unchanged.

    Parameters
    ----------
    estimator : estimator
        A net, a Pipeline or TransformedTargetRegressor around one, or any scikit-learn estimator.
    param_distributions : dict, optional
        The space of each parameter: an Optuna distribution, a list of choices of any type, a scikit-optimize
        dimension or its tuple `(1e-5, 0.1, "log-uniform")`, or a frozen scipy distribution. None searches the
        learning rate alone.
    lr_range : tuple (low, high), optional
        The range of the learning rate, by default (1e-5, 1.0) if `param_distributions` is None. If you give it and
        `param_distributions` has no learning rate, the learning rate is searched along with the other parameters.
    n_trials : int or None
        How many candidates to try; None for as many as `timeout` or `callbacks` allow.
    sampler : {"tpe", "gp", "random", "sobol", "halton"} or optuna.samplers.BaseSampler
        What proposes the candidates. `"tpe"` and `"gp"` spend half of `n_trials` (at least 4, at most about 10) on an
        even cover. If a single continuous parameter is searched, TPE then proposes between the neighbours of the best
        trial, GP below the lowest learning rate that diverged or scored as badly, and candidates keep a distance of
        0.02 decades. A sampler object is copied before use; without a seed of its own it gets one from `random_state`.
    n_points : int, optional
        How many candidates to propose and train together. None trains the initial cover together, then an eighth of
        the remaining budget at a time; with TPE and several parameters at least four at a time. It proposes one at a
        time for a sampler object or a `study`, and if callbacks or a timeout may end the search. Samplers that do not
        learn from scores propose all candidates at once, or four at a time if the search may end early.
    study : optuna.Study, optional
        An existing study that maximizes, continued by `n_trials` more trials with its own sampler and pruner. None
        creates a new study in memory for every `fit`.
    subsample : float or int
        The fraction (float, up to 1) or the number (int) of rows to search on, drawn at random; the refit uses all.
    max_iter : int
        Ignored, accepted for compatibility: a net trains for its own `max_epochs`, in the search and in the refit.
    enable_pruning : bool
        Whether to prune with the study's own pruner (Optuna's `MedianPruner` if no `study` is given); for code written
        for optuna-integration. New code should use `pruner`.
    callbacks : list of callables, optional
        Each is called as `callback(study, trial)` after each trial; `study.stop()` in one ends the search.
    catch : exception type or tuple of them
        With `error_score="raise"`, a trial that raises one of these fails and the search goes on; candidates are then
        trained one at a time.
    scoring, n_jobs, refit, cv, n_seeds, engine, verbose, pre_dispatch, error_score, return_train_score, lr_param, \
select, confidence, extend, pruner, timeout, storage, study_name, resume, progress
        As in `LRGridSearchCV`.
    random_state : int, RandomState instance or None
        Determines seeds, folds, subsample and proposals.

    Attributes
    ----------
    study_ : optuna.Study
        The record of all trials. A diverged trial has a value below every score and says so in its user attribute
        `status`. Choices that Optuna cannot store (tuples, classes) appear as their repr or index. With a `storage`
        the sampler learns from a copy in memory, so that a resumed search proposes the same candidates as one that was
        never interrupted; a sampler that is not one of Optuna's needs a seed for that.
    trials_, best_trial_, n_trials_, user_attrs_
        The attributes of that study.
    sample_indices_ : ndarray of shape (n_rows,)
        Indices of the rows searched on.

    Raises
    ------
    ValueError
        From `fit`, before any training, if a parameter is invalid.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.ensemble import GradientBoostingClassifier
    >>> from sklr.search._optuna import OptunaSearchCV
    >>> X, y = load_iris(return_X_y=True)
    >>> model = GradientBoostingClassifier(n_estimators=3, random_state=0)
    >>> search = OptunaSearchCV(model, n_trials=5, sampler="sobol", cv=3, random_state=0).fit(X, y)
    >>> search.n_trials_, search.best_trial_.params == search.best_params_
    (5, True)
    """

    # `fit` passes it to the splitter itself, as in BayesSearchCV, so scikit-learn must not route it.
    __metadata_request__fit = {"groups": UNUSED}  # noqa: RUF012

    def __init__(
        self,
        estimator: Any,
        param_distributions: Any = None,
        *,
        lr_range: tuple[float, float] | None = None,
        n_trials: int | None = 16,
        sampler: str | BaseSampler = "tpe",
        n_points: int | None = None,
        timeout: float | None = None,
        study: optuna.Study | None = None,
        subsample: float | int = 1.0,
        max_iter: int = 1000,
        enable_pruning: bool = False,
        callbacks: Any = None,
        catch: Any = (),
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
        pruner: str | BasePruner | None = None,
        storage: Any = None,
        study_name: str | None = None,
        resume: bool = False,
        progress: bool = False,
    ):
        super().__init__(
            estimator,
            lr_range=lr_range,
            scoring=scoring,
            n_jobs=n_jobs,
            refit=refit,
            cv=cv,
            n_seeds=n_seeds,
            engine=engine,
            verbose=verbose,
            pre_dispatch=pre_dispatch,
            error_score=error_score,
            return_train_score=return_train_score,
            random_state=random_state,
            lr_param=lr_param,
            select=select,
            confidence=confidence,
            extend=extend,
            pruner=pruner,
            timeout=timeout,
            storage=storage,
            study_name=study_name,
            resume=resume,
            progress=progress,
        )
        self.param_distributions = param_distributions
        self.n_trials = n_trials
        self.sampler = sampler
        self.n_points = n_points
        self.study = study
        self.subsample = subsample
        self.max_iter = max_iter
        self.enable_pruning = enable_pruning
        self.callbacks = callbacks
        self.catch = catch

    def fit(self, X: Any, y: Any = None, groups: Any = None, **params: Any) -> OptunaSearchCV:
        """Search, then train the best candidate on all of the data.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), Dataset or DataLoader
            As in `LRGridSearchCV.fit`.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), optional
        groups : array-like of shape (n_samples,), optional
            Group labels, for a splitter that keeps groups together.
        **params : dict
            `validation`, `eval_dataset`, `refit_on` and `start` as in `LRGridSearchCV.fit`; others, such as
            `sample_weight`, are passed on as in `GridSearchCV.fit`.

        Returns
        -------
        self : OptunaSearchCV
        """
        super().fit(X, y, **(params if groups is None else {**params, "groups": groups}))
        return self

    def _check_space(self) -> dict[str, Asked]:
        if self.n_points is not None:
            check_count("n_points", self.n_points)
        check_count("max_iter", self.max_iter)
        check_limits(self.n_trials, self.timeout, bool(self.callbacks))
        check_sampler(self.sampler, self.study)
        if self.study is not None:
            check_left_to_study(self.storage, self.pruner)
        check_subsample(self.subsample)
        check_callbacks(self.callbacks)
        check_catch(self.catch)
        return self._asked()

    def _asked(self) -> dict[str, Asked]:
        lr = Range(*range_to_search(self.lr_range), log=True)
        given = self.param_distributions
        if given is None:
            given = {find_lr_param(self.estimator, self.lr_param): lr}
        if not isinstance(given, Mapping) or not given:
            advice = "Write for example {'lr': (1e-5, 1.0, 'log-uniform')}, or leave it out."
            raise ValueError(must_be("param_distributions", "a non-empty dict of distributions", given, advice))
        check_names(self.estimator, given)
        if self.lr_range is not None and not has_lr(given, self.lr_param):
            given = {**given, find_lr_param(self.estimator, self.lr_param): lr}
        ask = partial(ask_for, stored=self.storage is not None)
        asked = {name: ask(f"param_distributions[{name!r}]", value) for name, value in given.items()}
        for name in filter(partial(is_lr, lr_param=self.lr_param), asked):
            now = lr_now(self.estimator, name, asked)
            check_lr_dimension(f"param_distributions[{name!r}]", asked[name].dimension, now)
        return asked

    def _ranges(self) -> dict[str, Range]:
        return ranges_of([{name: asked.dimension for name, asked in self._asked().items()}])

    def _advise(self) -> None:
        super()._advise()
        if self.param_distributions is not None:
            warn_of_idle_settings(self, "param_distributions", [self.param_distributions])
        for name in filter(partial(is_lr, lr_param=self.lr_param), asked := self._asked()):
            warn_of_linear_lr(f"param_distributions[{name!r}]", asked[name].dimension)
        if isinstance(self.sampler, GridSampler | BruteForceSampler):
            return  # these samplers try every choice of a list, so a list is what their users mean
        present = self.estimator.get_params()
        for name, given in (self.param_distributions or {}).items():
            what = f"param_distributions[{name!r}]"
            warn_of_two_choices(what, given, present.get(name), is_lr(name, self.lr_param))

    def _make_study(self, random_state: np.random.RandomState, stages: Stages = ()) -> optuna.Study:
        if self.study is not None:
            return self.study
        return quiet_study(self._make_sampler(random_state.randint(2**31 - 1), stages or [self._counts()]))

    def _make_sampler(self, seed: int, stages: Stages) -> BaseSampler:
        if isinstance(self.sampler, BaseSampler):
            return with_seed(copy.deepcopy(self.sampler), seed)  # `fit` must not change the search's parameters
        raws = {name: asked.dimension for name, asked in self._asked().items()}
        return make_sampler(self.sampler, raws, self._n_start(stages), seed)

    def _n_start(self, stages: Stages) -> int:
        """Return how many trials cover the space evenly before the sampler learns from scores."""
        first = stages[0][0]
        return start_size(16 if first == np.inf else int(first), self.n_points or 1)

    def _search_rows(self, n_samples: int, random_state: np.random.RandomState) -> np.ndarray | None:
        self.sample_indices_ = drawn_rows(self.subsample, n_samples, random_state)
        return None if len(self.sample_indices_) == n_samples else self.sample_indices_

    def _n_candidates(self, space: dict[str, Asked]) -> int | None:
        return self.n_trials

    def _counts(self) -> list[float]:
        return [np.inf if self.n_trials is None else self.n_trials]

    def _prunes(self) -> bool:
        return bool(self.enable_pruning) or super()._prunes()

    def _place(self, space: dict[str, Asked], ledger: Ledger, candidates: list[dict]) -> None:
        dimensions = {name: asked.dimension for name, asked in space.items()}
        raws = [raw_point(candidate, dimensions) for candidate in candidates]
        ledger.place(raws, {name: asked.distribution for name, asked in space.items()})

    def _propose(
        self, space: dict[str, Asked], ledger: Ledger, random_state: np.random.RandomState
    ) -> Generator[list[dict[str, Any]], np.ndarray, None]:
        deadline = None if self.timeout is None else time.monotonic() + self.timeout
        distributions = {name: asked.distribution for name, asked in space.items()}
        (n_trials,) = self._counts()
        stages = ledger.stages or [[n_trials]]
        n_known = len(ledger.known.candidates)
        while (done := ledger.n_opened - n_known) < n_trials:
            first = len(ledger.study.get_trials(deepcopy=False))
            left = left_in_stage(stages, 0, done)
            n = min(n_trials - done, left, self._batch(done + n_known, self._n_start(stages), left, len(space)))
            raws = ledger.ask(distributions, n=int(n))
            yield [{name: space[name].dimension.decode(raw) for name, raw in params.items()} for params in raws]
            stopped = stopped_by_callback(ledger.study, self.callbacks or (), first) or ledger.stopped
            if stopped or (deadline is not None and time.monotonic() >= deadline):
                return

    def _batch(self, n_done: int, n_start: int, left: float, n_parameters: int) -> float:
        """Return how many trials to ask for at a time; with fewer, each proposal knows more of the earlier scores."""
        if self.catch:
            return 1
        stops_early = bool(self.callbacks) or self.timeout is not None
        blind = self.study is None and self.sampler in BLIND
        if blind and not stops_early:
            return np.inf
        if self.n_points is not None or blind:
            return self.n_points or BLIND_BATCH
        ours = self.study is None and isinstance(self.sampler, str)
        if not ours or stops_early:
            return 1
        least = SEVERAL if self.sampler == "tpe" and n_parameters > 1 and n_done >= n_start else 1
        return max(batch_size(n_done, n_start, left), least)

    def _evaluate(self, evaluator: Evaluator, candidates: list[dict]) -> np.ndarray:
        catch: tuple[type[Exception], ...] = (self.catch,) if isinstance(self.catch, type) else tuple(self.catch)
        try:
            return super()._evaluate(evaluator, candidates)
        except catch as error:
            evaluator.ledger.abandon()
            warn(f"A trial failed with {error!r}. The search goes on: catch includes this exception.", FitFailedWarning)
            return np.full(len(candidates), np.nan)
