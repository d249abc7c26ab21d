"""One table of bad inputs: each is refused before any training, and the message says what, the rule and the value."""

import numpy as np
import optuna
import pytest
import torch
from labels import label
from optuna.distributions import CategoricalDistribution, FloatDistribution
from scipy.stats import loguniform, norm, uniform
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import accuracy_score
from skopt.space import Categorical, Real

from sklr import MLP, NeuralNetClassifier, lr_range_test
from sklr.search._bayes import BayesSearchCV
from sklr.search._grid import LRGridSearchCV
from sklr.search._optuna import OptunaSearchCV


class NeverTrained(ClassifierMixin, BaseEstimator):
    """An estimator that must not be reached."""

    def __init__(self, lr=0.1, depth=1):
        self.lr, self.depth = lr, depth

    def fit(self, X, y):
        raise AssertionError("trained, though the input is bad")


X, Y = np.arange(20.0).reshape(10, 2), np.array([0] * 7 + [1] * 3)
G, B, T = LRGridSearchCV, BayesSearchCV, OptunaSearchCV
MINIMIZE = optuna.create_study(direction="minimize", sampler=optuna.samplers.RandomSampler(seed=0))
MAXIMIZE = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
NAN, INF = float("nan"), float("inf")


def rows(kinds, name, values, rule):
    return [(kind, {name: value}, rule, repr(value)) for kind in kinds for value in values]


