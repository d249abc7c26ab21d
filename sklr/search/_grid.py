"""Grid search: every learning rate of a grid, combined with every value of the other parameters."""

from __future__ import annotations

import copy
from collections.abc import Generator, Mapping
from typing import Any

import numpy as np
from optuna.pruners import BasePruner
from sklearn.model_selection import ParameterGrid

from sklr._utils.validation import check_count, must_be
from sklr.experiment.lr_param import (
    check_lrs,
    check_names,
    find_lr_param,
    log_grid,
    lr_names,
    range_to_search,
)
from sklr.experiment.wrappers import A_NET, trains_nets
from sklr.range_test._ramp import Ramp, ramp_losses
from sklr.range_test._result import read
from sklr.search._advice import check_lr_dimension, has_lr, is_lr, lr_now, warn_of_idle_settings
from sklr.search._base import BaseLRSearchCV
from sklr.search._choice import finer
from sklr.search._evaluator import Evaluator
from sklr.search._study import Ledger
from sklr.search.proposals.dimension_types import Dimension
from sklr.search.proposals.dimensions import to_dimension
from sklr.search.storage.fingerprint import candidate_key

N_FINER = 4  # learning rates in each round after the first
POINTS_PER_RANGE = 5  # for a parameter other than the lr that is given as a range
RAMP = Ramp(1e-7, 10.0, 200)  # the range test of `lr_range="auto"`: lowest lr, highest lr, steps


