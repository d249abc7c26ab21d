"""Folds of different shapes: cells of a shape share a stack, and all is as it is one by one."""

from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.compose import ColumnTransformer
from sklearn.model_selection import KFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder
from test_agreement import Double, assert_agree, assert_same_weights, classifier, experiment
from test_fallback import FALLS, Stumbling, assert_reports_agree, outcomes_after
from torch import nn

from sklr import LRGridSearchCV, OptunaSearchCV, lr_range_test
from sklr.engines import pick_engine
from sklr.engines.sequential.engine import SequentialEngine
from sklr.engines.stacked.checks.static import Unstackable
from sklr.engines.stacked.engine import StackedEngine
from sklr.engines.stacked.model.pack import Pack
from sklr.engines.stacked.setup import prepare
from sklr.experiment.experiment import Cell

RARE = {4: "rare", 5: "seldom", 8: "seldom"}  # of three folds, two do not know one of these names in their rows


def table(n_rows=60, rare=RARE, seed=0):
    """Return a column of names, and another of numbers."""
    random = np.random.default_rng(seed)
    names = random.choice(["a", "b", "c"], n_rows).astype(object)
    names[list(rare)] = list(rare.values())
    return np.stack([names, random.normal(size=n_rows)], axis=1)


X = table()
Y = (np.isin(X[:, 0], ["a", "rare"]) ^ (X[:, 1] > 0)).astype(int)
LRS = [{"net__lr": lr} for lr in (0.01, 0.05, 0.2)]


def ragged(net=None, sparse=False, **encoding):
    """Return a pipeline whose net has as many inputs as the fold has names."""
    encoder = OneHotEncoder(sparse_output=sparse, **(encoding or {"handle_unknown": "ignore"}))
    head = ColumnTransformer([("names", encoder, [0])], remainder="passthrough", sparse_threshold=float(sparse))
    return Pipeline([("columns", head), ("net", net or classifier(batch_size=8))])


def described(estimator=None, n_seeds=1, X=X, y=Y, n_folds=3, **kwargs):
    given = experiment(estimator or ragged(), X=X, y=y, **kwargs)
    cells = [
        Cell(fold, seed, 100 * fold + seed, train, test)
        for fold, (train, test) in enumerate(KFold(n_folds, shuffle=True, random_state=0).split(X))
        for seed in range(n_seeds)
    ]
    return replace(given, cells=cells)


def width_of(net):
    return next(net.module_.parameters()).shape[1]


def widths(training):
    """Return the inputs of the nets in each pack, and how many cells it has."""
    return sorted((width_of(scored.group_cells[0].pack_cell.net), len(scored.group_cells)) for scored in training.packs)


def both_after(given, candidates=LRS, epochs=(), stopping=(), **kwargs):
    """Train with both engines; return the stacked training, then reports and outcomes of each."""
    engine = StackedEngine(**kwargs)
    assert engine.unsupported(given, candidates) == []
    training = engine.start(given, candidates)
    alone = SequentialEngine().start(given, candidates)
    return training, *(outcomes_after(one, epochs, stopping) for one in (training, alone))


ENCODINGS = [{"handle_unknown": "ignore"}, {"min_frequency": 2, "handle_unknown": "infrequent_if_exist"}]


@pytest.mark.parametrize(("encoding", "scoring"), [(ENCODINGS[0], None), (ENCODINGS[1], "neg_log_loss")])
def test_cells_of_a_shape_share_a_stack(encoding, scoring):
    given = described(ragged(**encoding), n_seeds=2, scoring=scoring, return_train_score=True)
    training, ours, alone = both_after(given)
    assert widths(training) == [(5, 4), (6, 2)]
    assert_agree(ours[1], alone[1])


@pytest.mark.slow
@settings(deadline=None, max_examples=5)
@given(st.data())
def test_whatever_the_folds_hold(data):
    rare = data.draw(st.dictionaries(st.integers(0, 29), st.sampled_from(["rare", "seldom", "odd"]), max_size=6))
    X = table(30, rare, seed=1)
    n_folds, n_seeds = data.draw(st.integers(2, 4)), data.draw(st.integers(1, 2))
    optimizer = data.draw(st.sampled_from(["sgd", "adam"]))
    given = described(
        ragged(classifier(batch_size=8, max_epochs=2, optimizer=optimizer)),
        **{"n_seeds": n_seeds, "X": X, "y": np.arange(30) % 2, "n_folds": n_folds},
    )
    stopped = data.draw(st.lists(st.booleans(), min_size=3, max_size=3))
    stopping = [[i for i, stops in enumerate(stopped) if stops]]
    training, ours, alone = both_after(given, epochs=[1], stopping=stopping)
    assert len(widths(training)) == len({width for width, _ in widths(training)})
    assert_reports_agree(ours[0], alone[0])
    assert_agree(ours[1], alone[1], rtol=1e-7)


