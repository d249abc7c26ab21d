"""The nets: what they take and refuse, what repeats, what a training is made of, and scikit-learn's ways with them."""

import inspect
import pickle
import warnings
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import skorch
import torch
from scipy import sparse
from sklearn import config_context
from sklearn.base import clone
from sklearn.callback import ScoringMonitor
from sklearn.datasets import make_blobs
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.linear_model import LinearRegression
from sklearn.metrics import get_scorer
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback, EarlyStopping, EpochScoring
from skorch.dataset import Dataset, ValidSplit
from skorch.exceptions import DeviceWarning
from skorch.helper import SliceDataset, SliceDict, predefined_split
from torch import nn

from sklr._utils.random import RandomStream
from sklr.modules import MLP
from sklr.nets import NeuralNetBinaryClassifier, NeuralNetClassifier, NeuralNetRegressor, raised_by_callback
from sklr.nets import _parts as parts_module

NETS = (NeuralNetClassifier, NeuralNetBinaryClassifier, NeuralNetRegressor)


@pytest.fixture(scope="module")
def blobs():
    X, y = make_blobs(60, centers=3, n_features=4, random_state=0, cluster_std=0.5)
    return StandardScaler().fit_transform(X), y


def classifier(module=MLP, net=NeuralNetClassifier, **params):
    return net(
        module, **{"optimizer": "adam", "lr": 0.05, "max_epochs": 10, "batch_size": 16, "random_state": 0} | params
    )


def weights(net):
    return torch.cat([p.detach().flatten() for p in net.module_.parameters()])


class Images(nn.Module):
    """A convolution over images, which names what it wants to be told."""

    def __init__(self, n_outputs):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, n_outputs))

    def forward(self, X):
        return self.layers(X)


class Words(nn.Module):
    """An embedding, which takes nothing but integers."""

    def __init__(self, n_inputs, n_outputs):
        super().__init__()
        self.embed, self.out = nn.Embedding(10, 3), nn.Linear(3 * n_inputs, n_outputs)

    def forward(self, X):
        return self.out(self.embed(X).flatten(1))


class Named(MLP):
    """An MLP whose input has a name."""

    def forward(self, rows):
        return super().forward(rows)


class TestLabels:
    LABELS = (
        np.array(["red", "green", "blue"]),
        np.array(["red", "green", "blue"], dtype=object),
        np.array([-7, 0, 12]),
        np.array([1, 2, 3], dtype=np.int8),
        np.array([0.0, 1.0, 5.0]),
    )

    @pytest.mark.parametrize("names", LABELS, ids=lambda names: f"{names.dtype}{names.tolist()}")
    def test_any_three_labels_come_back(self, blobs, names):
        X, numbers = blobs
        net = classifier().fit(X, names[numbers])
        np.testing.assert_array_equal(net.classes_, np.unique(names))
        assert net.score(X, names[numbers]) > 0.9
        assert net.predict(X).dtype == net.classes_.dtype

    @pytest.mark.parametrize("wrap", [list, pd.Series, torch.as_tensor, lambda y: y.astype(np.int32), lambda y: y > 0])
    def test_in_any_container(self, blobs, wrap):
        X, y = blobs
        net = classifier().fit(X, wrap(y))
        assert net.score(X, np.asarray(wrap(y))) > 0.9

    @pytest.mark.parametrize("pair", [["no", "yes"], [1, 2], [-1, 1], [False, True]])
    def test_two_of_them_make_a_binary_problem(self, blobs, pair):
        X, y = blobs
        labels = np.array(pair)[(y == 0).astype(int)]
        net = classifier(net=NeuralNetBinaryClassifier, max_epochs=20).fit(X, labels)
        assert net.score(X, labels) > 0.9
        assert net.predict_proba(X).shape == (60, 2)
        np.testing.assert_array_equal(net.decision_function(X) > 0, net.predict(X) == pair[1])

    def test_a_threshold_moves_the_decision_function_along(self, blobs):
        X, y = blobs
        net = classifier(net=NeuralNetBinaryClassifier, threshold=0.9, max_epochs=2).fit(X, y == 0)
        np.testing.assert_array_equal(net.decision_function(X) > 0, net.predict(X))
        bce = classifier(
            lambda n_inputs, n_outputs: nn.Sequential(nn.Linear(n_inputs, n_outputs), nn.Sigmoid()),
            net=NeuralNetBinaryClassifier,
            criterion="bce",
            threshold=0.2,
        ).fit(X, y == 0)
        np.testing.assert_array_equal(bce.decision_function(X) > 0, bce.predict(X))

    def test_scores_taken_while_training_are_of_the_labels(self, blobs):
        X, y = blobs
        labels = np.array(["red", "green", "blue"])[y]
        scoring = [
            EpochScoring("f1_macro", on_train=True, name="cached"),
            EpochScoring("accuracy", on_train=True, name="again", use_caching=False),
            EpochScoring("roc_auc_ovr", name="auc"),
        ]
        net = classifier(train_split=ValidSplit(3, stratified=True), callbacks=scoring).fit(X, labels)
        last = net.history_[-1]
        assert min(last["valid_acc"], last["cached"], last["again"], last["auc"]) > 0.9, last

    def test_a_frame_with_column_names_can_be_scored_on_while_training(self, blobs):
        X, y = blobs
        scoring = EpochScoring("accuracy", on_train=True, use_caching=False, name="again")
        net = classifier(callbacks=[scoring]).fit(pd.DataFrame(X, columns=list("abcd")), y)
        assert net.history_[-1]["again"] > 0.9

    def test_partial_fit_may_name_labels_to_come(self, blobs):
        X, y = blobs
        net = classifier().partial_fit(X[y < 2], y[y < 2], classes=[0, 1, 2])
        net.partial_fit(X[y == 2], y[y == 2])
        assert net.predict_proba(X).shape == (60, 3)
        with pytest.raises(ValueError, match=r"y must be of the known classes \[0, 1, 2\], got \[3\]. Pass all labels"):
            net.partial_fit(X, y + 1)

    def test_given_classes_count_though_y_lacks_one(self, blobs):
        X, y = blobs
        net = classifier(classes=[0, 1, 2, 3]).fit(X, y)
        assert net.predict_proba(X).shape == (60, 4)
        assert net.score(X, y) > 0.9

    def test_classes_may_name_the_integers_of_y_as_in_skorch(self, blobs):
        X, y = blobs
        net = classifier(classes=["a", "b", "c"]).fit(X, y)
        assert list(net.classes_) == ["a", "b", "c"]
        assert net.score(X, y) > 0.9

    def test_a_module_with_more_outputs_than_labels_seen(self, blobs):
        X, y = blobs
        net = classifier(module__n_outputs=10).fit(X, np.array([2, 5, 7])[y])
        proba = net.predict_proba(X)
        assert proba.shape == (60, 3)
        np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-6)
        assert net.score(X, np.array([2, 5, 7])[y]) > 0.9

    def test_a_module_with_fewer_is_refused(self, blobs):
        with pytest.raises(ValueError, match="the module's number of outputs must be at least 3, one per class, got 2"):
            classifier(module__n_outputs=2).fit(*blobs)

    def test_several_labels_a_row_go_to_the_criterion(self, blobs):
        X, y = blobs
        Y = np.eye(3)[y]
        net = classifier(criterion="bce_with_logits", max_epochs=20).fit(X, Y.astype(int))
        assert ((net.forward(X).numpy() > 0) == Y).mean() > 0.9
        soft = classifier().fit(X, Y)  # probabilities of classes, as the cross entropy takes them
        assert (soft.predict(X) == y).mean() > 0.9

    def test_log_probabilities(self, blobs):
        net = classifier().fit(*blobs)
        np.testing.assert_allclose(np.exp(net.predict_log_proba(blobs[0])), net.predict_proba(blobs[0]), rtol=1e-5)


