"""Whatever a scikit-learn or skorch user hands over: kinds of X and y, of estimators, and of values to search."""

import numpy as np
import pandas as pd
import pytest
import skorch
import torch
from joblib import parallel_config
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import BaggingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from skorch.helper import SliceDataset, SliceDict
from strategies import CV, X, Y, grid, net
from torch import nn

from sklr import (
    MLP,
    AllDivergedError,
    DivergedWarning,
    NeuralNetBinaryClassifier,
    NeuralNetClassifier,
    NeuralNetRegressor,
)
from sklr.schedules import Cosine, Linear

FEW = {"values": [0.01, 0.03], "cv": CV, "random_state": 0}
X32 = X.astype("float32")
TARGET = X @ [1.0, -1.0, 0.5, 2.0]
REGRESSOR = NeuralNetRegressor(MLP, module__hidden=(8,), optimizer="adam", max_epochs=3, batch_size=16)


class Conv(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Flatten(), nn.LazyLinear(3))

    def forward(self, X):
        return self.layers(X)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, left, right):
        return self.linear(torch.cat([left, right], dim=1))


@pytest.mark.one_fast
@pytest.mark.parametrize(
    "data",
    [X.tolist(), pd.DataFrame(X, columns=list("abcd")), sparse.csr_matrix(X), X32, torch.tensor(X32), X[:, ::-1]],
    ids=lambda data: type(data).__name__,
)
def test_kinds_of_tables(make, data):
    search = make(net(max_epochs=2), **FEW).fit(data, Y)
    assert np.isfinite(search.cell_scores_).all()
    assert search.predict(data).shape == Y.shape
    if not isinstance(data, np.ndarray):
        np.testing.assert_array_equal(search.cell_scores_, make(net(max_epochs=2), **FEW).fit(X, Y).cell_scores_)


@pytest.mark.parametrize("y", [Y.tolist(), pd.Series(Y), torch.tensor(Y), np.array(["u", "v", "w"])[Y], Y * 5 - 1])
def test_kinds_of_labels(y):
    search = grid(net(max_epochs=2), **FEW).fit(X, y)
    assert set(np.unique(search.predict(X))) <= set(np.unique(np.asarray(y)))
    np.testing.assert_array_equal(search.cell_scores_, grid(net(max_epochs=2), **FEW).fit(X, Y).cell_scores_)


def test_images(make):
    images = X32.reshape(-1, 1, 2, 2)
    search = make(NeuralNetClassifier(Conv, max_epochs=2), **FEW).fit(images, Y)
    assert np.isfinite(search.cell_scores_).all()
    assert search.predict_proba(images).shape == (150, 3)


def test_several_inputs_in_a_slicedict(make):
    both = SliceDict(left=X32[:, :1], right=X32[:, 1:])
    search = make(NeuralNetClassifier(TwoInputs, max_epochs=2), **FEW).fit(both, Y)
    assert np.isfinite(search.cell_scores_).all()
    assert search.predict(both).shape == Y.shape


def test_a_dataset_behind_slices(make):
    dataset = torch.utils.data.TensorDataset(torch.tensor(X32), torch.tensor(Y))
    rows, labels = SliceDataset(dataset), np.asarray(SliceDataset(dataset, idx=1))
    linear = NeuralNetClassifier(nn.Linear, module__in_features=4, module__out_features=3, max_epochs=2)
    search = make(linear, **FEW).fit(rows, labels)
    assert np.isfinite(search.cell_scores_).all()


def test_regression(make):
    few = {**FEW, "cv": 3}
    search = make(REGRESSOR, **few, scoring="neg_mean_squared_error").fit(X, TARGET)
    assert search.predict(X).shape == TARGET.shape
    assert search.best_score_ < 0
    assert make(REGRESSOR, **few).fit(X, np.c_[TARGET, -TARGET]).predict(X).shape == (150, 2)


def test_two_classes(make):
    binary = NeuralNetBinaryClassifier(MLP, module__hidden=(8,), optimizer="adam", max_epochs=4, batch_size=16)
    search = make(binary, **FEW, scoring="roc_auc").fit(X[:100], np.array(["no", "yes"])[Y[:100]])
    assert search.best_score_ > 0.9
    assert search.predict_proba(X).shape == (150, 2)


def test_without_targets(make):
    search = make(KMeans(random_state=0, n_init=1), "n_clusters", [2, 3], cv=3, random_state=0).fit(X)
    theirs = GridSearchCV(KMeans(random_state=0, n_init=1), {"n_clusters": [2, 3]}, cv=3).fit(X)
    assert search.best_score_ == theirs.best_score_
    assert search.transform(X).shape == (150, search.best_params_["n_clusters"])
    make(KernelDensity(), "bandwidth", [0.1, 1.0], cv=3, random_state=0).fit(X).score_samples(X)


