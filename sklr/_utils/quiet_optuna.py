"""Optuna studies that a search creates or opens for itself, without Optuna's log lines about them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import optuna


@contextmanager
def at_verbosity(level: int) -> Iterator[None]:
    """Set Optuna's logging level for the duration of the context.

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
    """Create an in-memory study that maximizes, without Optuna's log line.

    The name is fixed because Hyperband assigns brackets by a hash of the study's name and the trial number.
    """
    sampler = sampler or optuna.samplers.RandomSampler(seed=0)
    with at_verbosity(optuna.logging.WARNING):
        return optuna.create_study(direction="maximize", sampler=sampler, study_name="search")
