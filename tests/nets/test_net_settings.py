"""What a net makes of its settings: instances are copied, mistakes fail before training, what clashes is said."""

import copy
import functools
import re
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import skorch
import torch
from labels import label
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import LRScheduler
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, CyclicLR, OneCycleLR, StepLR
from torch.utils.data import DataLoader, TensorDataset

from sklr import (
    MLP,
    LRGridSearchCV,
    NeuralNetBinaryClassifier,
    NeuralNetClassifier,
    NeuralNetRegressor,
    characterize,
    lr_range_test,
)
from sklr.callbacks import EarlyStopping
from sklr.exceptions import SettingsWarning
from sklr.schedules import Constant, Join, TorchSchedule

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 4)).astype("float32")
Y = (X[:, 0] > 0).astype("int64")
TRAINED = []  # forward passes


class Counted(MLP):
    def forward(self, X):
        TRAINED.append(len(X))
        return super().forward(X)


def classifier(module=MLP, **params):
    given = {"max_epochs": 2, "batch_size": 16, "random_state": 0} | params
    if not isinstance(module, nn.Module):
        given = {"module__hidden": (3,)} | given
    return NeuralNetClassifier(module, **given)


def skorchs(module, **params):
    given = {"criterion": nn.CrossEntropyLoss, "max_epochs": 1, "train_split": None, "verbose": 0}
    return skorch.NeuralNetClassifier(module, **given | params)


def search(estimator, candidates=None, **params):
    return LRGridSearchCV(estimator, candidates or {"lr": [0.1, 0.3]}, **{"cv": 2, "random_state": 0, **params})


def state(module):
    return copy.deepcopy(module.state_dict())


def assert_same(a, b):
    assert all(torch.equal(value, b[name]) for name, value in a.items())


UNMATCHED = r"The pattern 'nothing\*' of optimizer__param_groups matches no parameter"


@pytest.mark.parametrize(
    "use",
    [
        lambda net: net.initialize(),
        lambda net: net.fit(X, Y),
        lambda net: net.partial_fit(X, Y),
        lambda net: search(net).fit(X, Y),
        lambda net: lr_range_test(net, X, Y, n_steps=20),
        lambda net: lr_range_test(make_pipeline(StandardScaler(), net), X, Y, n_steps=20, engine="sequential"),
    ],
    ids=["initialize", "fit", "partial_fit", "search", "range test", "range test of a pipeline"],
)
def test_a_pattern_that_matches_nothing_is_said_once_wherever_the_net_is_set_up(use):
    net = classifier(MLP(4, 2), optimizer__param_groups=[("nothing*", {"lr": 0.1})])
    with pytest.warns(SettingsWarning, match=UNMATCHED) as caught:
        use(net)
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize("criterion", ["bce", "bce_with_logits", nn.BCEWithLogitsLoss()])
def test_labels_for_a_binary_cross_entropy_are_asked_for_in_columns(criterion):
    net = classifier(criterion=criterion)
    message = r"y must be of shape \(n_samples, 2\) with criterion BCE.*NeuralNetBinaryClassifier for two classes"
    with pytest.raises(ValueError, match=message):
        net.fit(X, Y)
    with pytest.raises(ValueError, match=message):
        search(net).fit(X, Y)


