"""What a search records: the outcome of every run, and the tables built from them. NumPy only; nothing here trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

OK, DIVERGED, FAILED, STOPPED = "ok", "diverged", "failed", "stopped"
NO_SCORE = "no score"  # prefix of the status of a candidate whose runs finished without a finite score
Scores = float | dict[str, float]


class EpochRow(NamedTuple):
    """One epoch of one run: the lr of the last step, the mean training loss, and the score on the validation fold."""

    epoch: int
    lr: float
    train_loss: float
    valid_score: float


@dataclass
class Outcome:
    """How one run ended.

    `status` is one of ``"ok"``, ``"diverged"``, ``"failed"`` (an exception; `fit_error` holds its traceback) and
    ``"stopped"`` (pruned); `reason` gives details, such as ``"diverged at step 13: loss nan"``. `score_error` is the
    traceback of a scorer that raised an exception. Times are in seconds.
    """

    test_scores: Scores
    status: str = OK
    reason: str = ""
    train_scores: Scores | None = None
    fit_time: float = 0.0
    score_time: float = 0.0
    n_test_samples: int = 0
    fit_error: str | None = None
    score_error: str | None = None
    history: list[EpochRow] = field(default_factory=list)
    estimator: Any = None


def split_rows(outcomes: Sequence[Sequence[Outcome]], n_seeds: int) -> list[dict[str, Any]]:
    """Return one record per candidate and split, averaged over seeds, in the form of scikit-learn's `_fit_and_score`.

    Parameters
    ----------
    outcomes : sequence of shape (n_candidates, n_cells)
        Cells are ordered fold by fold, the seeds of a fold side by side.
    n_seeds : int
        Cells per fold.
    """
    return [_average(row[start : start + n_seeds]) for row in outcomes for start in range(0, len(row), n_seeds)]


def _average(seeds: Sequence[Outcome]) -> dict[str, Any]:
    record = {
        "test_scores": _mean_scores([o.test_scores for o in seeds]),
        "fit_time": float(np.mean([o.fit_time for o in seeds])),
        "score_time": float(np.mean([o.score_time for o in seeds])),
        "n_test_samples": seeds[0].n_test_samples,
        "fit_error": next((o.fit_error for o in seeds if o.fit_error is not None), None),
    }
    train = [o.train_scores for o in seeds if o.train_scores is not None]
    if train:
        record["train_scores"] = _mean_scores(train)
    return record


def _mean_scores(scores: Sequence[Scores]) -> Scores:
    first = next((s for s in scores if isinstance(s, dict)), None)
    if first is None:
        return float(np.mean(scores)) if len(scores) > 1 else scores[0]  # type: ignore[arg-type] # one stays as it is
    rows = [s if isinstance(s, dict) else dict.fromkeys(first, s) for s in scores]
    return {name: float(np.mean([row[name] for row in rows])) for name in first}


def candidate_status(outcomes: Sequence[Outcome], metric: str | None = None) -> str:
    """Return the status of a candidate in words: the worst status of its runs, with the first reason.

    `metric` is the score that is checked where there are several. A run that finished without a finite score is not
    ``"ok"``.

    >>> candidate_status([Outcome(0.9), Outcome(0.8)])
    'ok'
    >>> candidate_status([Outcome(0.9), Outcome(float("nan"), DIVERGED, "diverged at step 3: loss nan")])
    'diverged at step 3: loss nan (1 of 2 runs)'
    >>> candidate_status([Outcome(0.9), Outcome(float("nan"))])
    'no score: the score is nan (1 of 2 runs)'
    """
    for status in (FAILED, DIVERGED, STOPPED):
        hit = [o for o in outcomes if o.status == status]
        if hit:
            return f"{hit[0].reason or status} ({len(hit)} of {len(outcomes)} runs)"
    bad = [score for o in outcomes if not np.isfinite(score := pick_score(o.test_scores, metric))]
    return f"{NO_SCORE}: the score is {bad[0]} ({len(bad)} of {len(outcomes)} runs)" if bad else OK


def has_status(outcomes: Sequence[Outcome], status: str) -> bool:
    """Whether any run of a candidate ended with this status."""
    return any(o.status == status for o in outcomes)


def cell_scores(outcomes: Sequence[Sequence[Outcome]], metric: str | None) -> np.ndarray:
    """Return the test score of every run, shape (n_candidates, n_cells); `metric` names one of several, or is None."""
    return np.array([[pick_score(o.test_scores, metric) for o in row] for row in outcomes], dtype=float)


def pick_score(scores: Scores, metric: str | None) -> float:
    """Return the score of a run that is monitored: the only one, or of several the one named `metric`."""
    if not isinstance(scores, dict):
        return scores
    return scores[metric] if metric in scores else next(iter(scores.values()))


HISTORY_COLUMNS = ("candidate", "fold", "seed", "epoch", "lr", "train_loss", "valid_score")


def history_table(outcomes: Sequence[Sequence[Outcome]], n_seeds: int) -> dict[str, np.ndarray]:
    """Return one row per candidate, fold, seed and epoch, as a dict of equally long columns.

    It can be passed to `pandas.DataFrame`. `seed` counts the seeds of a fold from 0.

    >>> run = Outcome(0.9, history=[EpochRow(0, 0.1, 2.3, 0.8)])
    >>> {name: column.tolist() for name, column in history_table([[run]], n_seeds=1).items()}
    {'candidate': [0], 'fold': [0], 'seed': [0], 'epoch': [0], 'lr': [0.1], 'train_loss': [2.3], 'valid_score': [0.8]}
    """
    rows = [
        (candidate, *divmod(cell, n_seeds), *epoch)
        for candidate, row in enumerate(outcomes)
        for cell, outcome in enumerate(row)
        for epoch in outcome.history
    ]
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(HISTORY_COLUMNS)
    return {
        name: np.array(column, dtype=int if name in HISTORY_COLUMNS[:4] else float)
        for name, column in zip(HISTORY_COLUMNS, columns, strict=True)
    }


def rank_last(results: dict[str, Any], last: np.ndarray) -> None:
    """Rank the candidates marked in `last`, and those with infinite scores, last in every ``rank_test_*`` column.

    Works in place. A diverged candidate with a numeric `error_score` must not outrank a trained one (0.0 is better
    than any ``neg_log_loss``). Like scikit-learn's NaN scores, these candidates are tied at the worst rank.
    """
    for key in [key for key in results if key.startswith("rank_test_")]:
        behind = last | ~np.isfinite(results[key.replace("rank", "mean", 1)])
        if not behind.any() or behind.all():
            continue
        rank = results[key].copy()
        others = np.sort(rank[~behind])
        rank[~behind] = np.searchsorted(others, rank[~behind], side="left") + 1
        rank[behind] = (~behind).sum() + 1
        results[key] = rank.astype(np.int32)