class LRGridSearchCV(BaseLRSearchCV):
    """Try every learning rate of a grid with cross-validation, and keep the best one.

    `LRGridSearchCV(net).fit(X, y)` tries 11 learning rates between 1e-5 and 1. With a `param_grid` it is
    scikit-learn's `GridSearchCV`: the candidates, their order and `cv_results_` are the same, for any estimator.

    Parameters
    ----------
    estimator : estimator
        A net, a Pipeline or TransformedTargetRegressor around one, or any scikit-learn estimator.
    param_grid : dict or list of dict, optional
        Values to try for each parameter, as in `GridSearchCV`. Instead of a list, a parameter may have a range: a
        scikit-optimize dimension, `(1e-4, 1e-1, "log-uniform")`, an Optuna distribution or a frozen scipy distribution
        such as `loguniform(1e-4, 1e-1)`. It is cut into `n_lrs` values for the learning rate, into 5 for any other
        parameter. None searches the learning rate alone.
    lr_range : tuple (low, high) or "auto", optional
        The lowest and the highest learning rate, both tried. By default it is (1e-5, 1.0) if neither `lrs` nor
        `param_grid` is given. If you give it and there is a `param_grid` without a learning rate, each learning rate
        is combined with every candidate of that grid.
        ``"auto"``, for nets and pipelines that end in one, runs a range test in the search's own folds and seeds to
        find the highest learning rate at which training does not break down, and searches from four decades below it
        up to a third of it. See `lr_range_test`.
    n_lrs : int
        How many learning rates to try, evenly spaced on a logarithmic scale.
    rounds : int
        1 is the grid alone. Each further round tries 4 more learning rates between the best one and its neighbours,
        with the other parameters of the best candidate: two in each gap beside it, or four in the single gap if it is
        at an end of the grid. Neighbours that diverged count as well. If the learning rate alone is searched, that
        makes `n_lrs + 4 * (rounds - 1)` candidates in all, none twice; fewer once neighbours are nearer than 0.02
        decades.
    lrs : list of float, optional
        The learning rates themselves, instead of `lr_range` and `n_lrs`. If there is a `param_grid` without a learning
        rate, each learning rate is combined with every candidate of that grid.
    scoring, n_jobs, refit, cv, verbose, pre_dispatch, error_score, return_train_score
        As in `GridSearchCV`.
    n_seeds : int
        How many times each candidate is trained on each fold, with different random seeds. All candidates are trained
        with the same folds and seeds.
    engine : {"auto", "stacked", "sequential"} or Engine
        What trains the candidates. ``"auto"`` stacks every candidate that can be stacked and trains the others one by
        one; `engine_` says which engine was used.
    random_state : int, RandomState instance or None
        Determines seeds and folds.
    lr_param : str, optional
        The name of the learning-rate parameter, if it cannot be found automatically.
    select : {"best", "one_se", "fit"}
        How the learning rate is chosen on the LR curve. ``"best"``: the highest mean score, as scikit-learn does;
        ``"one_se"``: the centre of the learning rates within one standard error of it; ``"fit"``: the top of a curve
        fitted to the scores, usually a learning rate that was never tried. See `sklr.selection.choose`.
    confidence : float
        Confidence level of `lr_interval_`. The interval is (nan, nan) if the scores cannot determine it: with one fold
        and one seed, or if other parameters are searched too and fewer than three learning rates were tried with
        their best values.
    extend : bool
        Whether to extend the range, a decade at a time, while the best learning rate is at an end of it.
    pruner : {"lr", "median", "halving", "hyperband"} or optuna.pruners.BasePruner, optional
        Stops candidates early, by their mean score over all folds and seeds after each epoch; candidates trained
        together are compared at the same epoch. `"lr"` is made for learning rates, see `sklr.LRPruner`; the others are
        Optuna's. A pruner given by name prunes nothing before warmup is over and a ninth of the epochs is done. A
        pruned candidate has no test score and ranks last; `cv_results_` has its `status` and `last_score`. With
        `PatientPruner(None, ...)`, which ends a training that no longer improves (early stopping), the score reached
        counts. Nets only: other estimators have no epochs.
    timeout : float, optional
        Seconds after which no further training is started. Sequential trainings in progress are finished, a stack is
        stopped at the end of its epoch (`cv_results_["status"]` says so). Finished candidates are kept, and the best
        one is refitted as usual.
    storage : str, path or optuna storage, optional
        Where every trial is stored when it ends: a file ``"lr.db"`` (SQLite) or ``"lr.log"`` (a journal), a
        database URL such as ``"postgresql+psycopg://user@host/lr"``, or one of Optuna's storages. None keeps the study
        in memory. With a database server several processes can share one search: start the same script in each, with
        ``resume=True``. If the storage becomes unavailable, `fit` retries for up to a minute.
    study_name : str, optional
        The name of the study in the storage; a new one for each `fit` if None.
    resume : bool
        Whether to continue the study of that name if it exists. Candidates that have finished, in an interrupted or
        killed process or in another one that is still running, are not trained again, and `cv_results_` is the same as
        if this process had trained them all. More candidates may be requested; data, folds and estimator must be the
        same, which includes the contents of arrays and tensors but not the source code of a module. See the table in
        docs/guide/cluster.rst.
    progress : bool
        Whether to show a progress bar, in a terminal or in Jupyter: trials finished, epochs of the current ones, the
        best score so far and the time left. Needs rich: ``pip install "sklr[progress]"``. In Jupyter the curve so
        far is drawn below it, if Matplotlib is installed.

    Attributes
    ----------
    study_ : optuna.Study
        Every trial with its parameters, its mean score over the cells after each epoch, its status, and the scores of
        all its runs. The study's own attributes describe data, folds, seeds, estimator and versions.
    rounds_ : list of ndarray of int
        For each round, the indices of its candidates in `cv_results_`.
    range_test_ : RangeTest
        The range test; only with ``lr_range="auto"``.

    Raises
    ------
    ValueError
        From `fit`, before any training, if a parameter is invalid.
    StudyError
        From `fit`, before any training, if the study of that name belongs to a different search; the message names the
        difference.
    StorageError
        From `fit`: before any training if the storage cannot be opened, or later if it became unavailable and did not
        come back. Then the attributes hold the candidates that had finished.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.ensemble import GradientBoostingClassifier
    >>> from sklr.search._grid import LRGridSearchCV
    >>> X, y = load_iris(return_X_y=True)
    >>> model = GradientBoostingClassifier(n_estimators=3, random_state=0)
    >>> search = LRGridSearchCV(model, lr_range=(1e-4, 0.1), n_lrs=4, cv=3).fit(X, y)
    >>> search.cv_results_["param_learning_rate"].tolist()
    [0.0001, 0.001, 0.01, 0.1]
    >>> search.best_lr_
    0.01
    >>> finer = LRGridSearchCV(model, lr_range=(1e-4, 0.1), n_lrs=4, rounds=2, cv=3).fit(X, y)
    >>> [finer.cv_results_["param_learning_rate"][i].round(4).tolist() for i in finer.rounds_]
    [[0.0001, 0.001, 0.01, 0.1], [0.0022, 0.0046, 0.0215, 0.0464]]
    """

    def __init__(
        self,
        estimator: Any,
        param_grid: Any = None,
        *,
        lr_range: tuple[float, float] | str | None = None,
        n_lrs: int = 11,
        rounds: int = 1,
        lrs: Any = None,
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
        self.param_grid = param_grid
        self.n_lrs = n_lrs
        self.rounds = rounds
        self.lrs = lrs

    def _check(self, y: Any) -> list[dict[str, Any]]:
        if not _is_auto(self.lr_range):
            return super()._check(y)
        self._check_auto()
        any_range = copy.copy(self)
        any_range.lr_range = (RAMP.low, RAMP.high)  # any valid range, so that the other parameters can be checked
        return any_range._check(y)

    def _check_auto(self) -> None:
        advice = "Give lr_range as a tuple (low, high)."
        if self.param_grid is not None or self.lrs is not None:
            given, advice = "lrs", "Leave one out."
            if self.param_grid is not None:
                given, advice = "param_grid", "Pass lr_range=lr_range_test(net, X, y).search_range."
            raise ValueError(must_be("lr_range", f"a tuple if {given} is given", self.lr_range, advice))
        if not trains_nets(self.estimator):
            name = type(self.estimator).__name__
            rule = f"{A_NET} if lr_range='auto'"
            raise ValueError(must_be("estimator", rule, name, advice))
        if find_lr_param(self.estimator, self.lr_param).rpartition("__")[2] != "lr":
            rule = "the net's lr if lr_range='auto'"
            raise ValueError(must_be("lr_param", rule, self.lr_param, advice))

    def _search(self, evaluator: Evaluator, space: Any, random_state: np.random.RandomState) -> None:
        if _is_auto(self.lr_range):
            self.range_test_ = read(ramp_losses(evaluator.experiment, RAMP, self.engine))
            lrs = log_grid(*self.range_test_.search_range, self.n_lrs)
            space = list(ParameterGrid({find_lr_param(self.estimator, self.lr_param): lrs}))
        super()._search(evaluator, space, random_state)

    def _check_space(self) -> list[dict[str, Any]]:
        low, high = range_to_search(self.lr_range)  # checked, even if it is not used
        n_lrs = check_count("n_lrs", self.n_lrs)
        rounds = check_count("rounds", self.rounds)
        lrs = None if self.lrs is None else check_lrs(self.lrs)
        if self.param_grid is None:
            name = find_lr_param(self.estimator, self.lr_param)
            return list(ParameterGrid({name: lrs or log_grid(low, high, n_lrs)}))
        candidates = list(ParameterGrid([self._grid_values(grid, lrs, n_lrs) for grid in self._check_grids()]))
        if rounds > 1 and not any(find_lr_param(self.estimator, self.lr_param) in c for c in candidates):
            advice = "Give the learning rates as lrs or in param_grid."
            raise ValueError(must_be("rounds", "1 if no learning rate is searched", rounds, advice))
        return candidates

    def _check_grids(self) -> list[Mapping[str, Any]]:
        single = isinstance(self.param_grid, Mapping)
        grids = [self.param_grid] if single else self.param_grid
        if not isinstance(grids, (list, tuple)) or not grids or not all(isinstance(g, Mapping) for g in grids):
            raise ValueError(
                "param_grid must be a dict of parameter names and lists of values, or a non-empty list of such dicts, "
                f"got {self.param_grid!r}. Write for example {{'lr': [0.01, 0.1]}}, or leave it out."
            )
        for grid in grids:
            check_names(self.estimator, grid)
        return list(grids)

    def _grid_values(self, grid: Mapping[str, Any], lrs: list[float] | None, n_lrs: int) -> dict[str, list[Any]]:
        names = lr_names(self.estimator) if self.lr_param is None else [self.lr_param]
        values: dict[str, list[Any]] = {}
        for name, given in grid.items():
            dimension = _dimension(name, given)
            if is_lr(name, self.lr_param):
                check_lr_dimension(f"param_grid[{name!r}]", dimension, lr_now(self.estimator, name, grid))
            values[name] = dimension.grid(n_lrs if name in names else POINTS_PER_RANGE)
        if lrs is None and (self.lr_range is None or has_lr(grid, self.lr_param)):
            return values
        name = find_lr_param(self.estimator, self.lr_param)
        if name in grid:
            raise ValueError(
                f"lrs must be None where param_grid has {name!r}, got {self.lrs!r}. Give the learning rates once."
            )
        return {**values, name: lrs or log_grid(*range_to_search(self.lr_range), n_lrs)}

    def _advise(self) -> None:
        super()._advise()
        if self.lrs is not None:
            warn_of_idle_settings(self, "lrs")
        elif self.param_grid is not None:
            lrs = [
                to_dimension(name, given, tuples_are_choices=True)
                for grid in self._check_grids()
                for name, given in grid.items()
                if is_lr(name, self.lr_param)
            ]
            warn_of_idle_settings(self, "param_grid", self._check_grids(), lrs)

    def _n_candidates(self, space: list[dict[str, Any]]) -> int:
        return len(space) + N_FINER * (self.rounds - 1)

    def _propose(
        self, space: list[dict[str, Any]], ledger: Ledger, random_state: np.random.RandomState
    ) -> Generator[list[dict[str, Any]], np.ndarray, None]:
        tried, scores = list(ledger.known.candidates), ledger.known.scores
        keys = {candidate_key(candidate) for candidate in tried}
        new = [candidate for candidate in space if candidate_key(candidate) not in keys] if keys else space
        self.rounds_ = [np.arange(len(tried), len(tried) + len(new))]
        if new:
            tried += new
            scores = np.append(scores, (yield new))
        for _ in range(self.rounds - 1):
            between = finer(tried, scores, find_lr_param(self.estimator, self.lr_param), N_FINER)
            if not between:
                return
            self.rounds_.append(np.arange(len(tried), len(tried) + len(between)))
            tried += between
            scores = np.append(scores, (yield between))


def _is_auto(lr_range: Any) -> bool:
    return isinstance(lr_range, str) and lr_range == "auto"


def _dimension(name: str, given: Any) -> Dimension:
    try:
        return to_dimension(f"param_grid[{name!r}]", given, tuples_are_choices=True)
    except ValueError as error:
        refusal = error
    ParameterGrid({name: given})  # raises GridSearchCV's own error for values that it would refuse
    raise refusal
