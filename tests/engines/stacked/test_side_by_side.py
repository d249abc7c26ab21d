"""Packs of different shapes train side by side in threads, and each as if it were alone."""

import warnings
from functools import partial
from threading import Barrier, Event

import numpy as np
import pytest
import torch
from test_agreement import Double, assert_agree, classifier, experiment, weight_norm
from test_fallback import FALLS, assert_reports_agree, outcomes_after
from test_ragged_folds import LRS as BEHIND_A_HEAD
from test_ragged_folds import described, ragged
from torch import nn

from sklr.engines.sequential.engine import SequentialEngine
from sklr.engines.stacked import packs as packs_module
from sklr.engines.stacked.advance import advance_together
from sklr.engines.stacked.engine import StackedEngine
from sklr.engines.stacked.model.pack import Pack
from sklr.engines.stacked.setup import packing
from sklr.exceptions import OutOfMemoryWarning

MIXED = [
    {"lr": 0.05, "batch_size": 16},
    {"lr": 0.1, "batch_size": 16},
    {"lr": 0.1, "batch_size": 40, "module__hidden": (4,)},
    {"lr": 0.02, "batch_size": 8, "module__hidden": (12, 6), "optimizer__momentum": 0.9},
]


@pytest.fixture
def told(monkeypatch):
    """Threads are worth their while; which packs each call has trained in them, with their work."""
    told = []

    def tell(packs, epoch):
        told.append({scored: scored.work for scored in packs})
        return advance_together(packs, epoch)

    monkeypatch.setattr(packs_module, "advance_together", tell)
    monkeypatch.setattr(packing, "THREAD_WORK", 1.0)
    return told


def in_two_threads(given, candidates, epochs=(), stopping=()):
    """Train in stacks, two threads being allowed; return the training, its reports and outcomes."""
    engine, before = StackedEngine(), torch.get_num_threads()
    assert engine.unsupported(given, candidates) == []
    torch.set_num_threads(2)
    try:
        training = engine.start(given, candidates)
        return training, outcomes_after(training, epochs, stopping)
    finally:
        torch.set_num_threads(before)


def both_after(given, candidates, epochs=(1,), stopping=((0,),)):
    alone = SequentialEngine().start(given, candidates)
    return *in_two_threads(given, candidates, epochs, stopping), outcomes_after(alone, epochs, stopping)


def test_stacks_of_different_shapes_train_at_the_same_time(told):
    training, ours, alone = both_after(experiment(classifier(), return_train_score=True), MIXED)
    assert_reports_agree(ours[0], alone[0])
    assert_agree(ours[1], alone[1])
    assert {len(scored.group_cells) for scored in training.packs} == {3}
    work = list(told[0].values())
    assert (len(work), work) == (3, sorted(work, reverse=True))


def test_threads_leave_the_filters_of_warnings_as_they_were(told, monkeypatch):
    train, both_are_in, first_is_out = Pack.train_epoch, Barrier(2), Event()

    def ignoring(pack, **options):
        is_first = pack.epoch == 0 and both_are_in.n_waiting == 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if pack.epoch == 0:
                both_are_in.wait(60)
                assert is_first or first_is_out.wait(60)
            train(pack, **options)
        if is_first:
            first_is_out.set()

    monkeypatch.setattr(Pack, "train_epoch", ignoring)
    before = list(warnings.filters)
    training, _ = in_two_threads(experiment(classifier()), MIXED[1:3])
    assert training.reasons() == {}
    assert warnings.filters == before


def test_folds_of_different_shapes_too(told):
    _, ours, alone = both_after(described(ragged(), n_seeds=2), BEHIND_A_HEAD)
    assert len({id(scored.group.stack_args) for scored in told[0]}) == 2
    assert_reports_agree(ours[0], alone[0])
    assert_agree(ours[1], alone[1])