def test_runs_are_stopped_by_their_own_cells():
    given = described(ragged(classifier(batch_size=8, max_epochs=4)))
    mask = np.array([[True, False, False], [False, False, True], [False, True, False]])
    outcomes = []
    for engine in (StackedEngine(), SequentialEngine()):
        training = engine.start(given, LRS)
        training.advance(2)
        training.stop(mask, "enough")
        training.advance(1)
        outcomes.append(training.finish())
    assert_agree(*outcomes)
    assert [[outcome.status == "stopped" for outcome in row] for row in outcomes[0]] == mask.tolist()


def test_small_packs_change_nothing():
    training, ours, alone = both_after(described(n_seeds=2), max_stack=2, epochs=[1], stopping=[[0]])
    assert len(training.packs) == 6
    assert_reports_agree(ours[0], alone[0])
    assert_agree(ours[1], alone[1])


def test_scorers_and_hand_back_see_the_pipeline_of_their_cell():
    def n_columns(estimator, X, y):
        return estimator.score(X, y) + estimator[:-1].transform(X).shape[1]

    _, ours, alone = both_after(described(scoring=n_columns), LRS[:2])
    assert_agree(ours[1], alone[1])
    for a, b in zip(ours[1][0], alone[1][0], strict=True):
        np.testing.assert_allclose(a.estimator.predict_proba(X), b.estimator.predict_proba(X), rtol=1e-9)
        a.estimator[-1].partial_fit(a.estimator[:-1].transform(X), Y)


@pytest.fixture
def unforeseen(monkeypatch):
    """What goes wrong is what no audit has foreseen."""
    monkeypatch.setattr(prepare, "audit", lambda *args: None)


@pytest.mark.parametrize("at", [0, 1])
def test_a_candidate_that_fails_in_one_of_its_packs_falls_back_in_all_cells(at, unforeseen, monkeypatch):
    given, judge = described(ragged(classifier(batch_size=8))), Pack._judge

    def failing(pack, *args):
        if pack.members[0].candidate == 1 and width_of(pack.pack_cells[0].net) == 5 and pack.epoch >= at:
            raise ArithmeticError("out of luck")
        judge(pack, *args)

    monkeypatch.setattr(Pack, "_judge", failing)
    training = StackedEngine(max_stack=2).start(given, LRS)
    with FALLS as caught:
        ours = outcomes_after(training, [1, 1], [[0], []])
    assert len(caught) == 1
    assert training.reasons().keys() == {1}
    assert len(training.packs) == 4  # in two cells of a shape a candidate has one of its own, in the other cell not
    alone = outcomes_after(SequentialEngine().start(given, LRS), [1, 1], [[0], []])
    assert_reports_agree(ours[0], alone[0])
    assert_agree(ours[1], alone[1])


@pytest.mark.slow
def test_workers_train_packs_of_any_shape_and_what_fails_keeps_the_cells_that_were_stopped(unforeseen):
    candidates = [LRS[0], {**LRS[1], "net__schedule": Stumbling(2)}, LRS[2]]
    mask = np.array([[True] * 3, [False, True, False], [False] * 3])
    outcomes = []
    for engine in (StackedEngine(max_stack=2), SequentialEngine()):
        training = engine.start(described(n_jobs=2 if engine.name == "stacked" else None), candidates)
        training.advance(1)
        training.stop(mask, "enough")
        with FALLS if engine.name == "stacked" else nullcontext():
            outcomes.append(training.finish())
        assert training.reasons().keys() == ({1, 2} if engine.name == "stacked" else set())
    assert_agree(*outcomes)
    assert [[outcome.status == "stopped" for outcome in row] for row in outcomes[0]] == mask.tolist()


