"""Searched values with which no net can be made: an error about the space, or a warning before the training."""

import warnings

import pytest
import skorch
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from strategies import STRATEGIES, X, Y, grid, net

from sklr import LRGridSearchCV
from sklr.exceptions import SettingsWarning

BAD = [
    ("module__hidden", (8, "wide"), "each width of hidden must be an integer >= 1, got 'wide'"),
    ("optimizer__weight_decay", "high", "not supported between instances"),
    ("batch_size", 0, "batch_size must be an integer >= 1"),
    ("schedule", "cosin", "'cosin'. Did you mean 'cosine'"),
    ("optimizer", "adm", "'adm'. Did you mean 'adam'"),
    ("max_epochs", -1, "max_epochs must be an integer"),
]


@pytest.mark.parametrize(("name", "value", "cause"), BAD)
@pytest.mark.parametrize("engine", ["stacked", "sequential"])
def test_a_value_that_no_candidate_can_have_is_an_error_about_the_space(name, value, cause, engine):
    space = {"lr": [0.01, 0.1], "warmup_epochs": [0, 1], name: [value]}
    with pytest.raises(ValueError, match=f"^the searched values of {name} must be") as error:
        LRGridSearchCV(net(), space, cv=2, engine=engine).fit(X, Y)
    assert cause in str(error.value)
    assert f"got {value!r}." in str(error.value)


@pytest.mark.parametrize("make", STRATEGIES)
def test_it_is_in_all_searches(make):
    with pytest.raises(ValueError, match=r"searched values of batch_size must be .* got (0|-7)\."):
        make(net(), "batch_size", [0, -7], cv=2).fit(X, Y)


def test_so_is_one_for_a_net_in_a_pipeline():
    name, (first, *_) = "neuralnetclassifier__batch_size", [0]
    with pytest.raises(ValueError, match=f"^the searched values of {name} must be"):
        grid(make_pipeline(StandardScaler(), net()), name, [first], cv=2).fit(X, Y)


@pytest.mark.filterwarnings("ignore:.*fits failed", "ignore:One or more of the test scores are non-finite")
def test_where_others_can_be_trained_the_value_is_warned_of():
    with pytest.warns(SettingsWarning) as caught:
        search = grid(net(), "module__hidden", [(8,), -3, (16,), (4, "x")], cv=2).fit(X, Y)
    said = [str(w.message) for w in caught if "searched values" in str(w.message)]
    assert [text.partition(" got ")[2].partition(". ")[0] for text in said] == ["-3", "(4, 'x')"]
    assert said[0].endswith("The candidates with that value will fail.")
    assert search.best_params_["module__hidden"] in [(8,), (16,)]


def test_a_value_for_another_optimizer_is_no_mistake():
    space = {"optimizer": ["adam"], "optimizer__betas": [(0.8, 0.99)]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = LRGridSearchCV(net(), space, cv=2).fit(X, Y)
    assert found.cv_results_["status"].tolist() == ["ok"]


def test_nets_of_skorch_are_checked_too():
    theirs = skorch.NeuralNetClassifier(net().module, module__n_inputs=X.shape[1], module__n_outputs=2, verbose=0)
    with pytest.raises(ValueError, match=r"searched values of optimizer__momentum must be .* got -1\."):
        grid(theirs, "optimizer__momentum", [-1], cv=2).fit(X.astype("float32"), Y)


@pytest.mark.parametrize("make", STRATEGIES)
def test_a_search_that_would_train_nothing_is_refused(make):
    with pytest.raises(ValueError, match=r"^max_epochs must be at least 1 in a search, got 0\."):
        make(net(max_epochs=0), cv=2).fit(X, Y)
    with pytest.raises(ValueError, match=r"^neuralnetclassifier__max_epochs must be at least 1 in a search"):
        LRGridSearchCV(make_pipeline(StandardScaler(), net(max_epochs=0)), lrs=[0.1], cv=2).fit(X, Y)


def test_an_untrained_candidate_among_others_is_a_baseline():
    found = grid(net(), "max_epochs", [0, 2], cv=2).fit(X, Y)
    assert found.cv_results_["status"].tolist() == ["ok", "ok"]