class TestInstances:
    """A net never trains the user's module, and every training starts from it."""

    def test_each_fit_starts_from_the_instance_which_stays_as_it_is(self):
        module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
        before = state(module)
        net = classifier(module, lr=0.5, iterator_train__shuffle=True)
        losses = [net.fit(X, Y).history_[:, "train_loss"] for _ in range(2)]
        assert losses[0] == losses[1]
        assert_same(before, module.state_dict())
        assert clone(net).fit(X, Y).history_[:, "train_loss"] == losses[0]
        assert net.partial_fit(X, Y).history_[len(losses[0]), "train_loss"] < losses[0][0], "that one goes on"

    def test_what_is_loaded_into_the_instance_counts_from_the_next_fit_on(self):
        module = MLP(4, 2)
        net = classifier(module, lr=0.0).fit(X, Y)
        module.load_state_dict(state(MLP(4, 2)))
        assert_same(module.state_dict(), net.fit(X, Y).module_.state_dict())

    def test_a_search_over_a_fitted_net_starts_from_the_instance_too(self):
        net = classifier(MLP(4, 2), lr=0.5, max_epochs=20)
        fresh = search(clone(net), {"lr": [1e-9]}).fit(X, Y).cv_results_["mean_test_score"]
        np.testing.assert_array_equal(search(net.fit(X, Y), {"lr": [1e-9]}).fit(X, Y).best_score_, fresh)

    def test_hooks_on_parameters_come_along(self):
        module, mask = nn.Linear(4, 2), torch.zeros(2, 4)
        module.weight.register_hook(lambda gradient: gradient * mask)
        after = []
        module.bias.register_post_accumulate_grad_hook(after.append)
        net = classifier(module, lr=0.5).fit(X, Y)
        assert torch.equal(net.module_.weight, module.weight)
        assert not torch.equal(net.module_.bias, module.bias)
        assert len(after) == 6  # steps
        assert after[0] is net.module_.bias
        assert torch.equal(clone(net).fit(X, Y).module_.weight, module.weight)

    @pytest.mark.parametrize("net", [NeuralNetClassifier, skorch.NeuralNetClassifier])
    def test_hooks_on_parameters_are_in_a_search_or_it_says_that_they_are_not(self, net):
        module = nn.Linear(4, 2)
        for p in module.parameters():
            p.register_hook(torch.zeros_like)
        given = net(module, criterion=nn.CrossEntropyLoss, max_epochs=2, train_split=None, verbose=0)
        said = "" if net is NeuralNetClassifier else "hooks on its parameters, which sklearn.base.clone leaves out"
        with pytest.warns(SettingsWarning, match=said) if said else nullcontext():
            found = search(given, {"lr": [0.1, 10.0]}).fit(X, Y)
        assert (len(np.unique(found.cell_scores_, axis=0)) == 1) == (not said)  # no step moved anything

    @pytest.mark.parametrize("as_instance", [True, False])
    def test_a_criterion_that_holds_the_module_is_given_the_one_that_is_trained(self, as_instance):
        class Penalized(nn.CrossEntropyLoss):
            def __init__(self, module):
                super().__init__()
                self.held = module

        module = nn.Linear(4, 2)
        given = {"criterion": Penalized(module)} if as_instance else {"criterion__module": module}
        net = classifier(module, **{"criterion": Penalized, **given}).fit(X, Y)
        assert net.criterion_.held is net.module_

    def test_one_that_cannot_be_copied_is_refused(self):
        class Stubborn(nn.Linear):
            def __deepcopy__(self, memo):
                raise RuntimeError("no copies")

        with pytest.raises(ValueError, match=r"that copy.deepcopy can copy.*a class, or a function.*no copies"):
            classifier(Stubborn(4, 2)).fit(X, Y)

    @pytest.mark.parametrize("make", [classifier, skorchs])
    def test_several_seeds_that_share_their_start_are_warned_of(self, make):
        with pytest.warns(SettingsWarning, match="3 seeds all start from the weights of the module instance") as caught:
            search(make(MLP(4, 2)), n_seeds=3).fit(X, Y)
        assert [warning.filename for warning in caught] == [__file__]
        with pytest.warns(SettingsWarning, match="2 seeds all start"):
            characterize(make(MLP(4, 2)), X, Y, lr=0.1, n_seeds=2, cv=2)

    def test_an_instance_that_skorch_has_trained_in_place_is_warned_of(self):
        net = skorchs(MLP(4, 2))
        search(net).fit(X, Y)
        with pytest.warns(SettingsWarning, match="has been trained by this net before"):
            search(net.fit(X, Y)).fit(X, Y)


MISTAKES = [
    ({"schedule": "cosin"}, {}, "Did you mean 'cosine'"),
    ({"optimizer": "adamm"}, {}, "Did you mean 'adam'"),
    ({"criterion": "cross_entropi"}, {}, "Did you mean 'crossentropy'"),
    ({"module__hiden": 3}, {}, "got 'hiden'. Did you mean 'hidden'"),
    ({"device": "cupid"}, {}, "device must be one that PyTorch can use here, got 'cupid'"),
    ({"warmup_epochs": -1}, {}, "epochs of Warmup must be"),
    (
        {"optimizer__momentun": 0.9},
        {},
        "optimizer__... of SGD must be one of .*got 'momentun'. Did you mean 'momentum'",
    ),
    ({"criterion__wieght": None}, {}, "criterion__... of CrossEntropyLoss must .* Did you mean 'weight'"),
    ({"criterion__weight": "balanced"}, {}, r"criterion__weight must be an array of .*'balanced'.*np.bincount\(y\)"),
    ({"criterion__weight": {0: 1.0, 1: 2.0}}, {}, "criterion__weight must be an array of finite numbers >= 0, got {0"),
    ({"criterion__weight": [-1.0, 2.0]}, {}, "criterion__weight must be an array of finite numbers >= 0, got "),
    ({"criterion__weight": [np.nan, 2.0]}, {}, "criterion__weight must be an array of finite numbers >= 0, got "),
    ({"iterator_train__shufle": True}, {}, "iterator_train__... of DataLoader must .* Did you mean 'shuffle'"),
    ({"callbacks__print_lgo": None}, {}, "callbacks__... must be one of .*got 'print_lgo'. Did you mean 'print_log'"),
    ({"callbacks": "early_stopping"}, {}, "callbacks must be a list of callbacks, or 'disable', got 'early_stopping'"),
    ({"callbacks": EarlyStopping()}, {}, "callbacks must be a list of callbacks.* got <.*EarlyStopping object>. Write"),
    ({"clip": "90"}, {}, "clip must be a number above 0 or a percentile .* got '90'"),
    ({"train_split": 0.2}, {}, r"train_split must be None or a function .* got 0.2. Write .*ValidSplit\(0.2\)"),
    (
        {"callbacks": ["early"]},
        {},
        r"an entry of callbacks must be a callback, or a pair .*got 'early'\. Write for exam",
    ),
    ({"callbacks": [("mine", 3)]}, {}, r"an entry of callbacks must be a callback, or a pair .*got \('mine', 3\)"),
    (
        {"criterion": nn.functional.cross_entropy},
        {},
        "criterion must .*'the function cross_.* criterion='cross_entropy'",
    ),
    (
        {"criterion": lambda y_pred, y: y_pred.sum()},
        {},
        "criterion must be a class, an .* Write a torch.nn.Module whose",
    ),
    ({"max_epochs": -1}, {}, "max_epochs must be an integer >= 0, got -1"),
    ({"max_epochs": 2.5}, {}, "max_epochs must be an integer >= 0, got 2.5"),
    ({"batch_size": 0}, {}, "batch_size must be an integer >= 1, or -1 for all rows, got 0"),
    ({"batch_size": None}, {}, "batch_size must be an integer >= 1, or -1 for all rows, got None"),
    ({"optimizer": torch.optim.Adam([torch.zeros(1)])}, {}, "optimizer must be a class or a name, got 'an instance of"),
    ({"max_epoch": 3}, {}, "an argument of NeuralNetClassifier must .* got 'max_epoch'. Did you mean 'max_epochs'"),
    ({"learning_rate": 0.1}, {}, "got 'learning_rate'. It is called 'lr' here."),
    ({"epochs": 3}, {}, "got 'epochs'. It is called 'max_epochs' here."),
    ({}, {"sample_weight": np.ones(39)}, "39"),
    ({}, {"sample_weights": np.ones(40)}, "forward takes, got '.*sample_weights'. Did you mean '.*sample_weight'?"),
    ({}, {"class_weight": "balanced"}, "an argument of fit must be one of .*got '.*class_weight'"),
    ({}, {"sample_weight": np.full(40, np.nan)}, "NaN"),
]