def test_a_candidate_that_is_refused_in_one_shape_is_trained_one_by_one(monkeypatch):
    audit = prepare.audit

    def refusing(experiment, candidates, group):
        audit(experiment, candidates, group)
        if width_of(group.group_cells[0].pack_cell.net) == 5 and any(member.candidate == 1 for member in group.members):
            raise Unstackable("it sees too much")

    monkeypatch.setattr(prepare, "audit", refusing)
    candidates, given = [LRS[0], {**LRS[1], "net__optimizer__momentum": 0.9}, LRS[2]], described()
    engine, reasons = pick_engine("auto", given, candidates)
    assert reasons == {1: ["it sees too much"]}
    training = engine.start(given, candidates)
    assert {member.candidate for scored in training.packs for member in scored.pack.members} == {0, 2}
    assert_agree(training.finish(), SequentialEngine().start(given, candidates).finish())


def test_classes_that_only_some_folds_know():
    y = np.array(["few", "most"])[np.arange(60) % 2]
    y[[4, 22]] = "more"  # all in one fold
    net = classifier(batch_size=8, max_epochs=2)
    given = described(net, X=X[:, 1:].astype(float), y=y, n_folds=5, scoring="accuracy")
    outputs = {len(np.unique(y[cell.train])) for cell in given.cells}
    assert outputs == {2, 3}
    training, ours, alone = both_after(given, [{"lr": 0.05}, {"lr": 0.1}])
    assert len(training.packs) == 2
    assert_agree(ours[1], alone[1])


def test_layers_that_only_some_folds_need():
    def deep_if_wide(n_inputs, n_outputs):
        layers = [nn.Linear(n_inputs, 6), nn.Tanh()] + [nn.Linear(6, 6), nn.ReLU()] * (n_inputs > 5)
        return nn.Sequential(*layers, nn.Linear(6, n_outputs)).double()

    given = described(ragged(classifier(deep_if_wide, batch_size=8)))
    training, ours, alone = both_after(given)
    assert len({len(scored.group_cells[0].pack_cell.net.module_) for scored in training.packs}) == 2
    assert_agree(ours[1], alone[1])


def test_dropout_is_the_same_however_packs_are_made():
    given = described(ragged(classifier(partial(Double, dropout=0.3), module__hidden=(8,))), n_seeds=2)
    whole = StackedEngine().start(given, LRS).finish()
    assert_agree(StackedEngine(max_stack=2).start(given, LRS).finish(), whole)
    assert {outcome.status for row in whole for outcome in row} == {"ok"}


def search(cls=LRGridSearchCV, **params):
    defaults = {"cv": KFold(3, shuffle=True, random_state=0), "random_state": 0, "n_seeds": 2}
    if cls is LRGridSearchCV:
        defaults["lrs"] = (0.01, 0.1, 0.3)
    return cls(ragged(), **{**defaults, **params})


@pytest.mark.parametrize("pruner", [None, "median"])
def test_a_search_is_the_same_in_both_engines(pruner):
    ours, alone = (search(pruner=pruner, engine=engine).fit(X, Y) for engine in ("stacked", "sequential"))
    assert (ours.engine_, ours.engine_reasons_) == ("stacked", [])
    np.testing.assert_allclose(ours.cell_scores_, alone.cell_scores_, rtol=1e-9)
    assert ours.best_params_ == alone.best_params_
    assert_same_weights(ours.best_estimator_[-1], alone.best_estimator_[-1], 1e-9)


def test_a_stored_search_goes_on(tmp_path):
    def gone_on_with(engine):
        for n_trials in (2, 3):
            kept = {"storage": f"sqlite:///{tmp_path / engine}.db", "study_name": "s", "resume": n_trials > 2}
            given = {"param_distributions": {"net__lr": (0.01, 0.3, "log-uniform")}, "refit": False, **kept}
            found = search(OptunaSearchCV, n_trials=n_trials, n_seeds=1, engine=engine, **given).fit(X, Y)
        return found

    ours, alone = map(gone_on_with, ("stacked", "sequential"))
    assert ours.cell_scores_.shape == (3, 3)
    np.testing.assert_allclose(ours.cell_scores_, alone.cell_scores_, rtol=1e-9)


def test_a_plan_counts_the_stacks_of_each_shape():
    plan = search().plan(X, Y)
    assert (plan.stacks, plan.copies, plan.engine) == (2, 6, "stacked")


def test_a_range_test_has_a_stack_for_each_shape():
    ours, alone = (
        lr_range_test(ragged(), X, Y, cv=3, n_seeds=2, n_steps=20, random_state=0, engine=engine)
        for engine in ("stacked", "sequential")
    )
    np.testing.assert_allclose(ours.loss, alone.loss, rtol=1e-7)
    assert ours.engine == "stacked"
