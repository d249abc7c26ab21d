"""Sweep a net at both sizes, and see whether the best learning rate moved as the rule said."""

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
    """The learning rates of one size.

    Parameters
    ----------
    scale : float
        How many times larger than the first.
    expected : float
        How far the rule moves the best lr from that of the first size, in decades.
    curve : LRCurve
    choice : Choice
        The best lr on it, by a fit where the scores support one.
    """

    scale: float
    expected: float
    curve: LRCurve
    choice: Choice

    @property
    def interval(self) -> tuple[float, float]:
        """Where the best lr lies; open to the side where it may be outside of what was tried, or is not known."""
        if self.choice.unknown:
            return 0.0, math.inf
        low, high = self.choice.interval
        side = edge(self.curve)
        if "outside the learning rates" in self.choice.refused:
            side = "high" if "above" in self.choice.refused else "low"
        return (0.0 if side in ("low", "both") else low), (math.inf if side in ("high", "both") else high)


@dataclass(frozen=True, eq=False, repr=False)
class TransferCheck(ShownAsText):
    """Whether the best learning rate moved as a rule said.

    Parameters
    ----------
    sweeps : tuple of Sweep
        The old size first.
    tolerance : float
        How many decades off still counts as held.
    confidence : float
        Of the intervals.
    """

    sweeps: tuple[Sweep, ...]
    tolerance: float
    confidence: float

    @property
    def errors(self) -> np.ndarray:
        """How far each size's best lr lies above where the rule puts it, in decades; shape (n_sizes - 1,)."""
        old = self.sweeps[0]
        return np.array([math.log10(new.choice.lr / old.choice.lr) - new.expected for new in self.sweeps[1:]])

    @property
    def error_intervals(self) -> np.ndarray:
        """Their intervals, shape (n_sizes - 1, 2).

        From those of the two optima, taken as independent (Zou and Donner 2008, Statistics in Medicine 27, 1693); they
        share folds and seeds, so it is wide rather than narrow. Open to both sides where one fold with one seed was
        trained, which tells no interval.
        """
        below, above = (np.array([abs(_log(s.interval[i] / s.choice.lr)) for s in self.sweeps]) for i in (0, 1))
        low, high = np.hypot(below[1:], above[0]), np.hypot(above[1:], below[0])
        return np.stack([self.errors - low, self.errors + high], axis=1)

    @property
    def verdicts(self) -> tuple[str, ...]:
        """For each new size "holds", "fails" or "undecided".

        It holds if the whole interval is within the tolerance, and fails if the interval leaves out what was expected
        and the best lr is further off than the tolerance.
        """
        found = zip(self.errors, self.error_intervals, strict=True)
        return tuple(_verdict(error, low, high, self.tolerance) for error, (low, high) in found)

    @property
    def verdict(self) -> str:
        """ "fails" if one size does, "holds" if all do, else "undecided"."""
        if FAILS in self.verdicts:
            return FAILS
        return HOLDS if set(self.verdicts) == {HOLDS} else OPEN

    @property
    def exponent(self) -> Exponent:
        """The power of the size that the best lr follows.

        Sizes whose best lr may be outside of their sweep do not count.
        """
        lrs = [sweep.choice.lr for sweep in self.sweeps]
        intervals = [sweep.interval for sweep in self.sweeps]
        return lr_exponent([sweep.scale for sweep in self.sweeps], lrs, intervals, self.confidence)

    def conclusion(self) -> str:
        """Return whether the rule holds."""
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
        return "\n".join([*lines, f"The rule {verb}: off by decades, tolerance {self.tolerance:g}."])


def verify_transfer(
    net: Any,
    X: Any,
    y: Any,
    to: Transfer | Sequence[Transfer],
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
    """Sweep the learning rate at the old and at the new size, and say whether the best one moved as the rule said.

    The old size's sweep is around the rule's old lr, the new size's around its new one, so that the best is in the
    middle of both if the rule holds. All runs of a size are trained as one stack where the net allows it.

    Parameters
    ----------
    net : net
        At the old size.
    X, y : as in `fit`
    to : Transfer or sequence of Transfer
        From `transfer_lr`, or from `mup_param_groups(...).as_transfer(...)`; several must start from one lr.
    decades : float, default=1
        How far each sweep reaches to both sides.
    n_lrs : int, default=9
        Learning rates in a sweep, at least 4.
    tolerance : float, default=0.3
        Decades that the best lr may be off; 0.3 is a factor of two, which few scores tell.
    confidence : float, default=0.9
        Of the intervals.
    cv, n_seeds, scoring, engine, n_jobs, random_state
        As in `LRGridSearchCV`; folds and seeds are the same at all sizes. A smooth score such as ``"neg_log_loss"``
        finds the best lr with less noise than accuracy does.
    **fit_params
        As in `fit`.

    Returns
    -------
    check : TransferCheck
        Printed, it is a table with a verdict.

    Raises
    ------
    ValueError
        If an argument is not what it must be, or all learning rates of a sweep diverge.

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
        raise ValueError(must_be("n_lrs", "at least 4, as a fit needs them", n_lrs))
    for name, value in {"decades": decades, "tolerance": tolerance}.items():
        if not 0 < value < math.inf:
            raise ValueError(must_be(name, "above 0", value))
    lr_param = find_lr_param(net, None)
    prefix = lr_param.removesuffix("lr")
    factors = np.logspace(-decades, decades, n_lrs)
    seed = int(check_random_state(random_state).randint(2**31 - 1))  # one for all sizes

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
        with warnings.catch_warnings():  # sweeps reach over the edge on purpose
            warnings.simplefilter("ignore", DivergedWarning)
            warnings.simplefilter("ignore", EdgeOfRangeWarning)
            curve = search.fit(X, y, **fit_params).lr_curve_
        return Sweep(scale, expected, curve, choose(curve, "fit", confidence))

    sweeps = [sweep(transfers[0].old_lr, 1.0, 0.0, {})]
    sweeps += [sweep(t.lr, t.scale, math.log10(t.ratio), dict(t.params)) for t in transfers]
    return TransferCheck(tuple(sweeps), tolerance, confidence)


def _check_transfers(transfers: list[Any]) -> None:
    if not transfers or not all(isinstance(t, Transfer) for t in transfers):
        advice = "Make it with transfer_lr, or with mup_param_groups(...).as_transfer(...)."
        raise ValueError(must_be("to", "a Transfer or several", transfers, advice))
    starts = {t.old_lr for t in transfers}
    if len(starts) > 1:
        raise ValueError(must_be("to", "transfers from one lr", sorted(starts)))


def _log(ratio: float) -> float:
    return math.log10(ratio) if ratio > 0 else -math.inf


def _verdict(error: float, low: float, high: float, tolerance: float) -> str:
    if abs(error) > tolerance and not low <= 0 <= high:
        return FAILS
    return HOLDS if -tolerance <= low and high <= tolerance else OPEN
