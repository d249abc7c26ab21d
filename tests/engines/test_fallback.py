"""What cannot be stacked, or raises an error in a stack, is trained one by one; nothing else is."""

import sys
import warnings
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import EarlyStopping
from test_agreement import LRS, Double, Packed, X, Y, assert_agree, classifier, experiment
from torch import nn

from sklr.engines import pick_engine
from sklr.engines.sequential.engine import SequentialEngine
from sklr.engines.stacked import packs as packs_module
from sklr.engines.stacked.engine import StackedEngine
from sklr.engines.stacked.model.pack import Pack
from sklr.engines.stacked.reasons import describe
from sklr.engines.stacked.scored_pack import ScoredPack
from sklr.engines.stacked.setup import packing, prepare
from sklr.engines.stacked.setup.prepare import fails_anyway
from sklr.exceptions import EngineError, StackFallbackWarning
from sklr.schedules import Schedule

AUDIT = prepare.audit
CANDIDATES = [{"lr": lr} for lr in (1e-3, 1e-2, 0.03, 0.1)]
SINGLE = StackedEngine(max_stack=1)  # a pack for each candidate
FALLS = pytest.warns(StackFallbackWarning, match=r"Training in a stack raised ArithmeticError: out of luck\. So ")


@pytest.fixture(autouse=True, scope="module")
def unforeseen():
    """What goes wrong here is what no audit has foreseen."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "audit", lambda *args: None)
        yield


@pytest.fixture
def audited(monkeypatch):
    """Unless it is asked for."""
    monkeypatch.setattr(prepare, "audit", AUDIT)


def in_a_stack():
    frame = sys._getframe()
    while frame is not None:
        if frame.f_globals.get("__name__") == "sklr.engines.stacked.model.pack":
            return True
        frame = frame.f_back
    return False


@dataclass(frozen=True, repr=False)
class Stumbling(Schedule):
    """Keeps the lr as it is; in a stack it raises an error from an epoch on."""

    epoch: int = 1

    def __call__(self, step, total):
        return 1.0

    def epoch_multipliers(self, epoch, steps_per_epoch, *args, **kwargs):
        if epoch >= self.epoch and in_a_stack():
            raise ArithmeticError("out of luck")
        return super().epoch_multipliers(epoch, steps_per_epoch, *args, **kwargs)


def both_ways(described, candidates, use, **kwargs):
    """Do the same with the stacked and the sequential engine; return both trainings' outcomes."""
    return [use(engine.start(described, candidates)) for engine in (StackedEngine(**kwargs), SequentialEngine())]


def outcomes_after(training, epochs=(), stopping=()):
    """Train these numbers of epochs, stop candidates (by epoch), and return reports and outcomes."""
    reports = []
    for n, stopped in zip(epochs, stopping, strict=True):
        reports.append(training.advance(n))
        mask = np.zeros(reports[-1].valid_score.shape[:2], dtype=bool)
        mask[list(stopped)] = True
        training.stop(mask, "enough")
    return reports, training.finish()


def assert_reports_agree(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.train_loss, b.train_loss, rtol=1e-9)
        np.testing.assert_allclose(a.valid_score, b.valid_score, rtol=1e-9)


@st.composite
def faults(draw):
    """Where a pack fails, in which epoch, and which candidates' packs do."""
    where = draw(st.sampled_from(["steps", "_outputs", "stop", "finish", "_judge"]))
    return where, draw(st.integers(0, 3)), draw(st.sets(st.integers(0, 3), min_size=1))


