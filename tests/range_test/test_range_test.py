"""The range test: rules as published, losses as the maths has them, and both engines alike."""

import pickle
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import skorch
import torch
from sklearn.base import clone
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import EarlyStopping, EpochScoring, GradientNormClipping, LRScheduler
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from sklr import (
    MLP,
    EngineError,
    LRGridSearchCV,
    NeuralNetBinaryClassifier,
    NeuralNetClassifier,
    NeuralNetRegressor,
    lr_range_test,
)
from sklr.plotting import plot_range_test, range_test_data
from sklr.range_test._curve import find_edge, read_runs
from sklr.range_test._ramp import Losses
from sklr.range_test._result import read
from sklr.range_test._rules import RULES, minimum, slide, steep, valley

X, y = load_wine(return_X_y=True)
X = StandardScaler().fit_transform(X).astype(np.float32)
ENGINES = ("stacked", "sequential")
FOLDS = KFold(3, shuffle=True, random_state=0)


def make_net(**params):
    params = {"batch_size": 32, "iterator_train__shuffle": True, **params}
    return NeuralNetClassifier(MLP, module__hidden=(16,), **params)


@pytest.fixture(scope="module")
def result():
    return lr_range_test(make_net(), X, y, random_state=0)


class PackedLSTM(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(1, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, X):
        lengths = torch.full((len(X),), X.shape[1])
        packed = nn.utils.rnn.pack_padded_sequence(X[..., None], lengths, batch_first=True)
        return self.head(self.lstm(packed)[1][0][-1])


# the rules, on curves whose answer is worked out by hand


def test_minimum_is_a_tenth_of_the_lowest():
    lr = np.array([1e-3, 1e-2, 1e-1, 1.0])
    assert minimum(lr, np.array([3.0, 2.0, 1.0, 5.0])) == pytest.approx(1e-2)


def test_steep_is_the_left_end_of_the_steepest_step():
    lr = np.array([1e-3, 1e-2, 1e-1, 1.0])
    assert steep(lr, np.array([3.0, 2.9, 1.0, 0.5])) == 1e-2
    assert steep(np.array([0.1, 0.2, 2.0]), np.array([3.0, 2.0, 0.0])) == 0.1  # 1 / ln 2 beats 2 / ln 10


@pytest.mark.parametrize(
    ("loss", "index"),
    [
        ([5, 5, 4, 3, 2, 1, 0, 1, 2, 3], 3),  # 5 4 3 2 1 0 ends at 6, length 6: from 0 on, thirds of 2: 0 + 2 + 1
        ([9, 8, 9, 7, 9, 6, 9, 5, 9, 4, 9, 3], 7),  # 9 8 7 6 5 4 3 ends at 11, length 7, from 4: 4 + int(7/3) + 1
        ([1, 2, 3, 4, 5, 6, 7, 8], 0),  # never falls
        ([2, 1], 0),  # ends at 1, length 2, from -1: what lies before the first is the first
    ],
)
def test_valley_is_the_middle_of_the_longest(loss, index):
    lr = np.geomspace(1e-3, 1, len(loss))
    assert valley(lr, np.array(loss, dtype=float)) == lr[index]


@pytest.mark.parametrize(
    ("slopes", "index"),
    [
        ([-0.1] * 10 + [0] * 20 + [0.1] * 10, 14),  # ends differ until the right one is at 28, the left one at 13
        ([0] * 20 + [-0.1] * 20, 24),  # alike at once: 39 and 24
        ([0.02 * i for i in range(40)], 0),  # never alike
    ],
)
def test_slide_stops_where_slopes_are_alike(slopes, index):
    loss = np.concatenate([[0], np.cumsum(slopes[1:])])  # slopes[i] leads to point i
    lr = np.geomspace(1e-3, 1, len(loss))
    assert slide(lr, loss) == lr[index]


# reading a curve


def made_up(scale=1.0, offset=0.0, n_runs=3):
    """Return losses that stay, fall by 2 in the fourth decade of eight, come back in the seventh, then are NaN."""
    lr = np.geomspace(1e-7, 10, 161)
    u = np.log10(lr)[:, None]
    loss = 3 - 2 * np.clip((u + 4) / 2, 0, 1) + 4 * np.clip(u + 1, 0, None)
    loss = loss + 0.01 * np.random.default_rng(0).standard_normal((161, n_runs))
    loss[u[:, 0] > 0.5] = np.nan
    return Losses(lr, np.full(n_runs, scale * 3 + offset), scale * loss + offset, "stacked", ())


def test_an_edge_is_where_half_of_the_gain_is_given_back():
    found = read(made_up())
    # the gain is 2, half of it is given back a quarter decade above 0.1
    np.testing.assert_allclose(np.log10(found.edge), -0.75, atol=0.08)
    assert 1e-4 < found.suggestions["steep"] < 1e-2  # somewhere on a straight slope
    assert 9e-4 < found.suggestions["minimum"] < 1.1e-2  # the loss is lowest from 0.01 to 0.1
    assert all(1e-5 < lr < 0.1 for lr in found.suggestions.values())
    assert set(found.suggestions) == {*RULES, "midway"}
    assert np.isfinite(found.mean).all()


@pytest.mark.parametrize(("scale", "offset"), [(1000.0, 0.0), (1.0, -100.0), (1e-3, 5.0)])
def test_neither_unit_nor_sign_of_the_loss_matters(scale, offset):
    expected, found = read(made_up()), read(made_up(scale, offset))
    assert found.edge == expected.edge
    assert found.suggestions == pytest.approx(expected.suggestions)


def test_runs_that_break_apart_have_their_median_edge():
    lr = np.array([0.01, 0.1, 1.0, 10.0])
    assert find_edge(lr, np.array([1, 3, 2])) == 0.1
    assert find_edge(lr, np.array([1, -1, -1])) is None
    assert find_edge(lr, np.array([0, 0, 3])) == 0.01


def test_one_unlucky_batch_breaks_nothing():
    losses = made_up()
    losses.after[100] += 50
    assert read(losses).edge == read(made_up()).edge


def test_noise_alone_breaks_nothing_and_suggests_nothing():
    noise = np.random.default_rng(1).standard_normal((200, 3))
    found = read(Losses(np.geomspace(1e-7, 10, 200), np.zeros(3), noise, "stacked", ()))
    assert (found.edge, found.suggestions) == (None, {})
    assert not found.agree
    assert found.search_range == (1e-3, 10.0)  # no edge, so all that was tried may do
    assert "Suggestions: none" in found.summary()
    assert "Edge: none, 0 of 3 runs became unstable" in found.summary()


def test_a_run_that_is_over_after_one_step_is_read():
    runs = read_runs(np.array([1.0]), np.array([[5.0], [np.nan], [np.nan]]))
    assert runs.unstable_step.tolist() == [1]  # the first that is NaN


# the ramp


@pytest.mark.parametrize("engine", ENGINES)
def test_a_loss_belongs_to_the_lr_that_caused_it(engine):
    # one weight w, loss w^2: a step at lr multiplies w by 1 - 2 lr, so the loss after it is known
    ones = np.ones((8, 1), dtype=np.float32)
    net = NeuralNetRegressor(nn.Linear, module__in_features=1, module__out_features=1, module__bias=False, batch_size=8)
    found = lr_range_test(net, ones, 0 * ones, lr_range=(1e-3, 0.4), n_steps=20, n_seeds=2, engine=engine)
    expected = found.start_loss * np.cumprod((1 - 2 * found.lr) ** 2)[:, None]
    np.testing.assert_allclose(found.loss, expected, rtol=1e-4)
    assert found.lr[[0, -1]].tolist() == [1e-3, 0.4]
    assert found.engine == engine


@pytest.mark.one_fast
@pytest.mark.parametrize(
    ("net", "folds"),
    [
        (make_net(optimizer="adam"), None),
        (make_net(optimizer__momentum=0.9, warmup_epochs=2, schedule="cosine", lr=3.0), FOLDS),  # 118, 119 rows
        (make_pipeline(StandardScaler(), make_net(callbacks=[GradientNormClipping(0.1)])), FOLDS),
        (
            skorch.NeuralNetClassifier(
                MLP,
                module__hidden=(8,),
                module__n_inputs=13,
                module__n_outputs=3,
                criterion=nn.CrossEntropyLoss,
                callbacks=[LRScheduler("StepLR", step_size=1), EarlyStopping(), ("acc", EpochScoring("accuracy"))],
            ),
            None,
        ),
    ],
    ids=["adam", "folds", "pipeline", "skorch"],
)
def test_both_engines_measure_the_same(net, folds):
    found, expected = (
        lr_range_test(net, X, y, lr_range=(1e-4, 0.1), n_steps=25, cv=folds, n_seeds=2, engine=e, random_state=0)
        for e in ENGINES
    )
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-3)
    np.testing.assert_allclose(found.start_loss, expected.start_loss, rtol=1e-5)
    assert found.loss.shape == (25, 2 if folds is None else 2 * folds.n_splits)


