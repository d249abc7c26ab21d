"""Settings every test shares: one thread, no picture windows."""

import os
import re
from collections import Counter

os.environ.setdefault("SCIPY_ARRAY_API", "1")  # read by SciPy when it is imported; scikit-learn's checks ask for it
os.environ.setdefault("MPLBACKEND", "Agg")

import torch

torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    """Take addresses out of the names of tests: workers must agree on them, and two runs should."""
    seen = Counter()
    for item in items:
        if " at 0x" in item.nodeid:
            plain = re.sub(r" at 0x[0-9a-f]+", "", item.nodeid)
            seen[plain] += 1
            item._nodeid = f"{plain}#{seen[plain]}"
