"""The lines that a search prints: per run, in scikit-learn's format, and per candidate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from joblib.logger import short_format_time

from sklr.results import OK, Outcome, Scores, candidate_status, cell_scores

WIDTH = 80


class Label(NamedTuple):
    """The position of a run in its search: `split` of `n_splits`, `candidate` of `n_candidates`, counted from 0."""

    params: Mapping[str, Any]
    split: int
    n_splits: int
    candidate: int
    n_candidates: int

    def progress(self, verbose: int) -> str:
        """Return ``" 1/5; 2/3"``, or the part of it that is shown at this level of `verbose`."""
        text = f" {self.split + 1}/{self.n_splits}" if verbose > 2 else ""
        return text + (f"; {self.candidate + 1}/{self.n_candidates}" if verbose > 9 else "")

    def __str__(self) -> str:
        return ", ".join(f"{name}={self.params[name]}" for name in sorted(self.params))


def print_start(label: Label, verbose: int) -> None:
    """Announce a run, at ``verbose >= 10``."""
    if verbose > 9:
        print(f"[CV{label.progress(verbose)}] START {label}".ljust(WIDTH, "."))


def print_end(label: Label, outcome: Outcome, verbose: int) -> None:
    """Report a run, at ``verbose >= 2``; with its score at ``verbose >= 3``."""
    if verbose < 2:
        return
    start = f"[CV{label.progress(verbose)}] END "
    text = f"{label};" if label.params else ""
    if verbose > 2:
        text += _scores(outcome.test_scores, outcome.train_scores)
    text += f" total time={short_format_time(outcome.fit_time + outcome.score_time)}"
    print(start + "." * (WIDTH - len(start) - len(text)) + text)


def _scores(test: Scores, train: Scores | None) -> str:
    if not isinstance(test, dict):
        score = f"{test:.3f}" if train is None else f"(train={train:.3f}, test={test:.3f})"
        return f", score={score}"
    trains = train if isinstance(train, dict) else {}
    return "".join(
        f" {name}: (" + (f"train={trains[name]:.3f}, " if name in trains else "") + f"test={test[name]:.3f})"
        for name in sorted(test)
    )


def candidate_line(
    params: Mapping[str, Any], row: Sequence[Outcome], best: tuple[float, Mapping[str, Any]] | None, metric: str | None
) -> str:
    """Return the line for a finished candidate: mean and standard deviation of its scores, and the best so far.

    >>> candidate_line({"lr": 0.0316}, [Outcome(0.92), Outcome(0.93)], (0.972, {"lr": 0.316}), None)
    'lr 0.0316: 0.925 +- 0.005, best so far 0.972 at 0.316'
    >>> candidate_line({"lr": 1.0, "width": 8}, [Outcome(float("nan"), "failed")], None, None)
    'lr 1, width 8: failed (1 of 1 runs)'
    """
    text = ", ".join(f"{name} {_short(value)}" for name, value in params.items())
    status = candidate_status(row, metric)
    scores = cell_scores([row], metric)[0]
    spread = f" +- {scores.std():.3f}" if len(scores) > 1 else ""
    text += f": {scores.mean():.3f}{spread}" if status == OK else f": {status}"
    if best is None:
        return text
    at = [_short(v) if len(best[1]) == 1 else f"{name} {_short(v)}" for name, v in best[1].items()]
    return f"{text}, best so far {best[0]:.3f} at {', '.join(at)}"


def epoch_line(epoch: int, scores: np.ndarray) -> str:
    """Return the line for an epoch of a stack; `scores` has shape (n_candidates, n_cells, n_epochs).

    >>> epoch_line(3, np.array([[[0.5], [0.7]], [[0.9], [0.9]]])), epoch_line(3, np.full((2, 2, 1), np.nan))
    ('epoch 3: best mean score 0.900', 'epoch 3')
    """
    means = scores[..., -1].mean(axis=1) if scores.shape[-1] else np.empty(0)
    known = means[np.isfinite(means)]
    return f"epoch {epoch}" + (f": best mean score {known.max():.3f}" if len(known) else "")


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else getattr(value, "__name__", None) or str(value)
