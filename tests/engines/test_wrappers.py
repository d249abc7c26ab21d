"""Nets in pipelines, behind transformed targets or under a threshold: both engines do what scikit-learn does."""

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.linear_model import Ridge
from sklearn.metrics import check_scoring
from sklearn.model_selection import FixedThresholdClassifier, GridSearchCV, KFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, QuantileTransformer, StandardScaler
from test_agreement import XR, Double, X, Y, assert_same_weights, cells_of

from sklr import (
    LRGridSearchCV,
    NeuralNetBinaryClassifier,
    NeuralNetRegressor,
    find_warmup,
    lr_range_test,
    stacked,
    suggest_max_steps,
)
from sklr.engines import ENGINES
from sklr.experiment.experiment import Experiment
from sklr.experiment.wrappers import fitted_net, net_name, net_of, trains_nets

TARGET = np.exp(XR @ [0.5, -0.2, 0.1, 0.3, 0.2])
TWO = np.stack([TARGET, -TARGET], axis=1)
CV = KFold(3, shuffle=True, random_state=0)
LRS = [0.01, 0.1]


def regressor(**params):
    defaults = {"module__hidden": (4,), "max_epochs": 2, "batch_size": 20, "random_state": 0}
    return NeuralNetRegressor(Double, **{**defaults, **params})


def classifier(**params):
    return NeuralNetBinaryClassifier(Double, module__hidden=(4,), max_epochs=2, batch_size=40, random_state=0, **params)


def with_log(model, **params):
    return TransformedTargetRegressor(model, func=np.log, inverse_func=np.exp, **params)


def scaled(model):
    return Pipeline([("scale", StandardScaler()), ("net", model)])


class Stateless(TransformerMixin, BaseEstimator):
    """A transformer that has nothing to learn, and so no attribute that says that it is fitted."""

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return np.asarray(X) * 0.5


WRAPPED = {
    "targets": with_log(regressor()),
    "a pipeline in it": with_log(scaled(regressor())),
    "it in a pipeline": scaled(with_log(regressor())),
    "both": scaled(TransformedTargetRegressor(scaled(regressor()), transformer=StandardScaler())),
    "twice": with_log(TransformedTargetRegressor(regressor(), transformer=MinMaxScaler())),
    "a pipeline in a pipeline": Pipeline([("first", Stateless()), ("rest", scaled(regressor()))]),
    "a pipeline of a net": Pipeline([("net", regressor())]),
    "steps left out": Pipeline(
        [("no", "passthrough"), ("scale", StandardScaler()), ("none", None), ("net", regressor())]
    ),
    "quantiles": TransformedTargetRegressor(regressor(), transformer=QuantileTransformer(n_quantiles=10)),
    "threshold": FixedThresholdClassifier(scaled(classifier()), threshold=0.4),
}


def looks_around(estimator, X, y):
    """A scorer that looks at the estimator's steps, its net and raw rows."""
    net = fitted_net(estimator)
    return float(estimator.predict(X)[0]) + net.lr + float(np.asarray(X)[0, 0]) + len(net.history)


def data_of(estimator):
    return (X, (Y > 0).astype(int)) if isinstance(estimator, FixedThresholdClassifier) else (XR, TARGET)


def searched(estimator, engine, X, y, **params):
    search = LRGridSearchCV(estimator, lrs=LRS, cv=CV, engine=engine, refit=False, **params)
    return search.fit(X, y)


def assert_same_results(ours, theirs, rtol):
    assert ours.keys() >= theirs.keys() - {"params"}
    for name, values in theirs.items():
        if re.fullmatch(r"split\d+_(test|train)_score", name):
            np.testing.assert_allclose(ours[name], values, rtol=rtol, err_msg=name)


