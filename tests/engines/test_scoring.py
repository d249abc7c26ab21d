"""Scorers that look at more than predictions: what they are shown, how often they are called, and what they may do."""

import random
from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import optuna
import pytest
import skorch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import make_classification
from sklearn.metrics import accuracy_score, check_scoring, make_scorer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from test_agreement import LRS, SCALED, Double, X, Y, assert_agree, both, classifier, experiment, net_of
from torch import nn

import sklr
from sklr import LRGridSearchCV, NeuralNetBinaryClassifier, NeuralNetClassifier
from sklr.engines.metrics import QuickScores, quick_metric
from sklr.engines.sequential.engine import SequentialEngine
from sklr.engines.stacked.engine import StackedEngine


def group_sum(net, key):
    return sum(i * group[key] for i, group in enumerate(net.optimizer_.param_groups, 1))


def state_sum(net):
    states = net.optimizer_.state_dict()["state"].values()
    return sum(float(torch.as_tensor(v).abs().sum()) for state in states for v in state.values() if v is not None)


LOOKS = {
    "lr": lambda net: net.lr,
    "weight decay": lambda net: net.get_params()["optimizer__weight_decay"],
    "schedule": lambda net: len(str(net.schedule)),
    "batch size": lambda net: net.get_params()["batch_size"],
    "lr of the groups": lambda net: group_sum(net, "lr"),
    "decay of the groups": lambda net: group_sum(net, "weight_decay"),
    "peak of the groups": lambda net: sum(group.get("initial_lr", -1) for group in net.optimizer_.param_groups),
    "state": state_sum,
    "weights": lambda net: sum(float(p.detach().abs().sum()) for p in net.module_.parameters()),
    "mode": lambda net: net.module_.training,
    "epochs": lambda net: len(net.history_) + net.history_[-1, "epoch"],
    "loss": lambda net: sum(net.history_[:, "train_loss"]) + net.history_[-1, "train_loss_best"],
    "losses": lambda net: net.history_[-1, "batches", -1, "train_loss"] + net.history_[0, "batches", 0, "train_loss"],
    "sizes": lambda net: sum(net.history_[-1, "batches", :, "train_batch_size"]) + net.history_[0, "train_batch_count"],
    "lrs": lambda net: sum(net.history_[:, "lr"]) + sum(net.history_[0, "batches", :, "lr"]),
    "columns": lambda net: len(",".join(sorted(net.history_[-1])) + ",".join(sorted(net.history_[0, "batches", 0]))),
    "schedule's lr": lambda net: dict(net.callbacks_)["lr_schedule"].lr_,
    "classes": lambda net: net.classes_.sum(),
}


class Looking:
    """A scorer that looks at its estimator, and counts its calls."""

    def __init__(self, *names):
        self.names, self.n_calls = names, 0

    def __call__(self, estimator, X, y):
        self.n_calls += 1
        estimator.predict(X[:2])
        return float(sum(LOOKS[name](net_of(estimator)) for name in self.names))


CANDIDATES = st.fixed_dictionaries(
    {"lr": st.sampled_from([1e-3, 0.03, 0.1])},
    optional={
        "optimizer__weight_decay": st.sampled_from([0.0, 0.01, 0.1]),
        "schedule": st.sampled_from([None, "cosine", "constant", "linear"]),
        "warmup_epochs": st.sampled_from([0, 1]),
        "batch_size": st.sampled_from([16, 30]),
    },
)
NETS = st.fixed_dictionaries(
    {
        "max_epochs": st.integers(2, 3),
        "optimizer": st.sampled_from(["sgd", "adam", "adamw"]),
        "random_state": st.sampled_from([0, 1]),
        "optimizer__param_groups": st.sampled_from([[], [("*bias", {"weight_decay": 0.5})], [("*bias", {"lr": 0.02})]]),
    }
)


@pytest.mark.slow
@settings(deadline=None, max_examples=12)
@given(NETS, st.lists(CANDIDATES, min_size=1, max_size=3), st.sets(st.sampled_from(sorted(LOOKS)), min_size=1))
def test_whatever_a_scorer_looks_at_it_sees_the_candidates_own_net(params, candidates, names):
    net = classifier(optimizer__weight_decay=0.01, **params)
    stacked, alone = Looking(*names), Looking(*names)
    ours = StackedEngine().start(experiment(net, scoring=stacked, return_train_score=True), candidates).finish()
    theirs = SequentialEngine().start(experiment(net, scoring=alone, return_train_score=True), candidates).finish()
    assert_agree(ours, theirs, rtol=1e-6)
    assert stacked.n_calls == alone.n_calls == 2 * 3 * len(candidates)  # training rows and three folds


