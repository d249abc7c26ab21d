"""Every way of writing a dimension means the same to grid, scikit-optimize and Optuna; names are found and checked."""

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from labels import label
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from scipy.stats import expon, loguniform, norm, poisson, randint, uniform
from sklearn.ensemble import GradientBoostingClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from skopt import Space
from skopt.space import Categorical, Integer, Real
from skorch import NeuralNetClassifier
from torch import nn, optim

from sklr.experiment.lr_param import check_names, find_lr_param, log_grid, lr_names
from sklr.search.proposals.dimensions import Choices, Quantiles, Range, to_dimension
from sklr.search.proposals.even_cover import even_cover, keep_apart

LR = Range(1e-5, 0.1, log=True)
WRITTEN = [
    ((1e-5, 0.1, "log-uniform"), LR),
    ((1e-5, 0.1, "log-uniform", 10), LR),
    (Real(1e-5, 0.1, prior="log-uniform"), LR),
    (FloatDistribution(1e-5, 0.1, log=True), LR),
    (loguniform(1e-5, 0.1), LR),
    ((0.0, 1.0), Range(0.0, 1.0)),
    (uniform(1, 2), Range(1.0, 3.0)),
    ((1, 8), Range(1, 8, integer=True)),
    (Integer(1, 8), Range(1, 8, integer=True)),
    (randint(1, 9), Range(1, 8, integer=True)),
    (IntDistribution(1, 8), Range(1, 8, integer=True)),
    (IntDistribution(0, 10, step=5), Range(0, 10, integer=True, step=5)),
    (FloatDistribution(0.0, 1.0, step=0.25), Range(0.0, 1.0, step=0.25)),
    (FloatDistribution(0.5, 0.5), Choices((0.5,))),
    ([1, 10], Choices((1, 10))),
    (np.array([1.0, 10.0]), Choices((1.0, 10.0))),
    (range(3), Choices((0, 1, 2))),
    (("a", "b"), Choices(("a", "b"))),
    (CategoricalDistribution([None, "balanced"]), Choices((None, "balanced"))),
    (Categorical(["a", "b"]), Choices(("a", "b"))),
    (Categorical(["a", "b"], prior=[0.2, 0.8]), Choices(("a", "b"), (0.2, 0.8))),
]
BETAS = ((0.9, 0.999), (0.8, 0.99))
ANYTHING = [
    (16, 32),
    ("a", "b", "c"),
    (True, False),
    (None, "balanced"),
    (1, True, 1.0),
    (float("nan"), 0.0),
    BETAS,
    (optim.SGD, optim.Adam),
    ({"a": 1}, {"a": 2}),
    (nn.ReLU(), nn.Tanh()),
    (SVC(), LogisticRegression()),
    (np.zeros(3), np.ones(3)),
    (object(), object()),
    ("x",),
]


@pytest.mark.parametrize(("written", "dimension"), WRITTEN, ids=label)
def test_every_way_of_writing_is_understood(written, dimension):
    assert to_dimension("space['x']", written) == dimension


@pytest.mark.parametrize("values", ANYTHING, ids=label)
def test_choices_of_any_type_come_back_as_the_same_objects_from_each_backend(values):
    dimension = Choices(values)
    space = Space([dimension.skopt("x"), Real(0.0, 1.0)])
    drawn = [dimension.decode(point[0]) for point in space.rvs(60, random_state=0)]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    asked = [dimension.decode(study.ask({"x": dimension.optuna()}).params["x"]) for _ in range(60)]
    covered = [dimension.decode(dimension.at(u)) for u in np.linspace(0, 1, 9)]
    for found in (drawn, asked, covered, dimension.grid(3)):
        assert {id(value) for value in found} == {id(value) for value in values}


@given(st.floats(0, 1), st.sampled_from([d for _, d in WRITTEN] + [Range(1, 100, log=True, integer=True)]))
def test_a_position_gives_a_value_that_both_backends_accept(position, dimension):
    raw = dimension.at(position)
    assert raw in dimension.skopt("x")
    assert dimension.optuna()._contains(dimension.optuna().to_internal_repr(raw))
    assert type(dimension.decode(raw)) in (int, float, str, type(None))