@pytest.mark.slow
@settings(deadline=None, max_examples=5)
@given(faults(), st.sampled_from([1, 6, None]), st.sampled_from([(), (1,), (1, 1), (2,)]), st.integers(0, 3))
def test_wherever_a_stack_fails_the_others_are_what_they_would_have_been(fault, max_stack, epochs, stopped):
    (where, epoch, lost), described = fault, experiment(classifier(max_epochs=4), return_train_score=True)
    stopping = [[stopped]] * len(epochs)
    owner = ScoredPack if where in ("_outputs", "stop", "finish") else Pack
    usual = getattr(owner, where)

    def failing(self, *args, **kwargs):
        pack = getattr(self, "pack", self)
        if pack.epoch >= epoch and any(pack.members[m].candidate in lost for m in pack.in_stack):
            raise ArithmeticError("out of luck")
        return usual(self, *args, **kwargs)

    use = partial(outcomes_after, epochs=epochs, stopping=stopping)
    whole = use(StackedEngine(max_stack=max_stack).start(described, CANDIDATES))
    alone = use(SequentialEngine().start(described, CANDIDATES))
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        patch.setattr(owner, where, failing)
        training = StackedEngine(max_stack=max_stack).start(
            replace(described), CANDIDATES
        )  # one that was not warned of
        reports, found = use(training)
    fell = training.reasons()
    assert [w.category for w in caught] == [StackFallbackWarning] * bool(fell)
    assert_agree(found, [alone[1][c] if c in fell else row for c, row in enumerate(whole[1])])
    assert_reports_agree(reports, alone[0])
    if max_stack == 1 and where == "finish" and not epochs:  # a pack that is stopped early may not come so far
        assert set(fell) == lost


def test_what_is_like_a_lost_candidate_is_not_stacked_again_in_the_same_search():
    described, later = experiment(classifier()), [{"lr": 0.5}, {"lr": 0.3, "schedule": Stumbling()}]
    with FALLS:
        SINGLE.start(described, [*LRS, {"lr": 0.02, "schedule": Stumbling()}]).finish()
    assert SINGLE.refusals(described, later) == {1: ["training in a stack raised ArithmeticError: out of luck"]}
    assert pick_engine("stacked", described, later)[1] == {}, "it goes on"
    found, reference = both_ways(described, later, lambda training: training.finish(), max_stack=1)
    assert_agree(found, reference)
    assert SINGLE.refusals(experiment(classifier()), later) == {}


def test_the_pack_that_failed_alone_is_trained_one_by_one():
    candidates = [*LRS, {"lr": 0.02, "schedule": Stumbling()}]
    described = experiment(classifier())
    training = SINGLE.start(described, candidates)
    with FALLS as caught:
        found = training.finish()
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert "candidate {'lr': 0.02, 'schedule': Stumbling()} will be trained one by one" in str(caught[0].message)
    assert training.reasons() == {3: ["training in a stack raised ArithmeticError: out of luck"]}
    assert len(training.packs) == 3
    assert_agree(found, SequentialEngine().start(described, candidates).finish())


@pytest.mark.one_fast
@pytest.mark.parametrize("n_jobs", [1, 2], ids=["one process", "workers"])
@pytest.mark.parametrize("at", [0, 2])
def test_one_warning_for_several_packs_in_workers_too(n_jobs, at):
    candidates = [{"lr": lr, "schedule": Stumbling(at)} for lr in (0.01, 0.02)] + LRS
    described = experiment(classifier(), n_jobs=n_jobs)
    training = StackedEngine(max_stack=6).start(described, candidates)
    with FALLS as caught:
        reports = [training.advance(1), training.advance(2)]
        found = training.finish()
    assert len(caught) == 1
    sequential = SequentialEngine().start(described, candidates)
    assert_reports_agree(reports, [sequential.advance(1), sequential.advance(2)])
    assert_agree(found, sequential.finish())
    assert {0, 1} <= training.reasons().keys() < set(range(5))


@pytest.mark.slow
def test_in_threads_the_other_packs_go_on(monkeypatch):
    monkeypatch.setattr(packing, "THREAD_WORK", 1.0)
    candidates = [*LRS, {"lr": 0.02, "schedule": Stumbling()}]
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        training = StackedEngine().start(experiment(classifier()), candidates)
        assert len(training.packs) == 2
        with FALLS:
            found = training.finish()
    finally:
        torch.set_num_threads(before)
    assert training.reasons().keys() == {0, 3}  # they shared a pack
    assert_agree(found, SequentialEngine().start(experiment(classifier()), candidates).finish())


