"""The stacked engine against the sequential one, the reference: weights, histories, scores, statuses."""

import copy
import pickle
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from weakref import ref

import numpy as np
import pytest
import skorch
import torch
from sklearn.base import is_classifier
from sklearn.datasets import make_classification, make_regression
from sklearn.metrics import check_scoring
from sklearn.metrics._scorer import _MultimetricScorer
from sklearn.model_selection import KFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from sklr import MLP, NeuralNetBinaryClassifier, NeuralNetClassifier, NeuralNetRegressor
from sklr.callbacks import BatchSizeSchedule, GradientClipping
from sklr.engines.sequential.engine import SequentialEngine
from sklr.engines.stacked import packs as packs_module
from sklr.engines.stacked import scored_pack
from sklr.engines.stacked.advance import advance
from sklr.engines.stacked.advance import advance_together as together
from sklr.engines.stacked.engine import StackedEngine
from sklr.engines.stacked.model.pack import Pack
from sklr.engines.stacked.model.stack import ModelStack
from sklr.engines.stacked.scored_pack import ScoredPack
from sklr.engines.stacked.scoring.scorer import CellScorer
from sklr.engines.stacked.setup import devices as _devices
from sklr.engines.stacked.setup import packing, prepare, stack_setup
from sklr.engines.stacked.setup.packing import out_of_memory
from sklr.exceptions import EngineError, OutOfMemoryWarning, StackFallbackWarning
from sklr.experiment.experiment import Cell, Experiment
from sklr.experiment.wrappers import is_net
from sklr.schedules import Cosine, Plateau, Steps, TorchSchedule, Warmup

X, Y = make_classification(101, 6, n_informative=4, n_classes=3, random_state=0)  # 101: folds of 67, 67 and 68 rows
XR, YR = make_regression(50, 5, noise=0.1, random_state=0)
YR = (YR - YR.mean()) / YR.std()
LRS = [{"lr": lr} for lr in (1e-3, 1e-2, 0.1)]
Double = partial(MLP, dtype=torch.float64)


def cells_of(X, n_seeds=1):
    folds = KFold(3, shuffle=True, random_state=0).split(X)
    return [
        Cell(fold, seed, 100 * fold + seed, train, test)
        for fold, (train, test) in enumerate(folds)
        for seed in range(n_seeds)
    ]


def experiment(estimator, X=X, y=Y, scoring=None, **kwargs):
    if isinstance(scoring, dict):
        scorer = _MultimetricScorer(scorers={k: check_scoring(estimator, v) for k, v in scoring.items()})
    else:
        scorer = check_scoring(estimator, scoring)
    kwargs = {"follow": "free" if callable(scoring) else "always", **kwargs}  # scores one by one have to be asked for
    return Experiment(estimator, X, y, cells_of(X), scorer, keep_estimators=True, **kwargs)


def both(estimator, candidates=LRS, **kwargs):
    """Train with both engines; return their outcomes, stacked first."""
    described = experiment(estimator, **kwargs)
    engine = StackedEngine()
    assert engine.unsupported(described, candidates) == []
    return engine.start(described, candidates).finish(), SequentialEngine().start(described, candidates).finish()


def reasons_against(module, X, y, criterion=nn.CrossEntropyLoss, **params):
    """Why copies of a module cannot be trained as a stack."""
    net = NeuralNetClassifier(
        lambda: copy.deepcopy(module), criterion=criterion, max_epochs=2, random_state=0, **params
    )
    described = experiment(net, X=np.asarray(X, dtype="float32"), y=np.asarray(y), scoring="accuracy")
    return StackedEngine().unsupported(described, LRS[:2])


def net_of(estimator):
    return estimator if is_net(estimator) else estimator[-1]


def assert_agree(stacked, alone, rtol=1e-9):
    for ours, theirs in zip(stacked, alone, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert (a.status, a.reason.partition(": loss")[0]) == (b.status, b.reason.partition(": loss")[0])
            assert a.test_scores == pytest.approx(b.test_scores, rel=rtol, nan_ok=True)
            if b.train_scores is not None:
                assert a.train_scores == pytest.approx(b.train_scores, rel=rtol, nan_ok=True)
            assert_same_epochs(a.history, b.history, rtol)
            if b.status == "ok":
                assert_same_weights(net_of(a.estimator), net_of(b.estimator), rtol)


def assert_same_epochs(ours, theirs, rtol):
    """Compare what epochs have come to; validation scores that only a stack has for nothing are left out."""
    ours, theirs = np.array(ours), np.array(theirs)
    kept = slice(None) if len(theirs) == 0 or np.isfinite(theirs[:, 3]).any() else slice(3)
    np.testing.assert_allclose(ours[..., kept], theirs[..., kept], rtol=rtol)


def assert_same_weights(a, b, rtol):
    ours, theirs = a.module_.state_dict(), b.module_.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        scale = value.abs().max().item() if value.is_floating_point() else 0
        torch.testing.assert_close(ours[name], value, rtol=rtol, atol=rtol * scale, msg=lambda m, n=name: f"{n}: {m}")


def classifier(module=Double, **params):
    defaults = {"batch_size": 16, "max_epochs": 3, "iterator_train__shuffle": True}
    if module is Double:
        defaults["module__hidden"] = (8,)
    return NeuralNetClassifier(module, **{**defaults, **params})


def weight_norm(estimator, X, y):
    return -float(sum(p.detach().abs().sum() for p in net_of(estimator).module_.parameters()))


SCALED = Pipeline([("scale", StandardScaler()), ("net", classifier())])


class Convolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
        ).double()

    def forward(self, X):
        return self.layers(X[:, None])


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3)
        self.group = nn.GroupNorm(2, 8)
        self.double()

    def forward(self, X):
        h = self.norm(self.a(X))
        return self.b(h + torch.tanh(self.group(h)))


