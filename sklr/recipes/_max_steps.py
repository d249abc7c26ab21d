"""How long to train: the number of steps in which the fastest constant learning rate fits the training set."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from sklearn.base import is_classifier
from sklearn.metrics import check_scoring

from sklr._utils.html import ShownAsText
from sklr._utils.sklearn import count_rows
from sklr._utils.validation import check_count, must_be
from sklr.exceptions import AllDivergedError
from sklr.experiment.datasets import bring_to
from sklr.experiment.lr_param import check_lr_range, find_lr_param
from sklr.recipes._plain import constant_lr, net_of, with_net, without_regularization
from sklr.recipes._sweep import log_spaced, steps_per_epoch, sweep

STILL_FALLING = (
    0.05  # relative decrease of the loss in the last quarter of the epochs above which a run needs more time
)


@dataclass(frozen=True, eq=False, repr=False)
class MaxSteps(ShownAsText):
    """How long to train, with the losses and scores from which it was computed.

    Parameters
    ----------
    lrs : ndarray of shape (n_lrs,)
        The constant learning rates, ascending.
    loss, score : ndarray of shape (n_lrs, n_seeds, n_epochs)
        Training loss of each epoch, and the score on the training rows after it; NaN from where a run diverged.
        Training stopped when the first learning rate had fitted the training set with most of its seeds.
    target : float
        The score at which the training set counts as fitted.
    steps_per_epoch : int
        Number of optimizer steps per epoch.
    switched_off : tuple of str
        The settings of the net that were disabled for the experiment.
    engine : str
        The engine that trained the runs.
    """

    lrs: np.ndarray
    loss: np.ndarray
    score: np.ndarray
    target: float
    steps_per_epoch: int
    switched_off: tuple[str, ...]
    engine: str

    @property
    def fit_steps(self) -> np.ndarray:
        """Number of steps after which each run first reached the target, shape (n_lrs, n_seeds); inf if it did not."""
        reached = self.score >= self.target
        first = np.where(reached.any(axis=-1), reached.argmax(axis=-1) + 1.0, np.inf)
        return first * self.steps_per_epoch

    @property
    def lr(self) -> float:
        """The fastest learning rate; if none fits the training set, the one with the lowest final loss."""
        steps = _upper_median(self.fit_steps)
        return float(self.lrs[np.lexsort((self._median_loss[:, -1], steps))[0]])

    @property
    def n_steps(self) -> int | None:
        """Number of optimizer steps to train, in whole epochs; None if no learning rate fits the training set."""
        steps = _upper_median(self.fit_steps).min()
        return int(steps) if np.isfinite(steps) else None

    @property
    def n_epochs(self) -> int | None:
        """Number of epochs to train, for the net's `max_epochs`; None if no learning rate fits the training set."""
        return None if self.n_steps is None else self.n_steps // self.steps_per_epoch

    @property
    def edge(self) -> str | None:
        """The end of the range, "low" or "high", if the fastest lr is at one: a faster lr may lie outside the range."""
        return {self.lrs[0]: "low", self.lrs[-1]: "high"}.get(self.lr)

    @property
    def bound(self) -> str:
        """What limits the training: "patience", "compute" or "fit".

        "patience": the training set was fitted, so the training is not compute-bound, and its length can be chosen.
        "compute": it was not fitted, and the loss of the best lr was still decreasing, by more than 5 % in the last
        quarter of the epochs. "fit": it was not fitted, and the loss had stopped decreasing.
        """
        if self.n_steps is not None:
            return "patience"
        best = self._median_loss[self.lrs.tolist().index(self.lr)]
        quarter = max(1, len(best) // 4)
        still = len(best) < 2 or not best[-1] > (1 - STILL_FALLING) * best[-1 - quarter]
        return "compute" if still else "fit"

    def summary(self) -> str:
        """Return the result in plain words."""
        disabled = f"Disabled for this experiment: {', '.join(self.switched_off) or 'nothing'}."
        return "\n".join(line for line in [self._answer(), self._edge_words(), disabled] if line)

    def __str__(self) -> str:
        return f"{self.summary()}\n\n{self.table()}"

    def table(self) -> str:
        """Return a table of the steps that each learning rate needed, one line each."""
        rows = [f"{'lr':>10}  steps to fit, per seed"]
        fastest = None if self.n_steps is None else self.lr
        for lr, steps in zip(self.lrs, self.fit_steps, strict=True):
            needed = "  ".join(f">{self._n_trained}" if np.isinf(s) else f"{s:.0f}" for s in steps)
            rows.append(f"{lr:>10.3g}  {needed}{'  <- fastest' * bool(lr == fastest)}")
        return "\n".join(rows)

    @property
    def _median_loss(self) -> np.ndarray:
        """The median training loss over seeds, shape (n_lrs, n_epochs); inf where most seeds had diverged."""
        return np.median(np.nan_to_num(self.loss, nan=np.inf), axis=1)

    @property
    def _n_trained(self) -> int:
        return self.loss.shape[-1] * self.steps_per_epoch

    def _answer(self) -> str:
        none = f"No lr reached a score of {self.target:g} on the training rows in {self._n_trained} steps"
        if self.bound == "patience":
            return (
                f"Train for about {self.n_steps} steps ({self.n_epochs} epochs): that is how long lr {self.lr:.3g} "
                f"takes to reach a score of {self.target:g} on the training rows. The training is not compute-bound, "
                "as it can fit the training rows. Check the number of steps with a first search: if its best runs "
                "peak in the first tenth of the steps, use fewer; if in the last quarter, use more."
            )
        if self.bound == "compute":
            return (
                f"{none}, and the loss at lr {self.lr:.3g} was still falling: this looks compute-bound. Raise "
                "max_epochs, or train as long as you can afford."
            )
        return (
            f"{none}, and the loss at lr {self.lr:.3g} no longer fell: longer training alone will not fit them. Use a "
            "larger model, or a lower target."
        )

    def _edge_words(self) -> str:
        if self.edge is None:
            return ""
        return (
            f"lr {self.lr:.3g} is the {self.edge} end of the range, and a faster one may lie outside it: widen "
            "lr_range before you rely on this result."
        )


def suggest_max_steps(
    net: Any,
    X: Any,
    y: Any = None,
    *,
    lr_range: tuple[float, float] = (1e-4, 10.0),
    n_lrs: int = 11,
    max_epochs: int | None = None,
    target: float | None = None,
    scoring: Any = None,
    n_seeds: int = 3,
    engine: Any = "auto",
    n_jobs: int | None = None,
    random_state: Any = None,
    **fit_params: Any,
) -> MaxSteps:
    """Suggest how long to train: the number of steps in which the fastest constant lr fits the training set.

    It gives a first value of `max_epochs`, before any search, for trainings that are not compute-bound. All learning
    rates are trained with several seeds on all rows, without schedule, warmup, weight decay, dropout, label smoothing
    and early stopping, until one has fitted the training set with most of its seeds. The median over seeds is used, so
    that a single lucky run does not decide. Pass rows without augmentation: it cannot be disabled here.

    Parameters
    ----------
    net : estimator
        One of sklr's nets, or a pipeline or TransformedTargetRegressor around one. It is not changed.
    X, y : as in `fit`
    lr_range : (float, float), default=(1e-4, 10)
        Lowest and highest learning rate.
    n_lrs : int, default=11
        Number of learning rates, evenly spaced on a log scale.
    max_epochs : int, optional
        Maximum number of epochs; by default 5 times that of the net.
    target : float, optional
        The score on the training rows at which they count as fitted; by default 1 for classifiers and 0.99 for
        regressors.
    scoring : str or callable, optional
        As in scikit-learn, higher is better; by default accuracy or R².
    n_seeds : int, default=3
        Number of runs per learning rate.
    engine, n_jobs, random_state
        As in `LRGridSearchCV`.
    **fit_params
        As in `fit`.

    Returns
    -------
    result : MaxSteps
        With `n_steps`, `n_epochs`, `lr`, whether that is at an `edge` of the range, what limits the training (`bound`),
        and `summary()`.

    Raises
    ------
    TypeError, ValueError
        Before any training, if an argument is invalid.
    AllDivergedError
        If every run diverged.

    Notes
    -----
    Godbole, Dahl, Gilmer, Shallue and Nado 2023, *Deep Learning Tuning Playbook*, "Deciding how long to train when
    training is not compute-bound". The result is in whole epochs, since the score is computed once per epoch. Noisy
    labels may need regularization *and* more steps; the result is then a lower bound.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklr import MLP, NeuralNetClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> net = NeuralNetClassifier(MLP, optimizer="adamw", iterator_train__shuffle=True, batch_size=30)
    >>> result = suggest_max_steps(net, X[:100], y[:100], lr_range=(1e-4, 1.0), n_lrs=5, random_state=0)
    >>> result.bound, result.n_steps == result.n_epochs * 4, result.switched_off
    ('patience', True, ('weight_decay=0.01', 'dropout'))
    """
    net_of(net)
    net, X, y = bring_to(net, X, y)
    inner, off = constant_lr(net_of(net))
    inner, more = without_regularization(inner)
    check_count("n_lrs", n_lrs, minimum=2)
    check_count("n_seeds", n_seeds)
    own = inner.max_epochs if max_epochs is None else max_epochs
    epochs = check_count("max_epochs", own) * (5 if max_epochs is None else 1)
    inner.set_params(max_epochs=epochs)
    estimator = with_net(net, inner)
    lrs = log_spaced(*check_lr_range(lr_range), n_lrs)
    fitted = _target(target, estimator, scoring)
    found = sweep(
        estimator,
        X,
        y,
        [{find_lr_param(estimator): float(lr)} for lr in lrs],
        n_seeds=n_seeds,
        random_state=random_state,
        engine=engine,
        n_jobs=n_jobs,
        scorer=check_scoring(estimator, scoring),
        enough=partial(_most_seeds_fit, fitted),
        fit_params=fit_params,
        caller=suggest_max_steps,
    )
    if not np.isfinite(found.loss[..., -1]).any():
        rule = "a range in which the net trains at some lr"
        raise AllDivergedError(must_be("lr_range", rule, lr_range, "All runs diverged: use lower learning rates."))
    per_epoch = steps_per_epoch(inner, count_rows(X))
    return MaxSteps(lrs, found.loss, found.score, fitted, per_epoch, (*off, *more), found.engine)


def _target(target: float | None, estimator: Any, scoring: Any) -> float:
    if target is not None:
        if isinstance(target, bool) or not np.isfinite(target):
            raise ValueError(must_be("target", "a finite number", target))
        return float(target)
    if scoring is not None:
        raise ValueError(must_be("target", "given with scoring", target, "Set the score that counts as fitted."))
    return 1.0 if is_classifier(estimator) else 0.99


def _upper_median(steps: np.ndarray) -> np.ndarray:
    """Return the median over seeds, shape (n_lrs,); for an even number of seeds the higher of the two middle values."""
    return np.sort(steps, axis=1)[:, steps.shape[1] // 2]


def _most_seeds_fit(target: float, scores: np.ndarray) -> bool:
    reached = (scores >= target).any(axis=-1)
    return bool((reached.sum(axis=1) > scores.shape[1] // 2).any())
