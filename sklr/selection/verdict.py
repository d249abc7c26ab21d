"""A search's result in plain words: what was chosen, how sure that is, and what to do next."""

from __future__ import annotations

import numpy as np

from sklr.selection.choice import Choice
from sklr.selection.curve import LRCurve, edge, max_stable_lr

WIDE = 1.0  # decades: an interval beyond this leaves the order of magnitude open
COARSE = 0.4  # decades between neighbours: beyond this a finer grid around the best is worth its price


def verdict(curve: LRCurve, choice: Choice, corrected: float) -> str:
    """Describe a search's LR curve and the choice made on it, a line for each thing worth knowing.

    Parameters
    ----------
    curve : LRCurve
    choice : Choice
        Made on that curve.
    corrected : float
        The best score without the luck that made it the best, as `corrected_score` returns it; NaN if unknown.

    Examples
    --------
    >>> from sklr.selection import choose, lr_curve
    >>> scores = np.array([[0.5, 0.6], [0.8, 0.9], [0.7, 0.6], [np.nan, np.nan]])
    >>> curve = lr_curve([0.01, 0.1, 1.0, 10.0], scores, ["ok", "ok", "ok", "diverged at step 3: loss nan"])
    >>> print(verdict(curve, choose(curve), 0.84))
    Chosen: lr 0.1, the highest mean score; the best lies between 0.0316 and 3.16 (90 % confidence).
    Score: 0.8500; without the luck of the best, about 0.8400.
    Edge: none, the best is inside the range 0.01 to 10.
    Diverged: 1 of 4 learning rates; stable up to 1.
    Next: refine around 0.1, the neighbours are 1.0 decades apart; more seeds (n_seeds=3) to narrow the
    interval.
    """
    lines = [
        _chosen(choice),
        _score(choice, corrected),
        _edge(curve),
        _diverged(curve),
        _pruned(curve),
        f"Next: {'; '.join(_next(curve, choice)) or 'nothing, the answer is settled at this confidence'}.",
    ]
    return "\n".join(line for line in lines if line)


def _chosen(choice: Choice) -> str:
    how = str(choice).partition(", by ")[2].partition(";")[0]
    low, high = choice.interval
    interval = f"the best lies between {low:.3g} and {high:.3g} ({100 * choice.confidence:g} % confidence)"
    refused = f" No fit: {choice.refused}." if choice.refused else ""
    return f"Chosen: lr {choice.lr:.3g}, {how}; {interval}.{refused}"


def _score(choice: Choice, corrected: float) -> str:
    noise = f" +- {choice.se:.4f} (paired standard error)" if np.isfinite(choice.se) and choice.se > 0 else ""
    luck = f"; without the luck of the best, about {corrected:.4f}" if np.isfinite(corrected) else ""
    return f"Score: {choice.score:.4f}{noise}{luck}."


def _edge(curve: LRCurve) -> str:
    side = edge(curve)
    if side is None:
        return f"Edge: none, the best is inside the range {curve.lr[0]:.3g} to {curve.lr[-1]:.3g}."
    return f"Edge: the best is the {'lowest' if side == 'low' else 'highest'} learning rate tried."


def _diverged(curve: LRCurve) -> str:
    n, stable = int(curve.diverged.sum()), max_stable_lr(curve)
    if not n:
        return ""
    until = "the lowest did already" if stable is None else f"stable up to {stable:.3g}"
    return f"Diverged: {n} of {len(curve)} learning rates; {until}."


def _pruned(curve: LRCurve) -> str:
    n = sum(status.startswith("pruned") for status in curve.status)
    return f"Pruned: {n} of {len(curve)} learning rates, trained no further than it took to tell." if n else ""


def _next(curve: LRCurve, choice: Choice) -> list[str]:
    steps = []
    side = edge(curve)
    if side is not None:
        steps.append(f"search {'lower' if side == 'low' else 'higher'} (extend=True)")
    i, u = curve.best, np.log10(curve.lr)
    gap = max(np.diff(u[max(i - 1, 0) : i + 2]), default=0.0)
    if side is None and gap > COARSE:
        steps.append(f"refine around {curve.lr[i]:.3g}, the neighbours are {gap:.1f} decades apart")
    if np.log10(choice.interval[1] / choice.interval[0]) > WIDE:
        steps.append("more seeds (n_seeds=3) to narrow the interval")
    if curve.diverged[i + 1 : i + 2].any():
        steps.append("try warmup (warmup_epochs=1) or gradient clipping, the next learning rate up diverged")
    return steps
