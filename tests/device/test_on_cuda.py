"""Stacks on a simulated CUDA device: they train what nets train one by one, and leave the device as they found it."""

import gc
import pickle
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from cases import (
    EVEN,
    LRS,
    UNEVEN,
    Attention,
    Called,
    Double,
    Layers,
    X,
    Y,
    assert_agree,
    experiment,
    losses,
    net,
    one_by_one,
    pictures,
    reasons,
    train,
)  # fmt: skip
from simcuda import SIM
from sklearn.base import clone
from skorch.exceptions import DeviceWarning
from torch import nn
from torch.nn import functional as F

from sklr import lr_range_test
from sklr.engines import StackedEngine
from sklr.engines.stacked.setup.packing import out_of_memory
from sklr.exceptions import OutOfMemoryWarning

WEIGHT = torch.linspace(0.5, 2, 10, dtype=torch.float64)
NETS = {
    "SGD with momentum": net(optimizer__momentum=0.9),
    "Adam": net(optimizer="adam"),
    "Adam, amsgrad": net(optimizer="adam", optimizer__amsgrad=True),
    "Adam, capturable": net(optimizer="adam", optimizer__capturable=True),
    "AdamW, not fused": net(optimizer="adamw", optimizer__foreach=True, optimizer__weight_decay=0.1),
    "NAdam, capturable": net(optimizer="nadam", optimizer__capturable=True),
    "RMSprop, capturable": net(optimizer="rmsprop", optimizer__capturable=True),
    "RAdam": net(optimizer="radam"),
    "Adagrad": net(optimizer="adagrad"),
    "clipping, cosine": net(clip="p50", schedule="cosine", warmup_epochs=1),
    "class weights": net(criterion__weight=WEIGHT),
    "class weights, steps in parts": net(criterion__weight=WEIGHT, accumulate_steps=2),
    "convolutions": net(pictures()),
    "batch normalization": net(pictures(norm=lambda: nn.BatchNorm2d(4))),
    "attention": net(Attention),
    "attention within a mask": net(Attention, module__masked=True),
    "PyTorch's encoder": net(Attention, module__layer=True),
    "PyTorch's encoder within a mask": net(Attention, module__layer=True, module__masked=True),
}
DROPOUTS = {
    "Dropout": net(module__dropout=0.5),
    "Dropout of convolutions": net(pictures(nn.Dropout(0.5))),
    "Dropout2d": net(pictures(nn.Dropout2d(0.5))),
    "AlphaDropout": net(Layers(nn.Linear(64, 12), nn.SELU(), nn.AlphaDropout(0.5), nn.Linear(12, 10))),
    "FeatureAlphaDropout": net(pictures(nn.FeatureAlphaDropout(0.5))),
    "F.dropout": net(Called(partial(F.dropout, p=0.5))),
    "encoder": net(Attention, module__layer=True, module__dropout=0.5),
}


@pytest.mark.parametrize("name", NETS)
def test_a_stack_trains_what_nets_train_one_by_one(name):
    estimator = NETS[name]
    assert reasons(estimator) == []
    ours = train(estimator)
    assert all(p.is_cuda for p in ours[0].estimator.module_.parameters())
    assert_agree(ours, one_by_one(estimator), 1e-5 if "capturable" in name else 1e-9)


def test_sample_weights():
    weight = np.linspace(0, 2, UNEVEN)
    for estimator in net(), net(accumulate_steps=2, criterion__weight=WEIGHT):
        given = {"fit_params": {"sample_weight": weight}}
        assert_agree(train(estimator, **given), one_by_one(estimator, **given))


@pytest.mark.parametrize("name", DROPOUTS)
def test_dropout_is_stacked_and_the_same_for_the_candidates_of_a_cell(name):
    estimator = DROPOUTS[name]
    assert reasons(estimator) == []
    outcomes = train(estimator, candidates=[LRS[0], LRS[0]])
    first, second = np.split(losses(outcomes), 2)
    assert np.array_equal(first, second)
    assert len({row[0] for row in first.tolist()}) == 3
    np.testing.assert_allclose(losses(train(estimator, candidates=[LRS[0]])), first, rtol=1e-9)


def test_what_draws_by_other_means_is_refused_and_trained_one_by_one():
    assert reasons(net(Layers(nn.Linear(64, 10), nn.RReLU()))) != []


