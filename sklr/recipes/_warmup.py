"""How much warmup: the shortest with which a net is stable at 10 times (or 3 times, or at) the lowest unstable lr."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sklr._utils.html import ShownAsText
from sklr._utils.sklearn import count_rows
from sklr._utils.validation import check_count, must_be
from sklr.exceptions import AllDivergedError
from sklr.experiment.datasets import bring_to
from sklr.experiment.lr_param import check_lr_range, find_lr_param
from sklr.recipes._plain import constant_lr, net_of, with_net
from sklr.recipes._sweep import log_spaced, steps_per_epoch, sweep

RISEN_AGAIN = 0.25  # a run is unstable if its loss rises again by more than this share of its earlier decrease
MIN_GAIN = 0.5  # or if its loss decreases by less than this share of the decrease of the best run


@dataclass(frozen=True, eq=False, repr=False)
class NeededWarmup(ShownAsText):
    """The learning rate at which a net becomes unstable, the warmup it needs above it, and the losses of all runs.

    Parameters
    ----------
    lrs : ndarray of shape (n_lrs,)
        The learning rates that were tried without warmup, ascending.
    lr_loss : ndarray of shape (n_lrs, n_seeds, n_epochs)
        Their training losses by epoch; NaN from where a run diverged.
    factors : ndarray of shape (n_factors,)
        Ratios to the unstable lr at which the warmups were tried, descending.
    warmup_steps : ndarray of shape (n_warmups,)
        The warmups that were tried, ascending from 0; empty if no lr was unstable.
    warmup_loss : ndarray of shape (n_factors, n_warmups, n_seeds, n_epochs)
        Their training losses by epoch.
    steps_per_epoch : int
        Number of optimizer steps per epoch.
    switched_off : tuple of str
        The settings of the net that were disabled for the experiment.
    """

    lrs: np.ndarray
    lr_loss: np.ndarray
    factors: np.ndarray
    warmup_steps: np.ndarray
    warmup_loss: np.ndarray
    steps_per_epoch: int
    switched_off: tuple[str, ...]

    @property
    def best_lr(self) -> float:
        """The learning rate with the lowest final training loss without warmup."""
        return float(self.lrs[_best(self.lr_loss)])

    @property
    def lr_unstable(self) -> np.ndarray:
        """Which runs without warmup were unstable, bool of shape (n_lrs, n_seeds); False up to `best_lr`."""
        above = np.arange(len(self.lrs)) > _best(self.lr_loss)
        return is_unstable(self.lr_loss, *_levels(self.lr_loss)) & above[:, None]

    @property
    def unstable_lr(self) -> float | None:
        """The lowest lr above `best_lr` at which a run was unstable; None if there is none in the range."""
        bad = self.lr_unstable.any(axis=1)
        return float(self.lrs[bad.argmax()]) if bad.any() else None

    @property
    def warmup_unstable(self) -> np.ndarray:
        """Which runs with warmup were unstable, bool of shape (n_factors, n_warmups, n_seeds)."""
        return is_unstable(self.warmup_loss, *_levels(self.lr_loss))

    @property
    def survives(self) -> np.ndarray:
        """Whether all seeds are stable with a warmup and every longer one, bool of shape (n_factors, n_warmups)."""
        stable = np.asarray(~self.warmup_unstable.any(axis=-1))
        return np.logical_and.accumulate(stable[:, ::-1], axis=1)[:, ::-1]

    @property
    def factor(self) -> float | None:
        """The highest factor at which some warmup is stable; None if there is none."""
        survived = self.survives.any(axis=1)
        return float(self.factors[survived.argmax()]) if survived.any() else None

    @property
    def lr(self) -> float | None:
        """The peak lr that is stable with a warmup of `n_steps`: `factor` times the unstable lr; None if none is."""
        if self.unstable_lr is None or self.factor is None:
            return None
        return self.factor * self.unstable_lr

    @property
    def n_steps(self) -> int | None:
        """The shortest warmup, in steps, with which (and with longer ones) all seeds are stable at `lr`; or None."""
        if self.factor is None:
            return None
        return int(self.warmup_steps[self.survives[self.factors.tolist().index(self.factor)].argmax()])

    @property
    def n_epochs(self) -> float | None:
        """The shortest such warmup in epochs, for the net's `warmup_epochs`; or None."""
        return None if self.n_steps is None else self.n_steps / self.steps_per_epoch

    def summary(self) -> str:
        """Return the result in plain words."""
        first = f"Without warmup lr {self.best_lr:.3g} trains best"
        if self.unstable_lr is None:
            stable = f"no lr up to {self.lrs[-1]:.3g} is unstable"
            return f"{first}, and {stable}: no warmup is needed in this range. Widen lr_range to look further."
        unstable = f"{first} and lr {self.unstable_lr:.3g} is unstable."
        if self.n_steps is None:
            factors = " or ".join(f"{factor:g}" for factor in self.factors)
            longest = f"{self.warmup_steps[-1]} step{'s' * bool(self.warmup_steps[-1] != 1)}"
            return (
                f"{unstable} No warmup of up to {longest} is stable at {factors} times this lr: "
                "raise max_epochs to try longer ones, or clip the gradients (clip='p90')."
            )
        times = f"lr {self.lr:.3g}, {self.factor:g} times as high," if self.factor != 1 else "it"
        return (
            f"{unstable} With a warmup of {self.n_steps} steps (warmup_epochs={self.n_epochs:.3g}) {times} is stable. "
            f"Search the lr again with this warmup, up to {self.lr:.3g}, and train that many steps longer."
        )

    def __str__(self) -> str:
        return f"{self.summary()}\n\n{self.table(all_factors=False)}"

    def table(self, *, all_factors: bool = True) -> str:
        """Return a table with a line for each lr and each warmup.

        Parameters
        ----------
        all_factors : bool, default=True
            Whether to include the warmups at all factors, or only those at `factor` (the lowest one if it is None).
        """
        rows = _rows("lr, no warmup", self.lrs, self.lr_loss, self.lr_unstable)
        for factor, loss, unstable in zip(self.factors, self.warmup_loss, self.warmup_unstable, strict=True):
            if all_factors or factor == (self.factor or self.factors[-1]):
                rows += _rows(f"steps, {factor:g} x lr", self.warmup_steps, loss, unstable)
        return "\n".join(rows)


