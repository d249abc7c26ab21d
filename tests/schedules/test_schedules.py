"""Schedules: torch's numbers where torch has them, laws everywhere, and the wording of what is refused."""

import math
import pickle
from dataclasses import FrozenInstanceError
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from labels import label
from torch.optim import lr_scheduler as tls

import sklr.schedules
from sklr.schedules import (
    SCHEDULES,
    WSD,
    Clock,
    Constant,
    Cosine,
    Exponential,
    InverseSqrt,
    Join,
    LambdaSchedule,
    Linear,
    OneCycle,
    Plateau,
    Steps,
    TorchSchedule,
    Warmup,
    resolve_schedule,
)


def torch_lrs(make_scheduler, n_steps, lr=0.1):
    """The lrs a real torch scheduler gives to `n_steps` steps."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, momentum=0.9)
    scheduler = make_scheduler(optimizer)
    lrs = []
    for step in range(n_steps):
        if step:
            scheduler.step()
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
    return np.array(lrs)


def training(schedule, n_epochs, steps_per_epoch, lr=1.0, losses=()):
    """The multipliers of a whole training, epoch by epoch, shape (n_epochs * steps_per_epoch,)."""
    epochs = [
        schedule.epoch_multipliers(epoch, steps_per_epoch, n_epochs, lr=lr, losses=losses) for epoch in range(n_epochs)
    ]
    return np.concatenate(epochs)


def half_each_epoch(epoch):
    return 0.5**epoch


def warm_then_decay(optimizer, n=3):
    parts = [tls.LinearLR(optimizer, 0.25, total_iters=n), tls.ExponentialLR(optimizer, 0.5)]
    return tls.SequentialLR(optimizer, parts, milestones=[n])


# Per step, horizon 20 steps: ours, torch's
STEP_TWINS = [
    (Constant(), partial(tls.ConstantLR, factor=1.0, total_iters=1)),
    (Linear(), partial(tls.LinearLR, start_factor=1.0, end_factor=0.0, total_iters=20)),
    (Linear(), partial(tls.PolynomialLR, total_iters=20, power=1.0)),
    (Linear(end=0.3), partial(tls.LinearLR, start_factor=1.0, end_factor=0.3, total_iters=20)),
    (Cosine(), partial(tls.CosineAnnealingLR, T_max=20, eta_min=0.0)),
    (Cosine(end=0.2), partial(tls.CosineAnnealingLR, T_max=20, eta_min=0.02)),
    (Exponential(0.9, by="step"), partial(tls.ExponentialLR, gamma=0.9)),
    (Steps(step_size=3, gamma=0.5, by="step"), partial(tls.StepLR, step_size=3, gamma=0.5)),
    (Steps((4, 4, 9), gamma=0.5, by="step"), partial(tls.MultiStepLR, milestones=[4, 4, 9], gamma=0.5)),
    (Steps(by="step"), partial(tls.MultiStepLR, milestones=[10, 15])),
    (OneCycle(), partial(tls.OneCycleLR, max_lr=0.1, total_steps=20)),
    (OneCycle(pct_start=0.0), partial(tls.OneCycleLR, max_lr=0.1, total_steps=20, pct_start=0.0)),
    (OneCycle(pct_start=1.0), partial(tls.OneCycleLR, max_lr=0.1, total_steps=20, pct_start=1.0)),
    (
        OneCycle(0.45, 10.0, 100.0, "linear"),
        partial(
            tls.OneCycleLR,
            max_lr=0.1,
            total_steps=20,
            pct_start=0.45,
            div_factor=10.0,
            final_div_factor=100.0,
            anneal_strategy="linear",
        ),
    ),
    (LambdaSchedule(half_each_epoch, by="step"), partial(tls.LambdaLR, lr_lambda=half_each_epoch)),
]


@pytest.mark.parametrize(("ours", "torchs"), STEP_TWINS, ids=lambda case: repr(case)[:60])
def test_equals_torch_step_by_step(ours, torchs):
    np.testing.assert_allclose(0.1 * training(ours, n_epochs=5, steps_per_epoch=4), torch_lrs(torchs, 20), atol=1e-12)


@pytest.mark.parametrize(("ours", "torchs"), STEP_TWINS, ids=lambda case: repr(case)[:60])
def test_by_epoch_equals_torch_stepped_once_per_epoch(ours, torchs):
    fields = {name: getattr(ours, name) for name in ours.__dataclass_fields__ if name != "by"}
    by_epoch = type(ours)(**fields, by="epoch") if "by" in ours.__dataclass_fields__ else ours
    lrs = 0.1 * training(by_epoch, n_epochs=20, steps_per_epoch=3)
    np.testing.assert_allclose(lrs, np.repeat(torch_lrs(torchs, 20), 3), atol=1e-12)


# Every class of torch.optim.lr_scheduler, ReduceLROnPlateau apart
TORCH_POLICIES = [
    partial(tls.LambdaLR, lr_lambda=half_each_epoch),
    partial(tls.MultiplicativeLR, lr_lambda=lambda epoch: 0.9),
    partial(tls.StepLR, step_size=4),
    partial(tls.MultiStepLR, milestones=[3, 8]),
    partial(tls.ConstantLR, factor=0.5, total_iters=3),
    tls.ConstantLR,
    tls.LinearLR,
    partial(tls.LinearLR, start_factor=0.1, total_iters=30),
    partial(tls.ExponentialLR, gamma=0.8),
    partial(tls.PolynomialLR, total_iters=10, power=2.0),
    partial(tls.CosineAnnealingLR, T_max=7, eta_min=1e-3),
    partial(tls.CyclicLR, base_lr=0.01, max_lr=0.2, step_size_up=5),
    partial(tls.CyclicLR, base_lr=0.01, max_lr=0.2, step_size_up=3, mode="triangular2"),
    partial(tls.CosineAnnealingWarmRestarts, T_0=4, T_mult=2, eta_min=1e-3),
    partial(tls.OneCycleLR, max_lr=0.3, total_steps=23),
    partial(tls.OneCycleLR, max_lr=0.3, total_steps=23, three_phase=True),
]


@pytest.mark.parametrize("policy", TORCH_POLICIES, ids=lambda case: repr(TorchSchedule(case))[:60])
@pytest.mark.parametrize("by", ["step", "epoch"])
def test_torch_schedule_equals_the_real_thing(policy, by):
    steps_per_epoch = 1 if by == "step" else 3
    lrs = 0.1 * training(TorchSchedule(policy, by=by), 23, steps_per_epoch, lr=0.1)
    np.testing.assert_allclose(lrs, np.repeat(torch_lrs(policy, 23), steps_per_epoch), rtol=1e-12, atol=1e-15)


def test_every_scheduler_of_torch_is_tried_above_or_below():
    tried = {getattr(policy, "func", policy).__name__ for policy in TORCH_POLICIES}
    tried |= {"SequentialLR", "ChainedScheduler", "ReduceLROnPlateau", "LRScheduler"}
    assert set(tls.__all__) <= tried, set(tls.__all__) - tried


def test_schedulers_made_of_schedulers_equal_the_real_thing():
    parts = [partial(tls.LinearLR, start_factor=0.25, total_iters=3), partial(tls.ExponentialLR, gamma=0.5)]
    sequential = TorchSchedule(tls.SequentialLR, schedulers=parts, milestones=[3])
    np.testing.assert_allclose(0.1 * training(sequential, 12, 1, lr=0.1), torch_lrs(warm_then_decay, 12))
    np.testing.assert_allclose(training(TorchSchedule(warm_then_decay), 12, 1), training(sequential, 12, 1))
    chained = TorchSchedule(tls.ChainedScheduler, schedulers=parts)
    real = torch_lrs(lambda optimizer: tls.ChainedScheduler([part(optimizer) for part in parts]), 12)
    np.testing.assert_allclose(0.1 * training(chained, 12, 1, lr=0.1), real)
    assert repr(sequential) == (
        "TorchSchedule(SequentialLR, milestones=[3], schedulers=[TorchSchedule(LinearLR, start_factor=0.25, "
        "total_iters=3), TorchSchedule(ExponentialLR, gamma=0.5)])"
    )


def test_torchs_one_cycle_stays_at_its_last_lr_when_used_up():
    cycle = TorchSchedule(tls.OneCycleLR, max_lr=1.0, total_steps=5, anneal_strategy="linear")
    multipliers = training(cycle, 9, 1)
    assert multipliers[4:] == pytest.approx([1 / 25 / 1e4] * 5)


PLATEAUS = [
    {"patience": 0},
    {"patience": 1, "factor": 0.5, "cooldown": 2},
    {"patience": 2, "factor": 0.3, "threshold": 0.2, "min_lr": 0.01},
    {"patience": 1, "mode": "max", "threshold": 0.1, "threshold_mode": "abs"},
    {"patience": 0, "threshold_mode": "abs", "eps": 0.005},
    {"patience": 0, "mode": "max", "cooldown": 1},
]


@pytest.mark.parametrize("arguments", PLATEAUS, ids=repr)
@given(losses=st.lists(st.floats(-2, 2) | st.just(math.nan), max_size=25))
@settings(max_examples=40, deadline=None)
def test_plateau_equals_torch(arguments, losses):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = tls.ReduceLROnPlateau(optimizer, **arguments)
    real = [0.1]
    for loss in losses:
        scheduler.step(loss)
        real.append(optimizer.param_groups[0]["lr"])
    ours = resolve_schedule(partial(tls.ReduceLROnPlateau, **arguments))
    lrs = [0.1 * ours.epoch_multipliers(epoch, 2, 5, lr=0.1, losses=losses)[1] for epoch in range(len(losses) + 1)]
    assert ours == Plateau(**arguments)
    assert lrs == pytest.approx(real, rel=1e-12)


def test_plateau_floors_the_multiplier():
    plateau = Plateau(patience=0, factor=0.5, min_multiplier=0.3)
    assert [plateau.epoch_multipliers(n, 1, 9, losses=[1.0] * n)[0] for n in range(5)] == [1, 1, 0.5, 0.3, 0.3]


# --- laws -------------------------------------------------------------------------------------------------------

fraction = st.floats(0, 1)
by = st.sampled_from(["step", "epoch"])
simple = st.one_of(
    st.just(Constant()),
    st.builds(Linear, end=fraction, by=by),
    st.builds(Cosine, end=fraction, by=by),
    st.builds(Exponential, gamma=st.floats(0.01, 1), by=by),
    st.builds(Steps, by=by),
    st.builds(Steps, gamma=fraction, step_size=st.integers(1, 9), by=by),
    st.builds(Steps, st.lists(st.integers(0, 9), max_size=3).map(sorted), gamma=fraction, by=by),
    st.builds(Steps, st.dictionaries(st.integers(0, 9), fraction).map(lambda d: dict(sorted(d.items()))), by=by),
    st.builds(
        OneCycle,
        pct_start=fraction,
        div_factor=st.floats(1, 99),
        shape=st.sampled_from(["cosine", "linear"]),
        by=by,
    ),
    st.builds(WSD, decay=fraction, end=fraction, shape=st.sampled_from(["linear", "cosine", "sqrt"]), by=by),
    st.builds(InverseSqrt, timescale=st.floats(0.01, 100), by=by),
    st.builds(Plateau, factor=st.floats(0, 0.9), patience=st.integers(0, 3), min_multiplier=fraction),
    st.builds(LambdaSchedule, st.just(half_each_epoch), by=by),
    st.builds(partial(TorchSchedule, tls.StepLR), gamma=fraction, step_size=st.integers(1, 5), by=by),
)
warmups = st.builds(Warmup, epochs=st.floats(0, 3), then=simple, start=st.none() | fraction)
joins = st.builds(lambda a, b, c: Join([a, b], boundaries=[c]), simple, simple, st.floats(0.1, 9))
schedules = st.one_of(simple, warmups, joins)


@given(schedule=schedules, n_epochs=st.integers(1, 6), spe=st.integers(1, 5), losses=st.lists(st.floats(), max_size=8))
@settings(deadline=None)
def test_multipliers_stay_between_0_and_1_also_past_the_horizon(schedule, n_epochs, spe, losses):
    for epoch in range(n_epochs + 3):
        multipliers = schedule.epoch_multipliers(epoch, spe, n_epochs, losses=losses)
        assert multipliers.shape == (spe,)
        assert ((multipliers >= 0) & (multipliers <= 1)).all(), multipliers


@given(schedule=schedules)
@settings(deadline=None)
def test_a_schedule_is_a_value(schedule):
    copy = pickle.loads(pickle.dumps(schedule))
    assert copy == schedule
    assert hash(copy) == hash(schedule)
    names = vars(sklr.schedules) | vars(tls) | {"half_each_epoch": half_each_epoch}
    assert eval(repr(schedule), names) == schedule
    with pytest.raises(FrozenInstanceError):
        schedule.by = "epoch"


@given(
    epochs=st.floats(0, 5, exclude_min=True),
    spe=st.integers(1, 50),
    start=st.none() | st.floats(0, 1, exclude_max=True),
)
@settings(deadline=None)
def test_warmup_reaches_exactly_1_at_its_last_step_and_not_before(epochs, spe, start):
    warmup = Warmup(epochs, start=start)
    n = max(round(epochs * spe), 1)
    ramp = training(warmup, math.ceil(epochs) + 1, spe)[:n]
    assert ramp[-1] == 1.0
    assert (np.diff(ramp) >= 0).all()
    if start is None:
        assert (ramp[:-1] < 1).all()
        assert ramp == pytest.approx(np.arange(1, n + 1) / n)
    elif n > 1:
        assert ramp[0] == pytest.approx(start, abs=1e-15)


@given(then=simple, epochs=st.integers(0, 3), n_epochs=st.integers(1, 5), spe=st.integers(1, 4))
@settings(deadline=None)
def test_after_a_warmup_of_whole_epochs_the_schedule_is_as_if_the_training_began_there(then, epochs, n_epochs, spe):
    losses = [1.0] * (epochs + n_epochs)
    after = training(Warmup(epochs, then=then), epochs + n_epochs, spe, losses=losses)[epochs * spe :]
    np.testing.assert_array_equal(after, training(then, n_epochs, spe, losses=losses[epochs:]))


@given(first=simple, second=simple, lengths=st.tuples(*[st.integers(1, 4)] * 2), spe=st.integers(1, 4))
@settings(deadline=None)
def test_the_parts_of_a_join_are_trainings_of_their_own(first, second, lengths, spe):
    losses = [1.0] * sum(lengths)
    joined = training(Join([first, second], boundaries=[lengths[0]]), sum(lengths), spe, losses=losses)
    parts = [training(first, lengths[0], spe, losses=losses), training(second, lengths[1], spe, losses=losses)]
    np.testing.assert_array_equal(joined, np.concatenate(parts))


@given(a=st.integers(0, 20), b=st.integers(0, 20), step=st.integers(0, 60), spe=st.integers(1, 7))
def test_starting_later_twice_is_starting_later_once(a, b, step, spe):
    clock = Clock(step, total=30, steps_per_epoch=spe, losses=tuple(range(step // spe)))
    assert clock.after(a).after(b) == clock.after(a + b)


def test_a_schedule_after_a_warmup_of_half_an_epoch_hears_the_epoch_it_began_in():
    warmup = Warmup(1.5, then=Plateau(patience=0))
    # epochs of 4 steps; the warmup ends in the middle of epoch 1, so the loss of epoch 1 is the first heard
    assert warmup.epoch_multipliers(3, 4, 9, losses=[9.0, 0.5, 0.5]).tolist() == pytest.approx([0.1] * 4)
    assert warmup.epoch_multipliers(3, 4, 9, losses=[0.5, 0.5, 0.4]).tolist() == [1.0] * 4


def test_past_the_horizon_of_every_named_schedule():
    # epochs 10 and 20 of a training of 10 epochs, 4 steps each
    ends = {
        name: [schedule().epoch_multipliers(epoch, 4, 10)[-1] for epoch in (10, 20)]
        for name, schedule in SCHEDULES.items()
    }
    lowest = 1 / 25 / 1e4
    assert ends == {
        "constant": [1.0, 1.0],
        "linear": [0.0, 0.0],
        "cosine": [0.0, 0.0],
        "exponential": [0.95**10, 0.95**20],
        "step": [pytest.approx(0.01), pytest.approx(0.01)],
        "onecycle": [pytest.approx(lowest), pytest.approx(lowest)],
        "wsd": [0.0, 0.0],
        "inverse_sqrt": [pytest.approx(11**-0.5), pytest.approx(21**-0.5)],
        "plateau": [1.0, 1.0],
    }


def test_one_cycle_survives_horizons_of_one_or_no_step():
    assert OneCycle()(0, 1) == OneCycle()(0, 0) == pytest.approx(1 / 25 / 1e4)
    assert OneCycle(pct_start=0.5)(0, 2) == 1.0  # where torch divides by zero


def test_a_schedule_knows_what_it_listens_to():
    plateau = Plateau(monitor="valid_loss")
    assert [s.monitored() for s in (Cosine(), plateau, Warmup(1, plateau), Join([Cosine(), plateau], [2]))] == [
        None,
        "valid_loss",
        "valid_loss",
        "valid_loss",
    ]


# --- what a user may write --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "schedule"),
    [
        (None, Constant()),
        *((name, schedule()) for name, schedule in SCHEDULES.items()),
        (Linear(end=0.5), Linear(end=0.5)),
        (half_each_epoch, LambdaSchedule(half_each_epoch)),
        (tls.LinearLR, TorchSchedule(tls.LinearLR)),
        (partial(tls.StepLR, step_size=3), TorchSchedule(tls.StepLR, step_size=3)),
        (tls.ReduceLROnPlateau, Plateau()),
        (partial(tls.ReduceLROnPlateau, patience=2, min_lr=1e-4), Plateau(patience=2, min_lr=1e-4)),
    ],
    ids=label,
)
def test_resolve(value, schedule):
    assert resolve_schedule(value) == schedule
    assert resolve_schedule(value, warmup_epochs=0.5) == Warmup(0.5, then=schedule)


def test_steps_take_the_three_ways_of_writing_them():
    assert Steps([3, 5]) == Steps((3, 5)) != Steps((3, 6))
    assert Steps({3: 0.5}) == Steps(((3, 0.5),)) == Steps([[3, 0.5]])
    assert [Steps({2: 0.5, 4: 2.0})(epoch, 9) for epoch in (0, 2, 3, 4, 99)] == [1.0, 0.5, 0.5, 2.0, 2.0]
    assert Steps(())(9, 9) == 1.0


BAD = [
    (lambda: Linear(end=2), ValueError, "end of Linear must be between 0 and 1, got 2."),
    (lambda: Linear(end="x"), ValueError, "end of Linear must be between 0 and 1, got 'x'."),
    (lambda: Cosine(end=math.nan), ValueError, "end of Cosine must be between 0 and 1, got nan."),
    (lambda: Cosine(by="batch"), ValueError, "by of Cosine must be 'step' or 'epoch', got 'batch'."),
    (lambda: Exponential(1.1), ValueError, "gamma of Exponential must be above 0 and at most 1, got 1.1."),
    (lambda: Steps(step_size=0), ValueError, "step_size of Steps must be an integer of at least 1 or None, got 0."),
    (
        lambda: Steps((3,), step_size=2),
        ValueError,
        "step_size of Steps must be None where milestones are given, got 2.",
    ),
    (lambda: Steps((5, 3)), ValueError, "milestones of Steps must be increasing epochs of at least 0"),
    (lambda: Steps({3: -1.0}), ValueError, "milestones of Steps must be increasing epochs of at least 0"),
    (lambda: OneCycle(pct_start=30), ValueError, "pct_start of OneCycle must be between 0 and 1, got 30."),
    (lambda: OneCycle(div_factor=0.5), ValueError, "div_factor of OneCycle must be a finite number of at least 1"),
    (lambda: OneCycle(shape="sqrt"), ValueError, "shape of OneCycle must be 'cosine' or 'linear', got 'sqrt'."),
    (lambda: WSD(decay=5), ValueError, "decay of WSD must be between 0 and 1, got 5."),
    (lambda: InverseSqrt(0), ValueError, "timescale of InverseSqrt must be a finite number above 0, got 0."),
    (lambda: Plateau(factor=1.0), ValueError, "factor of Plateau must be at least 0 and below 1, got 1.0."),
    (lambda: Plateau(patience=0.5), ValueError, "patience of Plateau must be an integer of at least 0, got 0.5."),
    (lambda: Warmup(-1), ValueError, "epochs of Warmup must be a finite number of at least 0, got -1."),
    (lambda: Warmup(1, then="cosine"), ValueError, "then of Warmup must be a schedule, got 'cosine'."),
    (lambda: Warmup(1, start=2), ValueError, "start of Warmup must be between 0 and 1, or None, got 2."),
    (lambda: Join([]), ValueError, "schedules of Join must be a non-empty sequence of schedules, got []."),
    (lambda: Join(3), ValueError, "schedules of Join must be a non-empty sequence of schedules, got 3."),
    (lambda: Join([Linear()], [1]), ValueError, "boundaries of Join must be 0 increasing epochs above 0"),
    (lambda: Join([Linear()] * 3, [2, 1]), ValueError, "boundaries of Join must be 2 increasing epochs above 0"),
    (
        lambda: Join([Plateau(), Plateau(monitor="valid_loss")], [2]),
        ValueError,
        "schedules of Join must be schedules that monitor one value, not train_loss and valid_loss",
    ),
    (lambda: LambdaSchedule(3), ValueError, "function of LambdaSchedule must be a callable of the epoch, got 3."),
    (
        lambda: LambdaSchedule(lambda epoch: 1 - epoch).epoch_multipliers(2, 3, 4),
        ValueError,
        "must be finite and at least 0, got -1.0 in epoch 2.",
    ),
    (
        lambda: TorchSchedule(tls.StepLR),
        ValueError,
        "TorchSchedule(StepLR) must make a scheduler for an optimizer with one parameter group, got TypeError",
    ),
    (
        lambda: resolve_schedule(partial(tls.LambdaLR, lr_lambda=[half_each_epoch] * 2)),
        ValueError,
        "with one parameter group, got ValueError: Expected 1 lr_lambdas, but got 2. Check the arguments of LambdaLR.",
    ),
    (lambda: TorchSchedule(tls.ReduceLROnPlateau), ValueError, "Use sklr.schedules.Plateau"),
    (lambda: TorchSchedule(tls.ReduceLROnPlateau, patience=3), ValueError, "Use sklr.schedules.Plateau"),
    (lambda: TorchSchedule(lambda optimizer: 3), ValueError, "must make a scheduler that steps without losses, got 3."),
    (
        lambda: TorchSchedule(tls.StepLR, step_size={1: 2}),
        ValueError,
        "arguments of TorchSchedule must be hashable, got",
    ),
    (
        lambda: resolve_schedule(partial(tls.ReduceLROnPlateau, patence=3)),
        ValueError,
        "must be those of ReduceLROnPlateau without the optimizer, got",
    ),
    (
        lambda: resolve_schedule("kosine"),
        ValueError,
        "schedule must be one of 'constant', 'linear', 'cosine', 'exponential', 'step', 'onecycle', 'wsd', "
        "'inverse_sqrt', 'plateau', got 'kosine'. Did you mean 'cosine'?",
    ),
    (lambda: resolve_schedule("xyzzy"), ValueError, "got 'xyzzy'."),
    (lambda: resolve_schedule(3), TypeError, "schedule must be None, a name, a schedule, a torch scheduler class"),
    (lambda: resolve_schedule(Cosine), TypeError, "Pass Cosine(...), not the class."),
    (
        lambda: resolve_schedule(tls.LinearLR(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))]))),
        TypeError,
        "Pass its class, or functools.partial of it: each training creates its own.",
    ),
]


@pytest.mark.parametrize(("make", "error", "message"), BAD, ids=[message[:70] for _, _, message in BAD])
def test_bad_input_is_refused(make, error, message):
    with pytest.raises(error) as caught:
        make()
    assert message in str(caught.value)