class TestData:
    def test_every_kind_of_table_gives_the_same(self, blobs):
        X, y = blobs
        X = X.astype(np.float32)
        readonly = X.copy()
        readonly.setflags(write=False)
        kinds = {
            "float64": X.astype(np.float64),
            "readonly": readonly,
            "fortran": np.asfortranarray(X),
            "reversed twice": X[::-1].copy()[::-1],
            "list": X.tolist(),
            "frame": pd.DataFrame(X),
            "csr matrix": sparse.csr_matrix(X),
            "csc array": sparse.csc_array(X),
            "tensor": torch.from_numpy(X),
            "float64 tensor": torch.from_numpy(X).double(),
        }
        expected = weights(classifier().fit(X, y))
        for name, kind in kinds.items():
            net = classifier().fit(kind, y)
            assert torch.equal(weights(net), expected), name
            assert net.predict_proba(kind).shape == (60, 3), name

    def test_a_module_in_float64_is_served_in_float64(self, blobs):
        X, y = blobs
        seen = []
        net = classifier(module__dtype=torch.float64, callbacks=[SeesBatches(seen)]).fit(X, y)
        assert {x.dtype for x in seen} == {torch.float64}
        assert net.predict_proba(X).dtype == np.float64

    @pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.uint16, np.int32, bool])
    def test_integers_are_numbers_to_an_mlp(self, dtype):
        X = (np.arange(40).reshape(20, 2) % 7).astype(dtype)
        y = (X[:, 0] > X[:, 0].mean()).astype(int)
        assert classifier(max_epochs=30).fit(X, y).score(X, y) > 0.8

    @pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint16])
    def test_integers_stay_integers_for_an_embedding(self, dtype):
        X = np.arange(40).reshape(20, 2) % 10
        y = (X[:, 0] == 4).astype(int)
        assert classifier(Words, max_epochs=30).fit(X.astype(dtype), y).score(X.astype(dtype), y) > 0.9

    @pytest.mark.parametrize("kind", [np.float32, np.float64, torch.tensor])
    def test_images_pass(self, kind):
        X = np.random.default_rng(0).normal(size=(20, 1, 4, 4))
        y = np.where(X.mean(axis=(1, 2, 3)) > 0, "light", "dark")
        X = kind(X)
        assert classifier(Images, max_epochs=40).fit(X, y).score(X, y) > 0.9

    def test_dicts_and_slice_dicts_pass(self, blobs):
        X, y = blobs
        for kind in ({"rows": X}, SliceDict(rows=X)):
            net = classifier(Named, module__n_inputs=4).fit(kind, y)
            assert net.score(kind, y) > 0.9

    def test_datasets_pass_and_tell_their_width(self, blobs):
        X, y = blobs
        ours = Dataset(X.astype(np.float32), y)
        assert classifier().fit(ours).score(ours, y) > 0.9
        tensors = torch.utils.data.TensorDataset(torch.from_numpy(X).float(), torch.from_numpy(y))
        assert classifier().fit(tensors, y).score(tensors, y) > 0.9
        values = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(X[:, :2]))
        assert NeuralNetRegressor(MLP).fit(values).predict(X).shape == (60, 2)

    def test_slice_datasets_pass_through_a_search(self, blobs):
        X, y = blobs
        ds = Dataset(X.astype(np.float32), y)
        net = classifier(module__n_inputs=4)
        search = GridSearchCV(net, {"lr": [0.05]}, cv=3).fit(SliceDataset(ds), np.asarray(SliceDataset(ds, idx=1)))
        assert search.best_score_ > 0.9

    def test_what_was_learnt_of_a_table_is_forgotten_with_the_next(self, blobs):
        X, y = blobs
        net = classifier().fit(pd.DataFrame(X, columns=list("abcd")), y)
        assert list(net.feature_names_in_) == list("abcd")
        net.fit(torch.from_numpy(X), y)
        assert not hasattr(net, "feature_names_in_")
        assert not hasattr(net, "n_features_in_")

    @pytest.mark.parametrize("net", NETS)
    @pytest.mark.parametrize(
        ("X", "y", "message"),
        [
            ([[np.nan], [1.0]], [0, 1], "Input X contains NaN"),
            ([[np.inf], [1.0]], [0, 1], "Input X contains infinity"),
            (torch.tensor([[0, 1], [0, np.nan]]), [0, 1], "Input X contains NaN: the first is in row 1, column 1"),
            (torch.tensor([0, -np.inf]), [0, 1], "Input X contains infinity: the first is in row 1[.]"),
            (np.ones((0, 3)), [], r"Found array with 0 sample\(s\)"),
            ([1.0, 2.0], [0, 1], "Expected 2D array, got 1D array instead"),
            ([["a"], ["b"]], [0, 1], "could not convert string to float|dtype='numeric' is not compatible"),
            ([[1j], [2j]], [0, 1], "Complex data not supported"),
            ([[1.0], [2.0]], [0, 1, 1], "inconsistent numbers of samples"),
            ([[1.0], [2.0]], [0, np.nan], "Input y contains NaN"),
            ([[1.0], [2.0]], None, "requires y to be passed, but the target y is None"),
        ],
    )
    def test_bad_data_is_refused_in_scikit_learns_words(self, net, X, y, message):
        with pytest.raises(ValueError, match=message):
            net(MLP).fit(X, y)

    @pytest.mark.parametrize("net", NETS[:2])
    @pytest.mark.parametrize(
        ("y", "message"),
        [
            ([1, 1], "at least two classes in the data, but the data contains only one class: 1."),
            ([0.5, 1.5], "Unknown label type: continuous"),
        ],
    )
    def test_bad_labels_are_refused(self, net, y, message):
        with pytest.raises(ValueError, match=message):
            net(MLP).fit([[1.0], [2.0]], y)

    @pytest.mark.parametrize("criterion", [nn.BCEWithLogitsLoss, nn.MultiLabelSoftMarginLoss])
    @pytest.mark.parametrize("dtype", [np.int64, np.int8, bool])
    def test_several_labels_a_row_are_as_in_scikit_learn(self, criterion, dtype):
        X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
        y = (X[:, :3] > 0).astype(dtype)
        net = NeuralNetClassifier(MLP, criterion=criterion, lr=0.5, max_epochs=20, random_state=0).fit(X, y)
        assert net.predict(X).dtype == dtype
        assert net.predict_proba(X).shape == y.shape
        np.testing.assert_array_equal(net.classes_, [0, 1, 2])
        for scoring in ("accuracy", "f1_macro", "roc_auc", "average_precision"):
            assert get_scorer(scoring)(net, X, y) > 0.8

    @pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
    def test_classes_of_several_labels_are_those_of_scikit_learn(self):
        X = np.random.default_rng(0).normal(size=(30, 4))
        theirs, ours = MLPClassifier(max_iter=2), NeuralNetClassifier(MLP, criterion=nn.BCEWithLogitsLoss, max_epochs=1)
        np.testing.assert_array_equal(*(net.fit(X, (X[:, :3] > 0).astype(int)).classes_ for net in (ours, theirs)))

    def test_a_binary_net_takes_two_labels_and_one_column(self):
        for wrong, kind in (([0, 1, 2], "multiclass"), (np.eye(3, dtype=int), "multilabel-indicator")):
            with pytest.raises(ValueError, match=f"Only binary classification is supported.*{kind}"):
                NeuralNetBinaryClassifier(MLP).fit(np.ones((3, 1)), wrong)
        with pytest.raises(ValueError, match="Only binary classification is supported"):
            NeuralNetBinaryClassifier(MLP).partial_fit([[1.0], [2.0]], [0, 1], classes=[0, 1, 2])

    @pytest.mark.parametrize("net", NETS)
    def test_wrong_widths_are_refused_at_predict(self, blobs, net):
        X, y = blobs
        fitted = net(MLP).fit(X, y > 0)
        with pytest.raises(ValueError, match=f"X has 3 features, but {net.__name__} is expecting 4 features as input"):
            fitted.predict(X[:, :3])
        with pytest.raises(NotFittedError, match=f"This {net.__name__} instance is not initialized yet"):
            net(MLP).predict(X)

    def test_a_column_of_labels_is_taken_with_a_warning(self, blobs):
        X, y = blobs
        with pytest.warns(DataConversionWarning, match="A column-vector y was passed"):
            net = classifier().fit(X, y[:, None])
        assert net.score(X, y) > 0.9