@pytest.mark.one_fast
@pytest.mark.parametrize("scoring", [None, looks_around], ids=["own", "looks around"])
@pytest.mark.parametrize("estimator", WRAPPED.values(), ids=WRAPPED)
def test_both_engines_do_what_grid_search_does(estimator, scoring):
    X, y = data_of(estimator)
    options = {"scoring": scoring, "return_train_score": True}
    grid = {f"{net_name(estimator)}__lr".removeprefix("__"): LRS}
    plain = GridSearchCV(estimator, grid, cv=CV, refit=False, **options).fit(X, y)
    alone, stack = (searched(estimator, engine, X, y, **options) for engine in ("sequential", "stacked"))
    assert_same_results(alone.cv_results_, plain.cv_results_, rtol=1e-12)
    assert_same_results(stack.cv_results_, plain.cv_results_, rtol=1e-9)
    np.testing.assert_allclose(stack.history_["train_loss"], alone.history_["train_loss"], rtol=1e-9)


def test_several_targets_and_weights():
    weights = np.linspace(0.5, 2, len(XR))
    model = TransformedTargetRegressor(scaled(regressor()), transformer=StandardScaler())
    alone, stack = (
        LRGridSearchCV(model, lrs=LRS, cv=CV, engine=engine, refit=False).fit(XR, TWO, net__sample_weight=weights)
        for engine in ("sequential", "stacked")
    )
    plain = GridSearchCV(model, {"regressor__net__lr": LRS}, cv=CV).fit(XR, TWO, net__sample_weight=weights)
    assert_same_results(alone.cv_results_, plain.cv_results_, rtol=1e-12)
    assert_same_results(stack.cv_results_, plain.cv_results_, rtol=1e-9)


LAYERS = {
    "pipeline": scaled,
    "log": with_log,
    "scaled targets": lambda model: TransformedTargetRegressor(model, transformer=StandardScaler()),
    "stateless": lambda model: make_pipeline(Stateless(), model),
}


@pytest.mark.slow
@settings(max_examples=5, deadline=None)
@given(st.lists(st.sampled_from(list(LAYERS)), min_size=1, max_size=3), st.booleans())
def test_whatever_is_put_around_a_net(layers, follows):
    estimator = regressor()
    for layer in layers:
        estimator = LAYERS[layer](estimator)
    if layers.count("log") > 1:
        return  # a logarithm of a logarithm is not a number
    if "scaled targets" in layers[layers.index("log") + 1 :] if "log" in layers else False:
        return  # scaled first, targets are below 0
    options = {"pruner": "lr"} if follows else {}
    alone, stack = (searched(estimator, engine, XR, TARGET, **options) for engine in ("sequential", "stacked"))
    np.testing.assert_allclose(stack.cell_scores_, alone.cell_scores_, rtol=1e-9)
    for name in ["train_loss", "valid_score"][: 1 + follows]:  # one by one no score is free
        np.testing.assert_allclose(stack.history_[name], alone.history_[name], rtol=1e-9)


def test_what_is_handed_back_is_scikit_learns_own():
    table = pd.DataFrame(XR, columns=list("abcde"))
    model = with_log(scaled(regressor()))
    grid = GridSearchCV(model, {"regressor__net__lr": LRS}, cv=CV)
    plain = clone(grid).fit(table, TARGET)
    with stacked() as report:
        ours = grid.fit(table, TARGET)
    assert (report.n_stacked, report.reasons) == (6, [])
    assert_same_results(ours.cv_results_, plain.cv_results_, rtol=1e-9)
    search = LRGridSearchCV(model, lrs=LRS, cv=CV, engine="stacked").fit(table, TARGET)
    best = search.best_estimator_
    assert type(best) is TransformedTargetRegressor
    assert list(best.feature_names_in_) == list("abcde")
    np.testing.assert_allclose(search.predict(table), plain.predict(table), rtol=1e-9)


def kept(estimator, engine, X, y):
    described = Experiment(estimator, X, y, cells_of(X), check_scoring(estimator), keep_estimators=True)
    rows = ENGINES[engine]().start(described, [{f"{net_name(estimator)}__lr": lr} for lr in LRS]).finish()
    return [outcome.estimator for row in rows for outcome in row]


