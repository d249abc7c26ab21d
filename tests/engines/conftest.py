"""Trainings are short here: a step is recorded as soon as it can be, or the fast lane would hardly ever run."""

import pytest

from sklr.engines import _stack_replay


@pytest.fixture(autouse=True)
def _recorded_early(monkeypatch):
    monkeypatch.setattr(_stack_replay, "WORTH", 4)