class SeesBatches(Callback):
    """Write down the X of each training batch, and the net's targets if asked."""

    def __init__(self, seen, part=0):
        self.seen, self.part = seen, part

    def on_batch_begin(self, net, batch=None, training=None, **kwargs):
        """Write down one part of the batch."""
        if training:
            self.seen.append(batch[self.part])

    def __deepcopy__(self, memo):
        return self


class Flat(nn.Module):
    """A linear map to one value, without a second axis."""

    def __init__(self, n_inputs):
        super().__init__()
        self.layer = nn.Linear(n_inputs, 1)

    def forward(self, X):
        return self.layer(X)[:, 0]


class TestRegression:
    @pytest.mark.one_fast
    @pytest.mark.parametrize("module", [Flat, MLP])
    @pytest.mark.parametrize("columns", [None, 1])
    def test_targets_meet_outputs_row_by_row(self, blobs, module, columns):
        # broadcast to (n, n) the best fit would be the mean; row by row it is the least-squares solution
        X = blobs[0]
        y = X @ [1.0, -2.0, 0.5, 0.0] + 3
        y = y if columns is None else y[:, None]
        hidden = {"module__hidden": ()} if module is MLP else {}
        net = NeuralNetRegressor(module, lr=0.2, max_epochs=300, batch_size=-1, random_state=0, **hidden).fit(X, y)
        expected = LinearRegression().fit(X, y).predict(X)
        prediction = net.predict(X) if module is MLP or columns is None else net.predict(X)[:, None]
        assert prediction.shape == y.shape
        np.testing.assert_allclose(prediction, expected, atol=0.05)  # y runs from 0 to 8

    def test_several_targets(self, blobs):
        X = blobs[0]
        net = NeuralNetRegressor(MLP, optimizer="adam", max_epochs=3, random_state=0).fit(X, X[:, :2])
        assert net.predict(X).shape == (60, 2)
        assert net.module_.layers[-1].out_features == 2

    @pytest.mark.parametrize(
        ("given", "returned"), [("float32", "float32"), ("float64", "float64"), ("int64", "float64")]
    )
    def test_predictions_have_the_dtype_of_the_targets(self, blobs, given, returned):
        net = NeuralNetRegressor(MLP, max_epochs=1).fit(blobs[0], blobs[1].astype(given))
        assert net.predict(blobs[0]).dtype == returned

    def test_there_are_no_probabilities(self, blobs):
        net = NeuralNetRegressor(MLP, max_epochs=1).fit(*blobs)
        with pytest.raises(AttributeError, match=r"NeuralNetRegressor has no predict_proba. Use predict, or forward"):
            net.predict_proba(blobs[0])


