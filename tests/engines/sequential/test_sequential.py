"""The sequential engine: lockstep changes nothing, heads are shared, runs end each in its own way."""

import numpy as np
import pytest
import skorch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.datasets import load_iris
from sklearn.dummy import DummyClassifier
from sklearn.metrics import check_scoring
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from skorch.callbacks import EarlyStopping
from skorch.dataset import ValidSplit
from torch import nn

from sklr import MLP, LRGridSearchCV, NeuralNetClassifier
from sklr.callbacks import Resume
from sklr.engines.sequential.engine import SequentialEngine
from sklr.experiment.experiment import Cell, Experiment
from sklr.results import DIVERGED, FAILED, OK, STOPPED

X, Y = load_iris(return_X_y=True)
FOLDS = list(StratifiedKFold(2, shuffle=True, random_state=0).split(X, Y))
CELLS = [Cell(k, 0, 100 + k, train, test) for k, (train, test) in enumerate(FOLDS)]
LRS = [{"lr": 0.01}, {"lr": 0.03}]
KWARGS = {"module__hidden": (8,), "optimizer": "adam", "max_epochs": 4, "batch_size": 16}


def net(**params):
    return NeuralNetClassifier(MLP, **{**KWARGS, **params})


def own(**params):
    defaults = {"module__in_features": 4, "module__out_features": 3, "max_epochs": 4, "train_split": None}
    return skorch.NeuralNetClassifier(nn.Linear, criterion=nn.CrossEntropyLoss, **{**defaults, **params})


def start(estimator, candidates=LRS, X=X, cells=CELLS, **params):
    scorer = check_scoring(estimator)
    params = {"follow": "always", **params}
    return SequentialEngine().start(Experiment(estimator, X, Y, cells, scorer, **params), candidates)


def scores(outcomes):
    return np.array([[outcome.test_scores for outcome in row] for row in outcomes])


def test_every_score_is_cross_val_scores():
    outcomes = start(net(random_state=1)).finish()
    for row, candidate in zip(outcomes, LRS, strict=True):
        theirs = cross_val_score(net(random_state=1, **candidate), X, Y, cv=FOLDS)
        np.testing.assert_array_equal([outcome.test_scores for outcome in row], theirs)


@pytest.mark.parametrize(
    "estimator",
    [
        net(schedule="cosine", warmup_epochs=1),
        own(callbacks=[skorch.callbacks.LRScheduler("CosineAnnealingLR", T_max=8, step_every="batch")], verbose=0),
        net(iterator_train__shuffle=True),
        net(train_split=ValidSplit(0.3), iterator_train__shuffle=True),
        own(train_split=ValidSplit(0.3), callbacks=[EarlyStopping(load_best=True, patience=2)], verbose=0, lr=0.5),
    ],
    ids=["schedule and warmup", "skorch's own scheduler per batch", "shuffled", "a drawn split", "early stopping"],
)
def test_epoch_by_epoch_gives_what_one_go_gives(estimator):
    X32 = X.astype("float32")
    at_once, in_steps = start(estimator, X=X32), start(estimator, X=X32)
    whole = at_once.advance()
    pieces = []
    while not in_steps.done:
        pieces.append(in_steps.advance(1 if len(pieces) != 1 else 2))
    for field in ("train_loss", "valid_score"):
        stepped = np.concatenate([getattr(piece, field) for piece in pieces], axis=-1)
        np.testing.assert_array_equal(stepped, getattr(whole, field))
    assert whole.train_loss.shape == (2, 2, 4)
    np.testing.assert_array_equal(scores(at_once.finish()), scores(in_steps.finish()))


def test_a_stopped_run_keeps_the_score_it_has_reached():
    training = start(net())
    reached = training.advance(2).valid_score[..., -1]
    training.stop(np.array([[True, True], [False, False]]), "pruned after 2 epochs")
    report = training.advance(1)
    assert np.isnan(report.train_loss[0]).all()
    assert np.isfinite(report.train_loss[1]).all()
    assert training.finished().keys() == {0}
    outcomes = training.finish()
    assert [(o.status, o.reason, len(o.history)) for o in outcomes[0]] == [(STOPPED, "pruned after 2 epochs", 2)] * 2
    np.testing.assert_array_equal([o.test_scores for o in outcomes[0]], reached[0])
    assert [(o.status, len(o.history)) for o in outcomes[1]] == [(OK, 4)] * 2