@given(st.floats(0, 1))
def test_position_is_the_inverse_of_at(position):
    for dimension in (LR, Range(-3.0, 5.0)):
        assert dimension.position(dimension.at(position)) == pytest.approx(position, abs=1e-9)


def test_values_are_python_numbers_whatever_numpy_or_skopt_return():
    numbers = [np.float32(0.5), np.float64(0.1), np.int64(3), np.bool_(True)]
    assert [type(v) for v in to_dimension("x", numbers).grid(1)] == [float, float, int, bool]
    assert type(Range(1, 8, integer=True).decode(np.int64(3))) is int


def test_a_step_is_kept_where_the_backend_has_none():
    dimension = to_dimension("x", FloatDistribution(0.0, 1.0, step=0.25))
    drawn = {dimension.decode(point[0]) for point in Space([dimension.skopt("x")]).rvs(50, random_state=0)}
    assert drawn == {0.0, 0.25, 0.5, 0.75, 1.0}


@pytest.mark.parametrize(
    ("distribution", "median"), [(expon(scale=2), 2 * np.log(2)), (norm(3, 1), 3.0), (poisson(4), 4)]
)
def test_other_scipy_distributions_are_searched_by_quantile(distribution, median):
    dimension = to_dimension("x", distribution)
    assert isinstance(dimension, Quantiles)
    assert dimension.decode(0.5) == pytest.approx(median)
    assert np.isfinite(dimension.decode(dimension.at(0.0)))
    assert np.isfinite(dimension.decode(dimension.at(1.0)))


def test_a_shifted_loguniform_is_not_taken_for_a_plain_one():
    assert isinstance(to_dimension("x", loguniform(1e-3, 1, loc=1)), Quantiles)


def test_tuples_are_choices_in_a_grid_unless_they_name_a_scale():
    assert to_dimension("x", (1, 10), tuples_are_choices=True).grid(5) == [1, 10]
    assert to_dimension("x", (1, 10, 100), tuples_are_choices=True).grid(5) == [1, 10, 100]
    assert to_dimension("x", (1.0, 100.0, "log-uniform"), tuples_are_choices=True).grid(3) == [1.0, 10.0, 100.0]


def test_grids_of_ranges_reach_both_ends():
    assert Range(0.0, 1.0).grid(3) == [0.0, 0.5, 1.0]
    assert Range(1, 3, integer=True).grid(5) == [1, 2, 3]
    assert Range(0, 10, integer=True, step=5).grid(5) == [0, 5, 10]
    assert Range(1, 100, log=True, integer=True).grid(3) == [1, 10, 100]


@given(st.floats(-8, 0), st.floats(0.5, 6), st.integers(2, 40))
def test_log_grid_has_exact_ends_and_one_ratio(exponent, decades, n):
    low, high = 10**exponent, 10 ** (exponent + decades)
    grid = log_grid(low, high, n)
    assert (grid[0], grid[-1], len(grid)) == (low, high, n)
    ratios = np.diff(np.log(grid))
    assert np.ptp(ratios) < 1e-9, ratios


def test_log_grid_of_decades_reads_as_decades():
    assert log_grid(1e-5, 1.0, 6) == [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0]


@given(st.integers(1, 40), st.integers(1, 4), st.integers(0, 99))
def test_even_cover_has_one_point_in_each_part_of_each_axis(n, n_dims, seed):
    points = even_cover(n, n_dims, np.random.RandomState(seed))
    for axis in points.T:
        assert sorted((axis * n).astype(int)) == list(range(n))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.floats(0, 1))
def test_kept_apart_points_repeat_nothing(taken, position):
    distance = 0.5 / (len(taken) + 1)
    kept = keep_apart(position, np.array(taken), distance)
    assert 0 <= kept <= 1
    assert np.abs(np.array(taken) - kept).min() >= distance - 1e-12


NET = NeuralNetClassifier(nn.Linear)


