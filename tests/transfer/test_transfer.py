"""What checks the transfer rules: relative parameter groups, sweeps at two sizes, coordinates, noise scale."""

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import ShuffleSplit
from skorch import NeuralNetClassifier as SkorchClassifier

from sklr.modules import MLP
from sklr.nets import NeuralNetClassifier
from sklr.plotting._coordinate_check import coordinate_check_data, plot_coordinate_check
from sklr.results import OK
from sklr.scaling import Transfer, mup_param_groups, transfer_lr
from sklr.search._grid import LRGridSearchCV
from sklr.selection import choose, lr_curve
from sklr.transfer import (
    CoordinateCheck,
    Sweep,
    TransferCheck,
    coordinate_check,
    gradient_noise_scale,
    lr_exponent,
    verify_transfer,
)


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X / 16, y


GROUPS = [("layers.0.*", {"lr_multiplier": 0.25}), ("layers.2.weight", {"lr": 0.003})]


def net(**params):
    given = {"module__hidden": (16,), "max_epochs": 2, "batch_size": 64, "iterator_train__shuffle": True, **params}
    return NeuralNetClassifier(MLP, **given)


def group_lrs(fitted):
    return [group["lr"] for group in fitted.optimizer_.param_groups]


def test_a_group_s_lr_follows_the_net_s(digits):
    fitted = net(lr=0.1, optimizer__param_groups=GROUPS, random_state=0).fit(*digits)
    assert group_lrs(fitted) == [0.025, 0.003, 0.1]
    assert group_lrs(fitted.set_params(lr=0.2))[0::2] == [0.05, 0.2]
    assert group_lrs(fitted.set_params(optimizer__lr=0.4))[0::2] == [0.1, 0.4]


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"lr_multiplier": -1}, "lr_multiplier of a parameter group must be a finite number >= 0, got -1"),
        ({"lr_multiplier": "half"}, "must be a finite number >= 0, got 'half'"),
        ({"lr_multiplier": 0.5, "lr": 0.1}, "a parameter group must be given lr or lr_multiplier, got 'both'"),
    ],
    ids=["negative", "word", "both"],
)
def test_a_group_s_multiplier_must_be_a_number_alone(digits, group, message):
    with pytest.raises(ValueError, match=message):
        net(optimizer__param_groups=[("*", group)]).fit(*digits)


def test_a_relative_group_follows_the_schedule(digits):
    fitted = net(lr=0.1, optimizer__param_groups=GROUPS[:1], schedule="linear", random_state=0).fit(*digits)
    small, large = group_lrs(fitted)
    assert 0 < large < 0.1
    assert small == pytest.approx(large / 4)


def test_engines_agree_on_relative_groups(digits):
    X, y = digits[0][:300].astype(np.float64), digits[1][:300]
    model = net(
        module__dtype=torch.float64, optimizer="adam", optimizer__param_groups=[*GROUPS, ("*.bias", {"eps": 1e-6})]
    )
    found = {}
    for engine in ("stacked", "sequential"):
        search = LRGridSearchCV(
            model, lrs=[0.003, 0.03, 0.1], cv=3, engine=engine, random_state=0, scoring="neg_log_loss"
        )
        found[engine] = search.fit(X, y)
    np.testing.assert_allclose(found["stacked"].cell_scores_, found["sequential"].cell_scores_, rtol=1e-7)
    best = found["stacked"].best_estimator_
    assert group_lrs(best)[0] == pytest.approx(0.25 * best.lr)
    assert group_lrs(best.set_params(lr=0.5))[0] == 0.125


def test_skorch_s_own_nets_know_no_relative_groups_in_either_engine(digits):
    X, y = digits[0][:300].astype(np.float32), digits[1][:300]
    plain = SkorchClassifier(
        MLP, criterion=torch.nn.CrossEntropyLoss, module__n_inputs=64, module__n_outputs=10, max_epochs=1, verbose=0,
        train_split=None, optimizer__param_groups=GROUPS[:1],
    )  # fmt: skip
    searches = [
        LRGridSearchCV(plain, lrs=[0.1, 0.3], cv=2, refit=False, engine=engine, random_state=0).fit(X, y)
        for engine in ("stacked", "sequential")
    ]
    np.testing.assert_allclose(*(search.cell_scores_ for search in searches), atol=1e-6)


def test_mup_groups_train_a_net_as_torch_does(digits):
    X, y = digits[0][:64].astype(np.float32), digits[1][:64]
    groups = mup_param_groups(MLP(64, 10, hidden=(64, 64)), MLP(64, 10, hidden=(16, 16)), 0.02, "adam")
    made = net(module__hidden=(64, 64), optimizer="adam", batch_size=-1, random_state=0, max_epochs=3)
    made.set_params(**groups.as_params(MLP), iterator_train__shuffle=False)
    made.start_fit(X, y)
    module = MLP(64, 10, hidden=(64, 64))
    module.load_state_dict(made.module_.state_dict())
    optimizer = torch.optim.Adam(groups.torch_groups(module), lr=0.02)
    made.set_params(warm_start=True).fit(X, y)
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(torch.as_tensor(X)), torch.as_tensor(y)).backward()
        optimizer.step()
    torch.testing.assert_close(made.module_.state_dict(), module.state_dict(), rtol=1e-4, atol=1e-6)


