"""The recipes around a search: weight decay by layer, how long to train, how much warmup."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetClassifier as SkorchClassifier
from skorch.callbacks import EarlyStopping
from torch import nn

from sklr import MLP, AllDivergedError, LRGridSearchCV, NeuralNetClassifier, NeuralNetRegressor
from sklr.recipes import MaxSteps, NeededWarmup, find_warmup, suggest_max_steps, weight_decay_by_layer
from sklr.recipes._plain import constant_lr, without_regularization

X, Y = load_iris(return_X_y=True)
X = (X - X.mean(axis=0)) / X.std(axis=0)


def net(**kwargs):
    arguments = {"module__hidden": (8,), "batch_size": 32, "max_epochs": 6, "iterator_train__shuffle": True}
    return NeuralNetClassifier(MLP, **(arguments | kwargs))


# weight decay


class Transformer(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.embedding = nn.Embedding(5, width)
        self.body = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(width, 2, 16), num_layers=2, enable_nested_tensor=False
        )
        self.head = nn.Linear(width, 3)


def decays(module, groups, default=0.5):
    """Return each parameter's decay as skorch sorts them into groups."""
    built = SkorchClassifier(module, optimizer__param_groups=groups, optimizer__weight_decay=default).initialize()
    names = {id(p): name for name, p in built.module_.named_parameters()}
    return {names[id(p)]: group["weight_decay"] for group in built.optimizer_.param_groups for p in group["params"]}


def test_biases_and_norms_do_not_decay_and_all_else_is_the_optimizers_own():
    module = Transformer()
    found = decays(module, weight_decay_by_layer(module))
    exempt = {name for name in found if "bias" in name or "norm" in name}
    assert {name for name, decay in found.items() if decay == 0} == exempt
    assert {found[name] for name in found.keys() - exempt} == {0.5}
    assert found.keys() == dict(module.named_parameters()).keys()


def test_patterns_classes_and_names_decide_in_their_order():
    module = Transformer()
    rules = {"head.bias": 0.3, nn.Embedding: 0.0, "body.layers.0.*": 0.1, "*": 0.2}
    found = decays(module, weight_decay_by_layer(module, rules))
    assert found["head.bias"] == 0.3  # its very name: no longer exempt
    assert found["embedding.weight"] == 0
    assert found["body.layers.0.linear1.weight"] == found["body.layers.0.self_attn.in_proj_weight"] == 0.1
    assert found["body.layers.0.linear1.bias"] == found["body.layers.1.norm1.weight"] == 0
    assert found["body.layers.1.linear1.weight"] == found["head.weight"] == 0.2
    assert set(decays(module, weight_decay_by_layer(module, 0.1, biases_and_norms=None)).values()) == {0.1}


def test_the_groups_are_few():
    module = Transformer()  # 12 biases and 4 norms of 2 parameters
    assert len(weight_decay_by_layer(module)) <= 4
    assert weight_decay_by_layer(module, 0.1, biases_and_norms=None) == [("*", {"weight_decay": 0.1})]


def test_names_with_brackets_are_taken_as_they_are():
    module = nn.Module()
    module.add_module("a[1]", nn.Linear(1, 1))
    module.add_module("a1", nn.Linear(1, 1))
    assert decays(module, weight_decay_by_layer(module, {"a[[]1].weight": 0.1}))["a1.weight"] == 0.5


def test_a_lr_is_searched_over_decayed_layers_in_both_engines_alike():
    module = MLP(4, 3, hidden=(8,), batch_norm=True)
    groups = weight_decay_by_layer(module, {"layers.0.*": 0.3})
    decayed = net(
        module__batch_norm=True, module__dtype=torch.float64, optimizer="adamw", optimizer__param_groups=groups
    )
    space = {"lr": [0.003, 0.03], "optimizer__weight_decay": [0.0, 1.0]}
    stacked, one_by_one = (
        LRGridSearchCV(decayed, space, cv=2, scoring="neg_log_loss", engine=engine, random_state=0, refit=False).fit(
            X, Y
        )
        for engine in ("stacked", "sequential")
    )
    np.testing.assert_allclose(stacked.cell_scores_, one_by_one.cell_scores_, rtol=1e-7)
    with_decay, without = stacked.cell_scores_[1::2], stacked.cell_scores_[::2]
    assert np.abs(with_decay - without).min() > 1e-6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((MLP,), "module must be a torch.nn.Module, got <class 'sklr.modules.MLP'>. Build one"),
        (
            (MLP(2, 2), {"head": 0.1}),
            "each key of decay must be a pattern or class that matches a parameter of the module",
        ),
        ((MLP(2, 2), {nn.Conv2d: 0.1}), "got <class 'torch.nn.modules.conv.Conv2d'>. Its parameters are layers.0.w"),
        ((MLP(2, 2), -1), "each weight decay must be a number at least 0, got -1."),
        ((MLP(2, 2), {"*": "high"}), "each weight decay must be a number at least 0, got 'high'."),
    ],
    ids=["class", "unknown pattern", "unknown class", "negative", "string"],
)
def test_bad_decays_are_refused(arguments, message):
    with pytest.raises((TypeError, ValueError)) as info:
        weight_decay_by_layer(*arguments)
    assert message in str(info.value)


