"""Trainings are short here: a step is recorded as soon as it can be, or the fast lane would hardly ever run."""

import pytest

from sklr.engines.stacked.replay import replay


@pytest.fixture(autouse=True)
def _recorded_early(monkeypatch):
    monkeypatch.setattr(replay, "WORTH_STEPS", 4)
