"""The transfer rules: each against a model whose optimum can be computed, and against what it must refuse."""

import math
import warnings

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from torch import nn

from sklr.exceptions import TransferWarning
from sklr.modules import MLP
from sklr.nets import NeuralNetClassifier
from sklr.scaling import (
    MupGroups,
    NoiseScale,
    ScaledInit,
    adamw_timescale,
    adamw_weight_decay,
    mup_param_groups,
    noise_scale,
    suggest_center,
    transfer_lr,
    transfer_lr_depth,
)

CURVATURES = 1 / np.arange(1, 11)  # of the noisy quadratic model (Zhang et al. 2019, 1907.04164): h_i, noise c_i = h_i
ROWS = 2000  # samples in the whole training


def quadratic_loss(lr, batch_size, momentum=0.0, start=1.0, noise=0.02):
    """Expected loss after SGD with gradient h w + noise of variance c / B, exactly: second moments are linear maps."""
    total = 0.0
    for h in CURVATURES:
        a = np.array([[1 - lr * h, -lr * momentum], [h, momentum]])  # of (w, v), with v' = m v + h w, w' = w - lr v'
        moments = np.array([start**2, 0.0, 0.0])  # E w^2, E w v, E v^2
        (p, q), (r, s) = a
        step = np.array([[p * p, 2 * p * q, q * q], [p * r, p * s + q * r, q * s], [r * r, 2 * r * s, s * s]])
        kick = noise * h / batch_size * np.array([lr**2, -lr, 1.0])
        for _ in range(ROWS // batch_size):
            moments = step @ moments + kick
        total += 0.5 * h * moments[0]
    return total


def best_lr(batch_size, momentum=0.0):
    found = minimize_scalar(
        lambda u: math.log(quadratic_loss(10**u, batch_size, momentum)), bounds=(-4, 0.2), method="bounded"
    )
    return 10**found.x


@pytest.mark.one_fast
@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_sgd_linear_rule_gives_the_optimum_of_the_noisy_quadratic_model(momentum):
    old = best_lr(1, momentum)
    carried = transfer_lr(old, optimizer="sgd", batch_size=(1, 4), momentum=momentum)
    # exact up to terms of lr times curvature, here about 0.05
    assert carried.lr == pytest.approx(best_lr(4, momentum), rel=0.05)
    assert abs(math.log(old * 2 / best_lr(4, momentum))) > 0.5, "the square root would be far off"


@pytest.mark.slow
def test_sgd_linear_rule_ends_where_the_noise_scale_warns():
    big = 500
    with pytest.warns(TransferWarning, match="grows 500 times"):
        beyond = transfer_lr(best_lr(1), optimizer="sgd", batch_size=(1, big)).lr
    assert beyond > 5 * best_lr(big)
    with pytest.warns(TransferWarning, match="above the noise scale of 20"):
        capped = transfer_lr(best_lr(1), optimizer="sgd", batch_size=(1, big), noise_scale=20)
    assert (capped.ratio, capped.scale, capped.params) == (pytest.approx(20), 500, {"batch_size": big})


def simulate(lr, batch_size, kind, params, seed=0):
    """Loss at the end of 4000 copies of a noisy parabola, trained by the real optimizer; noise outweighs gradients."""
    draw = torch.Generator().manual_seed(seed)
    w = torch.ones(4000, dtype=torch.float64, requires_grad=True)
    optimizer = kind([w], lr=lr, **params)
    for _ in range(4000 // batch_size):
        w.grad = w.detach() + 10 / math.sqrt(batch_size) * torch.randn(4000, generator=draw, dtype=torch.float64)
        optimizer.step()
    return float((w.detach() ** 2).mean())


@pytest.mark.one_fast
@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("adam", {"betas": (0.9, 0.999), "eps": 1.0}),
        ("adam", {"betas": (0.9, 0.999), "weight_decay": 0.5}),
        ("adamw", {"betas": (0.9, 0.999), "weight_decay": 0.1}),
        ("rmsprop", {"alpha": 0.999, "eps": 1.0}),
    ],
    ids=["adam with eps", "adam with decay", "adamw", "rmsprop"],
)
def test_square_root_rule_ends_at_the_same_loss(name, params):
    carried = transfer_lr(0.02, optimizer=name, batch_size=(4, 16), **params)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "rmsprop": torch.optim.RMSprop}[name]
    changed = {k.removeprefix("optimizer__"): v for k, v in carried.params.items() if k != "batch_size"}
    before, after = simulate(0.02, 4, kind, params), simulate(carried.lr, 16, kind, {**params, **changed}, seed=1)
    assert after == pytest.approx(before, rel=0.1)
    linear = simulate(0.08, 16, kind, {**params, **changed}, seed=1)
    assert abs(linear / before - 1) > 0.3, "the linear rule would be far off"


