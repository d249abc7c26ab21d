"""Nets that hold rows out of their training, stop early, or have callbacks move their lr: in a stack as one by one."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import skorch
import torch
from hypothesis import given, note, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import KFold
from skorch.callbacks import EarlyStopping, EpochScoring, EpochTimer, LRScheduler, PrintLog, ProgressBar
from skorch.dataset import Dataset, ValidSplit
from skorch.helper import predefined_split
from test_agreement import LRS, XR, YR, Double, X, Y, assert_agree, both, classifier, experiment, net_of
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import Subset, random_split

from sklr import NeuralNetBinaryClassifier, NeuralNetRegressor, callbacks
from sklr.engines.sequential.engine import SequentialEngine
from sklr.engines.stacked.engine import StackedEngine
from sklr.engines.stacked.model.stack import ModelStack
from sklr.schedules import Plateau

FEW = LRS[1:]
STRIDES = [{"lr": lr} for lr in (1e-3, 0.1, 1.0)]


class Module(nn.Module):
    def __init__(self, n_inputs=6, n_outputs=3):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(n_inputs, 8), nn.ReLU(), nn.Linear(8, n_outputs)).double()

    def forward(self, X):
        return self.layers(X)


def skorchs_own(**params):
    given = {"criterion": nn.CrossEntropyLoss, "max_epochs": 3, "batch_size": 16, "iterator_train__shuffle": True}
    return skorch.NeuralNetClassifier(Module, **{**given, "verbose": 0, **params})


def assert_same_history(ours, theirs, rtol=1e-9):
    """Compare every column of every row, but for the time that an epoch took."""
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        assert [batch.keys() for batch in a["batches"]] == [batch.keys() for batch in b["batches"]]
        for mine, own in ((a, b), *zip(a["batches"], b["batches"], strict=True)):
            names = [name for name in own if name not in ("batches", "dur")]
            np.testing.assert_allclose([mine[n] for n in names], [own[n] for n in names], rtol=rtol, err_msg=str(names))


def assert_same_runs(estimator, candidates=FEW, **kwargs):
    """Compare all that both engines make of a search in two cells, histories of nets too; return the outcomes."""
    described = experiment(estimator, **kwargs)
    described = replace(described, cells=described.cells[:2])
    engine = StackedEngine()
    assert engine.unsupported(described, candidates) == []
    stacked = engine.start(described, candidates).finish()
    alone = SequentialEngine().start(described, candidates).finish()
    assert_agree(stacked, alone)
    for ours, theirs in zip(stacked, alone, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            if b.status == "ok":
                assert_same_history(net_of(a.estimator).history_, net_of(b.estimator).history_)
    return stacked, alone


def every_third(dataset, y=None):
    rows = np.arange(len(dataset))
    return Subset(dataset, rows[rows % 3 > 0]), Subset(Subset(dataset, rows[rows % 3 == 0]), np.arange(5)[::-1])


SPLITS = {
    "default": ValidSplit(5),
    "stratified": ValidSplit(3, stratified=True),
    "share": ValidSplit(0.25, stratified=True),
    "share, seeded": ValidSplit(0.2, random_state=3),
    "share, seeded by an object": ValidSplit(0.2, random_state=np.random.RandomState(3)),
    "shuffled": ValidSplit(KFold(4, shuffle=True)),
    "predefined": predefined_split(Dataset(X[:9], Y[:9])),
    "own": every_third,
    "of PyTorch": lambda dataset, y=None: random_split(dataset, [0.7, 0.3]),
    "of other rows": lambda dataset, y=None: (Dataset(X[20:60], Y[20:60]), dataset),
    "nothing": lambda dataset, y=None: (dataset, None),
}


@pytest.mark.one_fast
@pytest.mark.parametrize("split", SPLITS)
def test_whatever_a_net_holds_out(split):
    stacked, _ = assert_same_runs(classifier(train_split=SPLITS[split]), return_train_score=True)
    history = stacked[0][0].estimator.history_
    assert ("valid_loss" in history[-1], "valid_acc" in history[-1]) == (
        (False, False) if split == "nothing" else (True, True)
    )


@pytest.mark.parametrize("split", ["default", "share", "of PyTorch"])
def test_skorchs_own_nets_hold_the_same_rows_out(split):
    assert_same_runs(skorchs_own(train_split=SPLITS[split]))


BATCHES = {
    "of another size": {"iterator_valid__batch_size": 7},
    "all rows": {"batch_size": -1},
    "batch norm": {"module": partial(Double, batch_norm=True)},
    "class weights": {"criterion__weight": torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)},
    "sums": {"criterion__reduction": "sum", "lr": 0.001},
}


@pytest.mark.parametrize("case", BATCHES)
def test_held_out_rows_are_evaluated_in_the_nets_own_batches(case):
    assert_same_runs(classifier(train_split=ValidSplit(4), **BATCHES[case]))


@pytest.mark.parametrize("split", ["default", "predefined", "of PyTorch"])
def test_sample_weights_are_held_out_with_their_rows(split):
    weight = {"sample_weight": np.random.default_rng(0).uniform(0.1, 2, len(X))}
    assert_same_runs(classifier(train_split=SPLITS[split]), fit_params=weight, score_params=weight)


def test_a_scorer_finds_the_net_as_its_last_evaluation_has_left_it():
    def looks(net, X, y):
        return net.module_.training + net.history_[-1, "valid_loss"]

    assert_same_runs(classifier(train_split=ValidSplit(5)), scoring=looks)


def test_other_targets_are_held_out_too():
    given = {"module__hidden": (8,), "max_epochs": 3, "batch_size": 16, "train_split": ValidSplit(5)}
    assert_same_runs(NeuralNetRegressor(Double, **given), X=XR, y=YR)
    assert_same_runs(NeuralNetRegressor(Double, **given), X=XR, y=np.stack([YR, -YR], axis=1))
    labels = np.where(Y == 0, "no", "yes")
    assert_same_runs(NeuralNetBinaryClassifier(Double, **given), y=labels, scoring="roc_auc")


STOPPING = {
    "patience": EarlyStopping(patience=2),
    "ours": callbacks.EarlyStopping(patience=2),
    "best weights": EarlyStopping(patience=3, load_best=True),
    "best accuracy": EarlyStopping("valid_acc", patience=2, lower_is_better=False, load_best=True),
    "training loss": EarlyStopping("train_loss", patience=1, threshold=0.1),
    "a difference": callbacks.EarlyStopping(patience=1, threshold=0.05, threshold_mode="abs", load_best=True),
    "never": EarlyStopping(patience=50, load_best=True),
    "class": EarlyStopping,
}


def stopping(callback, **params):
    given = {"max_epochs": 8, "train_split": ValidSplit(4), **params}
    return classifier(callbacks=[("stop", callback)], **given)


@pytest.mark.one_fast
@pytest.mark.parametrize("case", STOPPING)
def test_each_run_stops_at_its_own_epoch(case):
    stacked, _ = assert_same_runs(
        stopping(STOPPING[case]), STRIDES[1:], scoring="neg_log_loss", return_train_score=True
    )
    lengths = {len(o.history) for row in stacked for o in row if o.status == "ok"}
    assert (lengths == {8}) == (case == "never"), lengths


def outcomes(engine, described, candidates, advance, stop=None):
    training = engine.start(described, candidates)
    for n_epochs in advance:
        training.advance(n_epochs)
    if stop is not None:
        training.stop(stop, "enough")
    return training.finish()


@pytest.mark.slow
def test_pauses_pruning_and_workers_change_nothing():
    drawn = ValidSplit(0.3)
    described = experiment(stopping(EarlyStopping(patience=3, load_best=True), train_split=drawn))
    whole = outcomes(SequentialEngine(), described, STRIDES, [])
    mask = np.zeros((3, 3), dtype=bool)
    mask[0], mask[1, 1] = True, True
    pruned = outcomes(SequentialEngine(), described, STRIDES, [2], mask)
    assert {o.status for o in pruned[0]} == {"stopped"}
    for engine, n_jobs in ((StackedEngine(), 1), (StackedEngine(max_stack=3), 2), (SequentialEngine(), 2)):
        own = replace(described, n_jobs=n_jobs)
        assert_agree(outcomes(engine, own, STRIDES, [1, 1, 3]), whole)
        assert_agree(outcomes(engine, own, STRIDES, [2], mask), pruned)


def test_a_run_that_has_stopped_is_stepped_no_more(monkeypatch):
    n_candidates, step = [], ModelStack._step
    monkeypatch.setattr(
        ModelStack, "_step", lambda stack, *a: n_candidates.append(stack.n_candidates) or step(stack, *a)
    )
    outcomes(StackedEngine(), experiment(stopping(EarlyStopping("train_loss", patience=1, threshold=0.5))), STRIDES, [])
    assert min(n_candidates) < 3


def test_weights_that_are_put_back_are_looked_at_before_they_are_scored():
    net = stopping(EarlyStopping(patience=1, load_best=True, sink=skorch.utils.noop), max_epochs=6)
    stacked, _ = assert_same_runs(net, [{"lr": 0.1}, {"lr": 60.0}, {"lr": 1e30}])
    assert {o.status for o in stacked[2]} == {"diverged"}


@pytest.mark.slow
@settings(deadline=None, max_examples=3)
@given(
    monitor=st.sampled_from(["valid_loss", "train_loss", "valid_acc", "valid_loss_best", "f1"]),
    split=st.sampled_from([ValidSplit(3), ValidSplit(0.3), ValidSplit(4, stratified=True)]),
    kind=st.sampled_from([EarlyStopping, callbacks.EarlyStopping]),
    params=st.fixed_dictionaries({
        "patience": st.integers(1, 4), "threshold": st.sampled_from([1e-4, 0.02, 0.3]),
        "threshold_mode": st.sampled_from(["rel", "abs"]), "lower_is_better": st.booleans(), "load_best": st.booleans(),
    }),
    n_epochs=st.integers(1, 7),
    first=st.integers(1, 3),
)  # fmt: skip
def test_however_runs_are_stopped(monitor, split, kind, params, n_epochs, first):
    note(f"{monitor} {split.cv} {kind} {params}")
    scoring = EpochScoring("f1_macro", name="f1", lower_is_better=False)
    net = classifier(train_split=split, callbacks=[scoring, kind(monitor, **params)], max_epochs=n_epochs)
    described = replace(experiment(net), keep_estimators=False)
    stacked, alone = (outcomes(engine, described, STRIDES, [first]) for engine in (StackedEngine(), SequentialEngine()))
    for ours, theirs in zip(stacked, alone, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert (a.status, a.test_scores) == (b.status, pytest.approx(b.test_scores))
            np.testing.assert_allclose(np.array(a.history), np.array(b.history), rtol=1e-9)


LOOKING = {
    "scores": [EpochScoring("f1_macro", name="f1", lower_is_better=False), EpochScoring("neg_log_loss", name="nll")],
    "the net's own score": [EpochScoring(None, lower_is_better=None)],
    "a metric": [EpochScoring(balanced_accuracy_score, lower_is_better=False)],
    "onlookers": [PrintLog(sink=skorch.utils.noop), ProgressBar, EpochTimer(), callbacks.StopOnDivergence()],
}


@pytest.mark.one_fast
@pytest.mark.parametrize("case", LOOKING)
def test_callbacks_that_only_look(case, capsys):
    assert_same_runs(classifier(train_split=ValidSplit(4), callbacks=LOOKING[case]))


def test_scores_that_nobody_reads_are_not_taken(monkeypatch):
    asked = []
    monkeypatch.setattr(EpochScoring, "on_epoch_end", lambda self, net, **kwargs: asked.append(self))
    described = replace(experiment(skorchs_own(train_split=ValidSplit(4))), keep_estimators=False)
    training = StackedEngine().start(described, LRS)
    asked.clear()  # by the audit
    training.finish()
    assert asked == []


SCHEDULERS = {
    "step": LRScheduler(lr_scheduler.StepLR, step_size=1, gamma=0.5),
    "by name": LRScheduler("ExponentialLR", gamma=0.8),
    "milestones": LRScheduler("MultiStepLR", milestones=[1, 2], event_name="lr now"),
    "cosine, batches": LRScheduler("CosineAnnealingLR", T_max=7, step_every="batch"),
    "function": LRScheduler("LambdaLR", lr_lambda=lambda epoch: 0.9**epoch, event_name=None),
    "cycle": LRScheduler(
        "CyclicLR", base_lr=1e-3, max_lr=0.1, step_size_up=3, step_every="batch", cycle_momentum=False
    ),
    "one cycle": LRScheduler(
        lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=25, step_every="batch", cycle_momentum=False
    ),
    "warm restarts": LRScheduler(lr_scheduler.CosineAnnealingWarmRestarts, T_0=2, eta_min=1e-4),
    "skorch's restarts": LRScheduler(min_lr=1e-4, max_lr=0.1, base_period=2),
    "plateau": LRScheduler(lr_scheduler.ReduceLROnPlateau, patience=0, threshold=10.0, min_lr=[1e-3]),
    "held-out plateau": LRScheduler("ReduceLROnPlateau", monitor="valid_loss", patience=0, threshold=0.2),
    "accuracy": LRScheduler("ReduceLROnPlateau", monitor="valid_acc", mode="max", patience=0, factor=0.3),
    "ours": callbacks.LRSchedule("cosine", warmup_epochs=0.5),
    "our plateau": callbacks.LRSchedule(Plateau(patience=0, threshold=0.2, monitor="valid_loss")),
}


@pytest.mark.one_fast
@pytest.mark.parametrize("case", SCHEDULERS)
def test_callbacks_that_move_the_lr(case):
    make = classifier if list(SCHEDULERS).index(case) % 2 else skorchs_own
    net = make(train_split=ValidSplit(4), max_epochs=4, callbacks=[("lr", SCHEDULERS[case])])
    stacked, alone = assert_same_runs(net, scoring="neg_log_loss")
    assert len({row.lr for row in stacked[-1][0].history}) > 1
    for a, b in zip(stacked, alone, strict=True):
        groups = [net_of(run[0].estimator).optimizer_.param_groups for run in (a, b)]
        for ours, theirs in zip(*groups, strict=True):
            assert ours.keys() == theirs.keys()
            assert ours["lr"] == pytest.approx(theirs["lr"])


@pytest.mark.parametrize("case", ["step", "cosine, batches"])
def test_parameter_groups_keep_their_ratios(case):
    groups = [("layers.0.*", {"lr_multiplier": 0.1})]
    net = classifier(max_epochs=4, callbacks=[("lr", SCHEDULERS[case])], optimizer__param_groups=groups)
    assert_same_runs(net, scoring="neg_log_loss")


def test_a_net_handed_back_goes_on_as_it_would_have():
    net = stopping(EarlyStopping(patience=2), optimizer="adam", train_split=ValidSplit(0.3))
    stacked, alone = both(net, STRIDES[1:])
    for ours, theirs in zip(stacked, alone, strict=True):
        a, b = (run[0].estimator.set_params(max_epochs=2).partial_fit(X, Y) for run in (ours, theirs))
        assert_same_history(a.history_, b.history_, rtol=1e-7)


REASONS = {
    "monitors 'valid_los', which no callback before it writes": {"callbacks": [EarlyStopping("valid_los")]},
    "monitors 'valid_loss', which": {"callbacks": [EarlyStopping()], "train_split": None},
    "monitors 'f1', which": {"callbacks": [EarlyStopping("f1"), EpochScoring("f1_macro", name="f1")]},
    "scores the training rows (on_train=True)": {"callbacks": [EpochScoring("accuracy", on_train=True)]},
    "leave use_caching at its default": {"callbacks": [EpochScoring("accuracy", use_caching=False)]},
    "leave use_caching": {"use_caching": False},
    "may use more of the net than its predictions": {"callbacks": [EpochScoring(lambda net, X, y: 0.0, name="own")]},
    "Checkpoint writes files in each training": {"callbacks": [skorch.callbacks.Checkpoint()]},
    "BatchScoring scores each batch, and a stack scores after each epoch: use EpochScoring": {
        "callbacks": [skorch.callbacks.BatchScoring("accuracy")]
    },
    "the callback Freezer may change": {"callbacks": [skorch.callbacks.Freezer("layers.0.*")]},
    "the callback Own may change the training": {"callbacks": [type("Own", (EarlyStopping,), {})()]},
    "the callback Timer may change": {"callbacks__epoch_timer": type("Timer", (EpochTimer,), {})()},
    "iterator_valid does not read all rows": {"iterator_valid__shuffle": True},
    "changes momentum as well as the learning rate, and a stack changes the learning rate alone: set cycle_momentum=": {
        "callbacks": [LRScheduler("CyclicLR", base_lr=0.01, max_lr=0.1)]
    },
    "gives parameter groups different minima": {
        "callbacks": [LRScheduler("ReduceLROnPlateau", min_lr=[1e-3, 1e-2])],
        "optimizer__param_groups": [("layers.0.*", {"weight_decay": 0.1})],
    },
    "set step_every='epoch'": {"callbacks": [LRScheduler("ReduceLROnPlateau", step_every="batch")]},
    "do not keep their ratios": {
        "callbacks": [LRScheduler(lr_scheduler.CosineAnnealingLR, T_max=3, eta_min=0.01)],
        "optimizer__param_groups": [("layers.0.*", {"lr_multiplier": 0.1})],
    },
    "two schedules, or callbacks, change": {"callbacks": [LRScheduler("StepLR", step_size=1)], "schedule": "cosine"},
    "Tried to step": {
        "callbacks": [LRScheduler(lr_scheduler.OneCycleLR, max_lr=1, total_steps=2, cycle_momentum=False)]
    },
    "train_split gives rows that are read batch by batch": {
        "train_split": predefined_split(type("Read", (Dataset,), {})(X[:9], Y[:9]))
    },
    "holds out no batch to evaluate": {"train_split": lambda dataset, y=None: (dataset, Subset(dataset, []))},
}


@pytest.mark.filterwarnings("ignore::sklr.exceptions.SettingsWarning")
@pytest.mark.filterwarnings("ignore:You set iterator_valid__shuffle")
@pytest.mark.parametrize("reason", REASONS)
def test_what_is_not_followed_says_what_to_change(reason):
    net = classifier(**{"train_split": ValidSplit(4), **REASONS[reason]})
    found = StackedEngine().unsupported(experiment(net), LRS[:2])
    assert any(reason in one for one in found), found