class Embedded(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Embedding(10, 4), nn.Linear(24, 3)
        self.double()

    def forward(self, X):
        return self.out(self.embed(X).flatten(1))


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(2, 1, 8, dropout=0.0, batch_first=True)
        self.out = nn.Linear(6, 3)
        self.double()

    def forward(self, X):
        return self.out(self.layer(X.unflatten(1, (3, 2))).flatten(1))


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3).double(), nn.Linear(3, 3).double()

    def forward(self, left, right):
        return self.a(left) * torch.sigmoid(self.b(right))


@pytest.mark.one_fast
@pytest.mark.parametrize("module", [Convolution, Normed, Transformer], ids=lambda m: m.__name__)
def test_modules(module):
    assert_agree(*both(classifier(module), scoring="neg_log_loss"))


@pytest.mark.one_fast
@pytest.mark.parametrize("module", [Convolution, Normed, Transformer], ids=lambda m: m.__name__)
@pytest.mark.parametrize("n_cells", [1, 2])
def test_one_or_two_runs_are_a_stack_too(module, n_cells):
    whole = experiment(classifier(module))
    described = replace(whole, cells=whole.cells[:n_cells])
    training = StackedEngine().start(described, LRS[:1])
    assert len(training.packs) == 1
    assert_agree(training.finish(), SequentialEngine().start(described, LRS[:1]).finish())


def test_batch_norm_with_unequal_folds_keeps_its_statistics():
    net = classifier(partial(Double, batch_norm=True), module__hidden=(8,))
    stacked, alone = both(net)
    assert_agree(stacked, alone)
    assert any("running_mean" in name for name in net_of(stacked[0][0].estimator).module_.state_dict())


def test_embeddings_take_integers():
    X = np.random.default_rng(0).integers(0, 10, size=(101, 6))
    assert_agree(*both(classifier(Embedded), X=X))


def test_images():
    class Image(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 3))
            self.double()

        def forward(self, X):
            return self.layers(X)

    X = np.random.default_rng(0).normal(size=(101, 1, 8, 8))
    assert_agree(*both(classifier(Image), X=X))


def test_several_inputs_as_a_dict():
    data = {"left": X[:, :3], "right": X[:, 3:]}
    rows = cells_of(X)
    described = Experiment(classifier(TwoInputs), data, Y, rows, check_scoring(classifier()), keep_estimators=True)
    engine = StackedEngine()
    reasons = engine.unsupported(described, LRS)
    if not reasons:  # scikit-learn cannot slice a dict; skorch's SliceDict can
        raise AssertionError("a plain dict has no rows")
    described = Experiment(
        classifier(TwoInputs),
        skorch.helper.SliceDict(**data),
        Y,
        rows,
        check_scoring(classifier()),
        keep_estimators=True,
    )
    assert engine.unsupported(described, LRS) == []
    assert_agree(engine.start(described, LRS).finish(), SequentialEngine().start(described, LRS).finish())


OPTIMIZERS = {
    "sgd": {"optimizer__momentum": 0.9, "optimizer__nesterov": True, "optimizer__weight_decay": 0.01},
    "adam": {"optimizer__betas": (0.8, 0.99)},
    "adamw": {"optimizer__weight_decay": 0.1},
    "rmsprop": {"optimizer__momentum": 0.5},
    "nadam": {},
    "radam": {},
    "adagrad": {},
    "adamax": {},
    "adadelta": {},
}


@pytest.mark.one_fast
@pytest.mark.parametrize(("name", "params"), OPTIMIZERS.items(), ids=OPTIMIZERS)
def test_optimizers(name, params):
    assert_agree(*both(classifier(optimizer=name, **params), scoring="neg_log_loss"), rtol=1e-8)