@pytest.mark.parametrize(("params", "fit_params", "message"), MISTAKES, ids=lambda value: label(value)[:30])
class TestMistakes:
    """They fail before any training, in their own words."""

    def test_in_a_net(self, params, fit_params, message):
        TRAINED.clear()
        for fit in ("fit", "partial_fit"):
            with pytest.raises(ValueError, match=message):
                getattr(classifier(Counted, **params), fit)(X, Y, **fit_params)
        assert not TRAINED

    @pytest.mark.parametrize("in_pipeline", [False, True])
    def test_in_a_search(self, params, fit_params, message, in_pipeline):
        if in_pipeline and "NaN" in message:
            return  # what weights are worth is known to the net alone
        estimator, prefix = classifier(Counted, **params), ""
        if in_pipeline:
            estimator, prefix = make_pipeline(StandardScaler(), estimator), "neuralnetclassifier__"
        TRAINED.clear()
        with pytest.raises(ValueError, match=message) as caught:
            search(estimator, {f"{prefix}lr": [0.1]}).fit(X, Y, **{prefix + n: v for n, v in fit_params.items()})
        assert "fits failed" not in str(caught.value)
        assert not TRAINED


@pytest.mark.parametrize("lr", ["0.1", None, [0.1, 0.2], -0.1, np.nan, True], ids=repr)
def test_an_lr_that_is_no_number_is_refused_before_training(lr):
    TRAINED.clear()
    with pytest.raises(ValueError, match=rf"^lr must be a finite number >= 0, got {re.escape(repr(lr))}\."):
        classifier(Counted, lr=lr).fit(X, Y)
    assert not TRAINED


@pytest.mark.parametrize("in_pipeline", [False, True])
def test_several_lrs_of_a_net_are_answered_with_those_of_a_search(in_pipeline):
    net = classifier(Counted, lr=[0.1, 0.2])
    TRAINED.clear()
    with pytest.raises(
        ValueError, match=r"lr must be a number, got \[0.1, 0.2\]\. Give several to the search: lrs=\[0.1,"
    ):
        LRGridSearchCV(make_pipeline(StandardScaler(), net) if in_pipeline else net, lrs=[0.1]).fit(X, Y)
    assert not TRAINED


@pytest.mark.parametrize("engine", ["stacked", "sequential"])
def test_a_scheduler_in_place_of_its_class_is_one_error_before_training(engine):
    scheduler = StepLR(torch.optim.SGD([torch.ones(1)], lr=0.1), 2)  # each candidate has a copy, with another address
    TRAINED.clear()
    with pytest.raises(TypeError, match=r"^schedule must be .* got <[\w.]+StepLR object>\. Pass its class"):
        search(classifier(Counted, schedule=scheduler), engine=engine).fit(X, Y)
    assert not TRAINED


@pytest.mark.parametrize("train", [lambda net: net.fit, lambda net: search(net).fit], ids=["a net", "a search"])
def test_rows_of_which_the_width_is_not_inferred_are_answered_with_a_shape(train):
    with pytest.raises(
        ValueError, match=r"^X must be of shape \(n_samples, n_features\) for .* of MLP, got \(40, 1, 4\)\. Re"
    ):
        train(classifier())(X[:, None], Y)
    with pytest.raises(ValueError, match=r"got \(40, 1, 4\)"):
        train(classifier())(torch.from_numpy(X[:, None]), Y)


CONVOLUTION = partial(nn.Sequential, nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2))
WORDS = partial(nn.Sequential, nn.Embedding(5, 2), nn.Flatten(), nn.Linear(8, 2))