def parabola(top, *, curvature=0.05, noise=0.002, n_cells=8, lrs=None, seed=0):
    u = np.linspace(-3, -1, 9) if lrs is None else np.log10(lrs)
    scores = 0.9 - curvature * (u - top)[:, None] ** 2
    scores = scores + noise * np.random.default_rng(seed).standard_normal((len(u), n_cells))
    return lr_curve(10**u, scores, [OK] * len(u))


def checked(tops, expected, **kwargs):
    curves = [parabola(top, seed=i, **kwargs) for i, top in enumerate(tops)]
    sweeps = [Sweep(4.0**i, i * expected, curve, choose(curve, "fit")) for i, curve in enumerate(curves)]
    return TransferCheck(tuple(sweeps), tolerance=0.3, confidence=0.9)


@pytest.mark.parametrize(
    ("tops", "expected", "verdict"),
    [
        ((-2.2, -1.9, -1.6), 0.3, "holds"),
        ((-2.2, -2.2, -2.2), 0.45, "fails"),
        ((-2.2, -1.6, -1.0), 0.0, "fails"),
        ((-2.2, -0.7), 0.0, "fails"),  # above all that was tried: the interval is open to that side
        ((-2.2, -0.7), 1.5, "undecided"),
    ],
)
def test_verdicts(tops, expected, verdict):
    check = checked(tops, expected)
    assert check.verdict == verdict, str(check)
    assert verdict in str(check).splitlines()[-1]
    assert repr(check) == f"<TransferCheck: {check.conclusion()}>"


def test_noise_leaves_it_undecided():
    assert checked((-2.2, -1.9), 0.3, noise=0.04, n_cells=4).verdict == "undecided"


def test_error_intervals_hold_what_they_promise():
    inside = []
    for seed in range(100):
        curves = [parabola(top, noise=0.01, seed=2 * seed + i) for i, top in enumerate((-2.0, -1.9))]
        check = TransferCheck(
            tuple(Sweep(1 + i, 0.1 * i, curve, choose(curve, "fit")) for i, curve in enumerate(curves)), 0.3, 0.9
        )
        ((low, high),) = check.error_intervals
        inside.append(low <= 0 <= high)
    assert np.mean(inside) >= 0.85


def test_exponent_weighs_and_widens():
    # the third point knows nothing, so the slope is that of the first two
    free = lr_exponent([1, 10, 100], [0.1, 1.0, 0.1], [(0.09, 0.11), (0.9, 1.1), (1e-9, 1e9)])
    assert free.value == pytest.approx(1, abs=0.01)
    straight = lr_exponent([1, 10, 100], [0.1, 1.0, 10.0], [(0.09, 0.11), (0.9, 1.1), (9, 11)])
    bent = lr_exponent([1, 10, 100], [0.1, 2.0, 10.0], [(0.09, 0.11), (1.8, 2.2), (9, 11)])
    assert np.ptp(bent.interval) > 3 * np.ptp(straight.interval)
    with pytest.raises(ValueError, match="at least two different ones"):
        lr_exponent([4, 4], [0.1, 0.1], [(0.09, 0.11)] * 2)


def test_verify_transfer_sweeps_around_both_lrs_on_the_same_folds(digits):
    rule = Transfer(0.02, 0.01, 2.0, {"batch_size": 64, "optimizer__momentum": 0.5})
    folds = ShuffleSplit(1, test_size=0.3, random_state=0)
    model = net(batch_size=32)
    check = verify_transfer(model, *digits, [rule, rule], n_lrs=5, cv=folds, n_seeds=2, random_state=0)
    first, second, third = check.sweeps
    np.testing.assert_allclose(first.curve.lr, 0.01 * np.logspace(-1, 1, 5))
    np.testing.assert_allclose(second.curve.lr, 0.02 * np.logspace(-1, 1, 5))
    np.testing.assert_array_equal(second.curve.cell_scores, third.curve.cell_scores)
    assert second.expected == pytest.approx(math.log10(2))
    assert (model.batch_size, model.lr) == (32, 0.01), "the net is left alone"
    again = verify_transfer(model, *digits, rule, n_lrs=5, cv=folds, n_seeds=2, random_state=0)
    np.testing.assert_array_equal(again.sweeps[0].curve.cell_scores, first.curve.cell_scores)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"to": []}, "to must be a Transfer or several"),
        ({"to": {"lr": 0.1}}, "to must be a Transfer or several"),
        ({"to": [Transfer(0.1, 0.1, 2), Transfer(0.1, 0.2, 2)]}, r"to must be transfers from the same lr, got"),
        ({"n_lrs": 3}, "n_lrs must be at least 4"),
        ({"decades": 0}, "decades must be above 0"),
        ({"tolerance": -1}, "tolerance must be above 0"),
    ],
)
def test_verify_transfer_refuses(digits, arguments, message):
    given = {"to": transfer_lr(0.1, optimizer="sgd", batch_size=(32, 64)), **arguments}
    with pytest.raises(ValueError, match=message):
        verify_transfer(net(), *digits, **given)