USES = {
    "fit": lambda estimator: estimator.fit(X[:EVEN], Y[:EVEN]),
    "predict": lambda estimator: estimator.fit(X[:EVEN], Y[:EVEN]).predict(X[:EVEN]),
    "partial_fit": lambda estimator: estimator.partial_fit(X[:EVEN], Y[:EVEN]).partial_fit(X[:EVEN], Y[:EVEN]),
    "a stack": train,
    "one by one": one_by_one,
    "a range test": lambda estimator: lr_range_test(estimator, X[:EVEN], Y[:EVEN], n_steps=20),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("name", ["Dropout", "Dropout2d"])
def test_the_devices_own_generator_is_left_alone(name, use):
    torch.rand(3, device="cuda")  # somebody uses it
    cpu, before = torch.get_rng_state(), SIM.generator.get_state()
    USES[use]({**NETS, **DROPOUTS}[name])
    assert torch.equal(SIM.generator.get_state(), before)
    assert torch.equal(torch.get_rng_state(), cpu)


STEPS = {  # launches of a step at most, whatever the number of runs: in folds of one size, and of two
    "MLP": (net(), (35, 37)),
    "MLP, Adam": (net(optimizer="adam"), (38, 40)),
    "MLP, clipping": (net(clip="p50"), (79, 81)),
    "convolutions": (NETS["convolutions"], (58, 62)),
    "batch normalization": (NETS["batch normalization"], (84, 104)),
    "encoder": (NETS["PyTorch's encoder"], (188, 196)),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_waits_for_nothing_and_launches_little(name):
    estimator, most = STEPS[name]
    for n_rows in EVEN, UNEVEN:
        training = StackedEngine().start(experiment(clone(estimator).set_params(max_epochs=3), n_rows), LRS)
        training.advance(1)
        pack = training.packs[0].pack
        with SIM.counted():
            pack.train_epoch()
        assert SIM.waits.total() == 1, SIM.waits  # for the losses of its steps
        feed = list(pack.feed_epoch())
        lr = torch.from_numpy(pack.lrs(pack.epoch_multipliers(pack.feed_epoch().sizes)))
        with SIM.counted():
            pack.steps(feed, lr)
        each = SIM.launches / len(lr)
        print(f"{name}, {n_rows} rows: {each:.1f} launches a step")
        assert SIM.waits.total() == 0, SIM.waits
        assert each <= most[n_rows > EVEN]


def peak(estimator, **kwargs):
    gc.collect()
    before = SIM.most_used = SIM.used
    outcomes = train(estimator, **kwargs)
    return SIM.most_used - before, outcomes


WIDE = net(partial(Double, hidden=(256, 256)), optimizer="adam")
MANY = [{"lr": 10 ** (-4 + i / 4)} for i in range(8)]


def test_a_stack_that_does_not_fit_is_halved_and_the_runs_come_to_the_same_end():
    needed, wanted = peak(WIDE, candidates=MANY, keep=False)
    gc.collect()
    with SIM.limited(SIM.used + int(0.7 * needed)), pytest.warns(OutOfMemoryWarning):
        found = train(WIDE, candidates=MANY, keep=False, engine=StackedEngine(max_stack=100))
    np.testing.assert_allclose(losses(found), losses(wanted), rtol=1e-9)


def test_a_handed_back_net_trains_on():
    for name in ("Adam", "Adam, capturable", "NAdam, capturable"):
        ours, theirs = train(NETS[name])[3].estimator, one_by_one(NETS[name])[3].estimator
        for own, other in zip(*(n.optimizer_.state_dict()["state"].values() for n in (ours, theirs)), strict=True):
            assert own["step"].device == other["step"].device
        found, wanted = (n.partial_fit(X[:EVEN], Y[:EVEN]).history[-1, "train_loss"] for n in (ours, theirs))
        assert found == pytest.approx(wanted, rel=1e-5)


def test_a_net_that_was_pickled_on_cuda_predicts_without_it_and_warns_once():
    for device, n_warnings in {"cuda": 1, "cuda:0": 1, torch.device("cuda"): 1, "auto": 0}.items():
        fitted = net(device=device).fit(X[:EVEN], Y[:EVEN])
        wanted, pickled = fitted.predict(X), pickle.dumps(fitted)
        with SIM.gone(), warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            again = pickle.loads(pickled)
            assert np.array_equal(again.predict(X), wanted)
            again.partial_fit(X[:EVEN], Y[:EVEN])
        assert [w.category for w in heard] == [DeviceWarning] * n_warnings, [str(w.message) for w in heard]
        assert str(again.device) == "cpu"


def test_tensors_of_the_device_are_strict():
    there, here = torch.ones(3, device="cuda"), torch.ones(3)
    with pytest.raises(RuntimeError, match="same device"):
        there + here
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()
    with SIM.limited(SIM.used), pytest.raises(torch.OutOfMemoryError):
        torch.ones(3, device="cuda")
    with SIM.counted():
        total = (there * 2 + torch.tensor(1.0)).sum()
    assert (SIM.launches, SIM.waits.total()) == (3, 0)
    assert (total.item(), SIM.waits.total()) == (9.0, 1)


def test_a_stack_that_has_no_room_at_the_start_is_halved_and_packs_take_turns():
    needed, wanted = peak(WIDE, candidates=MANY, keep=False)
    gc.collect()
    with SIM.limited(SIM.used + int(0.45 * needed)), warnings.catch_warnings():
        warnings.simplefilter("ignore", OutOfMemoryWarning)
        training = StackedEngine(max_stack=100).start(experiment(WIDE, keep=False), MANY)
        training.advance(1)
        packs = training.packs
        assert len(packs) > 2
        assert all(scored.parks for scored in packs)
        found = [outcome for row in training.finish() for outcome in row]
        assert training.reasons() == {}
    np.testing.assert_allclose(losses(found), losses(wanted), rtol=1e-9)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
        RuntimeError("HIP out of memory. Tried to allocate 2 GiB."),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"),
        RuntimeError("CUDA error: CUSPARSE_STATUS_INSUFFICIENT_RESOURCES"),
    ],
    ids=lambda error: str(error)[:40],
)
def test_what_says_that_memory_has_run_out(error):
    assert out_of_memory(error)
