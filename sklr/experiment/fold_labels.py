"""Labels that occur in test rows only: no net can predict them, so that the scores are low for no visible reason."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import is_classifier

from sklr._utils.validation import must_be
from sklr.experiment.experiment import Experiment

SHOWN = 5  # labels that a message lists


def unknown_labels(experiment: Experiment) -> str:
    """Return a warning about labels that are in the test rows of a fold and not in its training rows; "" for none.

    Raises
    ------
    ValueError
        If there is one fold, and none of its test rows has a label of the training rows, as if these were strings and
        those numbers. With several folds, such as one for each class, a scorer of the user's own may compare them.
    """
    y = None if experiment.y is None else np.asarray(experiment.y)
    if y is None or y.ndim != 1 or not is_classifier(experiment.estimator):
        return ""
    labels, codes = np.unique(y, return_inverse=True)
    folds = list({cell.fold: cell for cell in experiment.cells}.values())
    known = [np.isin(codes[cell.test], np.unique(codes[cell.train])) for cell in folds]
    lost = [codes[cell.test[~of_fold]] for cell, of_fold in zip(folds, known, strict=True)]
    missing = labels[np.unique(np.concatenate(lost))].tolist()
    if not missing:
        return ""
    if len(folds) == 1 and not known[0].any():
        rule = f"labels of the training rows, {_listed(np.unique(y[folds[0].train]).tolist())}"
        advice = "Use the same labels for both, and shuffle the rows before they are split."
        raise ValueError(must_be("the labels of the test or validation rows", rule, missing[:SHOWN], advice))
    n_rows = sum(int((~of_fold).sum()) for of_fold in known)
    n_all = sum(len(of_fold) for of_fold in known)
    return (
        f"The labels {_listed(missing)} are in {n_rows} of {n_all} test or validation rows, but not in the rows "
        "trained on: no candidate can predict them. Use stratified or shuffled folds, or other validation rows."
    )


def _listed(labels: list[Any]) -> str:
    return ", ".join(map(repr, labels[:SHOWN])) + ", ..." * (len(labels) > SHOWN)