class TestRandomState:
    PARAMS = {"module__dropout": 0.3, "iterator_train__shuffle": True}  # noqa: RUF012

    @pytest.mark.one_fast
    @pytest.mark.parametrize("net", NETS)
    def test_a_seed_repeats_bit_for_bit_and_leaves_the_global_generators(self, blobs, net):
        X, y = blobs
        first = classifier(net=net, **self.PARAMS).fit(X, y > 0)
        before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
        torch.rand(3)
        torch.random.set_rng_state(before[0])
        again = classifier(net=net, **self.PARAMS).fit(X, y > 0)
        again.predict(X)
        again.set_params(module__hidden=(3,))
        assert torch.equal(torch.random.get_rng_state(), before[0])
        np.testing.assert_array_equal(np.random.get_state()[1], before[1])
        again.set_params(module__hidden=(100,)).fit(X, y > 0)  # and a second fit starts anew
        assert torch.equal(weights(first), weights(again))
        other = classifier(net=net, **self.PARAMS, random_state=1).fit(X, y > 0)
        assert not torch.equal(weights(first), weights(other))

    @pytest.mark.one_fast
    @pytest.mark.parametrize("net", NETS)
    @pytest.mark.parametrize("schedule", [None, "cosine", "onecycle"])
    def test_fit_of_k_epochs_is_k_times_partial_fit_of_one(self, blobs, net, schedule):
        X, y = blobs
        params = self.PARAMS | {"schedule": schedule, "warmup_epochs": 0.5}
        whole = classifier(net=net, max_epochs=4, **params).fit(X, y > 0)
        parts = classifier(net=net, max_epochs=1, schedule_epochs=4, **params)
        for _ in range(4):
            parts = pickle.loads(pickle.dumps(parts.partial_fit(X, y > 0)))
            parts.predict(X)  # draws from no stream
        assert torch.equal(weights(whole), weights(parts))
        assert whole.history_[:, "lr"] == parts.history_[:, "lr"]

    def test_batch_order_and_initial_weights_do_not_hang_on_dropout(self, blobs):
        orders, initial = [], []
        for dropout in (0.0, 0.5):
            params = {"module__hidden": (8,), "module__dropout": dropout, "iterator_train__shuffle": True}
            net = classifier(max_epochs=2, **params)
            net.start_fit(*blobs)
            initial.append(weights(net))
            seen = []
            net.set_params(callbacks=[SeesBatches(seen)]).fit(*blobs)
            orders.append(torch.cat(seen))
        assert torch.equal(*orders)
        assert torch.equal(*initial)
        assert not torch.equal(orders[0][:60], orders[0][60:])  # each epoch has its own order

    def test_the_users_generator_is_kept(self, blobs):
        mine = torch.Generator()
        net = classifier(iterator_train__generator=mine, iterator_train__shuffle=True).fit(*blobs)
        assert net.get_iterator(net.get_dataset(*blobs), training=True).generator is mine

    def test_a_random_state_instance_goes_on_from_fit_to_fit(self, blobs):
        def two_fits():
            net = classifier(random_state=np.random.RandomState(0))
            return weights(net.fit(*blobs)), weights(net.fit(*blobs))

        (a, b), (c, d) = two_fits(), two_fits()
        assert torch.equal(a, c)
        assert torch.equal(b, d)
        assert not torch.equal(a, b)

    def test_a_wrong_one_is_refused(self, blobs):
        with pytest.raises(ValueError, match="'seven' cannot be used to seed"):
            classifier(random_state="seven").fit(*blobs)

    @pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.LBFGS])
    @pytest.mark.parametrize(
        ("dropout", "params"),
        # skorch's validation draws from the global generator and ours does not, so the two are tried apart
        [(0.2, {"train_split": None, "iterator_train__shuffle": True}), (0.0, {"train_split": ValidSplit(4)})],
    )
    def test_without_one_a_training_is_that_of_skorch(self, blobs, optimizer, dropout, params):
        X, y = blobs[0].astype(np.float32), blobs[1]
        nets = []
        for net in (skorch.NeuralNetClassifier, NeuralNetClassifier):
            torch.manual_seed(0)
            module = nn.Sequential(nn.Linear(4, 8), nn.Dropout(dropout), nn.Linear(8, 3), nn.Softmax(dim=-1))
            settings = {"criterion": nn.NLLLoss, "optimizer": optimizer, "verbose": 0, "device": "cpu"} | params
            nets.append(net(module, max_epochs=3, lr=0.1, **settings).fit(X, y))
        assert torch.equal(weights(nets[0]), weights(nets[1]))
        for column in {"train_loss", "valid_loss", "valid_acc"} & set(nets[0].history_[0]):
            assert nets[0].history_[:, column] == nets[1].history_[:, column]
        np.testing.assert_array_equal(nets[0].predict_proba(X), nets[1].predict_proba(X))