RANGES = [(1.0, 1e-5), (0.0, 1.0), (-1.0, 1.0), (0.1, 0.1), (1e-5, INF), (NAN, 1.0), (1e-5,), (1, 2, 3), [1e-5, 1.0]]
NO_RANGES = [*RANGES, 0.1, "0.1", ("low", "high"), (False, True)]
COUNTS = [0, -1, True, 2.0, "8", NAN]
TABLE = [
    *rows(
        (G, B, T), "lr_range", NO_RANGES, "lr_range must be a tuple (low, high) of finite numbers with 0 < low < high"
    ),
    *rows((G,), "n_lrs", [*COUNTS, None], "n_lrs must be an integer >= 1"),
    *rows((G,), "rounds", [*COUNTS, None], "rounds must be an integer >= 1"),
    *rows((B,), "n_iter", [*COUNTS, None], "n_iter must be an integer >= 1"),
    *rows((T,), "n_trials", COUNTS, "n_trials must be an integer >= 1"),
    *rows((T,), "n_trials", [None], "n_trials must be an integer >= 1 if there is no timeout"),
    *rows((B, T), "n_points", COUNTS, "n_points must be an integer >= 1"),
    *rows((G, B, T), "n_seeds", [*COUNTS, None], "n_seeds must be an integer >= 1"),
    *rows((T,), "max_iter", COUNTS, "max_iter must be an integer >= 1"),
    *rows(
        (G,), "lrs", [[], [-0.1], [0.0], [NAN], [0.1, 0.1], ["0.1"], [True], 0.1, "0.1", {}], "lrs must be a non-empty"
    ),
    *rows((G,), "param_grid", [[], 0.1, "lr", [["lr"]], [{"lr": [1]}, "lr"]], "param_grid must be a dict"),
    (G, {"param_grid": {"lr": 0.1}}, "Parameter grid for parameter 'lr' needs to be a list", "0.1"),
    (G, {"param_grid": {"lr": "0.1"}}, "Parameter grid for parameter 'lr' needs to be a list", "'0.1'"),
    (G, {"param_grid": {"lr": []}}, "Parameter grid for parameter 'lr' need to be a non-empty sequence", "[]"),
    (G, {"param_grid": {"lr": np.ones((2, 2))}}, "Parameter array for 'lr' should be one-dimensional", "[[1., 1.]"),
    *rows((B,), "search_spaces", [[], 0.1, "lr", (1, 2)], "search_spaces must be a dict"),
    *rows((B,), "search_spaces", [{}], "search_spaces must hold non-empty dicts"),
    (B, {"search_spaces": [({}, 3)]}, "search_spaces must hold non-empty dicts", "{}"),
    (
        B,
        {"search_spaces": [({"lr": [1]}, 0)]},
        "the int in a (dict, int) of search_spaces must be an integer >= 1",
        "0",
    ),
    (B, {"search_spaces": {"lr": 0.1}}, "search_spaces['lr'] must be a list of choices, a range or a dist", "0.1"),
    (B, {"search_spaces": {"lr": {0.1}}}, "search_spaces['lr'] must be a list of choices, a range or a", "{0.1}"),
    (B, {"search_spaces": {"lr": []}}, "search_spaces['lr'] must be a non-empty list", "[]"),
    (
        B,
        {"search_spaces": {"lr": np.ones((2, 2))}},
        "search_spaces['lr'] must be one-dimensional",
        "an array of shape",
    ),
    (
        B,
        {"search_spaces": {"lr": (1.0, 1e-5)}},
        "search_spaces['lr'] must be a range of finite numbers with low < high",
        "low=1.0, high=1e-05",
    ),
    (
        B,
        {"search_spaces": {"lr": (0.0, 1.0, "log-uniform")}},
        "search_spaces['lr'] must be a range of finite numbers with 0 < low < high",
        "low=0.0",
    ),
    (B, {"search_spaces": {"lr": (0.0, INF)}}, "search_spaces['lr'] must be a range of finite", "low=0.0, high=inf"),
    (B, {"search_spaces": {"lr": (0.1, 1.0, "log")}}, "search_spaces['lr'] must have the prior", "'log'"),
    (
        T,
        {"param_distributions": {"lr": (0.1, NAN)}},
        "param_distributions['lr'] must be a range",
        "low=0.1, high=nan",
    ),
    *(
        (kind, {name: {"lr": given}}, f"{name}['lr'] must be learning rates, finite and above 0", repr(wrong))
        for kind, name in ((G, "param_grid"), (B, "search_spaces"), (T, "param_distributions"))
        for given, wrong in (
            ([True, 0.1], True),
            (["a", 0.1], "a"),
            ([0.1, None], None),
            ([0.1, [0.2]], [0.2]),
            ([0.1, 1j], 1j),
            ([np.True_, 0.1], True),
            (Categorical([True, False]), True),
            (CategoricalDistribution(["0.1", "0.2"]), "0.1"),
        )
    ),
    *rows((T,), "param_distributions", [{}, [], 0.1, [{"lr": [1]}]], "param_distributions must be a non-empty dict"),
    (
        G,
        {"param_grid": {"lrr": [0.1]}},
        "Invalid parameter 'lrr' for estimator NeverTrained",
        "'lrr'. Did you mean 'lr'",
    ),
    (B, {"search_spaces": {"dept": [1]}}, "Invalid parameter 'dept' for estimator", "'dept'. Did you mean 'depth'"),
    (T, {"param_distributions": {"xyz": [1]}}, "Invalid parameter 'xyz'", "'xyz'. Choose among depth, lr"),
    (G, {"param_grid": {1: [0.1]}}, "A parameter name must be a string", "1"),
    (G, {"scoring": "acuracy"}, "scoring must be a scorer or the name of one", "'acuracy'. Did you mean 'accuracy'?"),
    (
        B,
        {"scoring": ["accuracy", "log_loss"]},
        "scoring must be a scorer or",
        "'log_loss'. Did you mean 'neg_log_loss'",
    ),
    (T, {"scoring": {"a": "MSE"}}, "scoring must be", "'MSE'. Did you mean 'neg_mean_squared_error'?"),
    (G, {"scoring": "zzz"}, "scoring must be a scorer", "'zzz'. sklearn.metrics.get_scorer_names() lists them."),
    (
        G,
        {"scoring": accuracy_score},
        "scoring must be",
        "the metric accuracy_score'. Write sklearn.metrics.make_scorer",
    ),
    (
        G,
        {"param_grid": {"lr": [0.1]}, "lr_range": "auto"},
        "lr_range must be a tuple if param_grid",
        "'auto'. Pass lr_r",
    ),
    *rows((G, B, T), "lr_param", ["rate"], "lr_param must be a parameter of the estimator"),
    *rows((G, B, T), "lr_param", [1], "lr_param must be the name of a parameter"),
    (G, {"param_grid": {"lr": [0.1]}, "lrs": [0.2]}, "lrs must be None where param_grid has 'lr'", "[0.2]"),
    *rows(
        (T,), "sampler", ["tpee", "grid", None, 3], "sampler must be one of 'gp', 'halton', 'random', 'sobol', 'tpe'"
    ),
    (T, {"study": MINIMIZE}, "study must be one that maximizes a single score", "['minimize']"),
    (T, {"study": "study"}, "study must be an optuna.Study or None", "'study'"),
    (T, {"study": MAXIMIZE, "sampler": "gp"}, "sampler must be left out if a study is given", "'gp'"),
    *rows((T,), "timeout", [0, -1, NAN, True, "1"], "timeout must be a number of seconds > 0"),
    *rows((T,), "subsample", [0, 0.0, -0.5, 1.5, True, None, NAN], "subsample must be a fraction"),
    *rows((T,), "callbacks", [3, [3]], "callbacks must be a list of callables"),
    *rows((T,), "catch", [3, (3,), KeyboardInterrupt], "catch must be an exception type or a tuple"),
    *rows((B,), "optimizer_kwargs", [["GP"], "GP"], "optimizer_kwargs must be a dict"),
    (
        B,
        {"optimizer_kwargs": {"base_estimators": "RF"}},
        "optimizer_kwargs must have keys",
        "'base_estimators'. Did you",
    ),
    (
        B,
        {"optimizer_kwargs": {"dimensions": []}},
        "optimizer_kwargs must have keys",
        "'dimensions'. Known are base_est",
    ),
    (B, {"optimizer_kwargs": {"base_estimator": "GBRT"}}, "optimizer_kwargs['base_estimator'] must be 'GP'", "'GBRT'"),
    (B, {"optimizer_kwargs": {"acq_func": "EIps"}}, "optimizer_kwargs['acq_func'] must be", "'EIps'"),
    (B, {"optimizer_kwargs": {"acq_func": "best"}}, "expected acq_func to be in gp_hedge", "best"),
    *[
        (B, {"optimizer_kwargs": {"n_initial_points": n}}, "['n_initial_points'] must be an integer >= 1", repr(n))
        for n in (0, -1, True, 2.0)
    ],
    *rows((G, B, T), "engine", ["turbo", 3, None], "engine must be"),
    *rows((G, B, T), "engine", ["stakced"], "engine must be one of 'auto', 'stacked', 'sequential'"),
    *[
        (
            G,
            {"param_grid": {"lr": [0.1, bad]}},
            "param_grid['lr'] must be learning rates, finite and above 0",
            repr(bad),
        )
        for bad in (0.0, -1, 0, NAN, INF)
    ],
    *[
        (kind, {name: {"lr": bad}}, f"{name}['lr'] must be learning rates, finite and above 0", value)
        for kind, name in ((G, "param_grid"), (B, "search_spaces"), (T, "param_distributions"))
        for bad, value in (
            ([0.1, -0.1], "-0.1"),
            (FloatDistribution(0.0, 1.0), "a range from 0.0"),
            (uniform(0, 0.1), "a range from 0.0"),
            (norm(), "a range from -"),
        )
    ],
    *[(G, {"lrs": [0.1, bad]}, "lrs must be a non-empty list of different", repr(bad)) for bad in (0.0, -1, NAN, INF)],
]


