"""Edges of parameters beside the learning rate: where they are named, and where nothing is said."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution
from scipy.stats import loguniform
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.model_selection import KFold
from sklearn.pipeline import Pipeline

from sklr import BayesSearchCV, EdgeOfRangeWarning, LRGridSearchCV, OptunaSearchCV
from sklr.search._edges import param_edges
from sklr.search.proposals.dimensions import Range

X, Y, CV = np.arange(20.0).reshape(-1, 1), np.zeros(20), KFold(2)


class Slope(RegressorMixin, BaseEstimator):
    """Best at lr 0.03, and the better the further `decay` is in the direction of `sign`; `width` has no effect."""

    def __init__(self, lr=0.03, decay=0.1, width=4, sign=-1):
        self.lr, self.decay, self.width, self.sign = lr, decay, width, sign

    def fit(self, X, y):
        self.fitted_ = True
        return self

    def predict(self, X):
        return np.zeros(len(X))

    def score(self, X, y):
        return self.sign * np.log10(self.decay) - np.log10(self.lr / 0.03) ** 2


NET = Pipeline([("net", Slope())])
RANGE = (0.01, 1.0, "log-uniform")
SEARCHES = {
    "grid": lambda net: LRGridSearchCV(net, {"net__lr": [0.003, 0.03, 0.3], "net__decay": [0.01, 0.1, 1.0]}, cv=CV),
    "grid of a range": lambda net: LRGridSearchCV(net, {"net__decay": loguniform(0.01, 1.0)}, cv=CV),
    "bayes": lambda net: BayesSearchCV(
        net, {"net__decay": RANGE}, n_iter=8, optimizer_kwargs={"base_estimator": "DUMMY"}, cv=CV, random_state=0
    ),
    "optuna": lambda net: OptunaSearchCV(
        net, {"net__decay": FloatDistribution(0.01, 1.0, log=True), "net__width": [2, 8]}, n_trials=9, cv=CV,
        random_state=0
    ),
    "sobol": lambda net: OptunaSearchCV(
        net, {"net__decay": RANGE}, sampler="sobol", n_trials=8, cv=CV, random_state=0
    ),
}  # fmt: skip


@pytest.mark.parametrize("make", SEARCHES.values(), ids=SEARCHES)
@pytest.mark.parametrize(("sign", "side", "end"), [(-1, "low", "lower"), (1, "high", "upper")])
def test_the_edge_is_named_as_the_user_wrote_it(make, sign, side, end, tmp_path):
    search = make(Pipeline([("net", Slope(sign=sign))]))
    words = rf"net__decay: best at the {end} end of \[0.01, 1\]"
    with pytest.warns(EdgeOfRangeWarning, match=words):
        search.fit(X, Y)
    edge = search.param_edges_["net__decay"]
    assert (edge.side, round(edge.low, 6), edge.high) == (side, 0.01, 1.0)
    assert list(search.param_edges_) == ["net__decay"]  # the lr has an attribute of its own
    assert f"Edge of other parameters: net__decay: best at the {end} end of [0.01, 1]." in search.summary()
    page = search.report(tmp_path / "lr.html").read_text()
    assert f"net__decay: best at the {end} end of [0.01, 1]." in page


class Inner(Slope):
    def score(self, X, y):
        return -(np.log10(self.decay / 0.1) ** 2) - np.log10(self.lr / 0.03) ** 2


QUIET = {  # the estimator, and what is searched: nothing is said of any of them
    "inside": (Inner(), {"decay": [0.01, 0.1, 1.0]}),
    "two values": (Slope(), {"decay": [0.01, 0.1]}),
    "no effect": (Inner(), {"decay": [0.1], "width": [2, 4, 8]}),
    "no numbers": (Inner(), {"decay": [0.1], "width": [None, 2, 4, 8]}),
    "flags": (Inner(), {"decay": [0.1], "width": [False, True]}),
    "the lr": (Inner(decay=0.1), {"lr": [0.1, 1.0, 10.0]}),
}


@pytest.mark.parametrize(("estimator", "values"), QUIET.values(), ids=QUIET)
def test_nothing_is_said_where_there_is_no_edge(estimator, values):
    search = LRGridSearchCV(estimator, values, cv=CV).fit(X, Y)
    assert search.param_edges_ == {}
    assert "Edge of other" not in search.summary()


def test_of_several_scores_it_is_the_one_of_refit():
    scoring = {"up": lambda e, X, y: e.decay, "down": lambda e, X, y: -e.decay}
    for refit, side in (("up", "high"), ("down", "low")):
        search = LRGridSearchCV(Slope(), {"decay": [0.01, 0.1, 1.0]}, scoring=scoring, refit=refit, cv=CV)
        assert search.fit(X, Y).param_edges_["decay"].side == side
    assert search.set_params(refit=False).fit(X, Y).param_edges_ == {}


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(-3, 3)), min_size=1, max_size=12),
    st.lists(st.one_of(st.integers(0, 3), st.just(np.nan)), min_size=12, max_size=12),
)
def test_an_edge_is_the_only_best_value_and_an_extreme_one(pairs, scores):
    candidates = [{"width": width, "decay": 10.0**power} for width, power in pairs]
    scores = np.array(scores[: len(pairs)], dtype=float)
    edges = param_edges(candidates, scores, {})
    for name in ("width", "decay"):
        values = [candidate[name] for candidate in candidates]
        best = {v for v, s in zip(values, scores, strict=True) if s == max(scores[np.isfinite(scores)], default=1)}
        extreme = len(set(values)) >= 3 and len(best) == 1 and best <= {min(values), max(values)}
        assert (name in edges) == extreme
        if extreme:
            assert (edges[name].side == "low") == (best == {min(values)})


def test_a_range_ends_where_it_was_said_to_end_not_where_the_tries_did():
    tried = [{"decay": value} for value in np.linspace(0.2, 0.9, 20)]
    scores = -np.arange(20.0)
    assert param_edges(tried, scores, {})["decay"].low == pytest.approx(0.2)
    assert param_edges(tried, scores, {"decay": Range(0.0, 1.0)}) == {}  # 0.2 is no end of 0 to 1
    assert param_edges(tried, scores, {"decay": Range(0.19, 1.0)})["decay"] == ("low", 0.19, 1.0)