@pytest.mark.slow
def test_square_root_rule_gives_the_optimum():
    lrs = 10 ** np.arange(-2.6, -1.2, 0.1)
    params = {"betas": (0.9, 0.999)}
    small = lrs[np.argmin([simulate(lr, 8, torch.optim.Adam, params) for lr in lrs])]
    carried = transfer_lr(small, optimizer="adam", batch_size=(8, 32), **params)
    wide = [simulate(lr, 32, torch.optim.Adam, {"betas": carried.params["optimizer__betas"]}) for lr in lrs]
    assert abs(math.log10(carried.lr / lrs[np.argmin(wide)])) <= 0.11  # a step of the grid; the linear rule is 0.3 off


def test_there_and_back_changes_nothing():
    there = transfer_lr(0.003, optimizer="adamw", batch_size=(32, 128), weight_decay=0.05)
    values = {k.removeprefix("optimizer__"): v for k, v in there.params.items() if k != "batch_size"}
    back = transfer_lr(there.lr, optimizer="adamw", batch_size=(128, 32), **values)
    assert back.lr == pytest.approx(0.003)
    assert back.params["optimizer__betas"] == pytest.approx((0.9, 0.999))
    assert back.params["optimizer__eps"] == pytest.approx(1e-8)
    assert back.params["optimizer__weight_decay"] == pytest.approx(0.05)


def test_adamw_keeps_its_timescale_in_epochs():
    carried = transfer_lr(0.003, optimizer="adamw", batch_size=(32, 128))
    before = adamw_timescale(0.003, 0.01, steps_per_epoch=100)
    assert adamw_timescale(carried.lr, carried.params["optimizer__weight_decay"], steps_per_epoch=25) == (
        pytest.approx(before)
    )
    assert adamw_weight_decay(0.003, before, 100) == pytest.approx(0.01)


