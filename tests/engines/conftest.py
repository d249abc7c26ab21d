"""Trainings are short here: a step is recorded as soon as it can be, or the fast lane would hardly ever run."""

import pytest

from sklr.engines.stacked.kernels import replayed_runs as _stack_replay_runs
from sklr.engines.stacked.replay import executor as _stack_replay


@pytest.fixture(autouse=True)
def _recorded_early(monkeypatch):
    monkeypatch.setattr(_stack_replay, "WORTH_STEPS", 4)
    monkeypatch.setattr(_stack_replay_runs, "WORTH_RUNS", 1)