@pytest.mark.parametrize(("kind", "bad", "rule", "value"), TABLE, ids=label)
def test_bad_input_is_refused_before_any_training(kind, bad, rule, value):
    search = kind(NeverTrained(), **{"cv": 2, "error_score": "raise", **bad})
    with pytest.raises((ValueError, TypeError)) as error:
        search.fit(X, Y)
    before, got, after = str(error.value).partition(" got")
    assert rule in before
    assert got
    assert value in after
    assert not hasattr(search, "study_") or not search.study_.trials


@pytest.mark.parametrize("kind", [G, B, T])
def test_every_bad_input_leaves_the_search_unfitted_but_usable(kind):
    search = kind(NeverTrained(), lr_range=(1.0, 0.1))
    with pytest.raises(ValueError, match="Swap the two"):
        search.fit(X, Y)
    assert search.get_params(deep=False)["lr_range"] == (1.0, 0.1)


@pytest.mark.parametrize("kind", [G, B, T])
@pytest.mark.parametrize(
    "good",
    [
        (0.1, 0.2, "log-uniform"),
        Real(0.1, 0.2),
        FloatDistribution(0.1, 0.2),
        loguniform(0.1, 0.2),
        [0.1],
        np.array([0.2]),
    ],
    ids=lambda v: type(v).__name__,
)
def test_good_input_reaches_the_training(kind, good):
    with pytest.raises(AssertionError, match="trained"):
        kind(NeverTrained(), {"lr": good}, cv=2, error_score="raise").fit(X, Y)


def test_bad_callbacks_of_a_fit_are_refused():
    with pytest.raises(ValueError, match="callback must be a callable or a list of callables, got 3"):
        BayesSearchCV(NeverTrained()).fit(X, Y, callback=3)


def test_a_class_in_place_of_an_estimator_is_refused_at_once():
    for use in (LRGridSearchCV(NeuralNetClassifier).fit, lambda *given: lr_range_test(NeuralNetClassifier, *given)):
        with pytest.raises(TypeError, match=r"got the class NeuralNetClassifier. Write NeuralNetClassifier\(...\)."):
            use(X, Y)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({"X": np.zeros((6, 2))}, "got a dict. Pass skorch.helper.SliceDict"),
        (torch.utils.data.TensorDataset(torch.zeros(6, 2)), "the items of X must be pairs .* got '1 values'"),
        (torch.utils.data.DataLoader(range(6)), "the items of X must be pairs .* got 'int'. Have __getitem__ return"),
    ],
)
def test_what_has_no_rows_by_number_is_refused_at_once(rows, words):
    net = NeuralNetClassifier(MLP)
    for use in (LRGridSearchCV(net, lrs=[0.1], cv=2).fit, lambda *given: lr_range_test(net, *given)):
        with pytest.raises(TypeError, match=words):
            use(rows, np.zeros(6, dtype=int))
