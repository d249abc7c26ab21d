"""`lr_find`, a method of the nets: a range test and its plot in one call."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from sklr.nets._base import BaseNet
from sklr.range_test._result import RangeTest
from sklr.range_test._run import lr_range_test


def lr_find(net: Any, X: Any, y: Any = None, *, ax: Any = None, plot: bool = True, **params: Any) -> RangeTest:
    """Run a learning-rate range test, plot the loss, and return a learning rate to start from.

    This is `sklr.lr_range_test` for this net, with a plot. The net is not changed: clones are trained.

    Parameters
    ----------
    X, y : as in `fit`
        Training rows; X may also be a Dataset or a DataLoader.
    ax : matplotlib Axes, default=None
        Axes to plot on. By default a new figure is created, or nothing is plotted if matplotlib is not installed.
    plot : bool, default=True
        Whether to plot.
    **params
        As in `sklr.lr_range_test`: `lr_range`, `n_steps`, `n_seeds`, `random_state` and others.

    Returns
    -------
    result : RangeTest
        Its `suggestion` is the learning rate; its `repr` is the conclusion in words.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklr import MLP, NeuralNetClassifier
    >>> X, y = load_wine(return_X_y=True)
    >>> net = NeuralNetClassifier(MLP, batch_size=32, iterator_train__shuffle=True)
    >>> found = net.lr_find((X - X.mean(0)) / X.std(0), y, plot=False, random_state=0)
    >>> 0.001 < found.suggestion < found.edge
    True
    """
    result = lr_range_test(net, X, y, **params)
    if plot and (ax is not None or find_spec("matplotlib")):
        axes = result.plot(ax=ax)
        axes.set_title(result.conclusion(), fontsize="medium")
    return result


BaseNet.lr_find = lr_find  # set here, since the nets must not import the range test, which imports them