@pytest.mark.parametrize(
    ("module", "rows", "note"),
    [
        (partial(nn.Linear, 7, 2), X, r"a batch of shape \(\d+, 4\), float32\."),
        (
            CONVOLUTION,
            np.full((40, 1, 4, 4), 255, "uint8"),
            r"\(\d+, 1, 4, 4\), uint8 from 255 to 255. Integers stay int",
        ),
        (WORDS, np.full((40, 4), 5), r"\(\d+, 4\), int64 from 5 to 5"),
    ],
)
def test_an_error_of_the_module_says_what_it_was_given(module, rows, note):
    net = NeuralNetClassifier(module, max_epochs=1)
    with pytest.raises((RuntimeError, IndexError)) as caught:
        net.fit(rows, Y)
    assert re.search(note, caught.value.__notes__[0])
    with pytest.raises(ValueError, match=rf"^All the 4 fits failed: .* The module was given .*{note}"):
        search(net).fit(rows, Y)


class OfOtherNames(nn.Linear):
    def __init__(self, n_in, n_out):
        super().__init__(n_in, n_out)


@pytest.mark.parametrize(
    "train",
    [lambda net: net.fit, search, lambda net: partial(lr_range_test, net)],
    ids=["a net", "a search", "a range test"],
)
def test_an_argument_of_the_module_that_is_missing_is_named(train):
    net = NeuralNetClassifier(OfOtherNames, module__n_in=4)
    with pytest.raises(TypeError, match=r"^module__n_out must be given, since OfOtherNames has no default for it"):
        (train(net).fit if train is search else train(net))(X, Y)
    train(net.set_params(module__n_out=2))


@pytest.mark.parametrize("train", [lambda net: net.fit, lambda net: search(net).fit], ids=["a net", "a search"])
def test_sequences_of_different_lengths_in_a_list_are_answered_with_what_pads_them(train):
    sequences = [torch.ones(3 + i % 2, 4) for i in range(40)]
    with pytest.raises(ValueError, match=r"^X as a list must be .* got \[3, 4\]\. Pad sequences .* a collate_fn"):
        train(classifier())(sequences, Y)


def test_a_dict_of_lists_is_answered_with_arrays():
    with pytest.raises(TypeError, match=r"^X must be a dict of arrays or tensors, got 'a list for X'\. Convert it"):
        classifier(MLP(4, 2)).fit({"X": X.tolist()}, Y)


@pytest.mark.parametrize("train", [lambda module: search(module).fit, lambda module: partial(lr_range_test, module)])
def test_a_module_in_place_of_a_net_is_answered_with_the_net(train):
    with pytest.raises(TypeError, match=r"must be an object with a fit method, got 'the module MLP'\. Write Neural"):
        train(MLP(4, 2))(X, Y)


def test_a_net_by_itself_takes_no_dataloader():
    loader = DataLoader(TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)))
    net = classifier().fit(X, Y)
    for method in (net.fit, net.partial_fit, net.predict, net.predict_proba):
        with pytest.raises(TypeError, match=r"^X must be rows or a Dataset .* got 'a DataLoader'\. Pass its dataset"):
            method(loader)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("validation_data", "validation"), ("eval_data", "eval_dataset"), ("group", "groups"), ("val", "")],
)
def test_a_misspelt_argument_of_a_searchs_fit_is_refused_with_those_that_it_takes(name, meant):
    suggestion = f" Did you mean '{meant}'" if meant else ""
    with pytest.raises(ValueError, match=rf"^an argument of fit must be .*'validation'.*got '{name}'\.{suggestion}"):
        search(classifier()).fit(X, Y, **{name: (X, Y)})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "sample_weight",
            r"one of standardscaler__\.\.\., neural.*Did you mean 'neuralnetclassifier__sample_weight'\?",
        ),
        ("net__sample_weight", r"or of a pipeline standardscaler__\.\.\., neuralnetclassifier__\.\.\., got 'net__sam"),
    ],
)
def test_an_argument_of_a_pipelines_fit_that_names_no_step_is_refused(name, message):
    pipeline = make_pipeline(StandardScaler(), classifier())
    with pytest.raises(ValueError, match=message) as caught:
        search(pipeline, {"neuralnetclassifier__lr": [0.1]}).fit(X, Y, **{name: np.ones(40)})
    assert "fits failed" not in str(caught.value)


def test_what_forward_takes_is_no_mistake_and_neither_is_what_a_subclass_does():
    class Scaled(MLP):
        def forward(self, X, scale=None):
            return super().forward(X) * (1.0 if scale is None else scale[:, None])

    class Own(NeuralNetClassifier):
        def infer(self, x, bonus=0.0, **fit_params):
            return super().infer(x, **fit_params) + bonus

    assert classifier(Scaled, batch_size=-1).fit(X, Y, scale=torch.ones(40)).initialized_
    assert Own(MLP, max_epochs=1).fit(X, Y, bonus=1.0).initialized_
    assert search(Own(MLP, max_epochs=1)).fit(X, Y, bonus=1.0).best_lr_


class Named(MLP):
    def forward(self, X):
        return {"logits": super().forward(X)}


def log_probabilities():
    return nn.Sequential(nn.Linear(4, 2), nn.LogSoftmax(1))


