"""Train one configuration many times to measure its noise, and compare two configurations with a paired test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, clone, is_classifier, is_regressor

from sklr._utils.html import ShownAsText
from sklr._utils.validation import check_count, must_be
from sklr.experiment.folds import cross_seeds
from sklr.experiment.lr_param import find_lr_param, is_number
from sklr.search._base import BaseLRSearchCV
from sklr.search._grid import LRGridSearchCV
from sklr.search.storage.describe import describe
from sklr.selection import Comparison, VarianceComponents, compare_scores, variance_components
from sklr.selection.variance import check_finite

REPEATED = (
    "All seeds of a fold gave identical runs, so the variance between seeds is unknown. Unless the training is "
    "deterministic, check for a random_state that is already set, or a module given as an instance."
)


@dataclass(frozen=True, eq=False, repr=False)
class Characterization(ShownAsText):
    """The scores of one configuration over folds and seeds, with their variance components.

    Parameters
    ----------
    params : dict
        The parameters that were set on the estimator.
    scores : ndarray of shape (n_folds, n_seeds)
        Test scores. Every fold has the same seeds.
    components : VarianceComponents
        Variance of seed, fold and residual; NaN for a component that a single fold cannot estimate.
    n_train, n_test : int
        Mean number of training and test rows of a fold.
    folds : tuple
        A digest of each fold's test rows, the same in every process, to check whether two characterizations share
        their folds.
    seeds : tuple of int
        The seeds of every fold.
    repeated : bool
        Whether the seeds of every fold gave identical runs, epoch by epoch. The variance between seeds is then
        unknown, and NaN in `components`.
    scoring : str
        What the scores are, in words that are equal for equal scorings.
    """

    params: Mapping[str, Any]
    scores: np.ndarray
    components: VarianceComponents
    n_train: int
    n_test: int
    folds: tuple
    seeds: tuple[int, ...]
    repeated: bool = False
    scoring: str = ""

    @property
    def mean(self) -> float:
        """The mean score over all folds and seeds."""
        return float(self.scores.mean())

    def __str__(self) -> str:
        n_folds, n_seeds = self.scores.shape
        given = ", ".join(f"{name}={value!r}" for name, value in self.params.items()) or "the estimator as given"
        folds = f"{n_folds} fold{'s' * (n_folds > 1)}"
        text = f"{given}: mean score {self.mean:.4f} over {folds} x {n_seeds} seeds; {self.components}"
        return f"{text}. {REPEATED}" if self.repeated else text


class _Crossed(LRGridSearchCV):
    """A search in which every fold has the same seeds: seeds and folds are crossed factors, as their variances need."""

    def _draw_cells(self, *args: Any, **kwargs: Any) -> list:
        return cross_seeds(super()._draw_cells(*args, **kwargs))


def characterize(
    estimator: Any,
    X: Any,
    y: Any = None,
    *,
    lr: float | None = None,
    n_seeds: int = 10,
    cv: Any = None,
    scoring: Any = None,
    engine: Any = "auto",
    n_jobs: int | None = None,
    random_state: Any = None,
    validation: Any = None,
    **fit_params: Any,
) -> Characterization:
    """Train one configuration with many seeds on every fold, and decompose the variance of its scores.

    Parameters
    ----------
    estimator : estimator or fitted search
        A net, a pipeline around one, or a fitted search. Of a search, `best_params_`, `cv` and `scoring` are used.
    X, y : as in `fit`
    lr : float, optional
        The learning rate; by default the estimator's own, or the search's `best_lr_`.
    n_seeds : int, default=10
        Number of trainings per fold, at least 2.
    cv, scoring, engine, n_jobs, random_state
        As in `LRGridSearchCV`. Two characterizations can be compared if they were made with the same `cv`, the same
        `n_seeds` and the same integer `random_state`.
    validation : Dataset, DataLoader, or tuple (X, y), optional
        A fixed validation set instead of folds, as in the `fit` of the searches.
    **fit_params
        As in `fit`.

    Returns
    -------
    characterization : Characterization

    Raises
    ------
    ValueError
        If an argument is invalid, or a run diverged.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklr import MLP, NeuralNetClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> net = NeuralNetClassifier(MLP, max_epochs=2, optimizer="adam")
    >>> noise = characterize(net, X, y, lr=0.01, n_seeds=3, random_state=0)
    >>> noise.scores.shape
    (5, 3)
    """
    check_count("n_seeds", n_seeds, minimum=2)
    params: dict[str, Any] = {}
    if isinstance(estimator, BaseLRSearchCV):
        search, estimator = estimator, estimator.estimator
        params = dict(search.best_params_)
        scoring = search.scoring if scoring is None else scoring
        cv = search.cv if cv is None and validation is None else cv
    if lr is not None:
        if not is_number(lr) or lr <= 0:
            advice = "It trains one configuration; LRGridSearchCV tries several."
            raise ValueError(must_be("lr", "a single number above 0", lr, advice))
        params[find_lr_param(estimator, None)] = lr
    trial = _Crossed(
        clone(estimator).set_params(**params),
        {name: [value] for name, value in params.items()} or [{}],
        cv=cv,
        scoring=scoring,
        n_seeds=n_seeds,
        refit=False,
        engine=engine,
        n_jobs=n_jobs,
        random_state=random_state,
        error_score="raise",
    )
    trial.called_by = characterize
    trial.fit(X, y, validation=validation, **fit_params)
    return _characterized(trial, params, n_seeds)


def _characterized(trial: BaseEstimator, params: dict[str, Any], n_seeds: int) -> Characterization:
    cells = trial.cells_
    scores = trial.cell_scores_[0].reshape(-1, n_seeds)
    firsts = cells[::n_seeds]
    repeated = _are_repeated(scores, trial.history_, n_seeds)
    return Characterization(
        params=params,
        scores=scores,
        components=_components(scores[:, :1] if repeated else scores),
        n_train=round(np.mean([len(cell.train) for cell in firsts])),
        n_test=round(np.mean([len(cell.test) for cell in firsts])),
        folds=tuple(sha256(np.asarray(cell.test, dtype=np.int64).tobytes()).hexdigest() for cell in firsts),
        seeds=tuple(cell.seed for cell in cells[:n_seeds]),
        repeated=repeated,
        scoring=_scoring_name(trial.scoring, trial.estimator),
    )


def _scoring_name(scoring: Any, estimator: Any) -> str:
    """Return a scoring as text; None is the score of classifiers or of regressors, or else the estimator's own."""
    if scoring is not None:
        return scoring if isinstance(scoring, str) else describe(scoring)
    if is_classifier(estimator):
        return "accuracy"
    return "r2" if is_regressor(estimator) else f"score of {type(estimator).__name__}"


