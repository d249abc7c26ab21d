"""Bayesian search: a surrogate model of the score proposes the next candidates (scikit-optimize's `Optimizer`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from inspect import signature
from typing import Any

import numpy as np
from optuna.pruners import BasePruner
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import check_is_fitted
from skopt import Optimizer

from sklr._utils.validation import check_count
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
from sklr.search._study import Ledger
from sklr.search.proposals.dimension_types import Dimension, Range
from sklr.search.proposals.dimensions import ranges_of, to_dimension
from sklr.search.proposals.skopt_optimizer import Surrogate
from sklr.search.storage.stages import left_in_stage

OPTIMIZER_KWARGS = [name for name in signature(Optimizer).parameters if name != "dimensions"]


@dataclass(frozen=True)
class Subspace:
    """One search space: its dimensions, sorted by name, and how many candidates to try in it."""

    dimensions: Mapping[str, Dimension]
    n_iter: int


class BayesSearchCV(BaseLRSearchCV):
    """Bayesian optimization of the learning rate with cross-validation.

    `BayesSearchCV(net).fit(X, y)` starts with an even cover of 1e-5 to 1; then a Gaussian process, fitted to the scores
    so far, proposes the next learning rates. Code for scikit-optimize's `BayesSearchCV` runs unchanged.

    Parameters
    ----------
    estimator : estimator
        A net, a Pipeline or TransformedTargetRegressor around one, or any scikit-learn estimator.
    search_spaces : dict, list of dict or list of (dict, int), optional
        A dimension for each parameter: a scikit-optimize dimension or its tuple `(1e-5, 0.1, "log-uniform")`, a
        list of choices of any type, an Optuna distribution or a frozen scipy distribution. Several dicts are
        searched one after the other, each with `n_iter` candidates or with the int paired with it. None searches
        the learning rate alone. A list always means choices, never a range.
    lr_range : tuple (low, high), optional
        The range of the learning rate, by default (1e-5, 1.0) if `search_spaces` is None. If you give it, the learning
        rate is also searched in each space that has none.
    n_iter : int
        How many candidates to try in each space. In a space with fewer points each is tried once.
    n_points : int, optional
        How many candidates to propose and train together. None trains the initial cover together, then an eighth of
        the remaining budget at a time, so that each proposal knows most of the earlier scores; one at a time if a
        callback may end the search.
    optimizer_kwargs : dict, optional
        Passed to `skopt.Optimizer`, such as `{"base_estimator": "RF"}` or `{"n_initial_points": 10}`. The initial
        points are an even cover with half of `n_iter` (at least 4, at most about 10) unless `n_initial_points` or
        `initial_point_generator` is given. If a single continuous parameter is searched and neither `base_estimator`
        nor an `acq_*` option is given, sklr's own Gaussian process for LR curves proposes: it ignores the first
        learning rate beyond the cliff where training breaks down, and multiplies the expected improvement by the
        probability of staying below that cliff.
        `"GP"`, `"RF"`, `"ET"`, `"DUMMY"` (no model, the even cover alone) and regressors with `return_std` work.
    scoring, n_jobs, refit, cv, n_seeds, engine, verbose, pre_dispatch, error_score, return_train_score, lr_param, \
