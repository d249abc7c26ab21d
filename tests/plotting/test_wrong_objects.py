"""Objects of another kind given to the plot functions."""

import numpy as np
import pytest
from searches import X, Y, diverging, net, without_lr
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

import sklr
from sklr import LRCurveDisplay, LRGridSearchCV, lr_range_test

OF_SEARCHES = {
    name: getattr(sklr, name)
    for name in ("plot_best_epochs", "plot_lr_curve", "plot_params", "plot_rounds", "plot_training_curves")
} | {"from_search": LRCurveDisplay.from_search}
OTHERS = {"plot_coordinate_check": sklr.plot_coordinate_check, "plot_range_test": sklr.plot_range_test}
THINGS = {
    "array": (np.zeros((9, 2)), "got 'ndarray'"),
    "None": (None, "got 'NoneType'"),
    "text": ("lr.png", "got 'str'"),
    "net": (net(), "got 'NeuralNetClassifier'"),
    "class": (LRGridSearchCV, "got the class LRGridSearchCV"),
}


@pytest.mark.parametrize("thing", THINGS)
@pytest.mark.parametrize("plot", OF_SEARCHES)
def test_what_is_no_search_is_refused(plot, thing):
    source, words = THINGS[thing]
    of_nets = (plot, thing) == ("plot_training_curves", "net")
    words = "not fitted yet" if of_nets else f"^the first argument must be .*{words}"
    with pytest.raises(NotFittedError if of_nets else TypeError, match=words):
        OF_SEARCHES[plot](source)


@pytest.mark.parametrize("plot", OTHERS)
def test_what_is_no_result_is_refused_with_the_plot_for_it(plot):
    for source in (None, np.zeros(3), net()):
        with pytest.raises(TypeError, match=rf"must be what \w+ returned, got '{type(source).__name__}'"):
            OTHERS[plot](source)
    with pytest.raises(TypeError, match=r"got 'LRGridSearchCV'\. Of this object draw plot_lr_curve\(search\)"):
        OTHERS[plot](diverging())


def test_the_plot_for_another_result_is_named():
    result = lr_range_test(net(), X, Y)
    for plot in (sklr.plot_coordinate_check, sklr.plot_schedule, *OF_SEARCHES.values()):
        with pytest.raises(TypeError, match=r"got 'RangeTest'\. Of this object draw plot_range_test\(result\)"):
            plot(result)
    with pytest.raises(TypeError, match=r"Of this object draw plot_training_curves\(net\)"):
        sklr.plot_lr_curve(net().fit(X, Y))


def test_a_search_is_no_schedule():
    with pytest.raises(TypeError, match="must be a schedule, or a fitted net, got 'LRGridSearchCV'"):
        sklr.plot_schedule(diverging())


@pytest.mark.parametrize("plot", [sklr.plot_lr_curve, sklr.plot_rounds, sklr.plot_training_curves])
def test_a_search_of_scikit_learn_has_no_curve(plot):
    grid = GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, cv=2).fit(X, Y)
    with pytest.raises(TypeError, match=r"must be a fitted search of sklr, got 'GridSearchCV'\. Write LRGridSearchCV"):
        plot(grid)
    sklr.plot_params(without_lr())


@pytest.mark.parametrize("plot", OF_SEARCHES)
def test_a_search_that_is_not_fitted_says_so(plot):
    with pytest.raises(NotFittedError):
        OF_SEARCHES[plot](LRGridSearchCV(net()))
