"""A misspelt argument of any function that passes the rest on to `fit` is refused, with the arguments that it has."""

import inspect

import numpy as np
import pytest
import torch
from sklearn.compose import TransformedTargetRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.utils.data import TensorDataset

import sklr
from sklr import MLP, NeuralNetClassifier, NeuralNetRegressor, transfer_lr
from sklr.transfer import verify_transfer

X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
TRAINED = []


class Counted(MLP):
    def forward(self, X):
        TRAINED.append(len(X))
        return super().forward(X)


NETS = {
    "net": lambda: (NeuralNetClassifier(Counted), (X[:, 0] > 0).astype(int)),
    "pipeline": lambda: (make_pipeline(StandardScaler(), NeuralNetClassifier(Counted)), (X[:, 0] > 0).astype(int)),
    "scaled target": lambda: (TransformedTargetRegressor(make_pipeline(NeuralNetRegressor(Counted))), X[:, 0]),
}
# sklr's functions with a `**fit_params`, and what is passed to them besides
FUNCTIONS = {
    sklr.lr_range_test: ("n_step", "n_steps"),
    sklr.suggest_max_steps: ("n_lr", "n_lrs"),
    sklr.find_warmup: ("n_seed", "n_seeds"),
    sklr.characterize: ("n_seed", "n_seeds"),
    verify_transfer: ("decade", "decades"),
}


def test_no_function_with_fit_params_is_missing():
    found = {
        function
        for function in map(sklr.__dict__.get, sklr.__all__)
        if inspect.isfunction(function) and "fit_params" in inspect.signature(function).parameters
    }
    assert found == set(FUNCTIONS)


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
@pytest.mark.parametrize("kind", NETS)
def test_it_is_refused_before_training_with_the_one_that_is_meant(function, kind):
    (net, y), (name, meant) = NETS[kind](), FUNCTIONS[function]
    rule = [transfer_lr(0.02, optimizer="sgd", batch_size=(5, 10))] if function is verify_transfer else []
    TRAINED.clear()
    message = (
        rf"^an argument of {function.__name__} must be one of .*'{meant}'.* got '{name}'\. Did you mean '{meant}'\?"
    )
    with pytest.raises(ValueError, match=message):
        function(net, X, y, *rule, **{name: 3})
    assert not TRAINED


def test_that_of_lr_find_too():
    net, y = NETS["net"]()
    with pytest.raises(ValueError, match=r"got 'n_step'\. Did you mean 'n_steps'\?"):
        net.lr_find(X, y, n_step=50)


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize(("name", "here"), [("start_lr", "lr_range"), ("max_lr", "lr_range"), ("num_it", "n_steps")])
def test_that_of_another_librarys_range_test_too(kind, name, here):
    net, y = NETS[kind]()
    with pytest.raises(ValueError, match=rf"must be one of .*'{here}'.* got '{name}'\. It is called '{here}' here\."):
        sklr.lr_range_test(net, X, y, **{name: 1})


@pytest.mark.parametrize("function", [sklr.lr_range_test, sklr.suggest_max_steps, sklr.find_warmup])
def test_no_second_dataset_is_asked_for_where_none_is_taken(function):
    data = TensorDataset(torch.tensor(X), torch.zeros(len(X), dtype=torch.int64))
    with pytest.raises(
        TypeError, match=r"got 'TensorDataset'\. Only training rows are used: leave the second dataset out"
    ):
        function(NeuralNetClassifier(Counted), data, data)


def test_the_weights_are_no_option_of_an_optimizer():
    with pytest.raises(ValueError, match=r"of SGD must be one of 'lr', .* got 'momentumm'\. Did you mean 'momentum'\?"):
        NeuralNetClassifier(Counted, optimizer__momentumm=0.9).fit(X, NETS["net"]()[1])


@pytest.mark.parametrize("function", [sklr.lr_range_test, sklr.suggest_max_steps], ids=lambda f: f.__name__)
def test_arguments_of_fit_are_still_passed_on(function):
    net, y = NETS["net"]()
    assert function(net, X, y, sample_weight=np.ones(40), n_seeds=1, random_state=0) is not None