@pytest.mark.one_fast
@pytest.mark.parametrize("name", ["targets", "both", "threshold"])
def test_a_run_is_handed_back_with_all_that_is_around_its_net(name):
    estimator = WRAPPED[name]
    X, y = data_of(estimator)
    for ours, theirs in zip(kept(estimator, "stacked", X, y), kept(estimator, "sequential", X, y), strict=True):
        assert type(ours) is type(theirs) is type(estimator)
        assert_same_weights(fitted_net(ours), fitted_net(theirs), 1e-9)
        np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-9)
        assert ours.n_features_in_ == X.shape[1]
        assert not net_of(ours).initialized_, "the parameter stays as it was given"
        clone(ours).fit(X, y)


@pytest.mark.parametrize(
    ("estimator", "name"),
    [
        (regressor(), ""),
        (with_log(scaled(regressor())), "regressor__net"),
        (scaled(with_log(regressor())), "net__regressor"),
        (TransformedTargetRegressor(), None),
        (with_log(Ridge()), None),
        (Ridge(), None),
        (CalibratedClassifierCV(classifier()), None),
        (Pipeline([("net", regressor()), ("scale", StandardScaler())]), None),
    ],
    ids=str,
)
def test_where_the_net_is(estimator, name):
    assert (net_name(estimator), trains_nets(estimator)) == (name, name is not None)


class OwnKind(TransformedTargetRegressor):
    """A subclass may do anything."""


@pytest.mark.parametrize(
    "estimator",
    [
        OwnKind(regressor(), transformer=StandardScaler()),
        CalibratedClassifierCV(classifier(), cv=2),
    ],
    ids=["a subclass", "fits on folds"],
)
def test_other_wrappers_are_fitted_as_they_are(estimator):
    X, y = (XR, TARGET) if isinstance(estimator, OwnKind) else (data_of(WRAPPED["threshold"]))
    search = searched(estimator, "auto", X, y)
    assert search.engine_ == "sequential"
    assert "around one" in search.engine_reasons_[0]
    name = "regressor__lr" if isinstance(estimator, OwnKind) else "estimator__lr"
    plain = GridSearchCV(estimator, {name: LRS}, cv=CV).fit(X, y)
    assert_same_results(search.cv_results_, plain.cv_results_, rtol=1e-12)


def fails(y):
    raise ValueError("these targets cannot be transformed")


def test_targets_that_cannot_be_transformed_fail_in_their_runs():
    broken = TransformedTargetRegressor(regressor(), transformer=FunctionTransformer(fails, check_inverse=False))
    with pytest.raises(ValueError, match="these targets cannot be transformed"):
        searched(broken, "auto", XR, TARGET)


@pytest.mark.slow
def test_range_test_recipes_and_pruners_find_the_net():
    model = with_log(scaled(regressor(batch_size=8)))
    few = {"n_seeds": 1, "random_state": 0}
    found = lr_range_test(model, XR, TARGET, n_steps=30, **few)
    assert found.engine == "stacked"
    inner = lr_range_test(net_of(model), StandardScaler().fit_transform(XR), np.log(TARGET), n_steps=30, **few)
    np.testing.assert_allclose(found.loss, inner.loss, rtol=1e-6)
    assert suggest_max_steps(model, XR, TARGET, n_lrs=2, max_epochs=2, target=-1e9, **few).engine == "stacked"
    assert len(find_warmup(model, XR, TARGET, n_lrs=3, n_warmups=2, max_epochs=4, **few).lrs) == 3
    search = LRGridSearchCV(model, lrs=[1e-4, 1e-3, 1e-2, 0.05], cv=3, pruner="lr", random_state=0).fit(XR, TARGET)
    assert search.engine_ == "stacked"
    assert np.isfinite(search.history_["valid_score"]).all(), "asked for by the pruner, on the scale of the targets"