CLASSES = np.eye(2)[Y]
UNFIT = {  # module, y, parameters: what the loss would broadcast, or say in words of its own
    "more outputs than targets": (NeuralNetRegressor, nn.Linear(4, 3), X[:, 0], {}, r"of shape \(1,\) .* got \(3,\)"),
    "fewer outputs": (NeuralNetRegressor, nn.Linear(4, 1), X[:, :2], {}, r"of shape \(2,\) .* got \(1,\)"),
    "a regression's loss": (NeuralNetClassifier, nn.Linear(4, 2), Y, {"criterion": "mse"}, r"of shape \(1,\)"),
    "a dict": (NeuralNetClassifier, Named(4, 2), Y, {}, "output must be a tensor for criterion CrossEntropyLoss, got"),
    "logarithms": (NeuralNetClassifier, log_probabilities(), Y, {"criterion": "nll"}, "must be probabilities for"),
    "fewer outputs than classes": (NeuralNetClassifier, MLP(4, 2), 3 * Y + (X[:, 1] > 0), {}, "at least 4, one per cl"),
    "one-hot integers": (NeuralNetClassifier, MLP(4, 2), CLASSES.astype(int), {}, r"y.argmax\(axis=1\)"),
}


@pytest.mark.parametrize(("kind", "module", "y", "params", "message"), UNFIT.values(), ids=UNFIT)
def test_outputs_and_targets_that_do_not_fit_the_loss_are_refused(kind, module, y, params, message):
    net = kind(module, max_epochs=2, batch_size=16, **params)
    with pytest.raises((ValueError, TypeError), match=message):
        net.fit(X, y)
    for train in (search(net, scoring="r2" if y.ndim > 1 else None).fit, partial(lr_range_test, net)):
        with pytest.raises((ValueError, TypeError), match=message) as caught:
            train(X, y)
        assert "fits failed" not in str(caught.value)  # it is found before the training


@pytest.mark.parametrize("first", [0, 39], ids=["first batch", "last batch"])
@pytest.mark.parametrize("criterion", ["cross_entropy", "nll"])
def test_a_target_in_a_dataset_that_no_output_is_for_is_said_in_own_words(first, criterion):
    targets = np.roll(np.where(np.arange(40) == 0, 2, Y), first)
    dataset = TensorDataset(torch.from_numpy(X), torch.from_numpy(targets))
    module = nn.Sequential(nn.Linear(4, 2), nn.Softmax(1)) if criterion == "nll" else MLP(4, 2)
    net = NeuralNetClassifier(module, criterion=criterion, max_epochs=2, batch_size=8)
    message = (
        r"the targets must be from 0 to 1, since the module has 2 outputs, got 2\. Number the classes from 0, or set"
    )
    for train in (net.fit, partial(search(net, cv=None).fit, validation=dataset), partial(lr_range_test, net)):
        with pytest.raises(ValueError, match=message):
            train(dataset)


def test_the_index_that_the_loss_ignores_is_no_mistake():
    targets = np.where(np.arange(40) == 0, -100, Y)
    classifier(MLP(4, 2)).fit(TensorDataset(torch.from_numpy(X), torch.from_numpy(targets)))


class Probabilities(MLP):
    def forward(self, X):
        return super().forward(X).softmax(1)


@pytest.mark.parametrize(
    "module", [Probabilities, lambda n_outputs, **_: nn.Sequential(nn.Linear(4, 2), nn.Softmax(1))]
)
@pytest.mark.parametrize("engine", ["stacked", "sequential"])
def test_a_softmax_before_cross_entropy_is_said_once(module, engine):
    net = NeuralNetClassifier(module, max_epochs=2, batch_size=16, random_state=0)
    with pytest.warns(SettingsWarning, match="Leave the softmax out of the module, or pass criterion=") as caught:
        net.fit(X, Y).fit(X, Y)
    assert [w.category for w in caught] == [SettingsWarning] * 2  # one each
    with pytest.warns(SettingsWarning, match="probabilities, as of a softmax") as caught:
        LRGridSearchCV(net, lrs=[0.1, 0.2], cv=2, engine=engine, refit=False).fit(X, Y)
    assert [w.category for w in caught] == [SettingsWarning]
    net.set_params(criterion="nll").fit(X, Y)


class Sigmoid(MLP):
    def forward(self, X):
        return super().forward(X).sigmoid().squeeze(1)


@pytest.mark.parametrize("engine", ["stacked", "sequential"])
def test_a_sigmoid_before_a_loss_of_logits_is_said_once(engine):
    net = NeuralNetBinaryClassifier(Sigmoid, module__hidden=(3,), max_epochs=2, batch_size=16, random_state=0)
    with pytest.warns(
        SettingsWarning, match="^The module's outputs are those of a sigmoid.* criterion=torch.nn.BCELoss"
    ):
        net.fit(X, Y)
    with pytest.warns(SettingsWarning, match="Leave the sigmoid out") as caught:
        search(net, engine=engine, refit=False).fit(X, Y)
    assert [w.category for w in caught] == [SettingsWarning]
    net.set_params(criterion="bce").fit(X, Y)
    bounded = nn.Sequential(nn.Linear(4, 1), nn.Sigmoid(), nn.Linear(1, 1))  # logits, perhaps all between 0 and 1
    search(NeuralNetBinaryClassifier(bounded, max_epochs=1, random_state=0)).fit(X, Y)