def test_what_is_not_safe_in_threads_trains_after_the_others(told):
    def drawing(hidden):
        return nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3)).double()

    candidates, given = [*MIXED, {"lr": 0.1, "module": drawing}], experiment(classifier())
    training, (_, ours) = in_two_threads(given, candidates)
    assert training.reasons() == {}
    assert [member.candidate for scored in told[0] for member in scored.pack.members].count(4) == 0
    assert_agree(ours[:4], SequentialEngine().start(given, MIXED).finish())
    assert [outcome.status for outcome in ours[4]] == ["ok"] * 3


@pytest.mark.parametrize("n_candidates", [1, 2])
def test_cells_are_divided_where_there_are_too_few_candidates(n_candidates, told):
    given, candidates = experiment(classifier(), scoring=weight_norm), MIXED[:n_candidates]
    training, ours, alone = both_after(given, candidates, [1, 1], [(), (n_candidates - 1,)])
    numbers = sorted([place.number for place in scored.group_cells] for scored in training.packs)
    assert numbers == ([[0, 1], [2]] if n_candidates == 1 else [[0, 1, 2]] * 2)
    assert_reports_agree(ours[0], alone[0])
    assert_agree(ours[1], alone[1])


def test_dropout_is_drawn_for_all_cells_at_once(told):
    net = classifier(partial(Double, dropout=0.3), module__hidden=(8,))
    training, (_, outcomes) = in_two_threads(experiment(net), MIXED[:1])
    assert len(training.packs) == 1
    assert_agree(outcomes, StackedEngine().start(experiment(net), MIXED[:1]).finish())


def test_a_candidate_whose_one_part_fails_falls_back_whole(told, monkeypatch):
    judge = Pack._judge

    def failing(pack, *args):
        if len(pack.pack_cells) == 1 and pack.epoch == 1:
            raise ArithmeticError("out of luck")
        judge(pack, *args)

    monkeypatch.setattr(Pack, "_judge", failing)
    with FALLS:
        training, ours, alone = both_after(experiment(classifier()), MIXED[:1], [1, 1], [(), ()])
    assert training.reasons().keys() == {0}
    assert_reports_agree(ours[0], alone[0])
    assert_agree(ours[1], alone[1])


def test_a_stack_of_some_shape_that_does_not_fit_is_halved_beside_the_others(told, monkeypatch):
    train, failed = Pack.train_epoch, []

    def fail_once(pack, **options):
        if pack.epoch == 1 and len(pack.members) == 2 and not failed:
            failed.append(pack)
            raise MemoryError
        train(pack, **options)

    monkeypatch.setattr(Pack, "train_epoch", fail_once)
    with pytest.warns(OutOfMemoryWarning):
        _, ours, alone = both_after(experiment(classifier()), MIXED, [1, 1], [(), (3,)])
    assert failed
    assert_agree(ours[1], alone[1])


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_what_is_trained_at_the_same_time_fits_together(n_jobs, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    engine, candidates = (
        StackedEngine(),
        [{"lr": lr, "batch_size": b} for b in (8, 16) for lr in np.geomspace(0.01, 0.1, 20)],
    )
    groups = engine.prepared(experiment(classifier()), candidates).groups
    free = 30 * packing.run_bytes(groups[0]) / packing.SHARE
    monkeypatch.setattr(packing, "free_bytes", lambda device: int(free))
    pairs = zip(groups, packing.shares(groups), strict=True)
    packs = [pack for pair in pairs for pack in packing.divide(*pair, None, n_jobs)]
    taken = sorted(len(chosen) * len(group.group_cells) * packing.run_bytes(group) for group, chosen in packs)
    assert 0.5 * packing.SHARE * free < sum(taken[-2:]) <= packing.SHARE * free
    assert sorted(i for _, chosen in packs for i in chosen) == sorted([*range(20)] * 2)


def test_a_worker_sends_back_no_data():
    scored = StackedEngine().start(experiment(classifier()), MIXED[:2]).packs[0]
    given = {"members", "pack_cells", "max_epochs", "rows", "y", "weight", "fold"}
    assert given <= set(vars(scored.pack))  # else something has a new name, which `progress` must know, too
    assert given.isdisjoint(scored.pack.progress())
