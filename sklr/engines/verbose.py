"""The lines a search prints about a run, in scikit-learn's own words and widths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from joblib.logger import short_format_time

from sklr.results import Outcome, Scores

WIDTH = 80


class Label(NamedTuple):
    """Where a run stands in its search: `split` of `n_splits`, `candidate` of `n_candidates`, counted from 0."""

    params: Mapping[str, Any]
    split: int
    n_splits: int
    candidate: int
    n_candidates: int

    def progress(self, verbose: int) -> str:
        """Return ``" 1/5; 2/3"``, as much of it as `verbose` asks for."""
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
