"""Sweep the learning rate at two or more sizes, and check whether the best one changes as a rule predicts."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils import check_random_state

from sklr._utils.html import ShownAsText
from sklr._utils.validation import check_count, must_be
from sklr.exceptions import DivergedWarning, EdgeOfRangeWarning
from sklr.experiment.lr_param import find_lr_param
from sklr.scaling import Transfer
from sklr.search._grid import LRGridSearchCV
from sklr.selection import Choice, LRCurve, choose, edge
from sklr.transfer._exponent import Exponent, lr_exponent

HOLDS, FAILS, OPEN = "holds", "fails", "undecided"


@dataclass(frozen=True, eq=False)
class Sweep:
    """The learning-rate sweep of one size.

    Parameters
    ----------
    scale : float
        Ratio of this size to the first one.
    expected : float
        The change of the best lr that the rule predicts relative to the first size, in decades.
    curve : LRCurve
    choice : Choice
        The best lr of the curve, from a fit if the scores support one.
    """

    scale: float
    expected: float
    curve: LRCurve
    choice: Choice

    @property
    def interval(self) -> tuple[float, float]:
        """Interval of the best lr; open on a side on which it may be outside the sweep, or if it is unknown."""
        if self.choice.unknown:
            return 0.0, math.inf
        low, high = self.choice.interval
        side = edge(self.curve)
        if "outside the learning rates" in self.choice.refused:
            side = "high" if "above" in self.choice.refused else "low"
        return (0.0 if side in ("low", "both") else low), (math.inf if side in ("high", "both") else high)


@dataclass(frozen=True, eq=False, repr=False)
class TransferCheck(ShownAsText):
    """Whether the best learning rate changed as a rule predicted.

    Parameters
    ----------
    sweeps : tuple of Sweep
        One per size, that of the old size first.
    tolerance : float
        The deviation from the rule that is accepted, in decades.
    confidence : float
        Confidence level of the intervals.
    """

    sweeps: tuple[Sweep, ...]
    tolerance: float
    confidence: float

    @property
    def errors(self) -> np.ndarray:
        """Deviation of each new size's best lr from the rule's prediction, in decades, shape (n_sizes - 1,)."""
        old = self.sweeps[0]
        return np.array([math.log10(new.choice.lr / old.choice.lr) - new.expected for new in self.sweeps[1:]])

    @property
    def error_intervals(self) -> np.ndarray:
        """Confidence intervals of the errors, shape (n_sizes - 1, 2).

        They are computed from the intervals of the two optima, assumed to be independent (Zou and Donner 2008,
        Statistics in Medicine 27, 1693). As these share folds and seeds, the result is rather too wide than too narrow.
        It is open on both sides if only one fold with one seed was trained, which gives no interval.
        """
        below, above = (np.array([abs(_log(s.interval[i] / s.choice.lr)) for s in self.sweeps]) for i in (0, 1))
        low, high = np.hypot(below[1:], above[0]), np.hypot(above[1:], below[0])
        return np.stack([self.errors - low, self.errors + high], axis=1)

    @property
    def verdicts(self) -> tuple[str, ...]:
        """For each new size "holds", "fails" or "undecided".

        The rule holds if the whole interval of the error is within the tolerance. It fails if the error exceeds the
        tolerance and its interval does not contain 0.
        """
        found = zip(self.errors, self.error_intervals, strict=True)
        return tuple(_verdict(error, low, high, self.tolerance) for error, (low, high) in found)

    @property
    def verdict(self) -> str:
        """The verdict for all sizes: "fails" if the rule fails for one, "holds" if it holds for all, or "undecided"."""
        if FAILS in self.verdicts:
            return FAILS
        return HOLDS if set(self.verdicts) == {HOLDS} else OPEN

    @property
    def exponent(self) -> Exponent:
        """The exponent of the best lr as a power of the size.

        Sizes whose best lr may be outside their sweep are not used.
        """
        lrs = [sweep.choice.lr for sweep in self.sweeps]
        intervals = [sweep.interval for sweep in self.sweeps]
        return lr_exponent([sweep.scale for sweep in self.sweeps], lrs, intervals, self.confidence)

    def conclusion(self) -> str:
        """Return the last line of the table: whether the rule holds."""
        return str(self).splitlines()[-1]

    def __str__(self) -> str:
        lines = [f"{'size':>8} {'best lr':>10} {'expected':>10} {'off by':>8} {'interval':>18}  verdict"]
        old = self.sweeps[0].choice.lr
        lines.append(f"{'x1':>8} {old:>10.3g}")
        rows = zip(self.sweeps[1:], self.errors, self.error_intervals, self.verdicts, strict=True)
        for sweep, error, (low, high), verdict in rows:
            lines.append(
                f"{f'x{sweep.scale:g}':>8} {sweep.choice.lr:>10.3g} {old * 10**sweep.expected:>10.3g} {error:>+8.2f} "
                f"{f'{low:+.2f} .. {high:+.2f}':>18}  {verdict}"
            )
        verb = "is undecided" if self.verdict == OPEN else self.verdict
        return "\n".join([*lines, f"The rule {verb}: deviations in decades, tolerance {self.tolerance:g}."])


def verify_transfer(
    net: Any,
    X: Any,
    y: Any = None,
    to: Transfer | Sequence[Transfer] = (),
    *,
    decades: float = 1.0,
    n_lrs: int = 9,
    tolerance: float = 0.3,
    confidence: float = 0.9,
    cv: Any = None,
    n_seeds: int = 1,
    scoring: Any = None,
    engine: Any = "auto",
    n_jobs: int | None = None,
    random_state: Any = None,
    **fit_params: Any,
) -> TransferCheck:
    """Sweep the learning rate at the old and the new size, and check whether the best one changes as a rule predicts.

    The sweep of each size is centred on the lr that the rule gives for it, so that the best lr is in the middle of all
    sweeps if the rule holds. All runs of a size are trained as one stack if the net allows it.

    Parameters
    ----------
    net : net
        The net at the old size.
    X, y : as in `fit`
    to : Transfer or sequence of Transfer
        Required. From `transfer_lr`, or from `mup_param_groups(...).as_transfer(...)`; several must start from the same
        lr.
    decades : float, default=1
        How many decades each sweep extends on either side.
    n_lrs : int, default=9
        Number of learning rates in a sweep, at least 4.
    tolerance : float, default=0.3
        Accepted deviation of the best lr, in decades; 0.3 is a factor of two, and scores rarely resolve less.
    confidence : float, default=0.9
        Confidence level of the intervals.
    cv, n_seeds, scoring, engine, n_jobs, random_state
        As in `LRGridSearchCV`; folds and seeds are the same at all sizes. A smooth score such as ``"neg_log_loss"``
        locates the best lr with less noise than accuracy.
    **fit_params
        As in `fit`.

    Returns
    -------
    check : TransferCheck
        It prints as a table with a verdict.

    Raises
    ------
    ValueError
        If an argument is invalid, or all learning rates of a sweep diverge.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklr import MLP, NeuralNetClassifier
    >>> from sklr.scaling import transfer_lr
    >>> X, y = load_iris(return_X_y=True)
    >>> net = NeuralNetClassifier(MLP, batch_size=5, iterator_train__shuffle=True, max_epochs=3)
    >>> rule = transfer_lr(0.02, optimizer="sgd", batch_size=(5, 10))
    >>> check = verify_transfer(net, X, y, rule, n_lrs=5, scoring="neg_log_loss", random_state=0)
    >>> check.verdict in ("holds", "undecided"), check.errors.shape
    (True, (1,))
    """
    transfers = [to] if isinstance(to, Transfer) else list(to)
    _check_transfers(transfers)
    if check_count("n_lrs", n_lrs) < 4:
        raise ValueError(must_be("n_lrs", "at least 4, which a fit needs", n_lrs))
    for name, value in {"decades": decades, "tolerance": tolerance}.items():
        if not 0 < value < math.inf:
            raise ValueError(must_be(name, "above 0", value))
    lr_param = find_lr_param(net, None)
    prefix = lr_param.removesuffix("lr")
    factors = np.logspace(-decades, decades, n_lrs)
    seed = int(check_random_state(random_state).randint(2**31 - 1))  # the same folds and seeds at all sizes

    def sweep(lr: float, scale: float, expected: float, changes: dict[str, Any]) -> Sweep:
        search = LRGridSearchCV(
            clone(net).set_params(**{prefix + name: value for name, value in changes.items()}),
            lrs=(lr * factors).tolist(),
            cv=cv,
            n_seeds=n_seeds,
            scoring=scoring,
            refit=False,
            engine=engine,
            n_jobs=n_jobs,
            random_state=seed,
            lr_param=lr_param,
        )
        search.called_by = verify_transfer
        with (
            warnings.catch_warnings()
        ):  # a sweep may well reach learning rates that diverge, or have its best at an end
            warnings.simplefilter("ignore", DivergedWarning)
            warnings.simplefilter("ignore", EdgeOfRangeWarning)
            curve = search.fit(X, y, **fit_params).lr_curve_
        return Sweep(scale, expected, curve, choose(curve, "fit", confidence))

    sweeps = [sweep(transfers[0].old_lr, 1.0, 0.0, {})]
    sweeps += [sweep(t.lr, t.scale, math.log10(t.ratio), dict(t.params)) for t in transfers]
    return TransferCheck(tuple(sweeps), tolerance, confidence)


def _check_transfers(transfers: list[Any]) -> None:
    if not transfers or not all(isinstance(t, Transfer) for t in transfers):
        advice = "Create it with transfer_lr, or with mup_param_groups(...).as_transfer(...)."
        raise ValueError(must_be("to", "a Transfer or several", transfers, advice))
    starts = {t.old_lr for t in transfers}
    if len(starts) > 1:
        raise ValueError(must_be("to", "transfers from the same lr", sorted(starts)))


def _log(ratio: float) -> float:
    return math.log10(ratio) if ratio > 0 else -math.inf


def _verdict(error: float, low: float, high: float, tolerance: float) -> str:
    if abs(error) > tolerance and not low <= 0 <= high:
        return FAILS
    return HOLDS if -tolerance <= low and high <= tolerance else OPEN