def test_batches_above_the_noise_scale_change_nothing_but_the_batch():
    with pytest.warns(TransferWarning):
        same = transfer_lr(0.1, optimizer="adam", batch_size=(64, 128), noise_scale=50.0)
    assert same.lr == 0.1
    assert same.params["optimizer__betas"] == pytest.approx((0.9, 0.999))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"optimizer": "adam", "batch_size": (32, 320)}, r"new/old < 10 for beta1=0.9, got \(32, 320\)"),
        ({"optimizer": "rmsprop", "batch_size": (1, 8), "alpha": 0.5}, r"new/old < 2 for alpha=0.5"),
        ({"optimizer": "adam", "batch_size": (1, 2), "betas": (1.0, 0.9)}, "beta1 must be at least 0 and less than 1"),
        ({"optimizer": "nadam", "batch_size": (1, 2)}, "optimizer must be one of 'SGD', 'Adam', 'AdamW', 'RMSprop'"),
        ({"optimizer": "sgd", "batch_size": 32}, r"batch_size must be a pair \(old, new\), got 32"),
        ({"optimizer": "sgd", "batch_size": (32, 0)}, "each batch_size must be an integer >= 1, got 0"),
        ({"optimizer": "sgd", "batch_size": (1, 2), "beta": 0.9}, "a hyper-parameter of SGD must be one of"),
        ({"optimizer": "sgd", "batch_size": (1, 2), "noise_scale": 0}, "noise_scale must be a finite number above 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_has_no_rule_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        transfer_lr(0.1, **arguments)


@pytest.mark.parametrize("lr", [0, -1, math.inf, math.nan, True, "high"])
def test_an_lr_must_be_a_number_above_0(lr):
    with pytest.raises(ValueError, match="lr must be a finite number above 0"):
        transfer_lr(lr, optimizer="sgd", batch_size=(1, 2))


def test_noise_scale_finds_the_truth_from_noisy_gradients():
    generator = np.random.default_rng(0)
    mean, sd = np.full(50, 0.2), 1.0  # |G|^2 = 2, S = 50, so B = 25
    rows = mean + sd * generator.standard_normal((40, 16, 8, 50))  # repeats, small batches, rows
    small, large = rows.mean(axis=2), rows.mean(axis=(1, 2))
    found = noise_scale((small**2).sum(axis=2).mean(axis=1), (large**2).sum(axis=1), (8, 128))
    low, high = found.interval
    assert low < 25 < high < 2 * low
    assert found.variance == pytest.approx(50, rel=0.05)


def test_a_measured_noise_scale_limits_the_transfer():
    found = NoiseScale(50.0, (40.0, 60.0), 1.0, 50.0, confidence=0.9)
    with pytest.warns(TransferWarning, match="above the noise scale of 50"):
        assert transfer_lr(0.1, optimizer="sgd", batch_size=(25, 100), noise_scale=found).lr == pytest.approx(0.2)


def test_noise_scale_without_a_gradient_is_infinite():
    found = noise_scale([4.0, 4.2, 3.9], [0.4, 0.5, 0.3], (8, 64))
    assert found.value == math.inf
    assert transfer_lr(0.1, optimizer="sgd", batch_size=(8, 64), noise_scale=found).lr == pytest.approx(0.8)
    assert found.interval[1] == math.inf
    with pytest.raises(ValueError, match="0 < small < large"):
        noise_scale([1.0, 1.0], [1.0, 1.0], (8, 8))
    with pytest.raises(ValueError, match="two arrays of one length >= 2"):
        noise_scale([1.0], [1.0], (8, 16))


@pytest.mark.parametrize(
    ("arguments", "lr"),
    [
        ({"steps": (1000, 8000)}, 0.1 * 8**-0.33),
        ({"steps": (8000, 1000), "exponent": 0.5}, 0.1 * 8**0.5),
        ({"depth": (2, 8), "optimizer": "adam", "residual_exponent": 0.5}, 0.05),
        ({"depth": (2, 8), "optimizer": "sgd", "residual_exponent": 0.5}, 0.1),
        ({"depth": (2, 8), "optimizer": "adam", "residual_exponent": 1}, 0.1),
        ({"depth": (2, 8), "optimizer": "sgd", "residual_exponent": 1}, 0.4),
        ({"depth": (2, 8), "optimizer": "sgd", "steps": (1, 8)}, 0.1 / 8 * 8**-0.33),
    ],
)
def test_centers(arguments, lr):
    center = suggest_center(0.1, **arguments)
    assert center.lr == pytest.approx(lr)
    assert center.lr_range == pytest.approx((lr / 10**0.5, lr * 10**0.5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "steps or depth must be given"),
        ({"steps": (1, 2, 3)}, r"steps must be a pair \(old, new\)"),
        ({"depth": (2, 8)}, "optimizer must be one of"),
        ({"depth": (2, 8), "optimizer": "adam"}, "optimizer must be 'sgd' for a plain net"),
        ({"depth": (2, 8), "optimizer": "adam", "residual_exponent": 2}, "residual_exponent must be between 0.5 and 1"),
    ],
)
def test_centers_that_no_rule_gives(arguments, message):
    with pytest.raises(ValueError, match=message):
        suggest_center(0.1, **arguments)


def mlp(width):
    return MLP(8, 3, hidden=(width, width))


class Conv(nn.Sequential):
    def __init__(self, width, kernel=3):
        super().__init__(
            nn.Conv2d(1, width, kernel), nn.BatchNorm2d(width), nn.ConvTranspose2d(width, 2 * width, 3), nn.Flatten()
        )
        self.head = nn.Linear(2 * width, 5)