SCHEDULES = [
    "cosine",
    "onecycle",
    Steps(milestones=(1,)),
    Warmup(epochs=1.5, then=Cosine()),
    Plateau(patience=0, threshold=10.0),
    lambda epoch: 0.5**epoch,
    TorchSchedule(torch.optim.lr_scheduler.StepLR, step_size=1),
]


@pytest.mark.one_fast
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: getattr(schedule, "__name__", str(schedule)))
def test_schedules(schedule):
    stacked, alone = both(classifier(schedule=schedule, warmup_epochs=0.5), scoring="neg_log_loss")
    assert_agree(stacked, alone)
    assert len({row.lr for row in stacked[0][0].history}) > 1


def test_parameter_groups_and_clipping():
    groups = [("layers.0.*", {"lr": 0.05, "weight_decay": 0.1}), ("*bias", {"weight_decay": 0.2})]
    clip = ("clip", skorch.callbacks.GradientNormClipping(0.1))
    assert_agree(*both(classifier(optimizer__param_groups=groups, callbacks=[clip]), scoring="neg_log_loss"))


EVERY_OTHER = list(range(0, 67, 2))
GROWING = [BatchSizeSchedule(2, every=1, max_batch_size=40)]
STEPS = {  # of what a step is made; 67 or 68 rows are 17 steps an epoch in batches of 4
    "in parts": {"accumulate_steps": 2, "batch_size": 8},
    "in odd parts": {"accumulate_steps": 3, "batch_size": 7, "iterator_train__drop_last": True},
    "a class ignored in parts": {"accumulate_steps": 2, "criterion__ignore_index": 1},
    "percentile": {"clip": "p60", "batch_size": 4},
    "percentile at once": {"callbacks": [GradientClipping("p30", startup_steps=2, norm_type=np.inf)]},
    "clipped twice": {"clip": "p80", "batch_size": 4, "callbacks": [skorch.callbacks.GradientNormClipping(0.1)]},
    "clipped thrice": {"clip": 0.5, "callbacks": [GradientClipping(0.3), GradientClipping("p50", startup_steps=3)]},
    "only logged": {"clip": np.inf},
    "growing": {"callbacks": GROWING, "batch_size": 6},
    "growing once, in order": {"callbacks": [BatchSizeSchedule(3.5, at=(2,))], "iterator_train__shuffle": False},
    "growing, scheduled": {"callbacks": GROWING, "schedule": "cosine", "warmup_epochs": 0.5, "batch_size": 5},
    "growing, by a sampler": {
        "callbacks": GROWING,
        "iterator_train__shuffle": None,
        "iterator_train__sampler": EVERY_OTHER,
    },
    "all of it": {
        "callbacks": [*GROWING, skorch.callbacks.GradientNormClipping(0.2)],
        "clip": "p90",
        "accumulate_steps": 2,
        "batch_size": 3,
        "optimizer": "adam",
        "schedule": "linear",
        "schedule_epochs": 8,
    },
}


def assert_same_histories(a, b, rtol):
    """Compare all that was written down, but for how long it took."""
    for ours, theirs in zip(net_of(a).history_, net_of(b).history_, strict=True):
        assert ours.keys() - {"dur"} == theirs.keys() - {"dur"}
        rows = [(ours, theirs), *zip(ours["batches"], theirs["batches"], strict=True)]
        for one, other in rows:
            assert one.keys() == other.keys()
            kept = [name for name in other if name not in ("dur", "batches")]
            np.testing.assert_allclose([one[k] for k in kept], [other[k] for k in kept], rtol=rtol, err_msg=str(kept))


@pytest.mark.one_fast
@pytest.mark.parametrize("name", STEPS)
def test_steps_of_parts_clipped_or_growing(name):
    stacked, alone = both(classifier(**STEPS[name]), LRS[1:], scoring="neg_log_loss")
    assert_agree(stacked, alone)
    for a, b in zip(stacked[1], alone[1], strict=True):
        assert_same_histories(a.estimator, b.estimator, 1e-9)
    rows = cells_of(X)[0].train
    a, b = (outcomes[1][0].estimator.partial_fit(X[rows], Y[rows]) for outcomes in (stacked, alone))
    assert_same_weights(a, b, 1e-8)
    assert_same_histories(a, b, 1e-8)


def spread_over_copies(calls, n_jobs, pre_dispatch):
    """Do what workers do, without any: calls and results are pickled on their way."""
    for place, (function, args, kwargs) in enumerate(calls):
        sent = pickle.loads(pickle.dumps((args, kwargs)))
        yield place, pickle.loads(pickle.dumps(function.function(*sent[0], **sent[1])))