def test_parameter_groups_rise_together():
    # both weights start anew; a group at 10 times the lr takes the steps of a net at 10 times the lr
    net = make_net(lr=0.01, optimizer__param_groups=[("*", {"lr": 0.1})])
    options = {"n_steps": 20, "n_seeds": 1, "random_state": 0}
    for engine in ENGINES:
        found = lr_range_test(net, X, y, lr_range=(1e-4, 1e-2), engine=engine, **options)
        plain = lr_range_test(make_net(), X, y, lr_range=(1e-3, 1e-1), engine=engine, **options)
        np.testing.assert_allclose(found.loss, plain.loss, rtol=1e-4)


def test_what_cannot_be_stacked_is_trained_one_by_one():
    net = NeuralNetClassifier(PackedLSTM, batch_size=64)
    found = lr_range_test(net, X, y, lr_range=(1e-3, 1e3), n_steps=30, n_seeds=3, random_state=0)
    assert (found.engine, found.loss.shape) == ("sequential", (30, 3))
    assert found.engine_reasons
    with pytest.raises(EngineError, match=r"engine='stacked' cannot train these runs: .*Use engine='sequential'"):
        lr_range_test(net, X, y, engine="stacked")


@pytest.mark.parametrize("engine", ENGINES)
def test_nan_ends_a_run_and_is_never_suggested(engine):
    found = lr_range_test(make_net(), X, y, lr_range=(1e-3, 1e12), n_steps=40, engine=engine, random_state=0)
    gone = np.isnan(found.loss)
    assert gone[-1].all()
    np.testing.assert_array_equal(gone, np.maximum.accumulate(gone, axis=0))
    assert all(np.isfinite(lr) and lr <= found.edge for lr in found.suggestions.values())
    assert found.edge < found.lr[gone.any(axis=1).argmax()]