class Words(nn.Module):
    def __init__(self, width, heads=None):
        super().__init__()
        self.embedding = nn.Embedding(11, width)
        self.attention = nn.MultiheadAttention(width, heads or width // 4)
        self.positions = nn.Parameter(torch.zeros(5, width))
        self.head = nn.Linear(width, 11)


def described(groups):
    return {p.name: (p.role, p.lr_multiplier, p.init_multiplier) for p in groups.params}


def test_mup_of_a_convolution_and_of_an_embedding():
    assert described(mup_param_groups(Conv(16), Conv(4), 0.1, "adam")) == {
        "0.weight": ("input", 1, 1),
        "0.bias": ("vector", 1, 1),
        "1.weight": ("vector", 1, 1),
        "1.bias": ("vector", 1, 1),
        "2.weight": ("hidden", 0.25, 1),
        "2.bias": ("vector", 1, 1),
        "head.weight": ("output", 0.25, 0.5),
        "head.bias": ("fixed", 1, 2),
    }
    words = mup_param_groups(Words(16), Words(4), 0.1, "adam", roles={"pos*": "input"})
    assert described(words)["embedding.weight"] == ("input", 1, 1)
    assert described(words)["attention.in_proj_weight"] == ("hidden", 0.25, 1)


def test_mup_of_sgd():
    # m = 4: input and vectors 4, hidden m_out / m_in = 1, output 1 / 4
    found = described(mup_param_groups(mlp(32), mlp(8), 0.1, "sgd"))
    assert [multiplier for _, multiplier, _ in found.values()] == [4, 4, 1, 4, 0.25, 1]


def test_mup_keeps_lr_times_decay_and_shrinks_eps_with_the_gradient():
    groups = mup_param_groups(mlp(32), mlp(8), 0.1, "adamw", weight_decay=0.02)
    by_name = {p.name: p for p in groups.params}
    assert by_name["layers.2.weight"].options == {"weight_decay": 0.08, "eps": 2.5e-9}
    assert by_name["layers.0.weight"].options == {"eps": 2.5e-9}
    assert by_name["layers.4.weight"].options == {"weight_decay": 0.08}  # its gradient does not shrink


def test_mup_of_the_base_itself_changes_nothing():
    groups = mup_param_groups(mlp(8), mlp(8), 0.1, "adam")
    assert all(p.role == "fixed" and p.lr_multiplier == p.init_multiplier == 1 for p in groups.params)
    assert groups.as_params(MLP)["optimizer__param_groups"] == []


def test_mup_torch_groups_and_initial_weights():
    groups = mup_param_groups(mlp(32), mlp(8), 0.1, "adam")
    torch.manual_seed(0)
    module = mlp(32)
    before = module.layers[4].weight.detach().clone()
    optimizer = torch.optim.Adam(groups.torch_groups(groups.scale_init(module)), lr=1.0)
    torch.testing.assert_close(module.layers[4].weight.detach(), before / 2)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.1, 0.025, 0.1, 0.025, 0.1])
    with pytest.raises(ValueError, match=r"got 'layers\.4\.bias' in only one of them"):
        groups.torch_groups(MLP(8, 3, hidden=(32,)))


def test_scaled_init_is_not_applied_twice_by_as_params():
    groups = mup_param_groups(mlp(32), mlp(8), 0.1, "adam")
    made = groups.as_params(groups.as_params(MLP)["module"])["module"]
    assert made == groups.as_params(MLP)["module"]
    assert isinstance(made, ScaledInit)
    assert made.module is MLP


@pytest.mark.parametrize(
    ("wide", "base", "arguments", "message"),
    [
        (MLP(8, 3, hidden=(32,)), mlp(8), {}, "Change only the widths, not the depth"),
        (Words(16), Words(4), {}, "got 'positions' of Words"),
        (Words(16, heads=1), Words(4, heads=1), {"roles": {"positions": "input"}}, "head_dim of 'attention' must be 4"),
        (Conv(16, kernel=5), Conv(4), {}, "got '0.weight' of Conv2d"),
        (mlp(32), mlp(8), {"optimizer": "adam", "weight_decay": 0.1}, "weight_decay must be 0 with Adam"),
        (mlp(32), mlp(8), {"optimizer": "adagrad"}, "optimizer must be one of"),
        (mlp(32), mlp(8), {"roles": {"*": "wide"}}, "the role of 'layers.0.weight' must be one of"),
        (mlp(32), mlp(8), {"lr": -1}, "lr must be a finite number above 0"),
    ],
    ids=["depth", "bare parameter", "heads", "kernel", "coupled decay", "optimizer", "role", "lr"],
)
def test_mup_refuses(wide, base, arguments, message):
    with pytest.raises(ValueError, match=message):
        mup_param_groups(wide, base, **{"lr": 0.1, "optimizer": "adam", **arguments})


def test_mup_refuses_weights_that_two_layers_share():
    def tied(width):
        model = nn.Sequential(nn.Embedding(5, width), nn.Linear(width, 5, bias=False))
        model[1].weight = model[0].weight
        return model

    with pytest.raises(ValueError, match="weight or bias of one known layer"):
        mup_param_groups(tied(8), tied(4), 0.1, "adam")
    roles = mup_param_groups(tied(8), tied(4), 0.1, "adam", roles={"0.weight": "input"})
    assert isinstance(roles, MupGroups)


def test_printed_transfer_names_what_to_set():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        said = str(transfer_lr(0.001, optimizer="rmsprop", batch_size=(32, 64)))
    assert "optimizer__alpha=0.98, optimizer__eps=7.07107e-09" in said