def _are_repeated(scores: np.ndarray, history: dict[str, np.ndarray], n_seeds: int) -> bool:
    """Whether all seeds of every fold have the same score and, where epochs were recorded, the same losses."""
    losses: dict[tuple[int, int], list[float]] = {}
    for fold, seed, loss in zip(history["fold"], history["seed"], history["train_loss"], strict=True):
        losses.setdefault((fold, seed), []).append(loss)
    same_scores = bool((scores == scores[:, :1]).all())
    return same_scores and all(
        np.array_equal(one, losses[fold, 0], equal_nan=True) for (fold, seed), one in losses.items()
    )


def _components(scores: np.ndarray) -> VarianceComponents:
    """Return the variance components; NaN for those that one fold, or one seed per fold, cannot estimate."""
    n_folds, n_seeds = scores.shape
    if min(n_folds, n_seeds) > 1:
        return variance_components(scores)
    check_finite("scores", scores)
    known = float(scores.var(ddof=1)) if scores.size > 1 else np.nan
    return VarianceComponents(known if n_folds == 1 else np.nan, known if n_folds > 1 else np.nan, np.nan)


def compare(new: Characterization, old: Characterization, *, min_effect: float = 0.0) -> Comparison:
    """Decide whether to adopt a new configuration, with a paired test on the folds and seeds both were trained on.

    Parameters
    ----------
    new, old : Characterization
        The two configurations, trained on the same folds with the same seeds.
    min_effect : float, default=0
        The smallest improvement of the score that is worth adopting.

    Returns
    -------
    comparison : Comparison
        Its `verdict` is "adopt", "do not adopt" or "not enough evidence"; `more_seeds` estimates how many more seeds
        would settle it. The test is a t-test corrected for overlapping training sets, see
        `sklr.selection.compare_scores`.

    Raises
    ------
    ValueError
        If `new` and `old` were not trained on the same folds with the same seeds, or have different scorings.
    TypeError
        If one of them is not what `characterize` returned.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklr import MLP, NeuralNetClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> net = NeuralNetClassifier(MLP, max_epochs=5, optimizer="adam")
    >>> good, bad = (characterize(net, X, y, lr=lr, n_seeds=2, random_state=0) for lr in (0.03, 1e-5))
    >>> compare(good, bad).verdict
    'adopt'
    """
    for name, value in {"new": new, "old": old}.items():
        if not isinstance(value, Characterization):
            advice = "Write characterize(estimator, X, y, ...); the estimator may be a fitted search."
            raise TypeError(must_be(name, "what characterize returned", type(value).__name__, advice))
    if new.scoring != old.scoring:
        rule = "scored alike, as a difference between two scorings says nothing"
        raise ValueError(must_be("new and old", rule, (new.scoring, old.scoring), "Give both the same scoring."))
    if (new.folds, new.seeds) != (old.folds, old.seeds):
        advice = "Give both the same cv, n_seeds and integer random_state."
        raise ValueError(must_be("new and old", "trained on the same folds with the same seeds", new.seeds, advice))
    return compare_scores(
        new.scores.ravel(),
        old.scores.ravel(),
        n_train=new.n_train,
        n_test=new.n_test,
        n_seeds=new.scores.shape[1],
        min_effect=min_effect,
    )
