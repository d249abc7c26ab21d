"""Trainings are short here: a step is recorded as soon as it can be, or the fast lane would hardly ever run."""

import pytest

from sklr.engines import _stack_replay, _stack_replay_runs


@pytest.fixture(autouse=True)
def _recorded_early(monkeypatch):
    monkeypatch.setattr(_stack_replay, "WORTH_STEPS", 4)
    monkeypatch.setattr(_stack_replay_runs, "WORTH_RUNS", 1)