@pytest.mark.parametrize("accumulate_steps", [1, 3])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop"])
def test_a_net_says_its_optimizer_and_batch_size_itself(optimizer, accumulate_steps):
    decay = {"weight_decay": 0.1} if optimizer == "adamw" else {}
    net = NeuralNetClassifier(
        MLP, lr=0.01, optimizer=optimizer, batch_size=32, accumulate_steps=accumulate_steps,
        **{f"optimizer__{name}": value for name, value in decay.items()},
    )  # fmt: skip
    by_hand = transfer_lr(0.01, optimizer=optimizer, batch_size=(32, 96), **decay)
    assert transfer_lr(net=net, batch_size=96).as_params() == by_hand.as_params()
    assert transfer_lr(net=net, batch_size=(32, 96)).as_params() == by_hand.as_params()
    assert transfer_lr(0.02, net=net, batch_size=96).lr == pytest.approx(2 * by_hand.lr)
    there = clone(net).set_params(**by_hand.as_params())
    assert transfer_lr(net=there, batch_size=32).lr == pytest.approx(0.01), "and back"


def test_what_a_net_sets_elsewhere_is_carried_over_there():
    groups = [("layers.0.*", {"lr": 0.1, "weight_decay": 0.0}), ("*.bias", {"lr_multiplier": 2.0, "weight_decay": 0.2})]
    net = NeuralNetClassifier(
        MLP, optimizer="adamw", optimizer__lr=0.01, optimizer__param_groups=groups, iterator_train__batch_size=16
    )
    params = transfer_lr(net=net, batch_size=64).as_params()
    assert params["optimizer__lr"] == pytest.approx(0.02)
    assert params["iterator_train__batch_size"] == 64
    (_, first), (_, second) = params["optimizer__param_groups"]
    assert first == {"lr": pytest.approx(0.2), "weight_decay": 0.0}
    assert second == {"lr_multiplier": 2.0, "weight_decay": pytest.approx(0.4)}
    net.set_params(**params)
    assert net.get_params_for("iterator_train")["batch_size"] == 64


def test_what_is_no_net_is_refused():
    with pytest.raises(TypeError, match=r"net must be a skorch net, got 'Pipeline'.*search\.best_estimator_"):
        transfer_lr(net=make_pipeline(NeuralNetClassifier(MLP)), batch_size=64)


def test_without_a_net_all_must_be_said():
    for arguments in (
        {"batch_size": 64},
        {"lr": 0.1, "batch_size": (32, 64)},
        {"optimizer": "sgd", "batch_size": (1, 2)},
    ):
        with pytest.raises(ValueError, match="net must be given if lr or optimizer is not, got None"):
            transfer_lr(**arguments)
    with pytest.raises(TypeError, match=r"lr must be a number, got 'NeuralNetClassifier'. Pass a net as net=."):
        transfer_lr(NeuralNetClassifier(MLP), batch_size=64)
    with pytest.raises(ValueError, match="batch_size of the net must be"):
        transfer_lr(net=NeuralNetClassifier(MLP, batch_size=-1), batch_size=64)


@pytest.mark.parametrize("exponent", [0.5, 1.0])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.filterwarnings("ignore::sklr.exceptions.TransferWarning")
def test_the_depth_rule_keeps_the_first_change_of_the_function(optimizer, exponent):
    """After one step the output of a linear residual net has moved as far at 32 blocks as at 8."""

    def moved(depth, lr):
        w = torch.zeros(depth, dtype=torch.float64, requires_grad=True)
        scale = (depth / 8) ** -exponent / 8

        def output():
            return torch.prod(1 + scale * w)

        before = output()
        before.backward()
        {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer]([w], lr=lr).step()
        return float((output() - before).detach())

    lr = 1e-4
    deep = transfer_lr_depth(lr, depth=(8, 32), optimizer=optimizer, residual_exponent=exponent)
    assert moved(32, deep.lr) == pytest.approx(moved(8, lr), rel=0.01)


def test_the_depth_rule_says_where_it_is_doubtful():
    with pytest.warns(TransferWarning, match="only known to hold for blocks of one layer"):
        transfer_lr_depth(0.1, depth=(4, 8), optimizer="adam", residual_exponent=0.5)
    with pytest.warns(TransferWarning, match="depth grows 16 times"):
        deep = transfer_lr_depth(0.1, depth=(2, 32), optimizer="sgd")
    assert "Needs: ReLU and no residual connections." in str(deep)
    with pytest.raises(ValueError, match="optimizer must be 'sgd' for a plain net, got 'adam'"):
        transfer_lr_depth(0.1, depth=(2, 4), optimizer="adam")
