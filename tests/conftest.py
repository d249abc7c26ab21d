"""Settings every test shares: one thread, no picture windows."""

import os

os.environ.setdefault("SCIPY_ARRAY_API", "1")  # read by SciPy when it is imported; scikit-learn's checks ask for it
os.environ.setdefault("MPLBACKEND", "Agg")

import torch

torch.set_num_threads(1)
