"""How the outcome of a trial is written into a study, and read back exactly: compact JSON, floats by their repr."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sklr.results import EpochRow, Outcome, Scores

CLAIM = "sklr:claim"  # the attribute that says whose candidate a trial is
Claim = tuple[int, str, str]  # the candidate's number, its key, who is at work on it
OUTCOME = "sklr:outcome"  # the attribute; a long text goes on in "sklr:outcome:1" and so on
PIECE = 15_000  # characters in one attribute: MySQL's TEXT ends at 65,535 bytes, of four a character at most

FIELDS = ("status", "reason", "fit_time", "score_time", "n_test_samples", "fit_error")


def outcome_attrs(row: Sequence[Outcome]) -> dict[str, str]:
    """Return the attributes that hold a candidate's outcomes, all but their estimators.

    >>> outcome_attrs([Outcome(0.5, history=[EpochRow(0, 0.1, 2.3, 0.25)])])
    {'sklr:outcome': '[[0.5,null,"ok","",0.0,0.0,0,null,[[0,0.1,2.3,0.25]]]]'}
    """
    text = json.dumps([_as_list(outcome) for outcome in row], separators=(",", ":"))
    pieces = [text[start : start + PIECE] for start in range(0, len(text), PIECE)]
    return {_key(i): piece for i, piece in enumerate(pieces)}


def outcomes_from(attrs: Mapping[str, Any]) -> list[Outcome] | None:
    """Return the outcomes those attributes hold; None if there are none.

    >>> [run] = outcomes_from(outcome_attrs([Outcome(float("nan"), "failed", train_scores={"f1": 1 / 3})]))
    >>> run.test_scores, run.train_scores, run.history
    (nan, {'f1': 0.3333333333333333}, [])
    >>> outcomes_from({}) is None
    True
    """
    if OUTCOME not in attrs:
        return None
    pieces: list[str] = []
    while _key(len(pieces)) in attrs:
        pieces.append(attrs[_key(len(pieces))])
    return [_as_outcome(fields) for fields in json.loads("".join(pieces))]


def _key(piece: int) -> str:
    return f"{OUTCOME}:{piece}" if piece else OUTCOME


def _as_list(outcome: Outcome) -> list[Any]:
    fields = [_plain(getattr(outcome, name)) for name in FIELDS]
    history = [[row.epoch, *map(float, row[1:])] for row in outcome.history]
    return [_plain_scores(outcome.test_scores), _plain_scores(outcome.train_scores), *fields, history]


def _as_outcome(saved: list[Any]) -> Outcome:
    test, train, *fields, history = saved
    rows = [EpochRow(*row) for row in history]
    return Outcome(test, train_scores=train, history=rows, **dict(zip(FIELDS, fields, strict=True)))


def _plain_scores(scores: Scores | None) -> Any:
    return {name: _plain(score) for name, score in scores.items()} if isinstance(scores, dict) else _plain(scores)


def _plain(value: Any) -> Any:
    """Return a number, a text or None as JSON knows them; what else a scorer may return is a number at heart."""
    if isinstance(value, np.generic):
        return value.item()
    return value if isinstance(value, (int, float, str, type(None))) else float(value)


def epoch_means(row: Sequence[Outcome]) -> dict[int, float]:
    """Return the mean validation score over the cells after each epoch that all of them came through.

    >>> runs = [Outcome(0, history=[EpochRow(0, 0.1, 2.3, 0.25), EpochRow(1, 0.1, 2.2, 0.5)]),
    ...         Outcome(0, history=[EpochRow(0, 0.1, 2.3, 0.75)])]
    >>> epoch_means(runs)
    {0: 0.5}
    """
    n_epochs = min((len(outcome.history) for outcome in row), default=0)
    scores = np.array([[e.valid_score for e in outcome.history[:n_epochs]] for outcome in row], dtype=float)
    means = scores.mean(axis=0) if n_epochs else np.empty(0)
    return {epoch: float(mean) for epoch, mean in enumerate(means) if np.isfinite(mean)}