@pytest.mark.parametrize("engine", ["stacked", "sequential"])
@pytest.mark.parametrize("kind", ["a pipeline", "a Dataset"])
def test_in_a_pipeline_and_of_a_dataset_a_softmax_is_said_by_the_refit(kind, engine):
    net = NeuralNetClassifier(Probabilities, module__hidden=(3,), max_epochs=1, random_state=0)
    in_pipeline = kind == "a pipeline"
    estimator = make_pipeline(StandardScaler(), net) if in_pipeline else net
    data = (X, Y) if in_pipeline else (TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)),)
    with pytest.warns(SettingsWarning, match="as of a softmax") as caught:
        LRGridSearchCV(estimator, lrs=[0.1, 0.3], cv=2, engine=engine, random_state=0).fit(*data)
    assert [w.category for w in caught] == [SettingsWarning]


class OfProbabilities(nn.CrossEntropyLoss):
    def forward(self, proba, y):
        return nn.functional.nll_loss(torch.log(proba + 1e-6), y)


class NotNumbers(MLP):
    def forward(self, X):
        return super().forward(X) * torch.nan


@pytest.mark.parametrize(("module", "criterion"), [(Probabilities, OfProbabilities), (NotNumbers, "crossentropyloss")])
def test_no_second_softmax_is_said_of_other_losses_and_of_nan(module, criterion):
    net = NeuralNetClassifier(module, criterion=criterion, max_epochs=1, random_state=0)
    net.fit(X, Y)  # a warning would be an error
    if module is Probabilities:
        search(net).fit(X, Y)


@pytest.mark.parametrize("y", [CLASSES, CLASSES.astype(int)], ids=["floats", "integers"])
def test_one_hot_rows_have_no_accuracy_but_a_loss_of_ones_own(y):
    TRAINED.clear()
    with pytest.raises(
        ValueError, match=r"y must be of shape \(n_samples,\) for the accuracy, got \(40, 2\). Of one-hot"
    ):
        search(classifier(Counted)).fit(X, y)
    assert not TRAINED
    if y.dtype.kind == "f":
        found = search(classifier(), scoring=lambda net, X, y: -net.get_loss(net.forward(X), y).item()).fit(X, y)
        assert np.isfinite(found.best_score_)


def test_a_function_that_makes_no_module_is_refused():
    with pytest.raises(TypeError, match=r"what module= makes must be a torch.nn.Module, got 'list'"):
        search(NeuralNetClassifier(lambda: [nn.Linear(4, 2)])).fit(X, Y)


def test_targets_of_three_axes_have_no_r2():
    with pytest.raises(ValueError, match=r"y must be of shape .* for R2, got \(40, 1, 1\)"):
        search(NeuralNetRegressor(MLP)).fit(X, X[:, :1, None])


def test_nan_in_any_row_fails_before_a_search():
    bad = X.copy()
    bad[-1, 2] = np.nan
    with pytest.raises(ValueError, match=r"^Input X contains NaN"):
        search(classifier()).fit(bad, Y)


def test_a_device_that_is_not_there_is_said_for_skorchs_nets_too():
    with pytest.raises(ValueError, match="device must be one that PyTorch can use here, got 'cupid'"):
        search(skorchs(MLP(4, 2), device="cupid")).fit(X, Y)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.FitFailedWarning", "ignore:One or more of the test scores")
@pytest.mark.filterwarnings("ignore:the searched values")
def test_what_only_some_candidates_get_wrong_is_theirs():
    found = search(classifier(), {"schedule": ["cosin", "cosine"]}).fit(X, Y)
    assert np.isfinite(found.cv_results_["mean_test_score"]).tolist() == [False, True]
    assert search(classifier(schedule="cosin"), {"schedule": ["cosine"]}).fit(X, Y).best_score_ > 0


STEP = functools.partial(LRScheduler, "StepLR", step_size=1)
CLASHES = [
    ({"schedule": "cosine", "callbacks": [STEP()]}, "both set the learning rate"),
    ({"warmup_epochs": 1, "callbacks": [("mine", STEP())]}, "both set the learning rate"),
    (
        {"optimizer__param_groups": [("layer.*", {"lr": 1.0})]},
        "'layer.*' .* matches no parameter. The parameters are layers.0",
    ),
    (
        {"optimizer__param_groups": [("layers.*", {"lr_multiplier": 1}), ("*.bias", {"lr_multiplier": 2})]},
        "'..bias' .* matches no parameter that no earlier pattern matches",
    ),
]


@pytest.mark.parametrize(("params", "message"), CLASHES, ids=lambda value: label(value)[:30])
def test_settings_that_clash_are_said_once_at_the_users_line(params, message):
    pipeline = make_pipeline(StandardScaler(), classifier(**params))
    for train in (
        lambda: classifier(**params).fit(X, Y),
        lambda: classifier(**params).partial_fit(X, Y),
        lambda: search(classifier(**params)).fit(X, Y),
        lambda: search(pipeline, {"neuralnetclassifier__lr": [0.1]}).fit(X, Y),
    ):
        with pytest.warns(SettingsWarning, match=message) as caught:
            train()
        assert [warning.filename for warning in caught] == [__file__]