@pytest.mark.slow
@settings(deadline=None, max_examples=8)
@given(NETS, st.lists(CANDIDATES, min_size=2, max_size=3), st.sets(st.sampled_from(sorted(LOOKS)), min_size=1))
def test_so_it_does_in_scikit_learns_own_searches(params, candidates, names):
    net = Pipeline([("scale", StandardScaler()), ("net", classifier(optimizer__weight_decay=0.01, **params))])
    grid = [{f"net__{name}": [value] for name, value in candidate.items()} for candidate in candidates]
    scorers = Looking(*names), Looking(*names)
    plain, searched = (GridSearchCV(net, grid, scoring=scorer, cv=2, refit=False) for scorer in scorers)
    plain.fit(X, Y)
    with sklr.stacked():
        searched.fit(X, Y)
    for name in ("split0_test_score", "split1_test_score"):
        np.testing.assert_allclose(searched.cv_results_[name], plain.cv_results_[name], rtol=1e-6)
    assert scorers[0].n_calls == scorers[1].n_calls == 2 * len(candidates)


@pytest.mark.one_fast
@pytest.mark.parametrize("engine", ["stacked", "sequential"])
@pytest.mark.parametrize(
    ("scoring", "pruner", "n_calls", "is_followed"),
    [
        (Looking("lr"), None, 6, False),
        (Looking("lr"), optuna.pruners.NopPruner(), 6 + 6 * 3, True),
        ({"looks": Looking("lr"), "accuracy": "accuracy"}, None, 6, True),
        ({"looks": Looking("lr"), "accuracy": "accuracy"}, optuna.pruners.NopPruner(), 6, True),
        ("neg_log_loss", None, 0, True),
        ("roc_auc_ovr", None, 0, False),
    ],
)
def test_a_scorer_is_called_once_a_run_unless_its_score_is_free_or_asked_for(
    engine, scoring, pruner, n_calls, is_followed
):
    counting = scoring["looks"] if isinstance(scoring, dict) else scoring
    if isinstance(counting, Looking):
        counting.n_calls = 0
    refit = "accuracy" if isinstance(scoring, dict) else True
    how = {"cv": 3, "pruner": pruner, "engine": engine, "random_state": 0}
    search = LRGridSearchCV(classifier(), lrs=[0.01, 0.1], scoring=scoring, refit=refit, **how).fit(X, Y)
    assert getattr(counting, "n_calls", 0) == n_calls
    is_followed &= engine == "stacked" or pruner is not None  # for one by one no score is free
    assert np.isfinite(search.history_["valid_score"]).all() == is_followed
    assert np.isnan(search.history_["valid_score"]).all() != is_followed


class Own(NeuralNetClassifier):
    """A net whose predictions depend on its lr."""

    def predict(self, X):
        return super().predict(X) if self.lr > 0.05 else np.zeros(len(X), dtype=int)


class Plain(NeuralNetClassifier):
    """A net of the user's that does nothing its own way."""


@pytest.mark.one_fast
@pytest.mark.parametrize("follow", ["free", "always"])
@pytest.mark.parametrize("scoring", [None, "accuracy", "f1_macro"])
@pytest.mark.parametrize("scaled", [False, True])
def test_a_nets_own_predict_is_its_own(scoring, follow, scaled):
    net = Own(Double, module__hidden=(8,), batch_size=16, max_epochs=2)
    estimator = Pipeline([("scale", StandardScaler()), ("net", net)]) if scaled else net
    candidates = [{("net__lr" if scaled else "lr"): lr} for lr in (0.01, 0.1)]
    stacked, alone = both(estimator, candidates, scoring=scoring, follow=follow)
    assert_agree(stacked, alone)
    assert len({outcome.test_scores for row in stacked for outcome in row}) > 3


def test_a_class_that_changes_nothing_is_scored_as_fast_as_ours():
    assert quick_metric(Plain(Double), check_scoring(Plain(Double))) is accuracy_score
    assert quick_metric(Own(Double), check_scoring(Own(Double))) is None