class TestSampleWeight:
    @pytest.mark.parametrize(
        ("net", "params"),
        [
            (NeuralNetClassifier, {}),
            (
                NeuralNetClassifier,
                {"criterion__weight": torch.tensor([1.0, 5.0], dtype=torch.float64), "criterion__label_smoothing": 0.1},
            ),
            (NeuralNetClassifier, {"criterion__reduction": "sum", "lr": 0.01}),
            (NeuralNetClassifier, {"criterion": "multi_margin"}),
            (NeuralNetBinaryClassifier, {"criterion__pos_weight": torch.tensor(3.0, dtype=torch.float64)}),
            (NeuralNetRegressor, {}),
            (NeuralNetRegressor, {"criterion": "huber"}),
        ],
    )
    def test_a_weight_counts_as_so_many_copies(self, blobs, net, params):
        X, y = blobs[0], (blobs[1] > 0).astype(float)
        copies = np.random.default_rng(0).integers(0, 4, size=60)
        settings = {"batch_size": -1, "lr": 0.1, "optimizer": "sgd", "module__dtype": torch.float64} | params
        weighted = classifier(net=net, **settings).fit(X, y, sample_weight=copies)
        repeated = classifier(net=net, **settings).fit(X.repeat(copies, axis=0), y.repeat(copies))
        plain = classifier(net=net, **settings).fit(X, y)
        torch.testing.assert_close(weights(weighted), weights(repeated), rtol=1e-9, atol=1e-12)
        assert not torch.allclose(weights(weighted), weights(plain), atol=1e-3)
        assert weighted.history_[-1]["train_loss"] == pytest.approx(repeated.history_[-1]["train_loss"], rel=1e-6)

    def test_it_reaches_the_right_rows_when_shuffled_and_split(self, blobs):
        X, y = blobs
        copies = (y != 2).astype(float)
        split = ValidSplit(3, stratified=True)
        net = classifier(iterator_train__shuffle=True, train_split=split, max_epochs=30).fit(X, y, sample_weight=copies)
        assert set(net.predict(X)) == {0, 1}
        assert net.score(X, y, sample_weight=copies) > 0.9

    def test_rows_held_out_without_weights_all_weigh_the_same(self, blobs):
        X, y = blobs
        split = predefined_split(Dataset(X[:20].astype("float32"), y[:20]))
        given = {"train_split": split, "batch_size": 20, "max_epochs": 1, "random_state": 0}
        net = classifier(**given).fit(X, y, sample_weight=np.linspace(0, 2, 60))
        expected = torch.nn.functional.cross_entropy(net.forward(X[:20]), torch.as_tensor(y[:20]))
        assert net.history_[-1, "valid_loss"] == pytest.approx(expected.item(), rel=1e-5)

    def test_a_batch_whose_rows_all_weigh_nothing_teaches_nothing(self, blobs):
        X, y = np.vstack([blobs[0], blobs[0]]), np.r_[blobs[1], blobs[1]]
        net = classifier(batch_size=60, optimizer="sgd").fit(X, y, sample_weight=np.r_[np.ones(60), np.zeros(60)])
        half = classifier(batch_size=60, optimizer="sgd").fit(*blobs)
        assert torch.allclose(weights(net), weights(half), atol=1e-6)

    @pytest.mark.parametrize(
        ("sample_weight", "message"),
        [
            (np.zeros(60), "Sample weights must contain at least one non-zero number"),
            (np.ones(59), r"sample_weight.shape == \(59,\), expected \(60,\)"),
            (-np.ones(60), "Negative values in data passed to `sample_weight`"),
            (np.full(60, np.nan), "Input sample_weight contains NaN"),
        ],
    )
    def test_wrong_ones_are_refused(self, blobs, sample_weight, message):
        with pytest.raises(ValueError, match=message):
            classifier().fit(*blobs, sample_weight=sample_weight)

    def test_weights_that_leave_one_class_are_refused(self, blobs):
        with pytest.raises(ValueError, match="only one class: 2"):
            classifier().fit(*blobs, sample_weight=blobs[1] == 2)

    def test_a_criterion_that_cannot_weigh_is_refused(self, blobs):
        class Loss(nn.Module):
            def forward(self, y_pred, y):
                return y_pred.square().mean()

        with pytest.raises(
            ValueError, match=r"criterion must be a loss with a `reduction` for sample_weight.*got Loss\(\)"
        ):
            classifier(criterion=Loss).fit(*blobs, sample_weight=np.ones(60))


class Interrupts(Callback):
    """Raise or be hit by a KeyboardInterrupt in the second epoch."""

    def __init__(self, how):
        self.how, self.ended = how, 0

    def on_epoch_end(self, net, **kwargs):
        """End the training in the way asked for."""
        if len(net.history) == 2:
            if self.how == "raise":
                raise KeyboardInterrupt
            if self.how == "helper":
                stop()
            np.broadcast_to(PressesKeys(), 3)

    def on_train_end(self, net, **kwargs):
        """Count."""
        self.ended += 1


class PressesKeys:
    """An array whose making is hit by Ctrl-C, as any instruction can be."""

    def __array__(self, *args, **kwargs):
        import _thread

        _thread.interrupt_main()
        return np.array([1.0 + i for i in range(10_000)]).sum()


def stop():
    raise KeyboardInterrupt


class Pressed(MLP):
    """A module that someone presses Ctrl-C in."""

    def forward(self, X):
        raise KeyboardInterrupt