# the plain net


def test_what_regularises_is_switched_off_and_named():
    given = net(
        module__dropout=0.5,
        optimizer="adamw",
        optimizer__param_groups=[("*.bias", {"weight_decay": 0.1, "lr_multiplier": 2.0})],
        criterion__label_smoothing=0.1,
    )
    plain, off = without_regularization(given)
    assert off == ["weight_decay=0.01", "criterion__label_smoothing=0.1", "dropout"]
    fitted = plain.set_params(max_epochs=1).fit(X, Y)
    assert [group["weight_decay"] for group in fitted.optimizer_.param_groups] == [0.0, 0.0]
    assert fitted.optimizer_.param_groups[0]["lr_multiplier"] == 2.0
    assert [layer.p for layer in fitted.module_.modules() if isinstance(layer, nn.Dropout)] == [0.0]
    assert fitted.criterion_.label_smoothing == 0
    assert given.get_params()["criterion__label_smoothing"] == 0.1


def test_what_changes_the_lr_or_the_length_is_switched_off_and_named():
    given = net(schedule="cosine", warmup_epochs=2, callbacks=[EarlyStopping(), ("mine", nn.Identity)])
    plain, off = constant_lr(given)
    assert off == ["schedule='cosine'", "warmup_epochs=2", "EarlyStopping"]
    assert (plain.schedule, plain.warmup_epochs, plain.callbacks) == (None, 0, [("mine", nn.Identity)])
    assert len(given.callbacks) == 2


def test_dropout_inside_torchs_own_layers_is_switched_off_too():
    plain, _ = without_regularization(NeuralNetClassifier(nn.TransformerEncoderLayer(8, 2, dropout=0.3)))
    torch.manual_seed(0)
    rows = torch.randn(2, 3, 8)
    assert torch.equal(plain.module.train()(rows), plain.module.eval()(rows))


# how long to train


def steps(score, **kwargs):
    """Return a result whose runs had these scores, shape (n_lrs, n_seeds, n_epochs), 10 steps an epoch."""
    score = np.array(score, dtype=float)
    loss = kwargs.pop("loss", 1 - score)
    lrs = np.logspace(-3, score.shape[0] - 4, score.shape[0])
    return MaxSteps(lrs, loss, score, 1.0, steps_per_epoch=10, switched_off=(), engine="stacked", **kwargs)


def test_the_fastest_median_seed_decides():
    lucky = [[1, 1, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]]  # one seed at once, the median after 4 epochs
    steady = [[0, 0, 1, 1], [0, 0, 1, 0], [0, 0, 0, 1]]  # after 3, also where it falls back again
    result = steps([lucky, steady, [[0, 0, 0, 0]] * 3])
    assert (result.n_steps, result.n_epochs, result.lr, result.edge, result.bound) == (30, 3, 0.01, None, "patience")
    np.testing.assert_array_equal(result.fit_steps[:2], [[10, 40, np.inf], [30, 30, 40]])
    assert "Train for about 30 steps (3 epochs)" in result.summary()
    assert str(result).startswith(result.summary())
    assert str(result).splitlines()[-2].endswith("30  30  40  <- fastest")
    assert repr(result).startswith("<MaxSteps: Train for about 30 steps (3 epochs)")


@pytest.mark.parametrize(("place", "edge"), [(0, "low"), (2, "high")])
def test_an_end_of_the_range_is_named(place, edge):
    score = np.zeros((3, 1, 4))
    score[place] = 1
    assert steps(score).edge == edge
    assert f"is the {edge} end of the range" in steps(score).summary()


@pytest.mark.parametrize(
    ("loss", "bound", "words"),
    [
        ([1.0, 0.9, 0.8, 0.7], "compute", "still falling: this looks compute-bound"),
        ([1.0, 0.5, 0.5, 0.49], "fit", "no longer fell: longer training alone will not fit them"),
    ],
    ids=["still falling", "flat"],
)
def test_where_nothing_fits_it_says_what_is_in_the_way(loss, bound, words):
    result = steps(np.zeros((2, 1, 4)), loss=np.array([[[2.0, np.nan, np.nan, np.nan]], [loss]]))
    assert (result.n_steps, result.bound, result.lr) == (None, bound, 0.01)
    assert words in result.summary()