def test_nothing_but_the_result_is_left_behind():
    net = make_net(random_state=3).fit(X, y)
    before = {name: value.clone() for name, value in net.module_.state_dict().items()}
    torch.manual_seed(7)
    np.random.seed(7)
    states = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    first = lr_range_test(net, X, y, n_steps=20, random_state=1)
    assert torch.equal(states[0], torch.random.get_rng_state())
    np.testing.assert_array_equal(states[1], np.random.get_state()[1])
    assert all(torch.equal(value, before[name]) for name, value in net.module_.state_dict().items())
    assert (net.lr, net.max_epochs, net.callbacks, net.random_state, len(net.history_)) == (0.01, 10, None, 3, 10)
    again, other = (lr_range_test(net, X, y, n_steps=20, random_state=seed) for seed in (1, 2))
    np.testing.assert_array_equal(again.loss, first.loss)
    assert (other.loss[:, 1:] != first.loss[:, 1:]).any()  # the first run keeps the seed the user gave the net


def test_sample_weights_count():
    weight = np.where(y == 0, 5.0, 1.0)
    found = [
        lr_range_test(make_net(), X, y, n_steps=20, engine=engine, random_state=0, sample_weight=weight)
        for engine in ENGINES
    ]
    unweighted = lr_range_test(make_net(), X, y, n_steps=20, random_state=0)
    np.testing.assert_allclose(found[0].loss, found[1].loss, rtol=1e-3)
    assert not np.allclose(found[0].start_loss, unweighted.start_loss)


BAD = [
    ({"lr_range": (1.0, 0.1)}, ValueError, r"lr_range must be a tuple .* got \(1.0, 0.1\). Swap the two."),
    ({"n_steps": 10}, ValueError, "n_steps must be an integer >= 20, got 10."),
    ({"n_seeds": 0}, ValueError, "n_seeds must be an integer >= 1, got 0."),
    ({"engine": "fast"}, ValueError, "engine must be one of .*, got 'fast'."),
    (
        {"net": LRGridSearchCV(LogisticRegression())},
        TypeError,
        "got 'LRGridSearchCV'. Pass the estimator inside, its parameter estimator.",
    ),
    ({"net": LogisticRegression()}, TypeError, "net must be a skorch net, or a Pipeline .*, got 'LogisticRegression'."),
    ({"net": make_net(lr=0.0)}, ValueError, "the net's lr must be above 0 for a range test, got 0.0."),
    ({"X": np.full_like(X, 3e38)}, ValueError, "the loss before the first step must be finite in every run, got"),
]


