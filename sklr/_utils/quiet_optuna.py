"""Optuna without log lines about what nobody has asked for: studies that a search creates or opens for itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import optuna


@contextmanager
def at_verbosity(level: int) -> Iterator[None]:
    """Let Optuna log at another level for as long as the context lasts.

    >>> before = optuna.logging.get_verbosity()
    >>> with at_verbosity(optuna.logging.ERROR):
    ...     print(optuna.logging.get_verbosity() == optuna.logging.ERROR)
    True
    >>> optuna.logging.get_verbosity() == before
    True
    """
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(level)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def quiet_study(sampler: optuna.samplers.BaseSampler | None = None) -> optuna.Study:
    """Create a fresh in-memory study that maximizes, without Optuna's log line.

    It always has the same name: Hyperband draws its brackets by the name and a trial's number.
    """
    sampler = sampler or optuna.samplers.RandomSampler(seed=0)
    with at_verbosity(optuna.logging.WARNING):
        return optuna.create_study(direction="maximize", sampler=sampler, study_name="search")