class Fixed(Constant):
    """A learning rate of its own, whatever the peak."""

    def at(self, clock):
        return 0.05 / clock.lr


OWN = [("layers.*", {"lr": 0.1, "weight_decay": 0.1})]
CYCLE = TorchSchedule(CyclicLR, by="step", base_lr=0.01, max_lr=0.1, step_size_up=4)
ONE = LRScheduler(OneCycleLR, max_lr=0.1, total_steps=100, step_every="batch")


class Deaf(torch.optim.SGD):
    def __init__(self, params, lr, weight_decay=0):
        super().__init__(params, lr=0.1, weight_decay=0.01)


def hears_all_but_the_lr(params, lr, **options):
    return torch.optim.SGD(params, lr=0.1, **options)


def hears_the_lr_alone(params, lr, **options):
    return torch.optim.SGD(params, lr=lr, momentum=0.5)


class Attentive(torch.optim.SGD):
    """Keeps its weight decay to itself."""

    def __init__(self, params, lr, weight_decay=0):
        super().__init__(params, lr=lr)
        self.decay = weight_decay

    def step(self, closure=None):
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.mul_(1 - self.decay)
        return super().step(closure)


OVERRIDDEN = [
    ("lr", {"optimizer": Deaf}, "optimizer=Deaf makes the same optimizer whatever lr it is given"),
    ("optimizer__weight_decay", {"optimizer": Deaf}, "whatever weight_decay it is given"),
    ("lr", {"optimizer": hears_all_but_the_lr}, "optimizer=hears_all_but_the_lr makes the same"),
    ("optimizer__weight_decay", {"optimizer": hears_the_lr_alone}, "whatever weight_decay it is given"),
    ("optimizer__momentum", {"optimizer": hears_the_lr_alone}, "whatever momentum it is given"),
    (
        "lr",
        {"schedule": TorchSchedule(OneCycleLR, by="step", max_lr=0.3, total_steps=16)},
        "sets absolute learning rates",
    ),
    ("lr", {"schedule": CYCLE}, "sets absolute learning rates"),
    ("lr", {"schedule": Fixed()}, "sets absolute learning rates"),
    ("optimizer__lr", {"schedule": Join([Fixed(), CYCLE], [1])}, "sets absolute learning rates"),
    ("lr", {"callbacks": [ONE]}, "sets absolute learning rates"),
    ("lr", {"optimizer__lr": 0.2}, "optimizer__lr=0.2 takes its place"),
    ("lr", {"optimizer__param_groups": OWN}, "every parameter group has its own lr"),
    ("optimizer__weight_decay", {"optimizer__param_groups": OWN}, "has its own weight_decay"),
    ("batch_size", {"iterator_train__batch_size": 8}, "iterator_train__batch_size=8 takes its place"),
    ("warmup_epochs", {"callbacks": "disable"}, "switches it off"),
    ("schedule_epochs", {"schedule": functools.partial(StepLR, step_size=1)}, "does not depend on"),
]
VALUES = {"warmup_epochs": [0, 1], "schedule_epochs": [3, 4], "batch_size": [8, 16]}


@pytest.mark.one_fast
@pytest.mark.parametrize(("name", "params", "reason"), OVERRIDDEN, ids=lambda value: label(value)[:30])
def test_a_parameter_that_is_searched_without_effect_is_said_before_and_in_the_summary(name, params, reason):
    candidates = {name: VALUES.get(name, [0.01, 0.3])}
    with pytest.warns(SettingsWarning, match=f"^{name} is searched without effect: .*{reason}") as caught:
        found = search(classifier(**params), candidates, refit=False, scoring="neg_log_loss").fit(X, Y)
    assert [w.filename for w in caught if w.category is SettingsWarning] == [__file__]
    scores = found.cv_results_["mean_test_score"]
    np.testing.assert_allclose(scores, scores[0], rtol=1e-6)  # it is true
    assert f"Note: {name} is searched without effect" in found.summary()
    assert found.without_effect_ == [str(w.message) for w in caught if w.category is SettingsWarning]


EFFECTIVE = [
    ("lr", {"optimizer": hears_the_lr_alone}),
    ("lr", {"optimizer": hears_the_lr_alone, "lr": 0.002}),
    ("lr", {"optimizer": hears_the_lr_alone, "lr": 0.0}),
    ("lr", {"optimizer": functools.partial(torch.optim.SGD, momentum=0.9)}),
    ("optimizer__weight_decay", {"optimizer": hears_all_but_the_lr}),
    ("optimizer__weight_decay", {"optimizer": Attentive}),
    ("lr", {"schedule": "onecycle"}),
    ("lr", {"schedule": functools.partial(CosineAnnealingLR, T_max=2, eta_min=0.01)}),
    ("lr", {"schedule": CYCLE, "warmup_epochs": 1}),
    ("lr", {"schedule": Join([Fixed(), Constant()], [1])}),
    ("lr", {"optimizer__param_groups": [("layers.0.*", {"lr": 0.1})]}),
    ("lr", {"optimizer__param_groups": [("layers.*", {"lr_multiplier": 0.1})]}),
    ("lr", {"callbacks": [STEP()]}),
    ("optimizer__weight_decay", {"optimizer__param_groups": [("*.bias", {"weight_decay": 0.0})]}),
    ("schedule_epochs", {"schedule": "linear"}),
]