class TestInterrupts:
    @pytest.mark.parametrize("how", ["raise", "helper"])
    def test_a_callback_may_end_its_training(self, blobs, how):
        callback = Interrupts(how)
        net = classifier(callbacks=[callback]).fit(*blobs)
        assert len(net.history_) == 2
        assert callback.ended == 1
        assert len(net.partial_fit(*blobs).history_) == 12

    def test_early_stopping_does(self, blobs):
        stopping = EarlyStopping("train_loss", patience=2, threshold=1e9, threshold_mode="abs")
        assert len(classifier(callbacks=[stopping]).fit(*blobs).history_) == 3  # one to compare with, two to wait

    def test_ctrl_c_is_passed_on_when_all_is_tidy(self, blobs):
        callback = Interrupts("no")
        net = classifier(Pressed, callbacks=[callback])
        before = torch.random.get_rng_state()
        with pytest.raises(KeyboardInterrupt):
            net.fit(*blobs)
        assert callback.ended == 1
        assert torch.equal(torch.random.get_rng_state(), before)

    def test_ctrl_c_is_passed_on_though_a_callback_was_at_work(self, blobs):
        callback = Interrupts("ctrl-c")
        with pytest.raises(KeyboardInterrupt):
            classifier(callbacks=[callback]).fit(*blobs)
        assert callback.ended == 1

    def test_one_that_was_never_raised_is_no_callbacks(self):
        assert not raised_by_callback(KeyboardInterrupt())


class StopsAfter:
    """A scikit-learn callback that asks for the end after some epochs."""

    def __init__(self, n_epochs):
        self.n_epochs, self.log = n_epochs, []

    def setup(self, estimator, context):
        self.log.append("setup")

    def teardown(self, estimator, context):
        self.log.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.log.append(f"begin {context.task_name}")

    def on_fit_task_end(self, estimator, context, *, X, y, metadata, fitted_estimator):
        self.log.append(f"end {context.task_name}")
        assert fitted_estimator.predict(X).shape == y.shape
        return context.task_name == "epoch" and context.task_id + 1 == self.n_epochs


class TestScikitLearnCallbacks:
    def test_a_monitor_logs_each_epoch(self, blobs):
        X, y = blobs
        labels = np.array(["red", "green", "blue"])[y]
        monitor = ScoringMonitor(scoring="accuracy")
        net = classifier(max_epochs=5).set_callbacks(monitor).fit(X, labels)
        log = monitor.get_logs().data_as_pandas
        scores = log[log.task_name == "epoch"].sort_values("task_id").accuracy
        assert len(scores) == 5
        assert scores.iloc[-1] == net.score(X, labels)
        unwatched = classifier(max_epochs=5).fit(X, labels)
        assert torch.equal(weights(net), weights(unwatched))  # watching changes nothing

    def test_in_a_search_over_a_pipeline(self, blobs):
        monitor = ScoringMonitor(scoring="accuracy")
        pipeline = make_pipeline(StandardScaler(), classifier(max_epochs=3).set_callbacks(monitor))
        GridSearchCV(pipeline, {"neuralnetclassifier__lr": [0.01, 0.1]}, cv=2).fit(*blobs)
        log = monitor.get_logs().data_as_pandas
        assert (log.task_name == "epoch").sum() == 3 * (2 * 2 + 1)  # epochs of each candidate and fold, and the refit

    def test_sample_weights_reach_the_scorer(self, blobs):
        X, y = blobs
        monitor = ScoringMonitor(scoring="accuracy")
        net = classifier(max_epochs=1).set_callbacks(monitor).fit(X, y, sample_weight=1 + y)
        assert monitor.get_logs().data_as_pandas.accuracy.iloc[-1] == net.score(X, y, sample_weight=1 + y)

    def test_they_may_end_the_training(self, blobs):
        callback = StopsAfter(2)
        net = classifier().set_callbacks(callback).fit(*blobs)
        assert len(net.history_) == 2
        epoch = ["begin epoch", "end epoch"]
        assert callback.log == ["setup", "begin fit", *epoch, *epoch, "end fit", "teardown"]
        assert len(net.set_callbacks().partial_fit(*blobs).history_) == 12