def find_warmup(
    net: Any,
    X: Any,
    y: Any = None,
    *,
    lr_range: tuple[float, float] = (1e-4, 100.0),
    n_lrs: int = 13,
    factors: Sequence[float] = (10.0, 3.0, 1.0),
    n_warmups: int = 8,
    max_epochs: int | None = None,
    n_seeds: int = 3,
    engine: Any = "auto",
    n_jobs: int | None = None,
    random_state: Any = None,
    **fit_params: Any,
) -> NeededWarmup:
    """Find the shortest warmup with which a net is stable at 10 times the lr that is unstable without warmup.

    First, `n_lrs` constant learning rates are trained without warmup to find the lowest unstable one. Then, at 10, 3
    and 1 times that lr, warmups are tried: 0 steps, and lengths that double up to a third of the training, each
    followed by the constant lr. The result is the shortest stable warmup at the highest lr for which there is one. All
    runs use several seeds and all rows: ``n_seeds * (n_lrs + len(factors) * n_warmups)`` short trainings, one stack for
    each of the two parts.

    A run is unstable if it diverges, if its training loss rises again by more than a quarter of its earlier decrease,
    or if the decrease is less than half of that of the best run.

    Parameters
    ----------
    net : estimator
        One of sklr's nets, or a pipeline or TransformedTargetRegressor around one. It is not changed; its schedule and
        warmup are ignored.
    X, y : as in `fit`
    lr_range : (float, float), default=(1e-4, 100)
        Lowest and highest learning rate. The lowest should hardly learn: its loss in the first epoch is taken as that
        of an untrained net. The highest should be unstable.
    n_lrs : int, default=13
        Number of learning rates, evenly spaced on a log scale.
    factors : sequence of float, default=(10, 3, 1)
        Multiples of the unstable lr to try, at least 1, in any order.
    n_warmups : int, default=8
        Number of warmups to try, including 0 steps.
    max_epochs : int, optional
        Number of epochs of each run; by default that of the net.
    n_seeds : int, default=3
        Number of seeds. One unstable seed makes a learning rate or a warmup unstable.
    engine, n_jobs, random_state
        As in `LRGridSearchCV`.
    **fit_params
        As in `fit`.

    Returns
    -------
    result : NeededWarmup
        With `unstable_lr`, the warmup in `n_steps` and `n_epochs`, the `lr` that is stable with it, and `summary()`. It
        prints as a table.

    Raises
    ------
    TypeError, ValueError
        Before any training, if an argument is invalid.
    AllDivergedError
        If the net diverges even at the lowest learning rate.

    Notes
    -----
    Godbole, Dahl, Gilmer, Shallue and Nado 2023, *Deep Learning Tuning Playbook*, "How can optimization failures be
    debugged and mitigated?" It uses 10 times the unstable lr, at which small nets are rarely stable: hence the lower
    factors. It recommends to add the warmup to the training, rather than to take it from its steps, and to try gradient
    clipping if no warmup helps. The rule is for instability *early* in training; if the lr is too high later (edge of
    stability), a warmup only delays the instability.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklr import MLP, NeuralNetClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> net = NeuralNetClassifier(MLP, iterator_train__shuffle=True, batch_size=30)
    >>> result = find_warmup(net, X, y, n_lrs=7, n_warmups=3, n_seeds=2, random_state=0)
    >>> result.lrs.round(4).tolist(), result.warmup_steps.tolist()
    ([0.0001, 0.001, 0.01, 0.1, 1.0, 10.0, 100.0], [0, 8, 16])
    >>> result.unstable_lr > result.best_lr
    True
    """
    net_of(net)
    net, X, y = bring_to(net, X, y)
    inner, off = constant_lr(net_of(net))
    check_count("n_lrs", n_lrs, minimum=2)
    check_count("n_warmups", n_warmups, minimum=2)
    check_count("n_seeds", n_seeds)
    descending = _checked_factors(factors)
    inner.set_params(max_epochs=check_count("max_epochs", inner.max_epochs if max_epochs is None else max_epochs))
    estimator, lrs = with_net(net, inner), log_spaced(*check_lr_range(lr_range), n_lrs)
    lr_param = find_lr_param(estimator)
    per_epoch = steps_per_epoch(inner, count_rows(X))
    steps = _warmups(per_epoch * inner.max_epochs, n_warmups)
    how = {
        "n_seeds": n_seeds,
        "random_state": random_state,
        "engine": engine,
        "n_jobs": n_jobs,
        "fit_params": fit_params,
        "caller": find_warmup,
    }
    seen = sweep(estimator, X, y, [{lr_param: float(lr)} for lr in lrs], **how)
    if not np.isfinite(seen.loss[0]).all():
        raise AllDivergedError(must_be("the lowest lr of lr_range", "one at which the net trains", lrs[0], "Lower it."))
    no_loss = np.empty((0, 0, n_seeds, inner.max_epochs))
    result = NeededWarmup(lrs, seen.loss, descending[:0], steps[:0], no_loss, per_epoch, tuple(off))
    if result.unstable_lr is None:
        return result
    warmup_param = f"{lr_param.removesuffix('lr')}warmup_epochs"
    peaks = (descending * result.unstable_lr).tolist()
    candidates = [{lr_param: lr, warmup_param: int(s) / per_epoch} for lr in peaks for s in steps]
    seen = sweep(estimator, X, y, candidates, **how)
    loss = np.full((len(candidates), n_seeds, inner.max_epochs), np.nan)
    loss[..., : seen.loss.shape[-1]] = seen.loss
    loss = loss.reshape(len(descending), len(steps), *loss.shape[1:])
    return replace(result, factors=descending, warmup_steps=steps, warmup_loss=loss)


