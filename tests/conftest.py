"""Settings every test shares: one thread, no picture windows."""

import os

os.environ.setdefault("SCIPY_ARRAY_API", "1")  # read by SciPy when it is imported; scikit-learn's checks ask for it
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch

torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    """scikit-learn's checks ask PyTorch whether it was built for CUDA, not whether there is a device."""
    if torch.cuda.is_available():
        return
    for item in items:
        if "array_api" in item.name and "cuda" in item.name:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