class TestParameters:
    @pytest.mark.parametrize("net", NETS)
    def test_only_what_was_given_is_told_and_cloned(self, blobs, net):
        X, y = blobs
        fitted = net(MLP, module__hidden=(5,), optimizer="adam", schedule="cosine").fit(X, y > 0)
        names = set(fitted.get_params(deep=False))
        assert not [name for name in names if name.startswith("_") or name.endswith("_")]
        assert names == set(net(MLP, module__hidden=(5,)).get_params(deep=False))
        twin = clone(fitted)
        assert twin.get_params(deep=False) == fitted.get_params(deep=False)
        assert not twin.initialized_

    def test_a_pipeline_leaves_no_trace(self, blobs):
        pipeline = make_pipeline(StandardScaler(), classifier(max_epochs=1)).fit(*blobs)
        assert not [name for name in pipeline[-1].get_params() if name.startswith("_")]

    def test_names_stand_for_classes(self, blobs):
        net = classifier(optimizer="RMSprop", criterion="CrossEntropyLoss", criterion__label_smoothing=0.1).fit(*blobs)
        assert type(net.optimizer_) is torch.optim.RMSprop
        assert net.criterion_.label_smoothing == 0.1
        assert net.get_params()["optimizer"] == "RMSprop"

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"optimizer": "adamm"}, "optimizer must be one of .*'adam'.*, got 'adamm'. Did you mean 'adam'"),
            (
                {"criterion": "cross_entropi"},
                "criterion must be one of .*, got 'cross_entropi'. Did you mean 'crossentropy'",
            ),
            ({"schedule": "cosin"}, "cosin"),
        ],
    )
    def test_unknown_names_are_told_those_there_are(self, blobs, wrong, message):
        with pytest.raises(ValueError, match=message):
            classifier(**wrong).fit(*blobs)

    def test_a_new_lr_or_schedule_counts_from_the_next_epoch_on(self, blobs):
        net = classifier(max_epochs=2).fit(*blobs)
        net.set_params(lr=0.001).partial_fit(*blobs)
        assert net.history_[:, "lr"] == [0.05, 0.05, 0.001, 0.001]
        net.set_params(schedule=lambda epoch: 0.5).partial_fit(*blobs)
        assert net.history_[-1, "lr"] == 0.0005

    def test_what_a_group_sets_for_itself_stays_and_new_groups_come_with_the_next_training(self, blobs):
        def options(net, name="lr"):
            return [group[name] for group in net.optimizer_.param_groups]

        own = {"lr": 0.5, "momentum": 0.1}
        groups = [("layers.0.weight", own), ("layers.0.bias", {"lr_multiplier": 0.1})]
        params = {"optimizer": "sgd", "lr": 0.01, "optimizer__momentum": 0.9, "max_epochs": 1}
        net = classifier(optimizer__param_groups=groups, **params).fit(*blobs)
        net.set_params(lr=0.02, optimizer__momentum=0.8)
        assert options(net) == pytest.approx([0.5, 0.002, 0.02])
        assert options(net, "momentum") == [0.1, 0.8, 0.8]
        net.set_params(optimizer__param_groups__0__lr=0.6).partial_fit(*blobs)  # unless it is named
        assert options(net) == pytest.approx([0.6, 0.002, 0.02])
        momentum = {name: net.optimizer_.state[p] for name, p in net.module_.named_parameters()}
        net.set_params(optimizer__param_groups=[("layers.0.*", {"lr": 0.7})])
        assert options(net) == pytest.approx([0.6, 0.002, 0.02])
        net.max_epochs = 0
        net.partial_fit(*blobs)
        assert options(net) == [0.7, 0.02]
        assert all(net.optimizer_.state[p] is momentum[name] for name, p in net.module_.named_parameters())
        net.max_epochs = 1
        assert options(net.fit(*blobs), "momentum") == [0.8, 0.8]  # what was set is not forgotten by a fit

    def test_widths_that_were_set_or_bound_are_kept(self, blobs):
        X, y = blobs
        net = classifier(module__n_outputs=5).fit(X, y)
        assert net.module_.layers[-1].out_features == 5
        bound = classifier(lambda n_inputs: MLP(n_inputs, 3)).fit(X, y)
        assert bound.module_.layers[0].in_features == 4

    def test_module_parameters_set_on_a_fitted_net_make_the_module_anew(self, blobs):
        net = classifier().fit(*blobs).set_params(module__hidden=(7,))
        assert net.module_.layers[0].weight.shape == (7, 4)
        assert net.partial_fit(*blobs).score(*blobs) > 0.9

    def test_callbacks_can_be_set_before_and_after(self, blobs):
        net = classifier().set_params(callbacks=[("one", Interrupts("raise"))], callbacks__one__how="helper")
        assert len(net.fit(*blobs).history_) == 2
        assert len(net.set_params(callbacks=None).fit(*blobs).history_) == 10

    @pytest.mark.parametrize("as_instance", [True, False])
    @pytest.mark.parametrize(
        "weights_", [[3, 1, 1], (3.0, 1.0, 1.0), np.array([3.0, 1.0, 1.0]), torch.tensor([3, 1, 1]), "float64"], ids=str
    )
    def test_class_weights_may_be_any_array_of_numbers(self, blobs, weights_, as_instance):
        """The loss itself takes a tensor of the outputs' dtype only."""
        weights_ = torch.tensor([3.0, 1.0, 1.0], dtype=torch.float64) if isinstance(weights_, str) else weights_
        given = {"criterion__weight": weights_}
        if as_instance:
            given = {"criterion": nn.CrossEntropyLoss(torch.as_tensor(weights_))}
        plain = classifier(criterion__weight=torch.tensor([3.0, 1.0, 1.0])).fit(*blobs)
        assert classifier(**given).fit(*blobs).history_[:, "train_loss"] == plain.history_[:, "train_loss"]

    @pytest.mark.parametrize("weight", [3, [3.0], np.array(3.0)], ids=str)
    def test_the_weight_of_the_positive_class_may_be_a_number(self, blobs, weight):
        X, y = blobs
        plain, given = (
            classifier(net=NeuralNetBinaryClassifier, criterion__pos_weight=w).fit(X, y > 0)
            for w in (torch.tensor(3.0), weight)
        )
        assert given.history_[:, "train_loss"] == plain.history_[:, "train_loss"]

    def test_warm_start_goes_on(self, blobs):
        once = classifier(max_epochs=6, iterator_train__shuffle=True).fit(*blobs)
        twice = classifier(max_epochs=3, iterator_train__shuffle=True, warm_start=True).fit(*blobs).fit(*blobs)
        assert torch.equal(weights(once), weights(twice))

    def test_a_trimmed_net_predicts_as_before(self, blobs):
        net = classifier(net=NeuralNetBinaryClassifier).fit(blobs[0], blobs[1] > 0)
        before = net.predict_proba(blobs[0])
        net.trim_for_prediction()
        np.testing.assert_array_equal(net.predict_proba(blobs[0]), before)
        with pytest.raises(skorch.exceptions.SkorchTrainingImpossibleError):
            net.fit(*blobs)

    @pytest.mark.parametrize("net", NETS)
    def test_its_pictures_can_be_drawn(self, blobs, net):
        X, y = blobs
        fitted = net(MLP).fit(X, y > 0)
        for one in (net(MLP), fitted):
            assert net.__name__ in repr(one)
            assert "max_epochs" in one._repr_html_()
        assert "random_state" in str(inspect.signature(net))

    def test_a_copy_made_in_the_middle_of_a_training_is_a_net_like_any_other(self, blobs):
        X, y = blobs
        callback = Pickles()
        classifier(max_epochs=2, callbacks=[callback]).fit(X, y, sample_weight=np.ones(60))
        copy = pickle.loads(callback.pickled[0])
        assert len(copy.history_) == 1
        assert copy.predict(X).shape == (60,)
        assert len(copy.partial_fit(X, y).history_) == 3