select, confidence, extend, pruner, timeout, storage, study_name, resume, progress
        As in `LRGridSearchCV`.
    random_state : int, RandomState instance or None
        Determines seeds, folds and proposals.

    Attributes
    ----------
    optimizer_results_ : list of scipy.optimize.OptimizeResult
        One for each space, of the negated scores; a diverged candidate gets the worst finite value.
    optimizers_ : list of skopt.Optimizer
        The optimizer of each space.
    total_iterations : int
        How many candidates `fit` will try at most.

    Raises
    ------
    ValueError
        From `fit`, before any training, for a value that cannot be searched.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.ensemble import GradientBoostingClassifier
    >>> from sklr.search._bayes import BayesSearchCV
    >>> X, y = load_iris(return_X_y=True)
    >>> model = GradientBoostingClassifier(n_estimators=3, random_state=0)
    >>> search = BayesSearchCV(model, n_iter=6, n_points=2, cv=3, random_state=0).fit(X, y)
    >>> len(search.cv_results_["params"]), search.total_iterations, search.best_lr_ > 1e-3
    (6, 6, True)
    """

    # Both are consumed by this class, never by the estimator, so scikit-learn must not route them.
    __metadata_request__fit = {"groups": UNUSED, "callback": UNUSED}  # noqa: RUF012

    _callbacks: Sequence[Callable[[Any], Any]] = ()  # during `fit`

    def __init__(
        self,
        estimator: Any,
        search_spaces: Any = None,
        *,
        lr_range: tuple[float, float] | None = None,
        n_iter: int = 16,
        n_points: int | None = None,
        optimizer_kwargs: dict[str, Any] | None = None,
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
        timeout: float | None = None,
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
        self.search_spaces = search_spaces
        self.n_iter = n_iter
        self.n_points = n_points
        self.optimizer_kwargs = optimizer_kwargs

    def fit(self, X: Any, y: Any = None, *, groups: Any = None, callback: Any = None, **params: Any) -> BayesSearchCV:
        """Search, then train the best candidate on all of the data.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), Dataset or DataLoader
            As in `LRGridSearchCV.fit`.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), optional
        groups : array-like of shape (n_samples,), optional
            Group labels, for a splitter that keeps groups together.
        callback : callable or list of callables, optional
            Called as `callback(result)` with the `OptimizeResult` so far after every batch of candidates. If one
            returns True, the search of the current space ends, as in scikit-optimize.
        **params : dict
            `validation`, `eval_dataset`, `refit_on` and `start` as in `LRGridSearchCV.fit`; others, such as
            `sample_weight`, are passed on as in `GridSearchCV.fit`.

        Returns
        -------
        self : BayesSearchCV
        """
        self._callbacks = _check_callbacks(callback)
        try:
            given = params if groups is None else {**params, "groups": groups}
            super().fit(X, y, **given)
        finally:
            del self._callbacks  # callbacks often cannot be pickled, and a fitted search must be
        return self

    @property
    def total_iterations(self) -> int:
        """How many candidates `fit` will try at most, over all spaces."""
        if self.search_spaces is None or isinstance(self.search_spaces, Mapping):
            return self.n_iter
        return sum(space[1] if isinstance(space, tuple) else self.n_iter for space in self.search_spaces)

    @property
    def optimizer_results_(self) -> list[Any]:
        """The `OptimizeResult` of each space, with the negated scores."""
        check_is_fitted(self, "optimizers_")
        return [optimizer.get_result() for optimizer in self.optimizers_]

    def _check_space(self) -> list[Subspace]:
        n_iter = check_count("n_iter", self.n_iter)
        if self.n_points is not None:
            check_count("n_points", self.n_points)
        _check_optimizer_kwargs(self.optimizer_kwargs)
        if self.search_spaces is None:
            spaces = [Subspace(self._lr_dimension(), n_iter)]
        else:
            spaces = [self._check_subspace(space, n_iter) for space in _as_list(self.search_spaces)]
        for space in spaces:
            # runs scikit-optimize's own checks before any training
            self._surrogate(space, space.n_iter, np.random.RandomState(0))
        return spaces

    def _check_subspace(self, space: Any, n_iter: int) -> Subspace:
        if isinstance(space, tuple) and len(space) == 2:
            space, n_iter = space[0], check_count("the int in a (dict, int) of search_spaces", space[1])
        if not isinstance(space, Mapping) or not space:
            raise ValueError(
                f"search_spaces must hold non-empty dicts of dimensions, or (dict, int) tuples, got {space!r}. "
                "Write for example {'lr': (1e-5, 1.0, 'log-uniform')}."
            )
        check_names(self.estimator, space)
        named = {name: to_dimension(f"search_spaces[{name!r}]", space[name]) for name in sorted(space)}
        for name in filter(partial(is_lr, lr_param=self.lr_param), named):
            check_lr_dimension(f"search_spaces[{name!r}]", named[name], lr_now(self.estimator, name, named))
        if self.lr_range is not None and not has_lr(space, self.lr_param):
            named |= self._lr_dimension()
        return Subspace(named, n_iter)

    def _lr_dimension(self) -> dict[str, Dimension]:
        return {find_lr_param(self.estimator, self.lr_param): Range(*range_to_search(self.lr_range), log=True)}

    def _ranges(self) -> dict[str, Range]:
        return ranges_of([space.dimensions for space in self._check_space()])

    def _advise(self) -> None:
        super()._advise()
        if self.search_spaces is None:
            return
        spaces = [space[0] if isinstance(space, tuple) else space for space in _as_list(self.search_spaces)]
        warn_of_idle_settings(self, "search_spaces", spaces)
        present = self.estimator.get_params()
        for space in spaces:
            for name, given in space.items():
                what, lr = f"search_spaces[{name!r}]", is_lr(name, self.lr_param)
                warn_of_two_choices(what, given, present.get(name), lr)
                if lr:
                    warn_of_linear_lr(what, to_dimension(what, given))

    def _surrogate(self, space: Subspace, n_iter: float, random_state: np.random.RandomState) -> Surrogate:
        n_points = 1 if self.n_points is None and self._callbacks else self.n_points
        kwargs = deepcopy(self.optimizer_kwargs or {})  # `fit` must not change a model or a generator in there
        return Surrogate(space.dimensions, int(n_iter), n_points, kwargs, random_state)

    def _counts(self) -> list[float]:
        given = [None] if self.search_spaces is None else _as_list(self.search_spaces)
        return [space[1] if isinstance(space, tuple) else self.n_iter for space in given]

    def _n_candidates(self, space: list[Subspace]) -> int:
        return sum(int(min(s.n_iter, math.prod(d.size for d in s.dimensions.values()))) for s in space)

    def _propose(
        self, space: list[Subspace], ledger: Ledger, random_state: np.random.RandomState
    ) -> Generator[list[dict[str, Any]], np.ndarray, None]:
        self.optimizers_: list[Optimizer] = []
        stages = ledger.stages or [[subspace.n_iter for subspace in space]]
        # a seed for each space, so that a larger budget in one does not change the proposals in the next
        seeds = random_state.randint(2**31 - 1, size=len(space)) if len(space) > 1 else [None]
        for i, (subspace, seed) in enumerate(zip(space, seeds, strict=True)):
            own = random_state if seed is None else np.random.RandomState(seed)
            surrogate = self._surrogate(subspace, stages[0][i], own)
            self.optimizers_.append(surrogate.optimizer)
            surrogate.recall(*ledger.known)
            yield from self._explore(surrogate, subspace.n_iter, partial(left_in_stage, stages, i))

    def _explore(
        self, surrogate: Surrogate, n_iter: int, left: Callable[[int], float]
    ) -> Generator[list[dict[str, Any]], np.ndarray, None]:
        done = 0
        while done < n_iter and (points := surrogate.ask(int(left(done)))[: n_iter - done]):
            scores = yield [surrogate.candidate(point) for point in points]
            result = surrogate.tell(points, scores)
            done += len(points)
            stops = [callback(result) for callback in self._callbacks]  # all are called, even after one has said stop
            if any(stops):
                return


def _as_list(search_spaces: Any) -> list[Any]:
    if isinstance(search_spaces, Mapping):
        return [search_spaces]
    if not isinstance(search_spaces, list) or not search_spaces:
        raise ValueError(
            "search_spaces must be a dict of parameter names and dimensions, or a non-empty list of such dicts, "
            f"got {search_spaces!r}. Write for example {{'lr': (1e-5, 1.0, 'log-uniform')}}, or leave it out."
        )
    return search_spaces


def _check_callbacks(callback: Any) -> Sequence[Callable[[Any], Any]]:
    callbacks = [] if callback is None else [callback] if callable(callback) else callback
    if not isinstance(callbacks, (list, tuple)) or not all(map(callable, callbacks)):
        raise ValueError(
            f"callback must be a callable or a list of callables, got {callback!r}. "
            "Write for example callback=lambda result: len(result.x_iters) >= 8."
        )
    return callbacks


def _check_optimizer_kwargs(kwargs: Any) -> None:
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise ValueError(
            f"optimizer_kwargs must be a dict, got {kwargs!r}. Write for example {{'base_estimator': 'RF'}}."
        )
    check_count("optimizer_kwargs['n_initial_points']", (kwargs or {}).get("n_initial_points", 1))
    for key in kwargs or {}:
        if key not in OPTIMIZER_KWARGS:
            near = get_close_matches(str(key), OPTIMIZER_KWARGS, n=1)
            advice = f"Did you mean {near[0]!r}?" if near else f"Known are {', '.join(OPTIMIZER_KWARGS)}."
            raise ValueError(f"optimizer_kwargs must have keys that skopt.Optimizer takes, got {key!r}. {advice}")