@pytest.mark.one_fast
@pytest.mark.parametrize(("name", "params"), EFFECTIVE, ids=lambda value: label(value)[:30])
def test_one_that_has_an_effect_is_not(name, params):
    candidates = {name: VALUES.get(name, [0.01, 0.3])}
    found = search(classifier(**params), candidates, refit=False, scoring="neg_log_loss").fit(X, Y)
    assert len(set(found.cv_results_["mean_test_score"])) == 2
    assert found.without_effect_ == []


def test_a_cause_that_is_searched_too_counts_candidate_by_candidate():
    both = {"lr": [0.01, 0.3], "schedule": [CYCLE, None]}
    assert search(classifier(), both).fit(X, Y).without_effect_ == []
    with pytest.warns(SettingsWarning, match="lr is searched without effect"):
        search(classifier(), {**both, "schedule": [CYCLE, Fixed()]}).fit(X, Y)


class TestOutputs:
    """Predictions have the shape of the targets, in a precision that NumPy knows."""

    @pytest.mark.parametrize("n_labels", [1, 2, 3, 5])
    @pytest.mark.parametrize("criterion", [nn.BCEWithLogitsLoss, nn.BCELoss, "bce_with_logits"])
    @pytest.mark.parametrize("kind", [NeuralNetClassifier, NeuralNetRegressor])
    def test_of_a_binary_cross_entropy(self, kind, criterion, n_labels):
        module = nn.Linear(4, n_labels)
        module = nn.Sequential(module, nn.Sigmoid()) if criterion is nn.BCELoss else module
        targets = RNG.integers(0, 2, (40, n_labels)).astype("float32")
        targets = targets[:, 0] if n_labels == 1 else targets
        net = kind(module, criterion=criterion, max_epochs=2, lr=0.5).fit(X, targets)
        with torch.no_grad():
            outputs = net.module_(torch.from_numpy(X))
        expected = (outputs if criterion is nn.BCELoss else outputs.sigmoid()).numpy()
        for one in (net, clone(net).fit(X, targets)):
            predicted = one.predict(X)
            assert predicted.shape == targets.shape
            if kind is NeuralNetRegressor:
                np.testing.assert_allclose(predicted, expected.reshape(targets.shape), rtol=1e-6)
                continue
            np.testing.assert_array_equal(predicted, (expected > 0.5).reshape(targets.shape))
            assert set(np.unique(predicted)) <= {0, 1}
            both = np.hstack([1 - expected, expected]) if n_labels == 1 else expected
            np.testing.assert_allclose(one.predict_proba(X), both, rtol=1e-6)
            one.trim_for_prediction()
            np.testing.assert_array_equal(one.predict(X), predicted)

    def test_the_named_case(self):
        targets = (RNG.random((40, 5)) > 0.5).astype("float32")
        params = {"module__hidden": (4,), "criterion": nn.BCEWithLogitsLoss, "max_epochs": 2}
        assert NeuralNetRegressor(MLP, **params).fit(X, targets).predict(X).shape == (40, 5)
        net = NeuralNetClassifier(MLP, **params).fit(X, targets)
        assert (net.predict(X).shape, net.predict_proba(X).shape) == ((40, 5), (40, 5))

    def test_several_labels_are_searched_alike_by_both_engines(self):
        targets = (RNG.random((40, 2)) > 0.5).astype("int64")
        net = classifier(criterion=nn.BCEWithLogitsLoss)
        scores = [
            search(net, engine=engine, scoring="accuracy").fit(X, targets).cv_results_["mean_test_score"]
            for engine in ("stacked", "sequential")
        ]
        np.testing.assert_array_equal(*scores)

    @pytest.mark.one_fast
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
    @pytest.mark.parametrize("kind", [NeuralNetClassifier, NeuralNetBinaryClassifier, NeuralNetRegressor])
    def test_of_any_precision(self, kind, dtype):
        n_outputs = 2 if kind is NeuralNetClassifier else 1
        net = kind(lambda: nn.Linear(4, n_outputs).to(dtype), max_epochs=1)
        targets = Y.astype("float32") if kind is NeuralNetRegressor else Y
        net.fit(X, targets)
        assert net.predict(X).shape == (40,)
        expected = np.float64 if dtype is torch.float64 else np.float32
        if kind is not NeuralNetRegressor:
            assert net.predict_proba(X).dtype == expected
        if kind is NeuralNetBinaryClassifier:
            assert np.isfinite(net.decision_function(X)).all()
        for scoring in (None, "neg_log_loss") if kind is not NeuralNetRegressor else ("r2",):
            scores = [
                search(net, engine=engine, refit=False, scoring=scoring).fit(X, targets).cv_results_["mean_test_score"]
                for engine in ("auto", "sequential")
            ]
            assert np.isfinite(scores).all()
            np.testing.assert_allclose(*scores, rtol=2e-2 if dtype.itemsize == 2 else 1e-4)
