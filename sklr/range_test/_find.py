"""`lr_find`, the method of the nets: a range test and its picture in one call."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from sklr.nets._base import BaseNet
from sklr.range_test._result import RangeTest
from sklr.range_test._run import lr_range_test


def lr_find(net: Any, X: Any, y: Any = None, *, ax: Any = None, plot: bool = True, **params: Any) -> RangeTest:
    """Raise the learning rate until training breaks, draw the loss, and return where to start.

    This is `sklr.lr_range_test` for this net, with its picture. The net stays as it is: clones are trained.

    Parameters
    ----------
    X, y : as in `fit`
        Training rows; X may also be a Dataset or a DataLoader.
    ax : matplotlib Axes, default=None
        Where to draw; None makes a new figure, and draws nothing where matplotlib is not installed.
    plot : bool, default=True
        Whether to draw.
    **params
        As in `sklr.lr_range_test`: `lr_range`, `n_steps`, `n_seeds`, `random_state` and others.

    Returns
    -------
    result : RangeTest
        Prints as its conclusion; `result.suggestion` is the number.

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


BaseNet.lr_find = lr_find  # the nets stand below the range test, so it brings the method to them
