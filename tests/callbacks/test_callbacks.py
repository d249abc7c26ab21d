"""The schedule callback on skorch's own nets: what the groups really got, however the training was cut up."""

import math
import pickle
from functools import partial

import numpy as np
import pytest
import torch
from labels import label
from skorch import NeuralNetRegressor
from skorch.callbacks import LRScheduler
from skorch.dataset import ValidSplit
from torch.optim import lr_scheduler as tls

from sklr import MLP, nets
from sklr._utils.divergence import EXPLODED_FACTOR, exploded
from sklr.callbacks import EarlyStopping, LRSchedule, StopOnDivergence, finished_epochs
from sklr.exceptions import TrainingDiverged
from sklr.schedules import SCHEDULES, Cosine, Exponential, Linear, Plateau, TorchSchedule

X = np.linspace(-1, 1, 12, dtype="float32").reshape(-1, 1)
y = 2 * X + 0.5
N_EPOCHS, STEPS = 6, 3  # 12 rows in batches of 4


class RecordingSGD(torch.optim.SGD):
    """Remembers the lrs of every step it made: what was used, not what was announced."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.used = []

    def step(self, closure=None):
        self.used.append([float(group["lr"]) for group in self.param_groups])
        return super().step(closure)


def make_net(*callbacks, max_epochs=N_EPOCHS, **kwargs):
    arguments = {
        "module": torch.nn.Linear,
        "module__in_features": 1,
        "module__out_features": 1,
        "optimizer": RecordingSGD,
        "lr": 0.1,
        "batch_size": 4,
        "train_split": None,
        "verbose": 0,
        "iterator_train__shuffle": True,
    }
    torch.manual_seed(0)
    return NeuralNetRegressor(**(arguments | kwargs), max_epochs=max_epochs, callbacks=list(callbacks)).initialize()


def batch_lrs(net):
    return np.array([batch["lr"] for row in net.history for batch in row["batches"] if "lr" in batch])


def used_lrs(net):
    return np.array([lrs[0] for lrs in net.optimizer_.used])


def weights(net):
    return torch.cat([p.detach().reshape(-1) for p in net.module_.parameters()]).numpy()


# Every named schedule, and those torch schedulers that skorch's own callback restarts wrongly in partial_fit
CONTINUED = [
    *SCHEDULES,
    Plateau(patience=0, threshold=0.9),
    Exponential(0.7, by="step"),
    lambda epoch: 1 / (1 + epoch),
    partial(tls.StepLR, step_size=1, gamma=0.5),
    partial(tls.MultiStepLR, milestones=[2, 4]),
    partial(tls.ConstantLR, factor=0.5, total_iters=3),
    partial(tls.CosineAnnealingWarmRestarts, T_0=2, T_mult=2),
    partial(tls.ReduceLROnPlateau, patience=1, threshold=0.5),
    TorchSchedule(tls.OneCycleLR, by="step", max_lr=0.1, total_steps=N_EPOCHS * STEPS),
    TorchSchedule(tls.CyclicLR, by="step", base_lr=0.01, max_lr=0.1, step_size_up=4),
]


@pytest.mark.parametrize("warmup_epochs", [0, 1.5])
@pytest.mark.parametrize("schedule", CONTINUED, ids=label)
def test_fit_of_k_epochs_equals_k_partial_fits_of_one(schedule, warmup_epochs):
    whole = make_net(LRSchedule(schedule, warmup_epochs))
    torch.manual_seed(1)
    whole.partial_fit(X, y)
    parts = make_net(LRSchedule(schedule, warmup_epochs, schedule_epochs=N_EPOCHS), max_epochs=1)
    torch.manual_seed(1)
    for _ in range(N_EPOCHS):
        parts.partial_fit(X, y)
    np.testing.assert_array_equal(used_lrs(parts), used_lrs(whole))
    np.testing.assert_array_equal(batch_lrs(whole), used_lrs(whole))
    np.testing.assert_array_equal(weights(parts), weights(whole))
    assert len(used_lrs(whole)) == N_EPOCHS * STEPS


@pytest.mark.parametrize("schedule", ["constant", "linear", Plateau(patience=0, threshold=0.9)], ids=repr)
def test_a_checkpoint_continues_the_schedule(schedule, tmp_path):
    files = {f"f_{what}": str(tmp_path / what) for what in ("params", "optimizer", "history")}
    callback = LRSchedule(schedule, warmup_epochs=1, schedule_epochs=N_EPOCHS)
    left = make_net(callback, max_epochs=2, iterator_train__shuffle=False).partial_fit(X, y)
    left.save_params(**files)
    resumed = make_net(callback, max_epochs=4, iterator_train__shuffle=False)
    resumed.load_params(**files)
    resumed.partial_fit(X, y)
    whole = make_net(LRSchedule(schedule, warmup_epochs=1), iterator_train__shuffle=False).partial_fit(X, y)
    np.testing.assert_array_equal(batch_lrs(resumed), batch_lrs(whole))
    np.testing.assert_array_equal(weights(resumed), weights(whole))


def test_a_pickled_net_continues_its_schedule():
    net = make_net(LRSchedule("linear", schedule_epochs=4), max_epochs=2, optimizer=torch.optim.SGD)
    net = pickle.loads(pickle.dumps(net.partial_fit(X, y)))
    np.testing.assert_allclose(batch_lrs(net.partial_fit(X, y)), 0.1 * (1 - np.arange(12) / 12))


def test_warmup_ends_exactly_on_the_full_lr():
    net = make_net(LRSchedule(warmup_epochs=2), lr=0.3).partial_fit(X, y)
    assert used_lrs(net)[:6] == pytest.approx(0.3 * np.arange(1, 7) / 6)
    assert set(used_lrs(net)[5:]) == {0.3}
    assert net.history[:, "lr"] == [used_lrs(net)[i] for i in (2, 5, 8, 11, 14, 17)]


def test_every_group_is_scaled_from_its_own_lr():
    net = make_net(LRSchedule("linear"), max_epochs=2, optimizer__param_groups=[("bias", {"lr": 0.5})])
    net.partial_fit(X, y)
    shape = 1 - np.arange(6) / 6
    np.testing.assert_allclose(net.optimizer_.used, np.outer(shape, [0.5, 0.1]))
    assert [group["initial_lr"] for group in net.optimizer_.param_groups] == [0.5, 0.1]
    np.testing.assert_allclose(batch_lrs(net), 0.1 * shape)  # the net's, not that of the first group


ABSOLUTE = [
    TorchSchedule(tls.OneCycleLR, by="step", max_lr=0.2, total_steps=10),
    TorchSchedule(tls.CyclicLR, by="step", base_lr=1e-5, max_lr=1e-3, step_size_up=5),
    partial(tls.CosineAnnealingLR, T_max=3, eta_min=0.02),
    Plateau(patience=0, threshold=0.9, min_lr=0.05),
]
GROUPS = [{"lr_multiplier": 0.1}, {"lr": 0.7}, {"lr_multiplier": 3}, {}, {"lr_multiplier": 0}]


@pytest.mark.parametrize("first", GROUPS, ids=str)
@pytest.mark.parametrize("second", [*GROUPS[:4], None], ids=str)
@pytest.mark.parametrize("schedule", [*ABSOLUTE, None, "cosine"], ids=label)
def test_no_group_stands_for_the_net(schedule, first, second):
    groups = [("layers.0.*", first), *([] if second is None else [("layers.*", second)])]
    net = grouped_net(schedule).fit(X, y)
    grouped = grouped_net(schedule, groups).fit(X, y)
    if not isinstance(schedule, Plateau):  # which listens to the losses, and they are others
        np.testing.assert_allclose(grouped.history_[:, "lr"], net.history_[:, "lr"], rtol=1e-12)
        np.testing.assert_allclose(batch_lrs(grouped), used_lrs(net), rtol=1e-12)
    shares = [options.get("lr", 0.1 * options.get("lr_multiplier", 1)) / 0.1 for _, options in groups] + [1.0]
    used = np.array(grouped.optimizer_.used)
    np.testing.assert_allclose(used, np.outer(batch_lrs(grouped), shares[: used.shape[1]]), rtol=1e-9)


def grouped_net(schedule, groups=(), lr=0.1):
    params = {"module__hidden": (2,), "optimizer": RecordingSGD, "max_epochs": 4, "batch_size": 4, "random_state": 0}
    return nets.NeuralNetRegressor(MLP, lr=lr, schedule=schedule, optimizer__param_groups=list(groups), **params)


def test_the_max_lr_of_a_scheduler_is_the_nets_not_that_of_the_first_group():
    net = grouped_net(ABSOLUTE[0], [("layers.0.*", {"lr_multiplier": 0.1})], lr=0.2).fit(X, y)
    np.testing.assert_allclose(np.max(net.optimizer_.used, axis=0), [0.02, 0.2])


def test_a_new_lr_between_two_fits_becomes_the_peak():
    net = make_net(LRSchedule("linear", schedule_epochs=4), max_epochs=2).partial_fit(X, y)
    net.set_params(lr=1.0).partial_fit(X, y)
    np.testing.assert_allclose(used_lrs(net), np.r_[[0.1] * 6, [1.0] * 6] * (1 - np.arange(12) / 12))


def test_absolute_torch_schedulers_follow_the_peak_of_the_net():
    floor = partial(tls.CosineAnnealingLR, T_max=N_EPOCHS - 1, eta_min=0.02)
    assert make_net(LRSchedule(floor)).partial_fit(X, y).history[-1, "lr"] == pytest.approx(0.02)


def test_an_lr_kept_in_a_tensor_is_filled_not_replaced():
    lr = torch.tensor(0.5)
    net = make_net(LRSchedule("linear"), max_epochs=1, lr=lr)
    group = net.optimizer_.param_groups[0]
    kept = group["lr"]
    net.partial_fit(X, y).partial_fit(X, y)
    assert group["lr"] is kept
    np.testing.assert_allclose(used_lrs(net), 0.5 * np.array([1, 2 / 3, 1 / 3, 0, 0, 0]), rtol=1e-6)


def test_closure_optimizers_are_scheduled_too():
    net = make_net(LRSchedule("linear"), optimizer=torch.optim.LBFGS, max_epochs=2).partial_fit(X, y)
    np.testing.assert_allclose(batch_lrs(net), 0.1 * (1 - np.arange(6) / 6))


def test_without_a_schedule_the_lr_is_only_recorded():
    net = make_net(LRSchedule(), LRScheduler("ExponentialLR", gamma=0.5), max_epochs=3).partial_fit(X, y)
    assert net.history[:, "lr"] == pytest.approx([0.1, 0.05, 0.025])
    np.testing.assert_array_equal(batch_lrs(net), used_lrs(net))
    assert "scheduled_lr" not in net.optimizer_.param_groups[0]


def test_fit_starts_the_schedule_anew():
    net = make_net(LRSchedule("cosine"), max_epochs=2)
    assert net.fit(X, y).history[:, "lr"] == net.fit(X, y).history[:, "lr"]


def test_an_interrupted_epoch_is_trained_again_at_its_own_lr():
    net = make_net(LRSchedule("linear"), max_epochs=4)
    net.history.new_epoch()  # as Ctrl-C in the first epoch leaves it
    net.partial_fit(X, y)
    assert len(finished_epochs(net)) == 4
    assert used_lrs(net)[0] == 0.1


def test_plateau_listens_to_the_column_it_names():
    with pytest.raises(ValueError, match="monitor must be a column of the net's history, got 'valid_loss'") as caught:
        make_net(LRSchedule(Plateau(monitor="valid_loss"))).fit(X, y)
    assert "train_loss" in str(caught.value)


@pytest.mark.parametrize(
    ("train_split", "advice"),
    [(None, "Give the net a train_split"), (ValidSplit(2), r"It has epoch, .*valid_loss.*\.$")],
    ids=["no rows held out", "misspelt"],
)
def test_early_stopping_says_which_column_is_missing(train_split, advice):
    net = make_net(EarlyStopping(monitor="val_loss")).set_params(train_split=train_split)
    with pytest.raises(ValueError, match=f"must be a column of the net's history, got 'val_loss'. {advice}"):
        net.fit(X, y)


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (
            LRSchedule(warmup_epochs=6),
            "warmup_epochs must be less than max_epochs, got warmup_epochs=6 and max_epochs=6",
        ),
        (
            LRSchedule(Cosine(), warmup_epochs=2, schedule_epochs=2),
            "warmup_epochs must be less than schedule_epochs, got warmup_epochs=2 and schedule_epochs=2",
        ),
        (LRSchedule(warmup_epochs=-1), "epochs of Warmup must be a finite number of at least 0, got -1"),
        (LRSchedule(schedule_epochs=0), "schedule_epochs must be an integer >= 1, got 0"),
        (LRSchedule("cosin"), "Did you mean 'cosine'?"),
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)
def test_bad_parameters_are_refused_before_any_step(callback, message):
    net = make_net(callback)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is asserted below
        net.fit(X, y)
    assert message in str(caught.value)
    assert net.optimizer_.used == []


def test_data_without_a_length_cannot_be_scheduled():
    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter([(X[0], y[0])] * 4)

    net = make_net(LRSchedule("linear"), iterator_train__shuffle=False)
    with pytest.raises(TypeError, match="the training data must have a length for a schedule or warmup, got"):
        net.fit(Endless(), None)
    assert make_net(LRSchedule(), iterator_train__shuffle=False).fit(Endless(), None).history[-1, "lr"] == 0.1


def test_the_callback_can_be_searched_and_cloned():
    net = make_net(LRSchedule())
    net.set_params(callbacks__LRSchedule__schedule=Linear(end=0.5), callbacks__LRSchedule__warmup_epochs=1)
    parameters = net.fit(X, y).get_params()
    assert parameters["callbacks__LRSchedule__schedule"] == Linear(end=0.5)
    assert set(net.callbacks[0].get_params()) == {"schedule", "warmup_epochs", "schedule_epochs"}


# --- divergence -------------------------------------------------------------------------------------------------

LOSSES = [
    # loss, first loss, exploded
    (0.5, 1.0, False),
    (EXPLODED_FACTOR, 1.0, False),
    (EXPLODED_FACTOR * 1.01, 1.0, True),
    (-EXPLODED_FACTOR * 1.01, 1.0, True),
    (99.0, 0.0, False),
    (101.0, 0.0, True),
    (5e4, -10.0, False),
    (math.nan, 1.0, True),
    (math.inf, 1.0, True),
    (-math.inf, 1.0, True),
    (math.inf, math.inf, True),
    (math.nan, math.nan, True),
]


@pytest.mark.parametrize(("loss", "first", "expected"), LOSSES)
def test_exploded(loss, first, expected):
    assert exploded(loss, first) is expected


@pytest.mark.parametrize("as_array", [np.array, torch.tensor])
def test_exploded_element_by_element(as_array):
    losses, firsts, expected = map(as_array, zip(*LOSSES, strict=True))
    assert exploded(losses, firsts).tolist() == expected.tolist()


def test_a_diverged_training_stops_at_the_step_that_shows_it():
    net = make_net(StopOnDivergence(), lr=1e30)
    with pytest.raises(TrainingDiverged) as caught:
        net.fit(X, y)
    assert caught.value.step == 1
    assert not abs(caught.value.loss) < 1e4
    assert len(net.optimizer_.used) == 2


def test_the_first_loss_is_that_of_the_training_and_steps_count_over_all_of_it():
    net = make_net(StopOnDivergence(), max_epochs=2).partial_fit(X, y)
    net.set_params(lr=1e30)
    with pytest.raises(TrainingDiverged) as caught:
        net.partial_fit(X, y)
    assert caught.value.step == 2 * STEPS + 1
    # the same targets, far away: exploded against the training's first loss, fine in a training of its own
    far = 1e4 * y + 1e4
    with pytest.raises(TrainingDiverged, match="diverged at step 6"):
        make_net(StopOnDivergence(), max_epochs=2).partial_fit(X, y).partial_fit(X, far)
    make_net(StopOnDivergence(), max_epochs=2).fit(X, far)


def test_validation_losses_neither_stop_nor_count():
    class Worse(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(1, 1)

        def forward(self, x):
            return self.linear(x) if self.training else self.linear(x) * 1e9

    net = NeuralNetRegressor(
        Worse,
        lr=0.1,
        batch_size=4,
        max_epochs=2,
        verbose=0,
        train_split=ValidSplit(3),
        callbacks=[StopOnDivergence()],
    ).partial_fit(X, y)
    net.set_params(lr=1e30)
    with pytest.raises(TrainingDiverged) as caught:
        net.partial_fit(X, y)
    assert caught.value.step == 2 * 2 + 1  # 8 training rows: two batches an epoch
