"""Sparse rows, which a stack holds dense: refused where they would not fit into memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import issparse

from sklr.engines.stacked.checks.static import Unstackable
from sklr.engines.stacked.setup.packing import SHARE, free_bytes
from sklr.experiment.cell_data import Head
from sklr.experiment.experiment import Experiment


def check_fits_dense(experiment: Experiment, heads: Sequence[Head | None]) -> None:
    """Refuse sparse rows that would take more than half of the free memory if they were dense, all folds together.

    `heads` are the fitted heads of the cells' pipelines; None where there is no pipeline and all cells share the rows.
    """
    fitted = {id(head): head for head in heads if head is not None}.values()
    tables = [X for head in fitted for X in (head.data.X_train, head.data.X_test)] if fitted else [experiment.X]
    floats = np.dtype(np.float32).itemsize  # whatever the precision of X: nets are float32 unless asked otherwise
    needed = sum(
        int(np.prod(X.shape)) * (floats if X.dtype.kind == "f" else X.dtype.itemsize) for X in tables if issparse(X)
    )
    free = free_bytes(torch.device("cpu"))
    if needed > SHARE * free:
        raise Unstackable(
            f"X is sparse and a stack holds it dense: the rows of all folds would take {needed / 1e6:,.0f} MB, more "
            f"than half of the {free / 1e6:,.0f} MB of free memory; give the net fewer columns (max_features, "
            "min_frequency)"
        )
