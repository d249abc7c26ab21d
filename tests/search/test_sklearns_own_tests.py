"""scikit-learn's own tests of searches, run with `LRGridSearchCV` in the place of `GridSearchCV`.

A test module of theirs is executed afresh with our class under the name of theirs. Of the module about searches
every test is run; of the others those that meet our class.
"""

import importlib.util
import inspect
import sys

import pytest
import sklearn.model_selection
from sklearn.dummy import DummyClassifier
from sklearn.model_selection import GridSearchCV

from sklr import LRGridSearchCV

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.slow]  # theirs provoke warnings on purpose

ABOUT_SEARCHES = "sklearn.model_selection.tests.test_search"
ABOUT_MORE = {  # module: the name under which our class goes into its tests
    "sklearn.model_selection.tests.test_validation": "GridSearchCV",
    "sklearn.model_selection.tests.test_split": "GridSearchCV",
    "sklearn.metrics.tests.test_score_objects": "GridSearchCV",
    "sklearn.utils.tests.test_parallel": "GridSearchCV",
    "sklearn.tests.test_base": "GridSearchCV",
    "sklearn.tests.test_metaestimators_metadata_routing": "METAESTIMATORS",
}
COUNT_COLUMNS = ("test_grid_search_cv_results", "test_custom_run_search")  # allow none beside scikit-learn's own
THEIR_ATTRIBUTES = dir(GridSearchCV(DummyClassifier(), {"strategy": ["prior"]}, cv=2).fit([[0]] * 4, [0, 1] * 2))


def load_with_ours(name):
    """Execute scikit-learn's test module afresh, with our class under the name of theirs."""
    spec = importlib.util.find_spec(name)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # where pickle looks for its classes
    theirs = sklearn.model_selection.GridSearchCV
    sklearn.model_selection.GridSearchCV = LRGridSearchCV
    try:
        spec.loader.exec_module(module)
    finally:
        sklearn.model_selection.GridSearchCV = theirs
    return module


def their_tests(module):
    return {name: test for name, test in vars(module).items() if name.startswith("test_") and inspect.isfunction(test)}


def about_ours(test):
    """Leave out the cases that are about another meta-estimator; pytest wants lists of cases, not generators."""
    for i, mark in enumerate(getattr(test, "pytestmark", [])):
        if mark.name == "parametrize":
            names, cases = mark.args
            cases = [case for case in cases if not is_about_another(case)]
            test.pytestmark[i] = pytest.mark.parametrize(names, cases).mark
    return test


def is_about_another(case):
    return isinstance(case, dict) and case.get("metaestimator", LRGridSearchCV) is not LRGridSearchCV


SEARCHES = load_with_ours(ABOUT_SEARCHES)
OURS = {name: about_ours(test) for name, test in their_tests(SEARCHES).items() if name not in COUNT_COLUMNS}
for module_name, meets_ours in ABOUT_MORE.items():
    found = their_tests(load_with_ours(module_name)).items()
    where = module_name.rpartition(".")[2]
    OURS |= {f"{name}_in_{where}": about_ours(test) for name, test in found if meets_ours in inspect.getsource(test)}
globals().update(OURS)


class WithoutOurExtras(LRGridSearchCV):
    def fit(self, X, y=None, **params):
        super().fit(X, y, **params)
        del self.cv_results_["status"]
        return self

    def __dir__(self):
        return THEIR_ATTRIBUTES


@pytest.mark.parametrize("name", COUNT_COLUMNS)
def test_theirs_that_count_columns_pass_without_ours(name, monkeypatch):
    monkeypatch.setattr(SEARCHES, "GridSearchCV", WithoutOurExtras)
    getattr(SEARCHES, name)()


def test_none_of_theirs_is_lost():
    assert SEARCHES.GridSearchCV is LRGridSearchCV
    assert len(their_tests(SEARCHES)) >= 80
    assert len(OURS) >= len(their_tests(SEARCHES)) - len(COUNT_COLUMNS) + len(ABOUT_MORE)