def _checked_factors(factors: Sequence[float]) -> np.ndarray:
    values = np.unique(np.asarray(factors, dtype=float))[::-1]
    if not values.size or values.ndim != 1 or not np.isfinite(values).all() or values[-1] < 1:
        raise ValueError(must_be("factors", "numbers of at least 1", factors))
    return values


def is_unstable(loss: np.ndarray, untrained: float, best: float) -> np.ndarray:
    """Return which runs diverged, rose again or hardly decreased in loss, bool of shape (..., n_seeds).

    Parameters
    ----------
    loss : ndarray of shape (..., n_seeds, n_epochs)
        Training losses by epoch; NaN from where a run diverged.
    untrained : float
        The loss of an untrained net.
    best : float
        The lowest loss of any run.

    >>> runs = [[[2.0, 1.0, 0.5]], [[2.0, 1.0, 1.5]], [[2.0, 1.95, 1.95]], [[3.0, np.nan, np.nan]]]
    >>> is_unstable(np.array(runs), untrained=2.0, best=0.5)[:, 0].tolist()
    [False, True, True, True]
    """
    last = loss[..., -1]
    lowest = np.fmin.reduce(loss, axis=-1)
    with np.errstate(invalid="ignore"):
        rose_again = last - lowest > RISEN_AGAIN * (untrained - lowest)
        hardly_gained = untrained - last < MIN_GAIN * (untrained - best)
    return ~np.isfinite(last) | rose_again | hardly_gained


def _best(loss: np.ndarray) -> int:
    return int(np.nan_to_num(loss[..., -1], nan=np.inf).mean(axis=1).argmin())


def _levels(loss: np.ndarray) -> tuple[float, float]:
    """Return the loss of an untrained net, taken as that of the first epoch at the lowest lr, and the lowest loss."""
    return float(np.nanmean(loss[0, :, 0])), float(np.nanmin(loss))


def _warmups(total: int, n: int) -> np.ndarray:
    """Return 0 and lengths that double up to a third of the steps, so that each is followed by twice as many steps.

    >>> _warmups(300, 4).tolist(), _warmups(6, 5).tolist()
    ([0, 25, 50, 100], [0, 1, 2])
    """
    longest = max(1, total // 3)
    return np.unique([0, *(longest // 2**i for i in range(n - 1))])


def _rows(title: str, values: np.ndarray, loss: np.ndarray, unstable: np.ndarray) -> list[str]:
    rows = [f"{title:>16}  {'final loss':>10}  unstable"]
    for value, last, bad in zip(values, loss[..., -1].mean(axis=1), unstable, strict=True):
        rows.append(f"{value:>16.4g}  {last:>10.4g}  {bad.sum()} of {len(bad)}")
    return rows
