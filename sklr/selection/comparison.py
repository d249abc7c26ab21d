"""Comparison of two configurations: is the difference larger than the noise of seeds and folds?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from html import escape

import numpy as np
from scipy import stats

from sklr._utils.validation import check_count, must_be
from sklr.selection.curve import distinct_seeds
from sklr.selection.variance import check_finite

ADOPT, REJECT, UNDECIDED = "adopt", "do not adopt", "not enough evidence"
OF_ONE_FOLD = "the noise of seeds in this one fold; other folds may say otherwise"
ONE_CELL = "one fold with one seed does not tell how noisy the scores are; train more folds, or more seeds that differ"
MAX_SEEDS = 1000  # per fold; a plan that needs more counts as hopeless
# Lower bound of the fold variance in a plan, as a part of the variance that seeds leave in the mean of a fold: equal
# folds seem to vary by about this much through chance.
CHANCE = 0.3


@dataclass(frozen=True)
class Comparison:
    """The result of comparing a new configuration with an old one by their paired scores.

    Parameters
    ----------
    verdict : {"adopt", "do not adopt", "not enough evidence"}
        The recommendation about the new configuration.
    difference : float
        Mean of new minus old.
    interval : tuple of float, (low, high)
        Confidence interval of the difference.
    p_value : float
        Two-sided p-value of the hypothesis that there is no difference; NaN with a single cell or diverged runs.
    effect_size : float
        Difference in standard deviations of the paired differences (Cohen's d_z); infinite if they do not vary.
    p_better : float
        Fraction of the cells in which the new one scores higher; ties count half.
    n_folds, n_seeds : int
        Number of folds, and of seeds per fold.
    more_seeds : int or None
        Seeds per fold to add for a probable decision, either way; 0 if it is decided already, None if seeds alone would
        not decide it (more folds or data might).
    confidence : float
        Confidence level of the interval and the verdict.
    reason : str
        The reason for the verdict, a sentence without a full stop.
    """

    verdict: str
    difference: float
    interval: tuple[float, float]
    p_value: float
    effect_size: float
    p_better: float
    n_folds: int
    n_seeds: int
    more_seeds: int | None
    confidence: float
    reason: str

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{self.verdict}: {self.reason}.\n"
            f"difference {self.difference:+.4f} ({100 * self.confidence:g} % confidence: {low:+.4f} to {high:+.4f}), "
            f"p = {self.p_value:.2g}, effect size {self.effect_size:+.2f}, "
            f"better in {100 * self.p_better:.0f} % of {self.n_folds} folds x {self.n_seeds} seeds"
        )

    def _repr_html_(self) -> str:
        return f"<p>{escape(str(self)).replace(chr(10), '<br>')}</p>"


def compare_scores(
    new: np.ndarray,
    old: np.ndarray,
    *,
    n_train: int,
    n_test: int,
    n_seeds: int = 1,
    min_effect: float = 0.0,
    confidence: float = 0.95,
    power: float = 0.8,
) -> Comparison:
    r"""Compare two configurations that were scored in the same cells.

    The model: a difference has a part :math:`F_j` that all seeds of fold `j` share, with variance :math:`\sigma_F^2`,
    and a part of each seed in each fold, with variance :math:`\sigma_e^2`. The variance of the mean over `J` folds of
    `S` seeds is :math:`(1/J + n_{test}/n_{train}) \sigma_F^2 + \sigma_e^2 / (JS)`. The first term is that of the
    corrected resampled t test of Nadeau and Bengio 2003 (Machine Learning 52, section 4.1, eq. 9): the training sets of
    different folds overlap, which the plain paired t test ignores. Seeds do not overlap, so their part needs no
    correction. Both variances are estimated by the method of moments, truncated at 0, and the degrees of freedom are
    Satterthwaite's, at least `J - 1`. With one seed per fold the two parts cannot be separated, and all variance is
    attributed to the folds.

    Parameters
    ----------
    new, old : ndarray of shape (n_cells,)
        Scores, higher is better. Cells are ordered fold by fold, the seeds of a fold side by side. NaN means diverged.
    n_train, n_test : int
        Number of training and of test rows in a fold.
    n_seeds : int, default=1
        Seeds per fold.
    min_effect : float, default=0
        The smallest improvement worth having, in score. If even the upper end of the interval is below it, the new
        configuration is rejected.
    confidence : float, default=0.95
        Confidence level of the interval; an improvement is adopted if its lower end is above 0.
    power : float, default=0.8
        Probability with which `Comparison.more_seeds` seeds should lead to a decision.

    Returns
    -------
    comparison : Comparison

    Raises
    ------
    ValueError
        If `new` and `old` do not have the same shape with a whole number of folds, or if another argument is invalid.

    Notes
    -----
    The correction assumes a correlation of n_test / (n_train + n_test) between folds, which is a good approximation
    rather than a theorem, and conservative if training depends little on which rows it sees. With one fold the units
    are the seeds, there is no correction, and the verdict applies to that split only; seeds that never differ count as
    one, and a single cell is no evidence.

    `more_seeds` does not assume that the observed difference is the true one, which would be too optimistic: the mean
    over all seeds is expected to stay where it is, with the variance that `m` more seeds add,
    :math:`\sigma_e^2 / J \, (1/S - 1/(S + m))`. benchmarks/bench_compare.py counts how often verdicts and plans are
    right on real trainings.

    Examples
    --------
    >>> old = np.array([0.90, 0.92, 0.91, 0.89, 0.93])
    >>> gain = np.array([0.020, 0.021, 0.019, 0.022, 0.018])
    >>> print(compare_scores(old + gain, old, n_train=80, n_test=20))
    adopt: the improvement is more than the noise of seeds and folds.
    difference +0.0200 (95 % confidence: +0.0171 to +0.0229), p = 4.7e-05, effect size +12.65,
    better in 100 % of 5 folds x 1 seeds
    >>> luck = np.array([0.02, -0.01, 0.015, -0.02, 0.01])
    >>> print(compare_scores(old + luck, old, n_train=80, n_test=20).verdict)
    not enough evidence
    """
    new, old = np.asarray(new, dtype=float), np.asarray(old, dtype=float)
    _check_arguments(new, old, n_train, n_test, n_seeds, confidence, power)
    if np.isnan(new).any() or np.isnan(old).any():
        return _of_diverged(new, old, n_seeds, confidence)
    n_folds = len(new) // n_seeds
    if n_folds == 1:
        (new, old), n_seeds = distinct_seeds(np.stack([new, old]), n_seeds)
    differences = (new - old).reshape(n_folds, n_seeds)
    test = _Test(differences, n_test / n_train if n_folds > 1 else 0.0, confidence)
    verdict, reason = test.judge(min_effect)
    more = 0 if verdict != UNDECIDED else _more_seeds(test, power)
    if verdict == UNDECIDED:
        reason = _advice(more) if differences.size > 1 else ONE_CELL
    return Comparison(
        verdict,
        test.mean,
        test.interval,
        test.p_value,
        _effect_size(differences),
        float(np.mean(differences > 0) + 0.5 * np.mean(differences == 0)),
        n_folds,
        n_seeds,
        more,
        confidence,
        reason,
    )


@dataclass(frozen=True, eq=False)
class _Test:
    """The t test of differences (n_folds, n_seeds), corrected for overlapping folds; a single one decides nothing."""

    differences: np.ndarray
    overlap: float
    confidence: float

    @property
    def noise(self) -> str:
        return "the noise of seeds and folds" if len(self.differences) > 1 else OF_ONE_FOLD

    @property
    def mean(self) -> float:
        return float(self.differences.mean())

    @cached_property
    def seed(self) -> float:
        """Variance of the seeds within a fold; 0 with one seed per fold."""
        return float(self.differences.var(axis=1, ddof=1).mean()) if self.differences.shape[1] > 1 else 0.0

    @cached_property
    def fold(self) -> float:
        """Variance of the part that all seeds of a fold share; 0 with one fold."""
        n_folds, n_seeds = self.differences.shape
        if n_folds == 1:
            return 0.0
        return max(float(self.differences.mean(axis=1).var(ddof=1)) - self.seed / n_seeds, 0.0)

    @property
    def dof(self) -> float:
        n_folds, n_seeds = self.differences.shape
        of_seeds = n_folds * (n_seeds - 1)
        if n_folds == 1:
            return of_seeds
        if not self.fold:  # as in `se`
            return n_folds * n_seeds - 1
        of_folds = (1 / n_folds + self.overlap) * (self.fold + self.seed / n_seeds)
        of_overlap = self.overlap * self.seed / n_seeds
        spread = of_folds**2 / (n_folds - 1) + (of_overlap**2 / of_seeds if of_seeds else 0.0)
        return max((of_folds - of_overlap) ** 2 / spread, n_folds - 1)

    @property
    def se(self) -> float:
        if self.differences.size < 2:
            return np.inf
        # equal differences may differ in the last digits; that is rounding, not evidence
        rounding = 1e-12 * max(abs(self.mean), 1.0)
        if np.ptp(self.differences) <= rounding:
            return 0.0
        if self.differences.shape[0] > 1 and not self.fold:  # without a fold effect all differences are exchangeable
            return float(np.sqrt(self.differences.var(ddof=1) / self.differences.size))
        n_folds = len(self.differences)
        return float(np.sqrt((1 / n_folds + self.overlap) * self.fold + self.seed / self.differences.size))

    @property
    def interval(self) -> tuple[float, float]:
        if not np.isfinite(self.se):
            return -np.inf, np.inf
        reach = float(stats.t.ppf((1 + self.confidence) / 2, self.dof)) * self.se
        return self.mean - reach, self.mean + reach

    @property
    def p_value(self) -> float:
        if not np.isfinite(self.se):
            return np.nan
        if self.se == 0:
            return float(self.mean == 0)
        return float(2 * stats.t.sf(abs(self.mean) / self.se, self.dof))

    def judge(self, min_effect: float) -> tuple[str, str]:
        low, high = self.interval
        if high < 0:
            return REJECT, f"it is worse by more than {self.noise}"
        if high < min_effect or low == high == 0:
            return REJECT, f"the improvement is not above {min_effect:g}, even at the upper end of its interval"
        if low > 0:
            return ADOPT, f"the improvement is more than {self.noise}"
        return UNDECIDED, ""


def _more_seeds(test: _Test, power: float) -> int | None:
    """Return how many seeds per fold to add for a decision with this power; None if seeds do not help.

    The present seeds are kept. The mean over all seeds is expected to stay where it is, with the variance that the
    added seeds bring: the predictive distribution if nothing else is known about the true difference.
    """
    n_folds, n_seeds = test.differences.shape
    if test.differences.size == 1:
        return None  # there is no variance to plan with
    # with one seed per fold all variance may be that of the seeds: then the plan is the smallest possible one
    fold, seed = (test.fold, test.seed) if n_seeds > 1 else (0.0, test.fold)
    total = np.arange(n_seeds + 1, MAX_SEEDS + 1)
    dof = total - 1 if n_folds == 1 else min(test.dof, 2 * (n_folds - 1))
    folds = np.maximum(fold, CHANCE * seed / total) if n_folds > 1 else 0.0
    reach = stats.t.ppf((1 + test.confidence) / 2, dof)
    reach = reach * np.sqrt((1 / n_folds + test.overlap) * folds + seed / (n_folds * total))
    moves = np.sqrt(seed / n_folds * (1 / n_seeds - 1 / total)) + 1e-300  # not 0 if the seeds do not vary
    settled = stats.norm.cdf((test.mean - reach) / moves) + stats.norm.cdf((-test.mean - reach) / moves)
    enough = np.flatnonzero(settled >= power)
    return int(total[enough[0]]) - n_seeds if len(enough) else None


def _advice(more: int | None) -> str:
    if more is None:
        return "more seeds alone would not settle it; more folds, or more data, might"
    return f"about {more} more seeds per fold would probably settle it"


def _effect_size(differences: np.ndarray) -> float:
    mean, sd = float(differences.mean()), float(differences.std(ddof=1)) if differences.size > 1 else np.nan
    if sd == 0:
        return float(np.copysign(np.inf, mean)) if mean else 0.0
    return mean / sd


def _of_diverged(new: np.ndarray, old: np.ndarray, n_seeds: int, confidence: float) -> Comparison:
    """Compare by the number of diverged runs: means over the other runs would compare different cells."""
    n_new, n_old = int(np.isnan(new).sum()), int(np.isnan(old).sum())
    reason = f"the new one diverged in {n_new}, the old one in {n_old} of {len(new)} cells"
    both = np.isfinite(new) & np.isfinite(old)
    difference = float((new - old)[both].mean()) if both.any() else np.nan
    verdict = REJECT if n_new > n_old else ADOPT if not n_new and not difference < 0 else UNDECIDED
    better = float(np.mean(np.where(both, new > old, np.isnan(old))))
    nothing = (-np.inf, np.inf)
    more = 0 if verdict != UNDECIDED else None
    n_folds = len(new) // n_seeds
    return Comparison(verdict, difference, nothing, np.nan, np.nan, better, n_folds, n_seeds, more, confidence, reason)


def _check_arguments(
    new: np.ndarray, old: np.ndarray, n_train: int, n_test: int, n_seeds: int, confidence: float, power: float
) -> None:
    for name, count in (("n_seeds", n_seeds), ("n_train", n_train), ("n_test", n_test)):
        check_count(name, count)
    for name, value in (("confidence", confidence), ("power", power)):
        if not 0 < value < 1:
            raise ValueError(must_be(name, "between 0 and 1", value))
    if new.ndim != 1 or new.shape != old.shape or not len(new) or len(new) % n_seeds:
        rule = f"scores of the same cells, {n_seeds} for each fold"
        raise ValueError(must_be("new and old", rule, (new.shape, old.shape)))
    for name, scores in (("new", new), ("old", old)):
        check_finite(name, np.where(np.isnan(scores), 0.0, scores))