def test_a_pipeline_falls_back_with_its_head():
    net = classifier(schedule=Stumbling(2))
    described = experiment(Pipeline([("scale", StandardScaler()), ("net", net)]))
    with FALLS:
        ours, alone = both_ways(described, [{"net__lr": 0.01}, {"net__lr": 0.1}], lambda training: training.finish())
    assert_agree(ours, alone)


def test_what_was_stopped_in_a_stack_keeps_its_score():
    candidates = [{"lr": lr, "schedule": Stumbling(2)} for lr in (0.01, 0.1)]
    described = experiment(classifier(max_epochs=4))
    with FALLS:
        _, found = outcomes_after(StackedEngine().start(described, candidates), [1], [[0]])
    _, alone = outcomes_after(SequentialEngine().start(described, candidates), [1], [[0]])
    assert [outcome.reason for outcome in found[0]] == ["enough"] * 3
    assert_agree(found, alone)


def test_stacks_that_cannot_be_built(monkeypatch):
    monkeypatch.setattr(Pack, "__init__", lambda *args: (_ for _ in ()).throw(ArithmeticError("out of luck")))
    described = experiment(classifier())
    with FALLS:
        ours, alone = both_ways(described, LRS, lambda training: training.finish())
    assert_agree(ours, alone)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("threads", [False, True])
def test_the_end_of_the_program_is_none_of_it(error, threads, monkeypatch):
    monkeypatch.setattr(packing, "_n_threads", lambda group: 1 + threads)
    monkeypatch.setattr(Pack, "steps", lambda *args: (_ for _ in ()).throw(error))
    training = StackedEngine().start(experiment(classifier()), LRS)
    with pytest.raises(error):
        training.finish()


def test_what_the_sequential_engine_raises_is_raised():
    def scorer(estimator, X, y):
        raise ArithmeticError("out of luck")

    described = experiment(classifier(), scoring=scorer, error_score="raise")
    with pytest.raises(ArithmeticError, match="out of luck"):
        StackedEngine().start(described, LRS).finish()


def test_what_a_scorer_raises_in_a_thread_ends_the_other_threads_too(monkeypatch):
    def scorer(estimator, X, y):
        raise ArithmeticError("out of luck")

    monkeypatch.setattr(packs_module.Packs, "_in_threads", lambda packs: packs.packs)
    stops = EarlyStopping("train_loss", patience=1, lower_is_better=False)  # once the loss has fallen
    described = experiment(classifier(max_epochs=20), scoring=scorer, error_score="raise", follow="free")
    training = StackedEngine().start(described, [{"lr": 0.01, "callbacks": own} for own in ([stops], None)])
    with pytest.raises(ArithmeticError, match="out of luck"):
        training.finish()
    assert [scored.pack.epoch < 20 for scored in training.packs] == [True, True]


class Squeezes(Double.func):
    def forward(self, X):
        return super().forward(X).squeeze()


