"""The fixture that runs a test once for each of the three searches."""

import warnings

import pytest
from strategies import STRATEGIES


@pytest.fixture(params=STRATEGIES, ids=lambda make: make.__name__)
def make(request):
    return request.param


@pytest.fixture(autouse=True)
def two_values_are_meant():
    """Many tests search two values, and mean them; that others are warned of is tested in test_advice.py."""
    warnings.filterwarnings("ignore", message=".*its two values are two choices")