@pytest.mark.parametrize(("changes", "error", "message"), BAD, ids=[next(iter(c)) for c, _, _ in BAD])
def test_bad_input_is_named(changes, error, message):
    arguments = {"net": make_net(), "X": X, "y": y, **changes}
    with pytest.raises(error, match=message):
        lr_range_test(arguments.pop("net"), arguments.pop("X"), arguments.pop("y"), **arguments)


# the result


def test_the_result_says_what_it_found(result):
    assert result.loss.shape == (200, 3)
    assert result.spread.shape == result.mean.shape == result.lr.shape
    assert 0.05 < result.edge < 10
    low, high = result.search_range
    assert (low, high) == pytest.approx((result.edge / 1e4, result.edge / 3), rel=0.01)
    numbers = list(result.suggestions.values())
    assert result.disagreement == max(numbers) / min(numbers)
    assert result.agree == (result.disagreement <= 10)
    assert all(type(lr) is float for lr in numbers)
    assert result.run_suggestions["steep"].shape == (3,)
    first, *lines = str(result).splitlines()
    assert first == result.conclusion()
    assert lines[0] == "Range test: 200 learning rates from 1e-07 to 10, 3 runs (stacked)."
    assert f"Edge: {result.edge:.3g}; 3 of 3 runs became unstable" in lines[1]
    assert f"steep {result.suggestions['steep']:.3g}" in lines[2]
    assert f"Search lr_range=({low:g}, {high:g})." in lines[3]
    assert repr(result).startswith(f"<RangeTest of 3 runs: edge={result.edge:.3g}, suggestions: minimum=")
    assert pickle.loads(pickle.dumps(result)).suggestions == result.suggestions


def test_the_picture(result):
    data = range_test_data(result)
    lrs = [lr for lr, _ in data.suggestions.values()]
    assert lrs == sorted(lrs)
    for lr, height in data.suggestions.values():
        assert height == pytest.approx(result.mean[np.searchsorted(result.lr, lr * 0.9999)], abs=0.2)
    assert data.ylim[1] < 2 * result.start_loss.max()
    ax = result.plot()
    assert (ax.get_xscale(), ax.get_xlabel()) == ("log", "learning rate of the step")
    assert ax.get_ylabel() == "training loss after it, 3 runs"
    labels = ax.get_legend_handles_labels()[1]
    assert {label.partition(":")[0] for label in labels} == {"mean, smoothed", "± s.d.", "edge", *RULES, "midway"}
    assert plot_range_test(data, ax=ax) is ax
    plt.close("all")
    with pytest.raises(TypeError, match=r"the first argument must be what lr_range_test returned, got 'int'\."):
        range_test_data(3)


def test_one_run_is_drawn_without_a_band():
    found = lr_range_test(make_net(), X, y, n_steps=20, n_seeds=1, random_state=0)
    assert np.isnan(found.spread).all()
    ax = found.plot()
    assert ax.get_ylabel() == "training loss after it, one run"
    assert "± s.d." not in ax.get_legend_handles_labels()[1]
    plt.close("all")


# the search


class Scaler(StandardScaler):
    """Remembers how many rows it has been fitted on."""

    seen: list = []  # noqa: RUF012 - shared by clones on purpose

    def fit(self, X, y=None, sample_weight=None):
        self.seen.append(len(X))
        return super().fit(X, y, sample_weight)