def mlp(width):
    return MLP(16, 4, hidden=(width, width))


@pytest.fixture(scope="module")
def batch():
    draw = torch.Generator().manual_seed(0)
    return torch.randn(64, 16, generator=draw), torch.randint(4, (64,), generator=draw)


@pytest.mark.parametrize(("optimizer", "lr"), [("adam", 0.01), ("sgd", 0.1)])
def test_coordinate_check_tells_mup_from_standard(batch, optimizer, lr):
    right, wrong = (
        coordinate_check(mlp, (64, 128, 256, 512), *batch, lr=lr, optimizer=optimizer, mup=mup, random_state=0)
        for mup in (True, False)
    )
    assert right.passed, str(right)
    assert not wrong.passed, str(wrong)
    assert "failed" in str(wrong)


def test_coordinate_check_finds_the_layer_that_is_wrong(batch):
    # standard parametrization with Adam: what the output layer does moves faster the wider it is
    wrong = coordinate_check(mlp, (64, 256), *batch, lr=0.01, mup=False, random_state=0)
    assert any(failure.startswith("layers.4: its outputs change more") for failure in wrong.failures)


def test_coordinate_check_repeats_and_leaves_the_generator_alone(batch):
    before = torch.random.get_rng_state()
    one, two = (coordinate_check(mlp, (8, 16), *batch, lr=0.01, n_seeds=2, random_state=3) for _ in range(2))
    np.testing.assert_array_equal(one.sizes, two.sizes)
    assert one.sizes.shape == (2, 2, 4, 5)
    assert one.slopes.shape == (4, 5)
    assert not one.changes[:, :, 0].any()
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_layer_that_does_not_move_fails():
    still = CoordinateCheck((8, 16), ("a",), np.ones((2, 1, 2, 1)), np.zeros((2, 1, 2, 1)), True)
    assert not still.passed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"widths": (8,)}, r"widths must be at least two, ascending, got \(8,\)"),
        ({"widths": (16, 8)}, "widths must be at least two, ascending"),
        ({"n_steps": 0}, "n_steps must be an integer >= 1"),
        ({"mup": "yes"}, "mup must be True or False"),
    ],
)
def test_coordinate_check_refuses(batch, arguments, message):
    with pytest.raises(ValueError, match=message):
        coordinate_check(mlp, **{"widths": (8, 16), "X": batch[0], "y": batch[1], "lr": 0.1, **arguments})


def test_plot_of_the_coordinate_check(batch):
    check = coordinate_check(mlp, (8, 16), *batch, lr=0.01, n_seeds=2, random_state=0)
    data = coordinate_check_data(check)
    assert data.changes.shape == (2, 5)
    assert (data.low <= data.changes).all()
    ax = plot_coordinate_check(data)
    assert ax.get_xlabel() == "width"
    assert len(ax.lines) == 5
    assert ax.lines[0].get_label() == f"layers.0: {check.change_slopes[-1, 0]:+.2f}"


def test_gradient_noise_scale_is_that_of_all_rows(digits):
    X, y = digits
    model = net(random_state=0)
    found = gradient_noise_scale(model, X, y, n_repeats=40, random_state=0)
    assert not model.initialized_
    # the exact one, from every row's gradient at the same weights
    ready = net(random_state=0)
    ready.start_fit(X, y)
    rows = torch.as_tensor(X, dtype=torch.float32)
    params = dict(ready.module_.named_parameters())

    def loss(p, x, t):
        out = torch.func.functional_call(ready.module_, p, (x[None],))
        return torch.nn.functional.cross_entropy(out, t[None])

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(params, rows, torch.as_tensor(y))
    flat = torch.cat([g.flatten(1) for g in each.values()], dim=1).detach().double()
    mean = flat.mean(dim=0)
    variance = (flat - mean).pow(2).sum(dim=1).sum() / (len(y) - 1)
    exact = float(variance / (mean.pow(2).sum() - variance / len(y)))  # the mean of 1797 rows has noise of its own
    low, high = found.interval
    assert low < exact < high, (exact, str(found))
    assert high < 1.5 * low


def test_gradient_noise_scale_leaves_a_fitted_net_alone(digits):
    X, y = digits
    fitted = net(random_state=0).fit(X, y)
    before = {k: v.clone() for k, v in fitted.module_.state_dict().items()}
    one, two = (gradient_noise_scale(fitted, X, y, batch_sizes=(8, 64), random_state=0) for _ in range(2))
    assert one == two
    torch.testing.assert_close(fitted.module_.state_dict(), before)
    assert one.value != gradient_noise_scale(net(random_state=0), X, y, batch_sizes=(8, 64), random_state=0).value


@pytest.mark.parametrize("sizes", [(8, 20), (64, 8), (8, 4096)])
def test_gradient_noise_scale_refuses(digits, sizes):
    with pytest.raises(ValueError, match="large a multiple of small and at most the 1797 rows"):
        gradient_noise_scale(net(), *digits, batch_sizes=sizes)