class Skips(nn.Module):
    """Has no use for a part of its parameters in a batch of one row."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3)
        self.double()

    def forward(self, X):
        z = self.a(X)
        return self.b(torch.relu(self.norm(z) if len(z) > 1 else z))


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()

    def forward(self, X):
        return self.layers(X)


LAST_OF_ONE_ROW = X[:97], Y[:97]  # folds of 64 or 65 training rows
NAMED = {
    "squeeze": (classifier(partial(Squeezes, dtype=torch.float64), batch_size=16), *LAST_OF_ONE_ROW),
    "unused": (classifier(Skips, batch_size=16), *LAST_OF_ONE_ROW),
    "sampler": (classifier(iterator_train__shuffle=False, iterator_train__sampler=range(101)), X, Y),
}


@pytest.mark.one_fast
@pytest.mark.parametrize("name", NAMED)
def test_named_faults(name):
    net, data, y = NAMED[name]
    described = experiment(net, X=data, y=y, error_score=-1.0)
    engine, reasons = pick_engine("auto", described, LRS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch has something to say of such shapes, too
        training = engine.start(described, LRS)
        found, alone = training.finish(), SequentialEngine().start(described, LRS).finish()
    assert reasons or training.reasons()
    assert_agree(found, alone)


BAD = {  # among others that are stacked; fails anyway?
    "nesterov without momentum": ({"optimizer__nesterov": True}, True),
    "warmup too long": ({"warmup_epochs": 9}, True),
    "no such schedule": ({"schedule": "cosin"}, True),
    "lr below 0": ({"lr": -1.0}, True),
    "module parameter": ({"module__hidden": "wide"}, True),
    "optimizer": ({"optimizer": "asgd"}, False),
    "module": ({"module": Packed}, False),
    "no batch": ({"batch_size": 200, "iterator_train__drop_last": True}, None),
    "callback": ({"callbacks": [__import__("skorch").callbacks.Freezer("layers.0.*")]}, False),
}


@pytest.mark.one_fast
@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("name", BAD)
def test_one_bad_candidate_leaves_the_others_stacked(name, place, audited):
    (params, invalid), candidates = BAD[name], [dict(candidate) for candidate in LRS]
    candidates[place] |= params
    described = experiment(classifier(Plain) if name == "module" else classifier())
    engine, reasons = pick_engine("auto", described, candidates)
    assert (engine.name, list(reasons)) == ("stacked", [place])
    training = engine.start(described, candidates)
    assert [[m.candidate for m in scored.pack.members] for scored in training.packs] == [
        [c for c in range(3) if c != place]
    ]
    assert training.reasons() == reasons
    found, alone = training.finish(), SequentialEngine().start(described, candidates).finish()
    assert_agree(found, alone)
    if invalid is not None:
        assert fails_anyway(described, candidates[place]) == invalid
        forced = nullcontext() if invalid else pytest.raises(EngineError, match=r"\(candidate \{.*\}\)\. Use engine=")
        with forced:
            engine, _ = pick_engine("stacked", described, candidates)
            assert_agree(engine.start(described, candidates).finish(), alone)


def test_refused_candidates_keep_up_with_the_stack():
    candidates = [*LRS, {"lr": 0.02, "optimizer": "rprop"}, {"lr": 0.1, "optimizer": "rprop"}]
    described = experiment(classifier(max_epochs=4))
    engine, reasons = pick_engine("auto", described, candidates)
    assert describe(reasons, candidates) == [reasons[3][0] + " (candidates with optimizer='rprop')"]
    use = partial(outcomes_after, epochs=[1, 2], stopping=[[1, 3], [2]])
    ours, alone = use(engine.start(described, candidates)), use(SequentialEngine().start(described, candidates))
    assert_reports_agree(ours[0], alone[0])
    assert_agree(ours[1], alone[1])


def test_reasons_that_are_the_modules_are_found_once(monkeypatch, audited):
    asked = []
    usual = torch.nn.LSTM.__init__
    monkeypatch.setattr(torch.nn.LSTM, "__init__", lambda *args, **kwargs: asked.append(1) or usual(*args, **kwargs))
    candidates = [{"lr": 0.1, "optimizer__momentum": m / 20} for m in range(12)]
    described = experiment(classifier(Packed))
    engine, reasons = pick_engine("auto", described, candidates)
    assert (engine.name, len(reasons)) == ("sequential", 12)
    assert len(describe(reasons, candidates)) == 1
    assert len(asked) < 12


def test_all_candidates_invalid_is_said_where_stacks_are_asked_for():
    with pytest.raises(EngineError, match=r"setting the nets up raised ValueError: .*[Nn]esterov"):
        pick_engine("stacked", experiment(classifier()), [{"optimizer__nesterov": True}])


def test_left_out_candidates_are_the_callers():
    candidates = [*LRS, {"lr": 0.1, "optimizer": "rprop"}, {"lr": 0.02, "schedule": Stumbling()}]
    described = experiment(classifier())
    engine, _ = pick_engine("auto", described, candidates)
    engine.max_stack = 1
    training = engine.start(described, candidates)
    training.leave_out()
    with FALLS:
        found = training.finish()
    assert training.done
    assert [len(row) for row in found] == [3, 3, 3, 0, 0]
    assert list(training.finished()) == [0, 1, 2]
    assert list(training.reasons()) == [3, 4]
