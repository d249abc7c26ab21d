"""Trainings are short here: a step is recorded as soon as it can be, or the fast lane would hardly ever run."""

import pytest

from sklr.engines.stacked.replay import executor


@pytest.fixture(autouse=True)
def _recorded_early(monkeypatch):
    monkeypatch.setattr(executor, "WORTH_STEPS", 4)