@pytest.mark.one_fast
@pytest.mark.parametrize("how", ["in workers", "halved", "in threads"])
def test_what_steps_remember_goes_where_their_runs_go(how, request, monkeypatch):
    """Of a percentile the norms so far; of batches that grow the epoch."""
    callbacks = [BatchSizeSchedule(2, at=(3,)), GradientClipping("p30", startup_steps=4)]
    described = experiment(classifier(max_epochs=4, callbacks=callbacks, optimizer="adam"))
    stacked = replace(described, n_jobs=2 if how == "in workers" else None)
    candidates = [*LRS, {"lr": 1e30}, {"lr": 0.03}]
    step = ModelStack._step

    def scarce(stack, *args):
        if stack.n_candidates > 1:
            raise MemoryError
        return step(stack, *args)

    outcomes = []
    if how == "in threads":
        request.getfixturevalue("two_threads")
    if how == "in workers":
        monkeypatch.setattr(packs_module, "spread", spread_over_copies)
    largest = 6 if how == "in workers" else None
    for engine, given in ((StackedEngine(max_stack=largest), stacked), (SequentialEngine(), described)):
        training = engine.start(given, candidates)
        training.advance(2)
        mask = np.zeros((5, 3), dtype=bool)
        mask[1], mask[2, :2] = True, True
        training.stop(mask, "enough")
        if how == "halved" and not outcomes:
            monkeypatch.setattr(ModelStack, "_step", scarce)
            with pytest.warns(OutOfMemoryWarning):
                training.advance(1)
        outcomes.append(training.finish())
        torch.set_num_threads(1)
    assert_agree(*outcomes)
    assert_same_histories(outcomes[0][0][0].estimator, outcomes[1][0][0].estimator, 1e-9)


def test_a_diverged_run_is_told_its_step_though_batches_have_grown():
    net = classifier(batch_size=16, schedule=lambda epoch: 1e40 if epoch == 2 else 1.0, callbacks=GROWING)
    stacked, alone = both(net, [{"lr": 0.01}])
    assert [a.reason.split(":")[0] for a in stacked[0]] == [b.reason.split(":")[0] for b in alone[0]]
    assert stacked[0][0].reason.startswith("diverged at step 9")  # after five and three batches, and one more


@pytest.mark.one_fast
@pytest.mark.parametrize("first", [{"lr_multiplier": 0.1}, {"lr": 0.05}], ids=str)
@pytest.mark.parametrize("second", [{"lr_multiplier": 3}, {"lr": 0.02}, {}], ids=str)
@pytest.mark.parametrize("schedule", [None, "absolute", Plateau(patience=0, threshold=10.0, min_lr=0.02)], ids=str)
def test_no_group_stands_for_the_net(schedule, first, second):
    if schedule == "absolute":
        schedule = TorchSchedule(torch.optim.lr_scheduler.CyclicLR, by="step", base_lr=1e-3, max_lr=0.1, step_size_up=3)
    groups = [("layers.0.*", first), ("layers.2.*", second)]
    stacked, alone = both(classifier(optimizer__param_groups=groups, schedule=schedule), scoring="neg_log_loss")
    assert_agree(stacked, alone)
    for row, candidate in zip(stacked, LRS, strict=True):
        net = row[0].estimator
        assert net.history_[:, "lr"] == [epoch.lr for epoch in row[0].history]
        if schedule is None:
            assert set(net.history_[:, "lr"]) == {candidate["lr"]}
        factor = net.history_[-1, "lr"] / candidate["lr"]
        peaks = [group.get("initial_lr", group["lr"]) for group in net.optimizer_.param_groups]
        assert [g["lr"] for g in net.optimizer_.param_groups] == pytest.approx([factor * peak for peak in peaks])


def test_a_pipeline_has_its_own_rows_in_each_fold():
    candidates = [{"net__lr": lr} for lr in (0.01, 0.1)]
    assert_agree(*both(SCALED, candidates, X=X * 100 + 3, return_train_score=True))


def test_regression():
    net = NeuralNetRegressor(Double, module__hidden=(8,), max_epochs=4, batch_size=16)
    assert_agree(*both(net, X=XR, y=YR))
    assert_agree(*both(net, X=XR, y=np.stack([YR, -YR], axis=1)))


def test_predictions_beyond_all_bounds_are_scored_without_a_warning():
    net = NeuralNetRegressor(Double, module__hidden=(8,), max_epochs=1, batch_size=3, optimizer="adamw")
    assert_agree(*both(net, [{"lr": 1e12}], X=XR, y=YR))


def test_two_classes():
    net = NeuralNetBinaryClassifier(Double, module__hidden=(8,), max_epochs=3, batch_size=16)
    assert_agree(*both(net, y=np.where(Y == 0, "no", "yes"), scoring="roc_auc"))
    assert is_classifier(net)


