"""Tables with columns that are no numbers."""

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from sklr import MLP, LRGridSearchCV, NeuralNetClassifier, lr_range_test

N = 40
Y = np.arange(N) % 2
FRAME = pd.DataFrame({"age": np.arange(N) / N, "city": np.array(["Oslo", "Lima"])[Y]})
NET = NeuralNetClassifier(MLP, max_epochs=1)
USES = {
    "net": NET.fit,
    "search": LRGridSearchCV(NET, lrs=[0.1], cv=2, engine="stacked").fit,
    "one by one": LRGridSearchCV(NET, lrs=[0.1], cv=2, engine="sequential").fit,
    "range test": lambda X, y: lr_range_test(NET, X, y),
}
BAD = [
    (FRAME, "got 'str' in column 'city'"),
    (FRAME.assign(kind=pd.Categorical(FRAME["city"])), "got 'str' in columns 'city', 'kind'"),
    (FRAME.assign(city=[None, "Oslo"] * (N // 2)), "got 'str' in column 'city'"),
    (FRAME.assign(city=pd.Timestamp("2024-01-01")), r"got 'datetime64\[\w+\]' in column 'city'"),
    (FRAME.to_numpy(), "got 'str' in column 1"),
    (FRAME.to_numpy().tolist(), "got 'str' in column 1"),
    (
        pd.DataFrame({f"c{k}": ["a"] * N for k in range(9)}),
        "got 'str' in columns 'c0', 'c1', 'c2', 'c3', 'c4' and 4 more",
    ),
]


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(("table", "words"), BAD, ids=[words for _, words in BAD])
def test_columns_that_are_no_numbers_are_named(use, table, words):
    with pytest.raises(ValueError, match=f"very column of X must be numbers, {words}") as error:
        USES[use](table, Y)
    assert "Encode such columns first" in str(error.value)


def test_what_the_message_advises_works():
    columns = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["city"]), remainder="passthrough")
    assert make_pipeline(columns, NET).fit(FRAME, Y).predict(FRAME).shape == (N,)


def test_numbers_in_objects_and_other_errors_are_left_alone():
    NET.fit(FRAME[["age"]].astype(object), Y)
    NET.fit(FRAME[["age"]].astype(str), Y)
    with pytest.raises(ValueError, match=r"^Input X contains NaN"):
        NET.fit(FRAME[["age"]].assign(age=np.nan), Y)