class Pickles(Callback):
    """Pickle the net after each epoch."""

    def __init__(self):
        self.pickled = []

    def on_epoch_end(self, net, **kwargs):
        """Pickle it."""
        self.pickled.append(pickle.dumps(net))


class TestDevice:
    def test_auto_stays_a_parameter_and_becomes_a_device(self, blobs):
        net = classifier()
        assert net.device == "auto"
        with patch.object(parts_module, "best_device", lambda: "cpu"):
            net.fit(*blobs)
        assert net.device == "cpu"
        assert net.get_params()["device"] == clone(net).get_params()["device"] == "auto"
        assert clone(net).set_params(device="cpu").device == "cpu"

    def test_a_net_made_where_cuda_was_works_without(self, blobs):
        net = classifier().fit(*blobs)
        net.device_ = "cuda"  # as it would be there
        with patch.object(parts_module, "best_device", lambda: "cpu"), warnings.catch_warnings():
            warnings.simplefilter("error")
            loaded = pickle.loads(pickle.dumps(net))
        assert loaded.device == "cpu"
        assert loaded.get_params()["device"] == "auto"
        np.testing.assert_array_equal(loaded.partial_fit(*blobs).predict(blobs[0]).shape, (60,))

    @pytest.mark.parametrize("asked", ["cuda", "cuda:1", torch.device("cuda")])
    def test_a_net_that_asked_for_cuda_predicts_without(self, blobs, asked):
        net = classifier(device="cpu").fit(*blobs)
        vars(net).update(device=asked, device_=asked)  # as it would be there
        with patch.object(torch.cuda, "is_available", lambda: False), pytest.warns(DeviceWarning) as heard:
            loaded = pickle.loads(pickle.dumps(net))
        assert len(heard) == 1
        assert torch.device(loaded.device).type == "cpu"
        assert loaded.get_params()["device"] == clone(loaded).device == asked
        np.testing.assert_array_equal(loaded.predict(blobs[0]), classifier(device="cpu").fit(*blobs).predict(blobs[0]))
        assert loaded.set_params(device="cpu").device == "cpu"

    def test_a_device_that_is_not_among_those_here_is_another_one_of_its_kind(self):
        with patch.object(torch.cuda, "device_count", lambda: 2):
            found = [parts_module._device_here(asked) for asked in ("cuda:1", "cuda:2", "cpu", None)]
        assert found == ["cuda:1", "cuda", "cpu", None]

    def test_saved_parameters_load(self, blobs, tmp_path):
        net = classifier().fit(*blobs)
        net.save_params(f_params=tmp_path / "net.pt")
        other = classifier(random_state=1).fit(*blobs)
        other.load_params(f_params=tmp_path / "net.pt")
        assert torch.equal(weights(net), weights(other))
        assert other.get_params()["device"] == "auto"


@pytest.fixture
def cuda(monkeypatch):
    """A generator that stands for CUDA's, and whether CUDA has been used already."""
    cuda = SimpleNamespace(generator=torch.Generator().manual_seed(99), in_use=True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: cuda.in_use)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", cuda.generator.manual_seed)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: [cuda.generator.get_state()])
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", lambda states: cuda.generator.set_state(states[0]))
    return cuda


class TestStream:
    @pytest.mark.parametrize("used_before", [True, False])
    def test_a_stream_has_its_own_numbers_on_cuda_too(self, cuda, used_before):
        cuda.in_use = used_before
        stream = RandomStream(5)
        with stream:
            torch.rand(1)
        cuda.in_use = True
        before = cuda.generator.get_state()
        with stream:
            first = torch.rand(3, generator=cuda.generator)
        with stream:
            second = torch.rand(3, generator=cuda.generator)
        assert torch.equal(cuda.generator.get_state(), before)
        one_after_another = torch.Generator().manual_seed(5)
        assert torch.equal(first, torch.rand(3, generator=one_after_another))
        assert torch.equal(second, torch.rand(3, generator=one_after_another))

    def test_what_cuda_will_draw_when_it_is_used_is_not_decided_before(self, cuda, monkeypatch):
        cuda.in_use = False
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
        before = cuda.generator.get_state()
        with RandomStream(5):
            torch.rand(1)
        assert torch.equal(cuda.generator.get_state(), before)


class TestRouting:
    def test_sample_weight_is_requested_as_anywhere(self, blobs):
        X, y = blobs
        with config_context(enable_metadata_routing=True):
            net = classifier(max_epochs=20).set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
            keep = (y != 2).astype(float)
            search = GridSearchCV(net, {"lr": [0.05]}, cv=3).fit(X, y, sample_weight=keep)
            assert search.best_score_ > 0.9
            assert set(search.predict(X)) == {0, 1}
            pipeline = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), clone(net))
            assert set(pipeline.fit(X, y, sample_weight=keep).predict(X)) == {0, 1}

    def test_groups_reach_the_train_split(self, blobs):
        X, y = blobs
        groups = np.arange(60) % 3
        with config_context(enable_metadata_routing=True):
            split = ValidSplit(GroupKFold(3).set_split_request(groups=True))
            net = classifier(Groups, train_split=split).set_fit_request(groups=True)
            net.fit(X, y, groups=groups, sample_weight=np.ones(60))
        assert net.history_[0, "valid_batch_count"] == 2  # 20 rows of a group in batches of 16

    def test_without_routing_a_search_hands_weights_to_fit(self, blobs):
        X, y = blobs
        scores = cross_val_score(classifier(), X, y, params={"sample_weight": np.ones(60)})
        assert scores.min() > 0.8, scores


class Groups(MLP):
    """An MLP that is handed the groups too, as skorch does."""

    def forward(self, X, groups=None):
        return super().forward(X)
