"""The expected score of the best of many candidates: two corrections of the winner's curse."""

from __future__ import annotations

from typing import Any

import numpy as np

from sklr._utils.validation import check_count, must_be, unknown_name


def corrected_score(
    cell_scores: np.ndarray, method: str = "bootstrap", *, n_bootstrap: int = 1000, random_state: Any = None
) -> float:
    r"""Estimate the score of the best candidate on new data, corrected for the luck that made it the best.

    It works for any candidates. On an LR curve `Choice.corrected` is less biased, and belongs to the lr that was
    chosen; a search takes its `best_score_corrected_` from there.

    Parameters
    ----------
    cell_scores : ndarray of shape (n_candidates, n_cells)
        Scores, higher is better. Candidates with a NaN are left out.
    method : {"bootstrap", "tibshirani"}, default="bootstrap"
        - ``"bootstrap"``: bootstrap bias corrected cross-validation (Tsamardinos, Greasidou and Borboudakis 2018,
          Machine Learning 107, algorithm 5), with cells instead of samples: cells are drawn with replacement, and the
          best candidate on them is scored on the cells not drawn. The correction is how much lower, on average, that
          score is than the score of the overall best candidate on the same cells. The common cells cancel the
          difference between easy and hard ones (a control variate; the expectation is that of algorithm 5). It
          corrects somewhat too much, because it chooses on fewer distinct cells. A negative correction is set to 0.
        - ``"tibshirani"``: Tibshirani and Tibshirani 2009, Annals of Applied Statistics 3(2), eq. 3: the best mean
          score minus :math:`\frac1K \sum_k [s_k(best_k) - s_k(best)]`, where `best_k` is the best candidate in cell
          `k` alone. Deterministic, but a single cell is noisier than the mean of `K`, so it corrects too much; its
          bias in benchmarks/bench_selection.py is larger, hence the default.
    n_bootstrap : int, default=1000
        Number of draws of ``"bootstrap"``.
    random_state : int, RandomState, Generator or None
        Random generator of ``"bootstrap"``.

    Returns
    -------
    score : float
        Never above the highest mean score. For a single candidate it is the mean score, because nothing was chosen. NaN
        for several candidates in a single cell, which cannot separate luck from quality.

    Raises
    ------
    ValueError
        If no candidate has all its scores, or if another argument is invalid.

    Examples
    --------
    >>> noise = np.random.default_rng(0).normal(0.9, 0.01, (50, 10))  # fifty candidates with expected score 0.9
    >>> methods = ("bootstrap", "tibshirani")
    >>> print(f"{noise.mean(axis=1).max():.3f}", *(f"{corrected_score(noise, m, random_state=0):.3f}" for m in methods))
    0.909 0.903 0.896
    >>> corrected_score(np.array([[0.5], [0.6]]))
    nan
    """
    scores = np.asarray(cell_scores, dtype=float)
    scores = scores[np.isfinite(scores).all(axis=1)]
    if not len(scores):
        raise ValueError(must_be("cell_scores", "finite for at least one candidate", len(cell_scores)))
    if method not in ("bootstrap", "tibshirani"):
        raise unknown_name("method", method, ("bootstrap", "tibshirani"))
    if len(scores) == 1:
        return float(scores.mean())
    if scores.shape[1] < 2:
        return float("nan")
    if method == "tibshirani":
        return _tibshirani(scores)
    return _bootstrap(scores, check_count("n_bootstrap", n_bootstrap), _generator(random_state))


def _tibshirani(scores: np.ndarray) -> float:
    best = scores[scores.mean(axis=1).argmax()]
    return float(best.mean() - (scores.max(axis=0) - best).mean())


def _bootstrap(scores: np.ndarray, n_bootstrap: int, generator: np.random.Generator) -> float:
    n_cells, mean = scores.shape[1], scores.mean(axis=1)
    drawn = generator.multinomial(n_cells, np.full(n_cells, 1 / n_cells), size=n_bootstrap)
    drawn = drawn[(drawn == 0).any(axis=1)]  # a draw of every cell leaves none to score on
    if not len(drawn):
        return float(mean.max())
    left_out = (drawn == 0) / (drawn == 0).sum(axis=1, keepdims=True)
    worth = left_out @ scores.T  # (n_bootstrap, n_candidates)
    luck = _mean_of_best(mean, worth) - _mean_of_best(drawn @ scores.T / n_cells, worth)
    return float(mean.max() - max(float(luck.mean()), 0.0))


def _mean_of_best(chosen_by: np.ndarray, worth: np.ndarray) -> np.ndarray:
    """Return the mean `worth` of the candidates that are best by `chosen_by`, so that ties do not depend on order."""
    highest = chosen_by.max(axis=-1, keepdims=True)
    is_best = chosen_by >= highest - 1e-12 * np.abs(highest)  # sums of the same scores differ by rounding
    return (worth * is_best).sum(axis=1) / is_best.sum(axis=-1)


def _generator(random_state: Any) -> np.random.Generator:
    if isinstance(random_state, np.random.RandomState):
        return np.random.default_rng(random_state.randint(2**31 - 1))
    return np.random.default_rng(random_state)