def test_a_net_without_a_score_takes_a_scorer_of_the_users():
    def loss(net, X, y):
        return -float(nn.functional.cross_entropy(torch.as_tensor(net.predict(X)), torch.as_tensor(y)))

    module = Double(n_inputs=6, n_outputs=3, hidden=(8,))
    net = skorch.NeuralNet(module, nn.CrossEntropyLoss, max_epochs=2, train_split=None, verbose=0)
    assert_agree(*both(net, X=X.astype(np.float64), scoring=loss))


def meddle(estimator, X, y):
    """A scorer that leaves nothing as it was."""
    net = net_of(estimator)
    score = float((estimator.predict(X) == y).mean()) + net.lr + float(np.abs(X).sum())
    X *= 2
    y[:] = 0
    with torch.no_grad():
        for p in net.module_.parameters():
            p.zero_()
    net.optimizer_.param_groups[0]["lr"] = 1e9
    net.history_.clear()
    net.set_params(lr=7.0)
    net.module_.new = torch.ones(1)
    return score


@pytest.mark.one_fast
@pytest.mark.parametrize("estimator", [classifier(schedule="cosine"), SCALED])
@pytest.mark.parametrize("follow", ["free", "always"])
def test_what_a_scorer_does_to_its_net_and_rows_touches_no_training_and_no_other_run(estimator, follow):
    candidates = LRS if estimator is not SCALED else [{"net__lr": lr} for lr in (1e-3, 0.1)]
    described = experiment(estimator, scoring=meddle, follow=follow, return_train_score=True)
    described = replace(described, keep_estimators=False, X=X.copy(), y=Y.copy())
    calm = replace(described, scorer=check_scoring(estimator), follow="never")
    ours, theirs, plain = (
        engine.start(one, candidates).finish()
        for engine, one in ((StackedEngine(), described), (SequentialEngine(), described), (SequentialEngine(), calm))
    )
    for rows in zip(ours, theirs, plain, strict=True):
        for a, b, c in zip(*rows, strict=True):
            assert a.test_scores == pytest.approx(b.test_scores, rel=1e-9)
            assert a.train_scores == pytest.approx(b.train_scores, rel=1e-9)
            np.testing.assert_allclose(np.array(a.history), np.array(b.history), rtol=1e-9)
            np.testing.assert_array_equal(np.array(b.history)[:, :3], np.array(c.history)[:, :3])
    np.testing.assert_array_equal(described.X, X)


def test_a_net_in_training_that_cannot_be_copied_is_shown_itself():
    class Keeping(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 3).double()

        def forward(self, X):
            self.last = self.layer(X)
            return self.last

    described = experiment(classifier(Keeping), scoring=lambda net, X, y: net.lr, follow="always")
    outcomes = SequentialEngine().start(described, LRS).finish()
    assert [[row.valid_score for row in outcome.history] for outcome in outcomes[1]] == [[0.01] * 3] * 3


def picky(net, X, y):
    if net.lr == 0.01:
        raise RuntimeError("I do not like this one")
    return net.lr


def several(net, X, y):
    return {"lr": net.lr, "accuracy": float((net.predict(X) == y).mean())}


@pytest.mark.one_fast
@pytest.mark.filterwarnings("ignore:Scoring failed")
@pytest.mark.parametrize("scoring", [picky, {"a": picky, "b": "accuracy"}, {"a": "neg_log_loss", "b": picky}, several])
@pytest.mark.parametrize("error_score", [np.nan, -1.0])
@pytest.mark.parametrize("follow", ["free", "always"])
def test_scorers_that_fail_or_give_several_scores_do_so_alike(scoring, error_score, follow):
    scorer = check_scoring(classifier(), scoring, raise_exc=False)
    described = replace(experiment(classifier(), error_score=error_score, follow=follow), scorer=scorer)
    assert_agree(*(engine.start(described, LRS).finish() for engine in (StackedEngine(), SequentialEngine())))


def test_a_scorer_that_fails_says_so_alike():
    described = experiment(classifier(), scoring=picky, error_score=-1.0)
    for engine in (StackedEngine(), SequentialEngine()):
        errors = [outcome.score_error for row in engine.start(described, LRS).finish() for outcome in row]
        assert sum(error is not None and "I do not like this one" in error for error in errors) == 3
        raising = engine.start(replace(described, error_score="raise"), LRS)
        with pytest.raises(RuntimeError, match="I do not like this one"):
            raising.finish()


