"""Statistics over tasks as functions of arrays: ranks, Wilcoxon tests with Holm's method, wins, bootstrap bands."""

from __future__ import annotations

import numpy as np
from scipy import stats


def average_ranks(values: np.ndarray) -> np.ndarray:
    """Return the mean rank of each strategy over the tasks, 1 for the lowest value; values of shape (n, n_tasks).

    >>> average_ranks(np.array([[0.0, 1.0], [0.5, 1.0], [0.2, 3.0]])).tolist()
    [1.25, 2.25, 2.5]
    """
    return stats.rankdata(values, axis=0).mean(axis=1)


def holm(p: np.ndarray) -> np.ndarray:
    """Return p values adjusted for multiple tests by Holm's method.

    >>> holm(np.array([0.01, 0.04, 0.03])).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(stepped)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def wilcoxon(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return two-sided p values of signed-rank tests over the tasks against one strategy, adjusted by Holm's method.

    The unit is the task, not the search, because the searches of a task are not independent.

    >>> wilcoxon(np.array([np.arange(8) + 1.0, np.zeros(8)]), np.zeros(8)).round(3).tolist()
    [0.016, 1.0]
    """
    return holm(np.array([_signed_rank(row - reference) for row in values]))


def _signed_rank(differences: np.ndarray) -> float:
    return float(stats.wilcoxon(differences).pvalue) if (differences != 0).any() else 1.0


def wins(values: np.ndarray, reference: np.ndarray, noise: np.ndarray) -> tuple[int, int, int]:
    """Return the numbers of tasks with a loss lower than the reference's, equal within the noise, and higher.

    >>> wins(np.array([0.1, 0.2, 0.9]), np.array([0.5, 0.2, 0.2]), np.array([0.1, 0.1, 0.1]))
    (1, 1, 1)
    """
    lower, higher = int((values < reference - noise).sum()), int((values > reference + noise).sum())
    return lower, len(values) - lower - higher, higher


def band(values: np.ndarray, confidence: float = 0.9, n: int = 1000) -> tuple[float, float]:
    """Return a bootstrap interval for the mean of values (n_tasks, n_seeds), resampling seeds within tasks.

    >>> low, high = band(np.array([[0.0, 1.0] * 50]))
    >>> 0.35 < low < 0.5 < high < 0.65
    True
    """
    generator = np.random.default_rng(0)
    drawn = generator.integers(values.shape[1], size=(n, *values.shape))
    means = np.take_along_axis(values[None], drawn, axis=2).mean(axis=(1, 2))
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