@pytest.mark.parametrize("engine", ["stacked", "sequential"])
def test_a_training_of_that_length_fits_the_training_set_in_most_seeds(engine):
    easy = Y < 1  # linearly separable
    tried = net(module__dropout=0.2, optimizer="adamw", schedule="cosine")
    result = suggest_max_steps(tried, X, easy, lr_range=(1e-4, 0.1), n_lrs=4, random_state=0, engine=engine)
    assert (result.engine, result.steps_per_epoch) == (engine, 5)  # 150 rows in batches of 32
    assert result.n_steps % 5 == 0
    assert result.switched_off == ("schedule='cosine'", "weight_decay=0.01", "dropout")
    fitted = [
        net(optimizer="adam", lr=result.lr, max_epochs=result.n_epochs, random_state=seed).fit(X, easy).score(X, easy)
        for seed in range(5)
    ]
    assert np.median(fitted) == 1
    assert result.loss.shape == (4, 3, result.n_epochs)  # it ends when it knows


def test_a_pipeline_and_a_regressor_will_do():
    regressor = NeuralNetRegressor(MLP, module__hidden=(), batch_size=50)
    pipeline = make_pipeline(StandardScaler(), regressor)
    y = X @ [1.0, 2.0, 3.0, 4.0]
    result = suggest_max_steps(pipeline, 100 * X, y, lr_range=(1e-3, 1.0), n_lrs=4, n_seeds=1, random_state=0)
    assert result.bound == "patience"
    assert result.target == 0.99
    assert pipeline.steps[-1][1] is regressor


# how much warmup


def warmup(lr_loss, warmup_loss, factors=(10.0, 1.0)):
    """Return a result with one seed whose runs had these losses by epoch."""
    lr_loss, warmup_loss = np.array(lr_loss, dtype=float), np.array(warmup_loss, dtype=float)
    lrs = np.logspace(-3, len(lr_loss) - 4, len(lr_loss))
    lengths = np.array([0, 5, 10, 20])
    return NeededWarmup(lrs, lr_loss[:, None], np.array(factors), lengths, warmup_loss[:, :, None], 10, ())


NAN = float("nan")
GOOD, BAD, WORSE = [2.0, 1.0, 0.5], [2.0, 1.0, 1.8], [NAN, NAN, NAN]
SWEPT = [[2.0, 2.0, 2.0], [2.0, 0.9, 0.4], BAD, GOOD, WORSE]  # unstable from the third on, though not at the fourth


def test_the_unstable_lr_is_the_lowest_above_the_best():
    result = warmup(SWEPT, [[BAD, BAD, GOOD, GOOD], [GOOD] * 4])
    assert (result.best_lr, result.unstable_lr) == (0.01, 0.1)
    assert result.lr_unstable[:, 0].tolist() == [False, False, True, False, True]


def test_the_shortest_warmup_from_which_on_all_survive_at_the_highest_factor():
    result = warmup(SWEPT, [[BAD, BAD, GOOD, GOOD], [GOOD] * 4])
    assert (result.factor, result.lr, result.n_steps, result.n_epochs) == (10, 1, 10, 1)
    assert "With a warmup of 10 steps (warmup_epochs=1) lr 1, 10 times as high, is stable." in result.summary()
    lucky = warmup(SWEPT, [[GOOD, GOOD, GOOD, WORSE], [BAD, GOOD, GOOD, GOOD]])  # the longest fails: luck
    assert (lucky.factor, lucky.n_steps) == (1, 5)
    assert "warmup of 5 steps (warmup_epochs=0.5) it is stable" in lucky.summary()


def test_where_no_warmup_helps_or_none_is_needed_it_says_so():
    hopeless = warmup(SWEPT, [[WORSE] * 4, [BAD] * 4])
    assert (hopeless.factor, hopeless.lr, hopeless.n_steps, hopeless.n_epochs) == (None,) * 4
    assert "No warmup of up to 20 steps is stable at 10 or 1 times this lr: raise max_epochs" in hopeless.summary()
    calm = NeededWarmup(np.array([0.1, 1.0]), np.array([[[2.0]], [[1.0]]]), *(np.empty(0), np.empty(0, int)),
                  np.empty((0, 0, 1, 1)), 10, ())  # fmt: skip
    assert (calm.unstable_lr, calm.lr, calm.n_steps) == (None, None, None)
    assert "no lr up to 1 is unstable" in calm.summary()
    for result in (hopeless, calm):
        assert str(result).startswith(result.summary())
        assert len(str(result).splitlines()) < 24
        assert repr(result).startswith(f"<NeededWarmup: {result.summary()[:50]}")
    assert "steps, 10 x lr" in hopeless.table()
    assert "steps, 10 x lr" not in str(hopeless)


