"""scikit-learn's own tests of `GridSearchCV`, run on `LRGridSearchCV` in its place."""

import importlib.util
import inspect

import pytest
import sklearn.model_selection

from sklr import LRGridSearchCV

pytestmark = pytest.mark.filterwarnings("default")  # theirs provoke warnings on purpose

NOT_OURS = {
    "test_grid_search_cv_results": "allows no columns beside scikit-learn's own; ours adds `status`",
    "test_custom_run_search": "compares the columns with those of a class that has no `status`",
}


def load_with_ours():
    """Execute scikit-learn's test module afresh, with our class under the name of theirs."""
    spec = importlib.util.find_spec("sklearn.model_selection.tests.test_search")
    module = importlib.util.module_from_spec(spec)
    theirs = sklearn.model_selection.GridSearchCV
    sklearn.model_selection.GridSearchCV = LRGridSearchCV
    try:
        spec.loader.exec_module(module)
    finally:
        sklearn.model_selection.GridSearchCV = theirs
    return module


def is_about_grid_search(name, value):
    return name.startswith("test_") and inspect.isfunction(value) and "GridSearchCV" in inspect.getsource(value)


MODULE = load_with_ours()
OURS = {name: test for name, test in vars(MODULE).items() if is_about_grid_search(name, test) and name not in NOT_OURS}
globals().update(OURS)


def test_the_exceptions_are_still_needed():
    assert NOT_OURS.keys() <= vars(MODULE).keys()
    assert len(OURS) > 40
