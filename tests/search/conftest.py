"""The fixture that runs a test once for each of the three searches."""

import pytest
from strategies import STRATEGIES


@pytest.fixture(params=STRATEGIES, ids=lambda make: make.__name__)
def make(request):
    return request.param