@pytest.mark.slow
def test_criteria():
    weight = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    net = classifier(criterion__weight=weight, criterion__label_smoothing=0.1)
    assert_agree(*both(net, scoring="neg_log_loss"))
    logs = classifier(lambda **k: nn.Sequential(Double(6, 3, hidden=(8,)), nn.Softmax(-1)), criterion="nll")
    assert_agree(*both(logs, scoring="neg_log_loss"))


def test_sample_weight():
    weight = np.random.default_rng(0).uniform(0.1, 2, len(X))
    fit_params = {"sample_weight": weight}
    assert_agree(*both(classifier(), fit_params=fit_params, score_params=fit_params))


@pytest.mark.slow
def test_loader_settings_count():
    assert_agree(*both(classifier(iterator_train__drop_last=True)))
    assert_agree(*both(classifier(batch_size=-1)))
    assert_agree(*both(classifier(iterator_train__shuffle=False)))


@pytest.mark.slow
def test_candidates_that_differ_in_more_than_the_lr():
    candidates = [
        {"lr": 0.1, "batch_size": 16, "optimizer__weight_decay": 0.1},
        {"lr": 0.01, "batch_size": 32, "module__hidden": (4, 4)},
        {"lr": 0.1, "batch_size": 16, "optimizer__momentum": 0.9},
        {"lr": 0.05, "batch_size": 16, "schedule": "cosine", "warmup_epochs": 1},
        {"lr": 0.05, "batch_size": 32, "max_epochs": 2, "module__hidden": (4, 4)},
    ]
    described = experiment(classifier(), scoring="neg_log_loss")
    engine = StackedEngine()
    assert engine.unsupported(described, candidates) == []
    training = engine.start(described, candidates)
    assert len(training.packs) == 3
    assert_agree(training.finish(), SequentialEngine().start(described, candidates).finish())


def test_scorers_that_look_at_more_than_predictions():
    assert_agree(*both(SCALED, [{"net__lr": 0.1}], scoring=weight_norm))
    assert_agree(*both(classifier(), scoring={"acc": "accuracy", "loss": "neg_log_loss"}, metric="loss"))


CLASSIFIER_SCORES = [None, "accuracy", "neg_log_loss"]
REGRESSOR_SCORES = ["r2", "neg_mean_squared_error", "neg_root_mean_squared_error", "neg_mean_absolute_error"]


@pytest.mark.one_fast
@pytest.mark.parametrize("scoring", [*CLASSIFIER_SCORES, *REGRESSOR_SCORES])
def test_common_scores_are_followed_for_all_runs_at_once(scoring, monkeypatch):
    monkeypatch.setattr(CellScorer, "_follow_one", lambda *args: pytest.fail("one by one"))
    if scoring in CLASSIFIER_SCORES:
        labels = np.array(["few", "more", "most"])[Y]
        assert_agree(*both(classifier(), y=labels, scoring=scoring))
    else:
        assert_agree(*both(NeuralNetRegressor(Double, module__hidden=(8,), batch_size=16), X=XR, y=YR, scoring=scoring))


def test_what_has_been_followed_is_not_computed_again(monkeypatch):
    outputs, asked = ScoredPack._outputs, []
    monkeypatch.setattr(ScoredPack, "_outputs", lambda pack, x: asked.append(pack.pack.epoch) or outputs(pack, x))
    training = StackedEngine().start(experiment(classifier(max_epochs=3)), LRS)
    training.advance(2)
    training.stop(np.array([[True] * 3, [False] * 3, [False] * 3]), "enough")
    training.finish()
    assert asked == [1, 2, 3]


@pytest.mark.parametrize("lr", [1e-3, 1e30])
def test_a_log_loss_of_rows_without_a_class_is_left_to_scikit_learn(lr):
    y = np.where(np.arange(len(Y)) < len(Y) // 3, 0, Y)  # the first fold's rows are all of one class
    assert_agree(*both(classifier(), [{"lr": lr}], y=y, scoring="neg_log_loss", error_score=-1.0))


def test_a_diverged_run_touches_no_other():
    candidates = [{"lr": 0.01}, {"lr": 1e30}, {"lr": 0.1}]
    stacked, alone = both(classifier(), candidates)
    assert_agree(stacked, alone)
    assert all(o.status == "diverged" for o in stacked[1])
    calm, _ = both(classifier(), [{"lr": 0.01}, {"lr": 0.02}, {"lr": 0.1}])
    for row, same in ((stacked[0], calm[0]), (stacked[2], calm[2])):
        for a, b in zip(row, same, strict=True):
            assert a.history[0] == b.history[0]  # not one bit, as long as they share a stack of the same shape
            np.testing.assert_allclose(np.array(a.history), np.array(b.history), rtol=1e-12)
    last = both(classifier(batch_size=-1, max_epochs=1), candidates)
    assert_agree(*last)
    assert last[0][1][0].status == "diverged"


@pytest.fixture
def two_threads(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr(packing, "THREAD_WORK", 1.0)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_packs_in_threads_are_the_packs_of_one(two_threads, monkeypatch):
    told = []

    def tell(packs, epoch):
        told.append(len(packs))
        return together(packs, epoch)

    monkeypatch.setattr(packs_module, "advance_together", tell)
    candidates = [{"lr": 0.01}, {"lr": 1e30}, {"lr": 0.1}, {"lr": 0.03}]
    assert_agree(*both(classifier(), candidates))
    assert told == [2]
    assert torch.get_num_threads() == 2


def test_dropout_of_any_but_plain_networks_has_no_threads(two_threads, monkeypatch):
    monkeypatch.setattr(packs_module, "advance_together", lambda packs, epoch: pytest.fail("there is one generator"))
    net = classifier(nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3)).double())
    outcomes = StackedEngine().start(experiment(net), LRS).finish()
    assert {o.status for row in outcomes for o in row} == {"ok"}