@pytest.mark.one_fast
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("batch_size", [16, 150]),
        ("module__hidden", [(4,), (8, 8)]),
        ("optimizer__weight_decay", [0.0, 0.1]),
        ("optimizer", ["sgd", torch.optim.AdamW]),
        ("schedule", [None, "cosine", Linear(), Cosine(end=0.1)]),
        ("warmup_epochs", [0, 0.5]),
    ],
)
def test_values_of_every_kind(make, name, values):
    search = make(net(max_epochs=1), name, values, cv=2, random_state=0).fit(X, Y)
    assert search.best_params_[name] in values
    assert search.best_estimator_.get_params()[name] == search.best_params_[name]
    assert np.isfinite(search.cell_scores_).all()


def test_steps_of_a_pipeline_are_values_too(make):
    pipeline = Pipeline([("scale", StandardScaler()), ("net", net(random_state=0, max_epochs=2))])
    steps = [StandardScaler(), "passthrough", StandardScaler(with_mean=False)]
    search = make(pipeline, "scale", steps, cv=CV, random_state=0).fit(X, Y)
    theirs = GridSearchCV(pipeline, {"scale": steps}, cv=CV).fit(X, Y)
    expected = dict(zip(map(str, steps), theirs.cv_results_["mean_test_score"], strict=True))
    for params, score in zip(search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True):
        assert score == expected[str(params["scale"])]
    assert not hasattr(steps[0], "mean_")  # the user's own are cloned


def test_a_pipeline_with_memory(make, tmp_path):
    pipeline = make_pipeline(StandardScaler(), net(random_state=0), memory=str(tmp_path))
    search = make(pipeline, "neuralnetclassifier__lr", **FEW).fit(X, Y)
    plain = make(pipeline.set_params(memory=None), "neuralnetclassifier__lr", **FEW).fit(X, Y)
    np.testing.assert_array_equal(search.cell_scores_, plain.cell_scores_)


def test_a_pipelines_head_need_not_be_picklable(make):
    pipeline = make_pipeline(FunctionTransformer(lambda X: X / 2), net())
    assert np.isfinite(make(pipeline, "neuralnetclassifier__lr", **FEW).fit(X, Y).cell_scores_).all()


class Flat(nn.Linear):
    def forward(self, X):
        return super().forward(X).squeeze(1)


OWN = skorch.NeuralNetRegressor(Flat, module__in_features=4, module__out_features=1, train_split=None)


@pytest.mark.parametrize(("regressor", "n_jobs"), [(REGRESSOR, 1), (OWN, 1), (OWN, 2)], ids=["ours", "own", "own-2"])
def test_a_net_within_another_estimator_is_guarded(regressor, n_jobs, capsys):
    model = TransformedTargetRegressor(regressor, transformer=StandardScaler(), check_inverse=False)
    search = grid(model, "regressor__lr", [0.01, 1e30], cv=3, n_jobs=n_jobs, random_state=0, refit=False)
    with pytest.warns(DivergedWarning, match="1 of 2 candidates diverged"):
        search.fit(X32, TARGET.astype("float32"))
    assert search.lr_param_ == "regressor__lr"
    assert search.cv_results_["status"][1].startswith("diverged at step")
    assert search.best_lr_ == 0.01
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_regressor_diverges_in_a_pipeline_too(n_jobs):
    pipeline = make_pipeline(StandardScaler(), REGRESSOR)
    search = grid(pipeline, "neuralnetregressor__lr", [0.01, 1e30], cv=3, n_jobs=n_jobs, error_score=0.0)
    with pytest.warns(DivergedWarning, match="1 of 2 candidates diverged"):
        search.fit(X, TARGET * 100)  # so that every true R2 is below the error_score
    assert search.best_lr_ == 0.01
    assert search.cv_results_["mean_test_score"].tolist()[1] == 0.0
    assert search.cv_results_["rank_test_score"].tolist() == [1, 2]
    with pytest.raises(AllDivergedError):
        grid(pipeline, "neuralnetregressor__lr", [1e30], cv=3, n_jobs=n_jobs).fit(X, TARGET)


def test_an_estimator_that_is_no_net_has_no_epochs(make):
    search = make(LogisticRegression(max_iter=999), "C", [0.1, 1.0], cv=CV, random_state=0).fit(X, Y)
    assert "n_epochs" not in search.cv_results_
    assert {name: len(column) for name, column in search.history_.items()} == dict.fromkeys(search.history_, 0)


class BlowsUpOnAllRows(MLP):
    def forward(self, X):
        return super().forward(X) * (float("nan") if len(X) == len(Y) else 1.0)


def test_a_refit_that_diverges_is_told_of(make):
    search = make(net(batch_size=-1).set_params(module=BlowsUpOnAllRows), **FEW)
    with pytest.warns(DivergedWarning, match=r"The refit with {'lr': 0.0\d} diverged.*smaller learning rate"):
        search.fit(X, Y)


def test_threads_within_a_run_do_not_wait_for_each_other():
    bagging = BaggingClassifier(net(max_epochs=1), n_estimators=2, n_jobs=2)
    with parallel_config("threading"):
        search = grid(bagging, "estimator__lr", [0.01], cv=2, random_state=0, refit=False).fit(X, Y)
    assert np.isfinite(search.cell_scores_).all()
