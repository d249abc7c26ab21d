"""A misspelt argument of any function that passes the rest on to `fit` is refused, with the arguments that it has."""

import inspect

import numpy as np
import pytest
from sklearn.compose import TransformedTargetRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

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


@pytest.mark.parametrize("function", [sklr.lr_range_test, sklr.suggest_max_steps], ids=lambda f: f.__name__)
def test_arguments_of_fit_are_still_passed_on(function):
    net, y = NETS["net"]()
    assert function(net, X, y, sample_weight=np.ones(40), n_seeds=1, random_state=0) is not None
