"""Variance components of one configuration's scores: seeds, folds, and the residual."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sklr._utils.html import ShownAsText
from sklr._utils.validation import must_be


@dataclass(frozen=True)
class VarianceComponents(ShownAsText):
    """Variance components of one configuration's scores.

    Parameters
    ----------
    seed : float
        Variance of the effect that a seed has in every fold.
    fold : float
        Variance of the effect that a fold has with every seed.
    residual : float
        The remaining variance, of a seed in a fold.

    Notes
    -----
    A component that the scores cannot determine is NaN. With one fold these are `fold` and `residual`; the latter is
    then part of `seed`.

    Examples
    --------
    >>> print(VarianceComponents(seed=0.0001, fold=0.0004, residual=0.0))
    standard deviations: seed 0.0100, fold 0.0200, residual 0.0000
    >>> print(VarianceComponents(seed=0.0001, fold=float("nan"), residual=float("nan")))
    standard deviations: seed 0.0100, fold not known, residual not known
    """

    seed: float
    fold: float
    residual: float

    def __str__(self) -> str:
        parts = {"seed": self.seed, "fold": self.fold, "residual": self.residual}
        shown = (f"{name} {f'{v**0.5:.4f}' if np.isfinite(v) else 'not known'}" for name, v in parts.items())
        return f"standard deviations: {', '.join(shown)}"


def variance_components(scores: np.ndarray) -> VarianceComponents:
    """Split the variance of one configuration's scores into seed, fold and residual.

    Method of moments on the two-way layout without replication (Searle, Casella and McCulloch 1992, section 4.2):
    residual = MSE, fold = (MSF - MSE) / n_seeds, seed = (MSS - MSE) / n_folds; an estimate below 0 is set to 0. It
    assumes the same seeds in every fold; if each fold has its own seeds, their variance is in the residual.

    Parameters
    ----------
    scores : ndarray of shape (n_folds, n_seeds)
        All finite; at least two folds and two seeds.

    Returns
    -------
    components : VarianceComponents

    Raises
    ------
    ValueError
        If there are fewer than two folds or seeds, or if a score is not finite.

    Examples
    --------
    >>> variance_components(np.array([[0.0, 2.0], [4.0, 6.0]]))  # seeds and folds add up, nothing is left
    VarianceComponents(seed=2.0, fold=8.0, residual=0.0)
    >>> variance_components(np.zeros((1, 3)))
    Traceback (most recent call last):
    ValueError: scores must be of at least 2 folds and 2 seeds, got 1 and 3. Train more seeds in more folds.
    """
    scores = np.asarray(scores, dtype=float)
    n_folds, n_seeds = scores.shape
    if min(n_folds, n_seeds) < 2:
        found = f"got {n_folds} and {n_seeds}. Train more seeds in more folds."
        raise ValueError(f"scores must be of at least 2 folds and 2 seeds, {found}")
    check_finite("scores", scores)
    folds, seeds = scores.mean(axis=1), scores.mean(axis=0)
    rest = scores - folds[:, None] - seeds + scores.mean()
    residual = float((rest**2).sum() / ((n_folds - 1) * (n_seeds - 1)))
    fold = max(float(folds.var(ddof=1)) - residual / n_seeds, 0.0)
    return VarianceComponents(max(float(seeds.var(ddof=1)) - residual / n_folds, 0.0), fold, residual)


def check_finite(name: str, scores: np.ndarray) -> None:
    """Raise ValueError if a score is NaN or infinite."""
    if not np.isfinite(scores).all():
        raise ValueError(must_be(name, "finite", scores[~np.isfinite(scores)][0].item(), "Leave diverged runs out."))