def test_dropout_of_plain_networks_is_the_same_in_threads(two_threads, monkeypatch):
    net = classifier(nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3)).double())
    described = experiment(net, scoring=weight_norm)
    told = []
    monkeypatch.setattr(packs_module, "advance_together", lambda *given: told.append(given) or together(*given))
    outcomes = StackedEngine().start(described, LRS).finish()
    assert told
    monkeypatch.setattr(packing, "_n_threads", lambda group: 1)
    assert_agree(outcomes, StackedEngine().start(described, LRS).finish())


def test_a_pack_that_runs_out_of_memory_in_a_thread_is_halved(two_threads, monkeypatch):
    candidates = [{"lr": 0.01}, {"lr": 0.02}, {"lr": 0.1}, {"lr": 0.03}]
    train, failed = Pack.train_epoch, []

    def fail_once(pack, **options):
        if pack.epoch == 1 and not failed:
            failed.append(pack)
            raise MemoryError
        train(pack, **options)

    whole = StackedEngine().start(experiment(classifier(), scoring=weight_norm), candidates).finish()
    monkeypatch.setattr(Pack, "train_epoch", fail_once)
    with pytest.warns(OutOfMemoryWarning):
        outcomes = StackedEngine().start(experiment(classifier(), scoring=weight_norm), candidates).finish()
    assert failed
    assert_agree(outcomes, whole)


@pytest.mark.one_fast
@pytest.mark.parametrize("estimator", [classifier(), SCALED], ids=["net", "pipeline"])
@pytest.mark.parametrize("scoring", [None, weight_norm], ids=["predictions", "weights"])
def test_packs_take_several_devices_in_turn(estimator, scoring, monkeypatch):
    """Shown with two names of the CPU; what a CUDA device does by itself is not."""
    monkeypatch.setattr(_devices, "devices", lambda group: [group.device, torch.device("cpu", 0)])
    monkeypatch.setattr(packing, "_n_threads", lambda group: 2)
    candidates = [{"net__lr" if estimator is SCALED else "lr": lr} for lr in (0.01, 0.05, 0.1)]
    described = experiment(estimator, scoring=scoring)
    training = StackedEngine().start(described, candidates)
    first, second = (scored.group for scored in training.packs)
    assert [str(group.device) for group in (first, second)] == ["cpu", "cpu:0"]
    assert all(
        a.pack_cell.net.module_ is not b.pack_cell.net.module_
        for a, b in zip(first.group_cells, second.group_cells, strict=True)
    )
    assert_agree(training.finish(), SequentialEngine().start(described, candidates).finish())