def test_runs_of_unequal_length_leave_gaps():
    training = start(net(), [{"max_epochs": 1}, {"max_epochs": 3}])
    loss = training.advance().train_loss
    assert np.isnan(loss[0, :, 1:]).all()
    assert np.isfinite(loss[1]).all()
    assert loss.shape == (2, 2, 3)


def test_each_run_ends_in_its_own_way():
    training = start(net(), [{"lr": 0.01}, {"lr": 1e30}, {"batch_size": "many"}], error_score=-1.0)
    ok, diverged, failed = training.finish()
    assert [o.status for o in (*ok, *diverged, *failed)] == [OK] * 2 + [DIVERGED] * 2 + [FAILED] * 2
    assert diverged[0].reason.startswith("diverged at step 1: loss")
    assert "Traceback" in failed[0].fit_error
    assert [o.test_scores for o in (*diverged, *failed)] == [-1.0] * 4
    assert len(diverged[0].history) == 0


def test_an_estimator_that_is_no_net_is_fitted_in_one_go():
    training = start(DummyClassifier(), [{"strategy": "uniform"}, {"strategy": "prior"}])
    assert training.advance(1).train_loss.shape == (2, 2, 1)
    assert training.done
    assert training.finish()[1][0].status == OK


class CountsFits(TransformerMixin, BaseEstimator):
    fits = 0

    def __init__(self, shift=0.0):
        self.shift = shift

    def fit(self, X, y=None):
        CountsFits.fits += 1
        return self

    def transform(self, X):
        return X - self.shift


@pytest.mark.parametrize(
    ("candidates", "n_fits"),
    [
        (LRS, 2),  # one head per fold
        ([{"lr": 0.01, "shift": 0.0}, {"lr": 0.01, "shift": 1.0}], 4),
        ([{"lr": 0.01, "shift": 1.0}, {"lr": 0.03, "shift": 1.0}], 2),
    ],
)
def test_equal_heads_are_fitted_once_per_fold(candidates, n_fits):
    names = {"lr": "net__lr", "shift": "scale__shift"}
    CountsFits.fits = 0
    pipeline = Pipeline([("scale", CountsFits()), ("net", net())])
    start(pipeline, [{names[name]: value for name, value in c.items()} for c in candidates]).finish()
    assert CountsFits.fits == n_fits


@pytest.mark.parametrize("engine", ["auto", "sequential"])
def test_heads_are_fitted_once_per_search(engine):
    """Though a stack is refused after they were, and candidates come in several batches."""
    CountsFits.fits = 0
    pipeline = Pipeline([("scale", CountsFits()), ("net", net(optimizer="rprop", max_epochs=1))])
    how = {"lr_range": (1e-3, 1e-2), "n_lrs": 2, "rounds": 2, "cv": 2, "refit": False, "random_state": 0}
    assert LRGridSearchCV(pipeline, **how, engine=engine).fit(X, Y).engine_ == "sequential"
    assert CountsFits.fits == 2


def test_a_head_that_fails_fails_its_runs_alone():
    def broken(X):
        raise RuntimeError("no such column")

    pipeline = Pipeline([("scale", FunctionTransformer(broken)), ("net", net())])
    steps = [StandardScaler(), FunctionTransformer(broken)]
    ok, failed = start(pipeline, [{"scale": step} for step in steps]).finish()
    assert [o.status for o in (*ok, *failed)] == [OK, OK, FAILED, FAILED]
    assert "no such column" in failed[0].fit_error


def test_a_run_that_has_ended_holds_no_data():
    training = start(make_pipeline(StandardScaler(), net()), [{"neuralnetclassifier__lr": 0.01}])
    training.finish()
    assert [vars(run).keys() for run in training.runs] == [{"outcome"}] * 2


def test_estimators_are_kept_where_asked_for():
    outcomes = start(net(), keep_estimators=True).finish()
    for cell, outcome in zip(CELLS, outcomes[0], strict=True):
        assert outcome.estimator.score(X[cell.test], Y[cell.test]) == outcome.test_scores
    assert start(net()).finish()[0][0].estimator is None


def test_training_scores_where_asked_for():
    pipeline = make_pipeline(StandardScaler(), net())
    outcomes = start(pipeline, [{"neuralnetclassifier__lr": 0.03}], return_train_score=True, keep_estimators=True)
    for cell, outcome in zip(CELLS, outcomes.finish()[0], strict=True):
        assert outcome.train_scores == outcome.estimator.score(X[cell.train], Y[cell.train])


