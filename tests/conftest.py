"""Settings every test shares: one thread, no picture windows."""

import os

os.environ.setdefault("SCIPY_ARRAY_API", "1")  # read by SciPy when it is imported; scikit-learn's checks ask for it
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch

torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)  # before pytest takes the slow ones out
def pytest_collection_modifyitems(items):
    """Make slow what one case stands for, and leave out what needs a device that is not there."""
    _keep_one_fast(items)
    _skip_without_cuda(items)


def _keep_one_fast(items):
    seen = set()
    for item in items:
        if item.get_closest_marker("one_fast") and not item.get_closest_marker("slow"):
            name = item.nodeid.partition("[")[0]
            if name in seen:
                item.add_marker(pytest.mark.slow)
            seen.add(name)


def _skip_without_cuda(items):
    """scikit-learn's checks ask PyTorch whether it was built for CUDA, not whether there is a device."""
    if torch.cuda.is_available():
        return
    for item in items:
        if "array_api" in item.name and "cuda" in item.name:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
