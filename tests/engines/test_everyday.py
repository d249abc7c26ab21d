"""What people write, one row each of the table in docs/guide/stacked.rst: stacked or not, with equal results."""

import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import skorch
import skorch.callbacks as cb
import torch
from sklearn.compose import TransformedTargetRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from skorch.dataset import ValidSplit
from test_agreement import Convolution, Double, Packed, Recurrent, Transformer, X, Y
from torch import nn

from sklr import LRGridSearchCV, NeuralNetClassifier, NeuralNetRegressor
from sklr.callbacks import BatchSizeSchedule, EarlyStopping

CATEGORIES = (X * 3).round().clip(-6, 6)  # some in few rows: folds have different ones
net = partial(
    NeuralNetClassifier, module=partial(Double, hidden=(8,)), max_epochs=3, batch_size=16, iterator_train__shuffle=True
)
TABLE = Path(__file__).parents[2] / "docs" / "guide" / "stacked.rst"
SETUPS = {
    "numbers scaled in a Pipeline": make_pipeline(StandardScaler(), net()),
    "categories that only some folds have (OneHotEncoder, min_frequency)": make_pipeline(
        OneHotEncoder(handle_unknown="ignore", sparse_output=False), net()
    ),
    "sparse output of a Pipeline's head": make_pipeline(OneHotEncoder(handle_unknown="ignore"), net()),
    "TransformedTargetRegressor": TransformedTargetRegressor(
        NeuralNetRegressor(partial(Double, hidden=(8,)), max_epochs=3), transformer=StandardScaler()
    ),
    "skorch's own net with its default train_split": skorch.NeuralNetClassifier(
        partial(Double, 6, 3, (8,)), criterion=nn.CrossEntropyLoss, max_epochs=3, verbose=0
    ),
    "early stopping on the net's own split": net(
        train_split=ValidSplit(4), max_epochs=6, callbacks=[cb.EarlyStopping(patience=2)]
    ),
    "EarlyStopping of sklr": net(train_split=ValidSplit(4), max_epochs=6, callbacks=[EarlyStopping(patience=2)]),
    "skorch's LRScheduler": net(callbacks=[cb.LRScheduler("StepLR", step_size=1, gamma=0.5)]),
    "EpochScoring": net(train_split=ValidSplit(4), callbacks=[cb.EpochScoring("accuracy", lower_is_better=False)]),
    "PrintLog, ProgressBar and EpochTimer": net(callbacks=[cb.EpochTimer(), cb.PrintLog(sink=lambda text: None)]),
    "accumulate_steps": net(accumulate_steps=2),
    "clip at a percentile": net(clip="p90"),
    "BatchSizeSchedule": net(callbacks=[BatchSizeSchedule(at=[1])]),
    "class weights": net(criterion__weight=torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)),
    "batch normalization": net(module=partial(Double, hidden=(8,), batch_norm=True)),
    "convolutions": net(module=Convolution),
    "transformers": net(module=Transformer),
    "RNN, GRU and LSTM": net(module=Recurrent),
    "packed sequences": net(module=Packed),
    "L-BFGS": net(optimizer="lbfgs", max_epochs=1, batch_size=-1),
    "a custom train_step": type("Own", (NeuralNetClassifier,), {"train_step": NeuralNetClassifier.train_step})(
        partial(Double, hidden=(8,))
    ),
    "a custom callback": net(callbacks=[type("Own", (cb.Callback,), {})()]),
    "compile=True": net(compile=True),
}


def rows_of_the_table():
    """Return what the page says: whether each set-up is stacked."""
    rows = re.findall(r"^   \* - (.+)\n     - (yes|no)", TABLE.read_text(), flags=re.MULTILINE)
    return {name: said == "yes" for name, said in rows}


@pytest.mark.one_fast
@pytest.mark.parametrize("name", SETUPS)
def test_a_set_up_is_stacked_as_the_page_says(name):
    estimator = SETUPS[name]
    rows = CATEGORIES if "categories" in name or "sparse" in name else X
    y = X @ np.arange(1.0, 7.0) if isinstance(estimator, TransformedTargetRegressor) else Y
    X32 = rows.astype("float64")
    if name == "compile=True":
        engine = LRGridSearchCV(estimator, lrs=[0.01, 0.03], cv=2).plan(X32, y).engine
        assert engine == "sequential"
        return
    one, other = (
        LRGridSearchCV(estimator, lrs=[0.01, 0.03], cv=2, random_state=0, refit=False, engine=engine).fit(X32, y)
        for engine in ("auto", "sequential")
    )
    assert (one.engine_ == "stacked") == rows_of_the_table()[name], one.engine_reasons_
    np.testing.assert_allclose(one.cell_scores_, other.cell_scores_, rtol=1e-9)
    np.testing.assert_allclose(one.history_["train_loss"], other.history_["train_loss"], rtol=1e-7)


def test_the_page_has_every_set_up():
    assert list(rows_of_the_table()) == list(SETUPS)
