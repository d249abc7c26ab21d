"""What a search concludes from its scores: the LR curve, the choice on it, the edge, and how to search on."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, NamedTuple

import numpy as np

from sklr._warnings import warn
from sklr.exceptions import EdgeOfRangeWarning
from sklr.search._record import Record
from sklr.selection import Choice, LRCurve, choose, corrected_score, edge, lr_curve

FEW = 3  # learning rates: with fewer than these every best is at an end, and a range has hardly been searched
MAX_DECADES = 8  # beyond the range asked for; further out lies nothing that trains


class Decision(NamedTuple):
    """The choice of a learning rate, and what it rests on."""

    curve: LRCurve
    choice: Choice
    corrected: float


def searched_curve(record: Record, lr_param: str | None) -> LRCurve | None:
    """Return the LR curve of what has been tried so far; None where no learning rate has been searched."""
    lrs = [candidate.get(lr_param) for candidate in record.candidates] if lr_param else [None]
    if any(not isinstance(lr, (int, float)) for lr in lrs):
        return None
    return lr_curve(lrs, record.cell_scores(), record.statuses())  # type: ignore[arg-type]


def decide(curve: LRCurve, cell_scores: np.ndarray, select: str, confidence: float) -> Decision | None:
    """Choose on the curve; None where nothing on it has a score."""
    if curve.best < 0:
        return None
    return Decision(curve, choose(curve, select, confidence), corrected_score(cell_scores, random_state=0))


def chosen_params(params: Mapping[str, Any], lr_param: str, lr: float) -> dict[str, Any]:
    """Return a candidate's parameters with the chosen learning rate, which it may never have had.

    >>> chosen_params({"lr": 0.1, "batch_size": 8}, "lr", 0.07)
    {'lr': 0.07, 'batch_size': 8}
    """
    return {**params, lr_param: lr}


def warn_at_edge(curve: LRCurve, extended: bool) -> None:
    """Warn if the best learning rate is at an end of what was tried."""
    side = edge(curve)
    if side is None or len(curve) < FEW:
        return
    end = "lowest" if side == "low" else "highest"
    advice = f"extend=True went on for {MAX_DECADES} decades." if extended else "Search further with extend=True."
    warn(
        f"The best learning rate, {curve.lr[curve.best]:.3g}, is the {end} that was tried: a better one may lie "
        f"{'below' if side == 'low' else 'above'}. {advice}",
        EdgeOfRangeWarning,
    )


def extension(record: Record, lr_param: str) -> Generator[list[dict], np.ndarray, None]:
    """Propose learning rates beyond the range, a decade at a time, until the best is inside or runs diverge.

    The spacing is that of the range's own end; all other parameters are those of the best candidate.
    """
    for _ in range(MAX_DECADES):
        curve = searched_curve(record, lr_param)
        side = None if curve is None else edge(curve)
        if curve is None or side is None or len(curve) < 2:
            return
        params = record.candidates[curve.candidate[curve.best]]
        yield [{**params, lr_param: lr} for lr in next_decade(curve.lr, side)]


def next_decade(lrs: np.ndarray, side: str) -> list[float]:
    """Return the learning rates of the decade beyond one end, spaced as the range is there, at least one.

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