@pytest.mark.parametrize(("asked", "found"), [("cuda", ["cuda", "cuda:0", "cuda:2"]), ("cuda:1", ["cuda:1"])])
def test_a_net_that_names_no_device_may_use_them_all(asked, found, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert [str(device) for device in _devices.devices(SimpleNamespace(device=torch.device(asked)))] == found


def test_a_later_batch_starts_where_the_first_one_did(monkeypatch):
    described = experiment(classifier(), scoring=weight_norm)
    StackedEngine().start(described, LRS).finish()
    monkeypatch.setattr(stack_setup, "_group_cell", lambda *args: pytest.fail("these cells are set up already"))
    later = [{"lr": 0.03}, {"lr": 0.3, "optimizer__momentum": 0.9}]
    stacked = StackedEngine().start(described, later).finish()
    monkeypatch.undo()
    assert_agree(stacked, SequentialEngine().start(experiment(classifier(), scoring=weight_norm), later).finish())


def test_stopped_runs_leave_and_the_rest_goes_on_as_before():
    described = experiment(classifier(max_epochs=4))
    training = StackedEngine().start(described, LRS)
    training.advance(2)
    mask = np.zeros((3, 3), dtype=bool)
    mask[1] = True
    training.stop(mask, "enough")
    outcomes = training.finish()
    whole = StackedEngine().start(described, LRS).finish()
    assert [o.status for o in outcomes[1]] == ["stopped"] * 3
    assert len(outcomes[1][0].history) == 2
    np.testing.assert_allclose(np.array(outcomes[2][0].history), np.array(whole[2][0].history), rtol=1e-9)


def test_advance_reports_each_epoch():
    described = experiment(classifier())
    reports = []
    for engine in (StackedEngine(), SequentialEngine()):
        training = engine.start(described, LRS)
        reports.append([training.advance(1), training.advance(2)])
        assert training.done
    for ours, theirs in zip(*reports, strict=True):
        np.testing.assert_allclose(ours.train_loss, theirs.train_loss, rtol=1e-9)
        np.testing.assert_allclose(ours.valid_score, theirs.valid_score, rtol=1e-9)


def test_dropout_is_shared_by_the_candidates_of_a_cell():
    net = classifier(partial(Double, dropout=0.5), module__hidden=(8,))
    same = [{"lr": 0.01}, {"lr": 0.01}]
    stacked, alone = both(net, same)
    for k in range(3):
        assert stacked[0][k].history == stacked[1][k].history
    assert stacked[0][0].history[0].train_loss != stacked[0][1].history[0].train_loss
    losses = [np.mean([o.history[-1].train_loss for o in row]) for row in (stacked[0], alone[0])]
    assert losses[0] == pytest.approx(losses[1], rel=0.2)  # in distribution only


@pytest.mark.parametrize("engine", [StackedEngine, SequentialEngine])
def test_a_nets_own_seed_repeats_its_training_whatever_the_cells_seeds(engine):
    described = experiment(classifier(partial(Double, dropout=0.5), module__hidden=(8,), random_state=3))
    cells = [replace(cell, seed=cell.seed + 1) for cell in described.cells]
    first, again = (engine().start(e, LRS).finish() for e in (described, replace(described, cells=cells)))
    assert [[o.history for o in row] for row in first] == [[o.history for o in row] for row in again]


def test_skorchs_own_nets():
    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()

        def forward(self, X):
            return self.layers(X)

    net = skorch.NeuralNetClassifier(
        Module,
        criterion=nn.CrossEntropyLoss,
        max_epochs=3,
        batch_size=16,
        train_split=None,
        iterator_train__shuffle=True,
        verbose=0,
    )
    assert_agree(*both(net))


def test_float32_scores_are_equal():
    stacked, alone = both(classifier(MLP, module__hidden=(8,)))
    for ours, theirs in zip(stacked, alone, strict=True):
        assert [o.test_scores for o in ours] == [o.test_scores for o in theirs]


def test_a_net_handed_back_can_be_trained_on():
    stacked, alone = both(classifier(schedule="cosine", schedule_epochs=6, optimizer="adam"))
    rows = cells_of(X)[0].train
    a, b = (outcomes[2][0].estimator.partial_fit(X[rows], Y[rows]) for outcomes in (stacked, alone))
    assert_same_weights(a, b, 1e-8)
    assert [row["lr"] for row in a.history_] == [row["lr"] for row in b.history_]


@pytest.mark.slow
def test_how_runs_are_packed_changes_nothing():
    net = classifier(partial(Double, dropout=0.3), module__hidden=(8,))
    described = experiment(net)
    whole = StackedEngine().start(described, LRS).finish()
    training = StackedEngine(max_stack=3).start(described, LRS)
    assert [scored.pack.alive.shape for scored in training.packs] == [(1, 3)] * 3
    assert_agree(training.finish(), whole)
    in_workers = replace(described, n_jobs=2)
    assert_agree(StackedEngine().start(in_workers, LRS).finish(), whole)


@pytest.mark.slow
def test_a_stack_that_does_not_fit_is_halved(monkeypatch):
    candidates = [*LRS, {"lr": 1e30}, {"lr": 0.2}]
    described = experiment(classifier())
    whole = StackedEngine().start(described, candidates).finish()
    step = ModelStack._step

    def scarce(stack, *args):
        if stack.n_candidates > 2:
            raise torch.OutOfMemoryError("none left")
        return step(stack, *args)

    training = StackedEngine().start(described, candidates)
    training.advance(1)
    mask = np.zeros((5, 3), dtype=bool)
    mask[4] = True
    training.stop(mask, "enough")
    monkeypatch.setattr(ModelStack, "_step", scarce)
    with pytest.warns(OutOfMemoryWarning, match=r"halved, to at most 6 runs.*max_stack=6"):
        outcomes = training.finish()
    assert_agree(outcomes[:4], whole[:4])
    assert {o.status for o in outcomes[4]} == {"stopped"}
    training = StackedEngine().start(described, candidates)
    monkeypatch.setattr(ModelStack, "_step", lambda *args: (_ for _ in ()).throw(MemoryError("none at all")))
    with pytest.warns(StackFallbackWarning, match="MemoryError: none at all"):
        outcomes = training.finish()
    assert_agree(outcomes, SequentialEngine().start(described, candidates).finish())


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.out = nn.LSTM(2, 4, batch_first=True), nn.Linear(4, 3)
        self.double()

    def forward(self, X):
        return self.out(self.cell(X.unflatten(1, (3, 2)))[0][:, -1])


class Packed(Recurrent):
    def forward(self, X):
        packed = nn.utils.rnn.pack_padded_sequence(X.unflatten(1, (3, 2)), torch.full((len(X),), 3), batch_first=True)
        return self.out(self.cell(packed)[1][0][-1])


class Branching(MLP):
    def forward(self, X):
        return super().forward(X) * (2 if X.sum().item() > 0 else 1)


class OwnStep(NeuralNetClassifier):
    def train_step(self, batch, **fit_params):
        return super().train_step(batch, **fit_params)


REFUSALS = {
    "packed sequences": (classifier(Packed), "Packed: it packs its sequences"),
    "item": (classifier(Branching, module__hidden=(8,)), "Branching"),
    "lbfgs": (classifier(optimizer="lbfgs"), "LBFGS"),
    "adafactor": (classifier(optimizer=torch.optim.Adafactor), "Adafactor: its step is not known to be elementwise"),
    "asgd": (classifier(optimizer="asgd"), "ASGD"),
    "rprop": (classifier(optimizer="rprop"), "Rprop"),
    "step": (OwnStep(Double, module__hidden=(8,)), "OwnStep overrides train_step"),
    "callback": (
        classifier(callbacks=[skorch.callbacks.Freezer("layers.0.*")]),
        "the callback Freezer may change the training",
    ),
    "svc": (__import__("sklearn.svm").svm.SVC(), "SVC is not a skorch net"),
}


@pytest.mark.parametrize(("estimator", "reason"), REFUSALS.values(), ids=REFUSALS)
def test_what_cannot_be_stacked_is_said(estimator, reason):
    candidates = LRS if is_net(estimator) else [{"C": 1.0}]
    reasons = StackedEngine().unsupported(experiment(estimator), candidates)
    assert any(reason in given for given in reasons), reasons
    with pytest.raises(EngineError, match="cannot train these candidates"):
        StackedEngine().start(experiment(estimator), candidates)


@pytest.mark.parametrize("scoring", ["accuracy", None])
def test_predictions_that_do_not_fit_into_memory_are_made_of_fewer_rows(scoring, monkeypatch):
    predict, asked = ModelStack.outputs, []

    def limited(stack, x):
        asked.append(x.shape[1])
        if x.shape[1] > 16:  # rows of a batch, which a step has room for
            raise torch.OutOfMemoryError("none left")
        return predict(stack, x)

    monkeypatch.setattr(scored_pack, "ROWS", 40)
    described = experiment(classifier(), scoring=scoring, X=np.tile(X, (4, 1)), y=np.tile(Y, 4))
    training = StackedEngine().start(described, LRS)  # the audit predicts, too
    monkeypatch.setattr(ModelStack, "outputs", limited)
    outcomes = training.finish()
    assert training.reasons() == {}
    assert len([rows for rows in asked if rows > 16]) == 1  # from then on fewer
    assert_agree(outcomes, SequentialEngine().start(described, LRS).finish())


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: out of memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "MPS backend out of memory (MPS allocated: 1 GB)",
        "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 1",
        "DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes.",
    ],
)  # fmt: skip
def test_libraries_and_drivers_say_in_words_that_memory_has_run_out(words):
    assert out_of_memory(RuntimeError(words))
    assert not out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))


@pytest.mark.one_fast
@pytest.mark.parametrize("in_threads", [False, True])
def test_a_stack_is_gone_with_all_it_has_computed_before_its_halves_are_made(in_threads, monkeypatch):
    train, alive, left = Pack.train_epoch, [], []

    def fail_once(pack, **options):
        if not alive:
            computed = torch.zeros(1000)  # in a frame of the error's traceback
            alive.extend([ref(pack.stack), ref(computed)])
            raise torch.OutOfMemoryError("CUDA out of memory.")
        train(pack, **options)

    def made(*args):
        if alive:
            left.append([found() is None for found in alive])
        return build(*args)

    build = prepare.Group.build
    training = StackedEngine(max_stack=12).start(experiment(classifier()), [*LRS, {"lr": 0.03}])
    monkeypatch.setattr(Pack, "train_epoch", fail_once)
    monkeypatch.setattr(prepare.Group, "build", made)
    halved = (together if in_threads else lambda packs, epoch: advance(packs[0], epoch))(training.packs, 1)
    assert len(halved) == 2
    assert left[0] == [True, True]
