"""scikit-learn's own checks of an estimator, all of them, for searches over our nets and over its models."""

import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.utils.estimator_checks import parametrize_with_checks

from sklr import MLP, BayesSearchCV, LRGridSearchCV, NeuralNetClassifier, NeuralNetRegressor, OptunaSearchCV

pytestmark = pytest.mark.slow

FEW = {"cv": 2, "random_state": 0, "error_score": "raise"}  # as scikit-learn checks its own searches
QUICK = {"optimizer": "adam", "max_epochs": 5, "random_state": 0}
OVER_NETS = {"lr_range": (0.05, 0.1), **FEW}


def searches():
    net = NeuralNetClassifier(MLP, **QUICK)
    yield LRGridSearchCV(net, n_lrs=2, **OVER_NETS)
    yield OptunaSearchCV(net, n_trials=2, **OVER_NETS)
    yield LRGridSearchCV(NeuralNetRegressor(MLP, **QUICK), n_lrs=2, **OVER_NETS)
    model, space = LogisticRegression(), {"C": [0.1, 1.0]}
    yield LRGridSearchCV(model, space, **FEW)
    yield BayesSearchCV(model, space, n_iter=2, **FEW)
    yield OptunaSearchCV(model, space, n_trials=2, **FEW)
    yield LRGridSearchCV(Ridge(), {"alpha": [0.1, 1.0]}, **FEW)


def expected_failures(search):
    if isinstance(search, OptunaSearchCV) and isinstance(search.estimator, LogisticRegression):
        return {"check_array_api_input": "`sample_indices_` count rows, and are NumPy's wherever the rows live"}
    return {}


@pytest.mark.filterwarnings("default")  # the checks provoke warnings on purpose
@parametrize_with_checks(list(searches()), expected_failed_checks=expected_failures, xfail_strict=False)
def test_check(estimator, check):
    check(estimator)