@pytest.mark.filterwarnings("ignore::sklr.DivergedWarning")  # up there some do: that is where the range ends
def test_auto_bounds_the_search_of_a_pipeline():
    Scaler.seen.clear()
    net = make_pipeline(Scaler(), make_net(max_epochs=2))
    search = LRGridSearchCV(net, lr_range="auto", n_lrs=5, cv=3, n_seeds=2, random_state=0, refit=False)
    search = clone(search).fit(X, y)
    test = search.range_test_
    assert (test.loss.shape, test.engine, search.engine_) == ((200, 6), "stacked", "stacked")
    tried = search.cv_results_["param_neuralnetclassifier__lr"].astype(float)
    assert (tried[0], tried[-1], len(tried)) == (*test.search_range, 5)
    assert set(Scaler.seen) == {118, 119}  # training rows of three folds of 178, never more
    assert search.lr_range == "auto"
    again = clone(search).fit(X, y)
    np.testing.assert_array_equal(again.cell_scores_, search.cell_scores_)
    search.set_params(lr_range=(1e-3, 0.1)).fit(X, y)
    assert not hasattr(search, "range_test_")


@pytest.mark.filterwarnings("ignore::sklr.DivergedWarning")
def test_auto_trains_one_by_one_where_the_search_does():
    net = make_net(max_epochs=1, batch_size=8)
    search = LRGridSearchCV(net, lr_range="auto", n_lrs=2, cv=2, random_state=0, refit=False, engine="sequential")
    found = search.fit(X, y).range_test_
    assert (found.engine, found.engine_reasons, found.loss.shape) == ("sequential", (), (200, 2))
    stacked = clone(search).set_params(engine="auto").fit(X, y).range_test_
    calm = slice(found.unstable_step.max() // 2)  # beyond, rounding grows without bounds
    np.testing.assert_allclose(found.loss[calm], stacked.loss[calm], rtol=1e-3)


def test_auto_says_where_it_cannot_work():
    for search, message in [
        (LRGridSearchCV(make_net(), {"lr": [0.1]}, lr_range="auto"), "lr_range must be a tuple if param_grid is"),
        (LRGridSearchCV(make_net(), lrs=[0.1], lr_range="auto"), "lr_range must be a tuple if lrs is given"),
        (LRGridSearchCV(LogisticRegression(), lr_range="auto", lr_param="C"), "estimator must be a skorch net"),
        (LRGridSearchCV(make_net(), lr_range="auto", lr_param="batch_size"), "lr_param must be the net's lr if"),
        (LRGridSearchCV(make_net(), lr_range="wide"), r"lr_range must be a tuple .* got 'wide'"),
        (LRGridSearchCV(make_net(), lr_range="auto", n_lrs=0), "n_lrs must be an integer >= 1, got 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            search.fit(X, y)


# the method of the nets


@pytest.mark.parametrize("net_class", [NeuralNetClassifier, NeuralNetBinaryClassifier, NeuralNetRegressor])
def test_lr_find_is_the_range_test_with_its_picture(net_class):
    targets = {NeuralNetBinaryClassifier: y > 0, NeuralNetRegressor: X.sum(axis=1, keepdims=True)}.get(net_class, y)
    net = net_class(MLP, module__hidden=(8,), batch_size=32)
    ax = plt.figure().subplots()
    found = net.lr_find(X, targets, ax=ax, n_steps=40, n_seeds=2, random_state=0)
    test = lr_range_test(net, X, targets, n_steps=40, n_seeds=2, random_state=0)
    np.testing.assert_array_equal(found.loss, test.loss)
    assert found.suggestion == test.suggestions["midway"]
    assert str(found).startswith(f"Start from lr {found.suggestion:.3g}")
    assert ax.get_title() == found.conclusion()
    assert not net.initialized_
    plt.close("all")


def test_lr_find_takes_datasets_and_draws_where_it_can(monkeypatch):
    net = NeuralNetClassifier(MLP(13, 3, hidden=(8,)), batch_size=32)
    data = TensorDataset(torch.from_numpy(X), torch.from_numpy(y))
    settings = {"n_steps": 40, "n_seeds": 1, "random_state": 0}
    found = [net.lr_find(data, **settings), net.lr_find(X, y, plot=False, **settings)]
    assert len(plt.get_fignums()) == 1
    monkeypatch.setattr("sklr.range_test._find.find_spec", lambda name: None)
    found.append(net.lr_find(DataLoader(data, batch_size=32), **settings))
    assert len(plt.get_fignums()) == 1, "there is no matplotlib"
    plt.close("all")
    for other in found[1:]:
        np.testing.assert_allclose(other.loss, found[0].loss)


def test_without_a_fall_there_is_no_number(result):
    flat = replace(result, suggestions={})
    assert flat.suggestion is None
    assert str(flat).startswith("No learning rate to start from: the loss never fell.")