def drawn(net, X, y):
    return net.lr + float(torch.rand(1)) + np.random.rand() + random.random()


@pytest.mark.one_fast
@pytest.mark.parametrize("net", [classifier(), classifier(random_state=3)])
@pytest.mark.parametrize("scoring", [drawn, make_scorer(lambda y, predicted: np.random.rand())])
def test_what_is_drawn_for_a_score_repeats(net, scoring):
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    first, _ = both(net, scoring=scoring, follow="always")
    random.random(), np.random.rand(), torch.rand(1)
    again = both(net, scoring=scoring, follow="always")
    assert_agree(*again)
    assert_agree(first, again[0], rtol=0)
    torch.random.set_rng_state(before[0])
    assert len({outcome.test_scores for row in first for outcome in row}) >= 3  # each cell has its own


class Jittery(torch.utils.data.Dataset):
    """Rows that are another each time they are asked for, to predict as to train."""

    def __init__(self, X, y=None):
        self.X, self.y = X, y

    def __len__(self):
        return len(self.X)

    def __getitem__(self, i):
        row = torch.as_tensor(self.X[i]) + torch.randn(6) + random.gauss(0, 1)
        return row, 0 if self.y is None else self.y[i]


def test_searches_over_data_that_is_augmented_repeat():
    def search():
        net = classifier(dataset=Jittery)
        how = {"lrs": [0.01, 0.1], "cv": 2, "scoring": "neg_log_loss", "refit": False, "random_state": 0}
        return LRGridSearchCV(net, **how).fit(X, Y).cell_scores_

    np.testing.assert_array_equal(search(), search())


@pytest.mark.one_fast
@pytest.mark.parametrize("clip", [0.5, "p60"])
def test_a_scorer_may_look_at_the_gradient_norms_that_clipping_writes_into_the_history(clip):
    assert_agree(*both(classifier(clip=clip), scoring=lambda net, X, y: net.history_[-1, "grad_norm"]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scoring", ["accuracy", "neg_log_loss"])
def test_half_precision_takes_the_nets_own_way_to_its_predictions(dtype, scoring):
    net = NeuralNetClassifier(Double)
    net.start_fit(X, Y)
    quick = QuickScores(net, Y[:4], check_scoring(net, scoring))
    outputs = torch.randn(2, 4, 3)
    assert quick.exact(outputs.to(dtype)) is None
    assert quick.rounded(outputs.to(dtype)) is None


@pytest.mark.slow
def test_two_classes_are_scored_at_once():
    data, y = make_classification(60, 6, random_state=0)
    y = np.where(y == 0, "no", "yes")
    for net in (
        NeuralNetBinaryClassifier(partial(Double, hidden=(4,)), threshold=0.4),
        skorch.NeuralNetBinaryClassifier(Double(n_inputs=6, n_outputs=1, hidden=(4,)), train_split=None, verbose=0),
    ):
        targets = y if isinstance(net, NeuralNetBinaryClassifier) else (y == "yes").astype(np.float64)
        assert_agree(*both(net, X=data.astype(np.float64), y=targets))
        fitted = net.fit(data.astype(np.float64), targets)
        quick = QuickScores(fitted, targets, check_scoring(fitted, "accuracy"))
        found = quick.exact(fitted.forward(data.astype(np.float64)).reshape(1, -1))
        assert found == [accuracy_score(targets, fitted.predict(data.astype(np.float64)))]


@pytest.mark.slow
def test_scores_of_other_scorers_have_no_epochs_to_draw(tmp_path):
    search = LRGridSearchCV(classifier(), lrs=[0.01, 0.1], cv=2, scoring=Looking("lr"), random_state=0).fit(X, Y)
    assert Counter(np.isfinite(search.history_["train_loss"])) == {True: 2 * 2 * 3}
    message = "history_ must be of at least one validation score, got 0. A scorer that may be slow is called only once"
    with pytest.raises(ValueError, match=message):
        sklr.plotting.plot_best_epochs(search)
    with pytest.raises(ValueError, match=message):
        sklr.plotting.plot_training_curves(search, "valid_score")
    sklr.plotting.training_curves_data(search, "train_loss")
    assert "Validation score" not in search.report(tmp_path / "lr.html").read_text()