@pytest.mark.parametrize(
    ("estimator", "name"),
    [
        (NET, "lr"),
        (Pipeline([("scale", StandardScaler()), ("net", NET)]), "net__lr"),
        (make_pipeline(StandardScaler(), make_pipeline(NET)), "pipeline__neuralnetclassifier__lr"),
        (GradientBoostingClassifier(), "learning_rate"),
        (MLPClassifier(), "learning_rate_init"),
        (SGDClassifier(), "eta0"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_the_learning_rate_is_found(estimator, name):
    assert find_lr_param(estimator) == name


def test_no_learning_rate_lists_what_there_is():
    with pytest.raises(ValueError, match=r"lr_param must be given .* got None for SVC with C, .*gamma.* search space"):
        find_lr_param(SVC())


def test_several_learning_rates_are_listed():
    both = VotingClassifier([("a", NET), ("b", MLPClassifier())])
    assert lr_names(both) == ["a__lr", "b__learning_rate_init"]
    with pytest.raises(ValueError, match=r"several .* VotingClassifier with a__lr, b__learning_rate_init"):
        find_lr_param(both)
    assert find_lr_param(both, "b__learning_rate_init") == "b__learning_rate_init"


def test_an_lr_of_none_counts_where_no_number_is_found():
    class Booster(GradientBoostingClassifier):
        def get_params(self, deep=True):
            return {**super().get_params(deep), "learning_rate": None}

    assert find_lr_param(Booster()) == "learning_rate"


@pytest.mark.parametrize(
    ("estimator", "names"),
    [
        (SVC(), ["C", "gamma"]),
        (NET, ["lr", "module__anything", "optimizer__weight_decay", "callbacks__print_log__sink", "batch_size"]),
        (NET, ["iterator_train__shuffle", "criterion__weight", "optimizer"]),
        (Pipeline([("net", NET)]), ["net__lr", "net__module__hidden", "net"]),
        (Pipeline([("clf", SVC())]), ["clf", "clf__n_estimators"]),
        (Pipeline([("clf", "passthrough")]), ["clf", "clf__C"]),
    ],
)
def test_known_names_pass(estimator, names):
    check_names(estimator, names)


@pytest.mark.parametrize(
    ("estimator", "name", "advice"),
    [
        (SVC(), "gama", "Did you mean 'gamma'"),
        (SVC(), "zzz", "Choose among C, break_ties"),
        (NET, "max_epoch", "Did you mean 'max_epochs'"),
        (NET, "lrr", "Did you mean 'lr'"),
        (NET, "LR", "Did you mean 'lr'"),
        (NET, "learning_rate", "Did you mean 'lr'"),
        (NET, "optimizer_momentum", "Did you mean 'optimizer__momentum'"),
        (NET, "iterator_train_shuffle", "Did you mean 'iterator_train__shuffle'"),
        (NET, "momentum", "Did you mean 'optimizer__momentum'"),
        (NET, "out_features", "Did you mean 'module__out_features'"),
        (NET, "zzz", "Choose among batch_size, callbacks, "),
        (Pipeline([("net", NET)]), "momentum", "Did you mean 'net__optimizer__momentum'"),
        (Pipeline([("net", NET)]), "lr", "Did you mean 'net__lr'"),
        (Pipeline([("net", NET)]), "net__lrr", "Did you mean 'net__lr'"),
        (Pipeline([("net", NET)]), "nett__lr", "Did you mean 'net__lr'"),
        (Pipeline([("svc", SVC())]), "svc__c", "Did you mean 'svc__C'"),
    ],
)
def test_unknown_names_get_the_near_ones(estimator, name, advice):
    with pytest.raises(ValueError, match=f"Invalid parameter '{name}' for estimator") as error:
        check_names(estimator, [name])
    assert advice in str(error.value)


def test_an_estimator_with_a_set_params_of_its_own_may_know_more_than_it_lists():
    class Open(SVC):
        def set_params(self, **params):
            self.more = params
            return self

    check_names(Open(), ["whatever"])