class HardStart(nn.Module):
    """A quadratic whose curvature falls as training goes on: too high an lr is fatal at the start only."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(1, dtype=torch.float64))
        self.register_buffer("step", torch.zeros((), dtype=torch.float64))

    def forward(self, x):
        if self.training:
            self.step += 1
        curvature = 1 + 200 * torch.exp(-self.step / 10)
        return (curvature**0.5 * self.w).expand(len(x), 1) + 0 * x.sum()


def test_a_net_that_is_unstable_at_the_start_gets_its_warmup():
    y = np.zeros(64)
    rows = np.zeros((64, 1))
    start = NeuralNetRegressor(HardStart, batch_size=8, max_epochs=30, iterator_train__shuffle=False)
    result = find_warmup(start, rows, y, lr_range=(1e-5, 1.0), n_lrs=6, n_seeds=1, factors=[10, 1], random_state=0)
    # the loss is c w^2, c = 1 + 200 exp(-s / 10), and a step shrinks w while lr < 1 / c. At lr 0.1 that is from step 31
    # on; with a warmup of W steps always if 0.1 max_s s c(s) / W < 1, so for W > 75. At lr 1 it never is.
    assert result.unstable_lr == 0.1
    assert result.factor == 1
    assert 0 < result.n_steps <= 80
    assert result.warmup_unstable[1, 0].all()  # without any it is not survived


BAD_CALLS = {
    "a plain net": (
        SkorchClassifier(MLP),
        {},
        "net must be one of sklr's nets, or a Pipeline or TransformedTargetRegressor around one",
    ),
    "one lr": (net(), {"n_lrs": 1}, "n_lrs must be an integer >= 2, got 1."),
    "no seed": (net(), {"n_seeds": 0}, "n_seeds must be an integer >= 1, got 0."),
    "a range": (net(), {"lr_range": (1, 0.1)}, "lr_range must be a tuple (low, high)"),
    "epochs": (net(), {"max_epochs": 0}, "max_epochs must be an integer >= 1, got 0."),
}


@pytest.mark.parametrize("recipe", [suggest_max_steps, find_warmup])
@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_arguments_are_refused(recipe, case):
    given, kwargs, message = BAD_CALLS[case]
    with pytest.raises((TypeError, ValueError)) as info:
        recipe(given, X, Y, **kwargs)
    assert message in str(info.value)


@pytest.mark.parametrize(
    ("recipe", "kwargs", "message"),
    [
        (suggest_max_steps, {"target": float("nan")}, "target must be a finite number, got nan."),
        (suggest_max_steps, {"scoring": "f1_macro"}, "target must be given with scoring, got None. Set the score"),
        (find_warmup, {"factors": (0.5,)}, "factors must be numbers of at least 1, got (0.5,)."),
        (find_warmup, {"factors": ()}, "factors must be numbers of at least 1, got ()."),
        (find_warmup, {"n_warmups": 1}, "n_warmups must be an integer >= 2, got 1."),
    ],
    ids=["target", "scoring", "factor", "no factor", "warmups"],
)
def test_bad_arguments_of_one_recipe_are_refused(recipe, kwargs, message):
    with pytest.raises(ValueError) as info:  # noqa: PT011 - the text is compared
        recipe(net(), X, Y, **kwargs)
    assert message in str(info.value)


def test_a_range_that_begins_too_high_is_an_error():
    with pytest.raises(AllDivergedError, match=r"the lowest lr of lr_range must be one at which the net trains, got"):
        find_warmup(net(), 1e3 * X, Y, lr_range=(1e20, 1e30), n_lrs=2, n_seeds=1, random_state=0)
    with pytest.raises(AllDivergedError, match=r"lr_range must be a range in which the net trains at some lr, got"):
        suggest_max_steps(net(), 1e3 * X, Y, lr_range=(1e20, 1e30), n_lrs=2, n_seeds=1, random_state=0)


@pytest.mark.parametrize("recipe", [suggest_max_steps, find_warmup])
def test_a_net_without_epochs_is_refused(recipe):
    with pytest.raises(ValueError, match=r"^max_epochs must be an integer >= 1, got 0\."):
        recipe(NeuralNetClassifier(MLP, max_epochs=0), np.zeros((8, 2), dtype="float32"), np.arange(8) % 2)
