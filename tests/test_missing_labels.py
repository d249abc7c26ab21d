"""Labels that are missing, or of different types: refused by all entry points before anything is trained."""

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_iris

from sklr import MLP, LRGridSearchCV, NeuralNetClassifier, lr_range_test, suggest_max_steps

X, NUMBERS = load_iris(return_X_y=True)
NAMES = np.array(["a", "b", "c"], dtype=object)[NUMBERS]
NET = NeuralNetClassifier(MLP, max_epochs=1)
USES = {
    "net": NET.fit,
    "search": LRGridSearchCV(NET, lrs=[0.1], cv=2).fit,
    "range test": lambda X, y: lr_range_test(NET, X, y),
    "steps": lambda X, y: suggest_max_steps(NET, X, y),
}


def with_one(value):
    y = NAMES.copy()
    y[3] = value
    return y


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, np.float32("nan")], ids=repr)
@pytest.mark.parametrize("wrap", [np.asarray, list, pd.Series, lambda y: pd.Series(y).astype("category")])
def test_a_missing_label_is_refused_with_its_row(use, missing, wrap):
    with pytest.raises(ValueError, match=r"^y must be labels without missing values, got .* in row 3\. Drop such rows"):
        USES[use](X, wrap(with_one(missing)))


@pytest.mark.parametrize("use", USES)
def test_labels_of_two_types_are_refused(use):
    with pytest.raises(ValueError, match=r"^y must be labels of one type, got 'int, str'\. Convert them"):
        USES[use](X, with_one(7))


def test_a_missing_label_of_validation_rows_is_refused():
    with pytest.raises(ValueError, match="labels without missing values"):
        USES["search"].__self__.set_params(cv=None).fit(X, NAMES, validation=(X, with_one(None)))
