"""How outcomes are stored in a study and read back exactly: compact JSON, floats by their repr."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sklr.results import EpochRow, Outcome, Scores

CLAIM = "sklr:claim"  # user attribute of a trial: which candidate it is, and which process is training it
Claim = tuple[int, str, str]  # how often the candidate was proposed before, its key, the process that trains it
OUTCOME = "sklr:outcome"  # user attribute; a long text is continued in "sklr:outcome:1" and so on
PIECE = 15_000  # characters per attribute: MySQL's TEXT holds 65,535 bytes, up to four a character

FIELDS = ("status", "reason", "fit_time", "score_time", "n_test_samples", "fit_error")


def outcome_attrs(row: Sequence[Outcome]) -> dict[str, str]:
    """Return the user attributes that hold a candidate's outcomes, without their estimators.

    >>> outcome_attrs([Outcome(0.5, history=[EpochRow(0, 0.1, 2.3, 0.25)])])
    {'sklr:outcome': '[[0.5,null,"ok","",0.0,0.0,0,null,[[0,0.1,2.3,0.25]]]]'}
    """
    text = json.dumps([_as_list(outcome) for outcome in row], separators=(",", ":"))
    pieces = [text[start : start + PIECE] for start in range(0, len(text), PIECE)]
    return {_key(i): piece for i, piece in enumerate(pieces)}


def claim_from(attrs: Mapping[str, Any]) -> Claim | None:
    """Return the claim in these attributes; None if there is none.

    Raises
    ------
    ValueError
        If sklr did not write it.

    >>> claim_from({"sklr:claim": [0, "ab", "here"]}), claim_from({})
    ((0, 'ab', 'here'), None)
    """
    if CLAIM not in attrs:
        return None
    match attrs[CLAIM]:
        case [int(turn), str(key), str(owner)]:
            return turn, key, owner
    raise ValueError(f"its attribute {CLAIM!r} is not as sklr wrote it")


def outcomes_from(attrs: Mapping[str, Any], n_runs: int | None = None) -> list[Outcome] | None:
    """Return the outcomes in these attributes; None if there are none.

    Raises
    ------
    ValueError
        If sklr did not write them, or if they are not those of `n_runs` runs.

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
    try:
        row = [_as_outcome(fields) for fields in json.loads("".join(pieces))]
    except (TypeError, ValueError) as error:
        raise ValueError(f"its attribute {OUTCOME!r} is not as sklr wrote it") from error
    if n_runs not in (None, len(row)):
        raise ValueError(f"its attribute {OUTCOME!r} has {len(row)} runs instead of {n_runs}")
    return row


def _key(piece: int) -> str:
    return f"{OUTCOME}:{piece}" if piece else OUTCOME


def _as_list(outcome: Outcome) -> list[Any]:
    fields = [_plain(getattr(outcome, name)) for name in FIELDS]
    history = [[row.epoch, *map(float, row[1:])] for row in outcome.history]
    return [_plain_scores(outcome.test_scores), _plain_scores(outcome.train_scores), *fields, history]


def _as_outcome(saved: list[Any]) -> Outcome:
    test, train, *fields, history = saved
    rows = [EpochRow(*row) for row in history]
    named = dict(zip(FIELDS, fields, strict=True))
    numbers = [*_listed(test), *_listed(train or 0.0), *(named[name] for name in FIELDS[2:5]), *sum(rows, start=())]
    if not isinstance(named["status"], str) or not all(isinstance(number, (int, float)) for number in numbers):
        raise ValueError
    return Outcome(test, train_scores=train, history=rows, **named)


def _listed(scores: Any) -> list[Any]:
    return list(scores.values()) if isinstance(scores, dict) else [scores]


def _plain_scores(scores: Scores | None) -> Any:
    return {name: _plain(score) for name, score in scores.items()} if isinstance(scores, dict) else _plain(scores)


def _plain(value: Any) -> Any:
    """Return a number, string or None as JSON has them; anything else that a scorer returns becomes a float."""
    if isinstance(value, np.generic):
        return value.item()
    return value if isinstance(value, (int, float, str, type(None))) else float(value)


def epoch_means(row: Sequence[Outcome]) -> dict[int, float]:
    """Return the mean validation score over the cells, for each epoch that all cells have finished.

    >>> runs = [Outcome(0, history=[EpochRow(0, 0.1, 2.3, 0.25), EpochRow(1, 0.1, 2.2, 0.5)]),
    ...         Outcome(0, history=[EpochRow(0, 0.1, 2.3, 0.75)])]
    >>> epoch_means(runs)
    {0: 0.5}
    """
    n_epochs = min((len(outcome.history) for outcome in row), default=0)
    scores = np.array([[e.valid_score for e in outcome.history[:n_epochs]] for outcome in row], dtype=float)
    means = scores.mean(axis=0) if n_epochs else np.empty(0)
    return {epoch: float(mean) for epoch, mean in enumerate(means) if np.isfinite(mean)}