def test_seeds_differ_only_where_the_user_has_not_set_one():
    twice = [Cell(0, index, 7 + index, CELLS[0].train, CELLS[0].test) for index in range(2)]

    def losses(estimator):
        return [o.history[0].train_loss for o in start(estimator, [{"lr": 0.01}], cells=twice).finish()[0]]

    assert len(set(losses(net()))) == 2
    assert len(set(losses(net(random_state=3)))) == 2  # or the second seed would be the first again
    assert losses(net(random_state=3))[0] == losses(net(random_state=3))[0]


X32 = X.astype("float32")  # as skorch's own nets want it


class EndsAfter(skorch.callbacks.Callback):
    """Ends a training with an epoch, as early stopping does."""

    def __init__(self, epochs):
        self.epochs = epochs

    def on_epoch_end(self, net, **kwargs):
        if len(net.history) == self.epochs:
            raise KeyboardInterrupt

    def on_train_end(self, net, X=None, y=None, **kwargs):
        for p in net.module_.parameters():  # as those do that load the best epoch's weights
            p.data.zero_()


@pytest.mark.parametrize("epochs", [1, 3, 4])
@pytest.mark.parametrize("make", [net, own])
@pytest.mark.parametrize("whole", [False, True])
def test_a_training_that_a_callback_ends_has_its_last_epoch_in_the_history(make, epochs, whole):
    estimator = make(callbacks=[EndsAfter(epochs)], verbose=0)
    if whole:  # fitted by a `fit` of its own, as nets in other estimators are
        estimator = Pipeline([("net", estimator)])
    candidates = [{"net__lr": 0.1}] if whole else [{"lr": 0.1}]
    full = start(make(verbose=0), [{"lr": 0.1}], X=X32).finish()[0]
    for outcome, reference in zip(start(estimator, candidates, X=X32).finish()[0], full, strict=True):
        assert (outcome.status, len(outcome.history)) == (OK, epochs)
        assert outcome.history == [row for row in reference.history if row.epoch < epochs]


def test_a_training_that_is_taken_up_again_has_its_new_epochs_in_the_history(tmp_path):
    def train(max_epochs, name):
        callbacks = [EndsAfter(3), Resume(tmp_path / name)]
        estimator = net(callbacks=callbacks, max_epochs=max_epochs, random_state=0)
        return start(estimator, [{"lr": 0.1}], cells=CELLS[:1]).finish()[0][0].history

    assert [row.epoch for row in train(2, "a")] == [0, 1]
    assert len(train(4, "a")) == 1  # of three, two were there


EMPTY = [
    {"batch_size": 500, "iterator_train__drop_last": True},
    {"batch_size": 500, "iterator_train__drop_last": True, "schedule": "onecycle"},
    {"batch_size": 500, "iterator_train__drop_last": True, "warmup_epochs": 1},
    {"iterator_train__sampler": []},
    {"iterator_train__batch_sampler": [], "iterator_train__batch_size": 1, "schedule": "cosine"},
]


class OnlyOnce:
    """A sampler that has nothing to give from its second epoch on."""

    def __init__(self):
        self.calls = 0

    def __len__(self):
        return 30

    def __iter__(self):
        self.calls += 1
        return iter(range(30) if self.calls == 1 else [])


@pytest.mark.parametrize("params", EMPTY, ids=str)
def test_epochs_without_a_batch_are_an_error(params):
    message = "must make at least one batch in every epoch, got none in epoch 1 from"
    for fit in ("fit", "partial_fit"):
        with pytest.raises(ValueError, match=message):
            getattr(net(**params), fit)(X, Y)
    made = [net(**params)]
    if not params.keys() & {"schedule", "warmup_epochs"}:
        kept = {name: value for name, value in params.items() if name != "schedule"}
        made.append(own(verbose=0, **kept))
    for estimator in made:
        for outcome in start(estimator, X=X32).finish()[0]:
            assert outcome.status == FAILED
            assert message in outcome.fit_error


def test_an_epoch_that_turns_out_empty_is_an_error_too():
    with pytest.raises(ValueError, match=r"got none in epoch 2 .* the sampler OnlyOnce"):
        net(iterator_train__sampler=OnlyOnce()).fit(X, Y)


@pytest.mark.parametrize("engine", ["auto", "sequential"])
def test_a_search_without_batches_fails_in_every_engine(engine):
    search = LRGridSearchCV(net(batch_size=500, iterator_train__drop_last=True), lrs=[0.1], cv=2, engine=engine)
    with pytest.raises(ValueError, match="at least one batch in every epoch"):
        search.fit(X, Y)
