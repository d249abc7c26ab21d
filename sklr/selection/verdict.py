"""The result of a search as text: what was chosen, how certain that is, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sklr.selection.choice import Choice
from sklr.selection.curve import LRCurve, edges, max_stable_lr

WIDE = 1.0  # decades; a wider interval leaves the order of magnitude open
COARSE = 0.4  # decades between neighbours; with a larger distance a finer grid around the best is worth its cost
MAX_VALUE = 60  # maximum characters of a parameter's value


def verdict(curve: LRCurve, choice: Choice, corrected: float, others: Mapping[str, Any] | None = None) -> str:
    """Describe a search's LR curve and the choice made on it, one line per fact.

    Parameters
    ----------
    curve : LRCurve
    choice : Choice
        The choice on that curve.
    corrected : float
        The best score corrected for the luck that made it the best, as `corrected_score` returns it; NaN if unknown.
    others : dict, optional
        The chosen values of the other searched parameters.

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
    >>> one = lr_curve([0.05, 0.1, 0.2], scores[:3, :1], ["ok"] * 3)  # one fold, one seed
    >>> print(verdict(one, choose(one), np.nan, {"batch_size": 32}))
    Chosen: lr 0.1, batch_size 32, the highest mean score; no interval: one fold with one seed does not tell how noisy
    the scores are.
    Score: 0.8000.
    Edge: none, the best is inside the range 0.05 to 0.2.
    Next: more folds (cv=5) or more seeds (n_seeds=3) to know the noise.
    """
    lines = [
        _chosen(curve, choice, others or {}),
        _score(curve, choice, corrected),
        _edge(curve),
        _diverged(curve),
        _pruned(curve),
        f"Next: {'; '.join(_next(curve, choice)) or _settled(curve)}.",
    ]
    return "\n".join(line for line in lines if line)


def _chosen(curve: LRCurve, choice: Choice, others: Mapping[str, Any]) -> str:
    chosen = ", ".join([f"lr {choice.lr:.3g}", *(f"{name} {_shown(value)}" for name, value in others.items())])
    low, high = choice.interval
    best = "with these other values the best lr" if others else "the best"
    best = f"of the range tried, {best}" if edges(curve) else best
    sure = f"{100 * choice.confidence:g} % confidence{', in this one fold' if curve.n_folds == 1 else ''}"
    between = "" if choice.unknown else f"; {best} lies between {low:.3g} and {high:.3g} ({sure})"
    return f"Chosen: {chosen}, {choice.rule}{between}{f'; {choice.doubt}' if choice.doubt else ''}."


def _shown(value: Any) -> str:
    """Return a parameter's value as one short line."""
    text = f"{value:.3g}" if isinstance(value, float) else getattr(value, "__name__", None) or repr(value)
    text = " ".join(text.split())
    return text if len(text) <= MAX_VALUE else f"{text[: MAX_VALUE - 3]}..."


def _score(curve: LRCurve, choice: Choice, corrected: float) -> str:
    known = np.isfinite(choice.se) and choice.se > 0
    noise = f" +- {choice.se:.4f} (paired standard error of {curve.cells})" if known else ""
    luck = f"; without the luck of the best, about {corrected:.4f}" if np.isfinite(corrected) else ""
    return f"Score: {choice.score:.4f}{noise}{luck}."


def _edge(curve: LRCurve) -> str:
    reached, n_ties = edges(curve), len(curve.ties)
    if len(curve) == 1:
        return "Edge: not known, a single learning rate was tried."
    if curve.all_equal:
        return f"Edge: none, all {n_ties} learning rates score exactly the same: the scores do not depend on the lr."
    low, high = curve.lr[curve.ties[[0, -1]]]
    tied = f"{n_ties} learning rates from {low:.3g} to {high:.3g} share the best score"
    if reached:
        ends = " and ".join(f"the {'lowest' if side == 'low' else 'highest'}" for side in reached)
        alone = f"the best {'is' if curve.joined else 'candidate has'} {ends} learning rate tried"
        doubt = "" if curve.joined else "; the other parameters differ too, so this may not be due to the lr"
        return f"Edge: {alone if n_ties == 1 else f'{tied}, among them {ends} tried'}{doubt}."
    if n_ties > 1:
        return f"Edge: none, {tied}."
    best = "the best" if curve.joined else "that of the best candidate"
    return f"Edge: none, {best} is inside the range {curve.lr[0]:.3g} to {curve.lr[-1]:.3g}."


def _diverged(curve: LRCurve) -> str:
    n, stable = int(curve.diverged.sum()), max_stable_lr(curve)
    if not n:
        return ""
    if not curve.joined:
        return f"Diverged: {n} of {len(curve)} learning rates, with various values of the other parameters."
    until = "even the lowest one" if stable is None else f"stable up to {stable:.3g}"
    return f"Diverged: {n} of {len(curve)} learning rates; {until}."


def _pruned(curve: LRCurve) -> str:
    n = sum(status.startswith("pruned") for status in curve.status)
    return f"Pruned: {n} of {len(curve)} learning rates, stopped early by the pruner." if n else ""


def _settled(curve: LRCurve) -> str:
    return "nothing, the answer is settled at this confidence" + (", for this one fold" if curve.n_folds == 1 else "")


def _nearest(curve: LRCurve, lr: float) -> int:
    """Return the position of the nearest learning rate that has a score."""
    tried = np.flatnonzero(curve.usable)
    return int(tried[np.abs(np.log(curve.lr[tried] / lr)).argmin()])


def _next(curve: LRCurve, choice: Choice) -> list[str]:
    if not curve.joined:
        return ["to learn more about the learning rate, search it alone, with the other parameters as chosen"]
    if curve.all_equal:
        return [
            "check whether another setting determines the learning rate, such as a schedule with absolute values; "
            "otherwise search a wider range, or use a more sensitive score (scoring='neg_log_loss')"
        ]
    steps = []
    if reached := edges(curve):
        further = " and ".join("lower" if side == "low" else "higher" for side in reached)
        steps.append(f"search {further} (extend=True)")
    i, u = _nearest(curve, choice.lr), np.log10(curve.lr)
    gap = max(np.diff(u[max(i - 1, 0) : i + 2]), default=0.0)
    if not reached and gap > COARSE:
        steps.append(f"refine around {choice.lr:.3g}, the neighbours are {gap:.1f} decades apart")
    if not steps and curve.usable.sum() == 1:
        steps.append(f"try more learning rates near {choice.lr:.3g}, a single score says nothing about the best one")
    if not curve.has_noise:
        steps.append("more folds (cv=5) or more seeds (n_seeds=3) to know the noise")
    if np.log10(choice.interval[1] / choice.interval[0]) > WIDE:
        more = 3 if curve.n_seeds < 3 else 2 * curve.n_seeds
        steps.append(f"more seeds (n_seeds={more}) to narrow the interval")
    if curve.diverged[i + 1 : i + 2].any():
        steps.append("try warmup (warmup_epochs=1) or gradient clipping, the next learning rate up diverged")
    return steps
