"""From a search's record to its choice: the LR curve, the corrected score, the edge; and where to search further."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from sklr._utils.warnings import warn
from sklr.exceptions import EdgeOfRangeWarning
from sklr.experiment.lr_param import between_neighbours, is_number
from sklr.results import OK
from sklr.search._cv_results import Record
from sklr.search.proposals.dimension_types import is_same
from sklr.selection import Choice, LRCurve, lr_curve
from sklr.selection._luck import luck_of_best
from sklr.selection.curve import best_positions, distinct_seeds, edges

FEW = 3  # learning rates; with fewer the best one is always at an end
MAX_DECADES = 8  # beyond the given range; no learning rate further out is of use


def searched_curve(record: Record, lr_param: str | None) -> LRCurve | None:
    """Return the LR curve of all candidates so far; None if no learning rate was searched."""
    return _curve_of(record, lr_param, list(range(len(record.candidates))), joined=True)


def chosen_curve(record: Record, lr_param: str | None, best: int) -> LRCurve | None:
    """Return the curve on which the learning rate is chosen.

    It consists of the candidates that differ from the best one in their learning rate alone. If there are fewer than
    three learning rates among them, it is the curve of all candidates, with ``joined=False``: it allows no conclusion
    about the learning rate by itself. None if no learning rate was searched.

    Parameters
    ----------
    record : Record
    lr_param : str or None
    best : int
        Index of the best candidate.
    """
    candidates = record.candidates
    alike = [i for i, candidate in enumerate(candidates) if differ_in_lr_alone(candidate, candidates[best], lr_param)]
    if len(alike) < len(candidates):
        curve = _curve_of(record, lr_param, alike, joined=True)
        if curve is not None and len(curve) >= FEW:
            return curve
    return _curve_of(record, lr_param, list(range(len(candidates))), joined=len(alike) == len(candidates))


def differ_in_lr_alone(one: Mapping[str, Any], other: Mapping[str, Any], lr_param: str | None) -> bool:
    """Return whether two candidates have the same parameters apart from the learning rate.

    Values that are neither numbers, strings nor tuples are equal only if they are the same object.

    >>> differ_in_lr_alone({"lr": 0.1, "width": 8}, {"lr": 0.2, "width": 8}, "lr")
    True
    >>> differ_in_lr_alone({"lr": 0.1, "width": 8}, {"lr": 0.1, "width": 16}, "lr")
    False
    """
    names = (one.keys() | other.keys()) - {lr_param}
    return all(name in one and name in other and is_same(one[name], other[name]) for name in names)


def _curve_of(record: Record, lr_param: str | None, places: list[int], joined: bool) -> LRCurve | None:
    lrs = [record.candidates[i].get(lr_param) for i in places] if lr_param else [None]
    if any(not isinstance(lr, (int, float)) for lr in lrs):
        return None
    statuses = record.statuses()
    scores, status = record.cell_scores()[places], [statuses[i] for i in places]
    curve = lr_curve(lrs, scores, status, n_seeds=record.n_seeds, joined=joined)  # type: ignore[arg-type]
    return replace(curve, candidate=np.array(places, dtype=int)[curve.candidate])


def without_luck(record: Record, choice: Choice, lr_param: str | None, *limits: float) -> float:
    """Return the score of the choice, corrected for the winner's curse; NaN if the scores cannot tell.

    It never exceeds the score itself or the limits. If other parameters vary too, or if a callable `refit` chose, the
    correction is that of the best of all candidates.
    """
    scores, _ = distinct_seeds(record.cell_scores(), record.n_seeds)
    scores = scores[[status == OK for status in record.statuses()]]
    if not len(scores):
        return np.nan
    if choice.method == "refit":
        corrected = float(scores.mean(axis=1).max()) - luck_of_best(scores)
    elif all(differ_in_lr_alone(one, record.candidates[0], lr_param) for one in record.candidates):
        corrected = choice.corrected
    else:
        corrected = choice.score - luck_of_best(scores)
    return float(corrected if np.isnan(corrected) else min(corrected, choice.score, *limits))


def at_candidate(choice: Choice, curve: LRCurve, candidate: int, lr: float, score: float, method: str) -> Choice:
    """Return the choice with the learning rate of a candidate that was chosen by its rank or by a callable `refit`.

    Among equal scores the curve takes the lowest learning rate, whereas scikit-learn takes the first candidate.
    """
    se = curve.se[curve.candidate == candidate]
    return replace(
        choice, lr=lr, score=score, se=float(se[0]) if len(se) else np.nan, candidate=candidate, method=method
    )


def chosen_params(params: Mapping[str, Any], lr_param: str, lr: float) -> dict[str, Any]:
    """Return a candidate's parameters with the chosen learning rate, which may never have been tried.

    >>> chosen_params({"lr": 0.1, "batch_size": 8}, "lr", 0.07)
    {'lr': 0.07, 'batch_size': 8}
    """
    return {**params, lr_param: lr}


def warn_at_edge(curve: LRCurve, extended: bool) -> None:
    """Warn if the best learning rate, or one that ties with it, is at an end of the range that was tried."""
    reached = edges(curve)
    if not reached or len(curve) < FEW:
        return
    ends = " and ".join(f"the {'lowest' if side == 'low' else 'highest'}" for side in reached)
    best = " and ".join(f"{curve.lr[at]:.3g}" for at in dict.fromkeys(reached.values()))
    what = f"The best learning rate, {best}, is {ends} that was tried"
    if len(curve.ties) > 1:
        what = f"{len(curve.ties)} learning rates share the best score, among them {ends} that was tried, {best}"
    where = " or ".join("below" if side == "low" else "above" for side in reached)
    advice = f"extend=True went on for {MAX_DECADES} decades." if extended else "Search further with extend=True."
    warn(f"{what}: a better one may lie {where}. {advice}", EdgeOfRangeWarning)


def finer(tried: list[dict[str, Any]], scores: np.ndarray, lr_param: str, n: int) -> list[dict[str, Any]]:
    """Return the best candidate with `n` more learning rates, between it and its neighbours.

    If several learning rates share the best score, the gaps beside each of them are refined.
    """
    if not np.isfinite(scores).any():
        return []
    ties = best_positions(scores)
    best = tried[ties[0]]
    if lr_param not in best:
        return []
    alike = [i for i, candidate in enumerate(tried) if differ_in_lr_alone(candidate, best, lr_param)]
    lrs = sorted({tried[i][lr_param] for i in alike if is_number(tried[i][lr_param]) and tried[i][lr_param] > 0})
    around = [tried[i][lr_param] for i in alike if i in ties]
    return [{**best, lr_param: lr} for lr in between_neighbours(around, lrs, n)]


def extension(record: Record, lr_param: str) -> Generator[list[dict], np.ndarray, None]:
    """Propose learning rates beyond the range, a decade at a time, until the best is inside or runs diverge.

    The spacing is that at the end of the range. All other parameters are those of the best candidate; if several tie,
    those of the one at that end.
    """
    for _ in range(MAX_DECADES):
        curve = searched_curve(record, lr_param)
        reached = {} if curve is None else edges(curve)
        if curve is None or not reached:
            return
        at_end = {side: record.candidates[curve.candidate[at]] for side, at in reached.items()}
        yield [{**at_end[side], lr_param: lr} for side in reached for lr in next_decade(curve.lr, side)]


def next_decade(lrs: np.ndarray, side: str) -> list[float]:
    """Return one to four learning rates in the decade beyond an end, with about the spacing that the range has there.

    >>> next_decade(np.array([0.01, 0.1, 1.0]), "high")
    [10.0]
    >>> next_decade(np.array([0.01, 0.1, 1.0]) , "low")
    [0.001]
    >>> [f"{lr:.3g}" for lr in next_decade(10 ** np.arange(-4, 0.1, 0.5), "low")]
    ['1e-05', '3.16e-05']
    """
    u = np.log10(lrs)
    gap = u[1] - u[0] if side == "low" else u[-1] - u[-2]
    n = int(np.clip(round(1 / max(gap, 1e-9)), 1, 4))
    steps = np.arange(1, n + 1) / n
    beyond = u[0] - steps if side == "low" else u[-1] + steps
    return [float(f"{10**value:.12g}") for value in np.sort(beyond)]
