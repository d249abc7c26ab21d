"""The training curves of a single fitted net, from its history."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from sklearn.exceptions import NotFittedError

from sklr._utils.validation import unknown_name
from sklr.plotting._axes import add_legend, get_axes, label_epoch_axis

PARTS = {"train": "training", "valid": "validation"}


class NetCurvesData(NamedTuple):
    """Values that a net recorded per epoch.

    Attributes
    ----------
    label : str
        Name of the values, such as ``"loss"``.
    epochs : ndarray of shape (n_epochs,)
        Epoch numbers, from 1.
    curves : dict from str to ndarray of shape (n_epochs,)
        The values on the ``"training"`` and ``"validation"`` rows; NaN for epochs without a value.
    """

    label: str
    epochs: np.ndarray
    curves: dict[str, np.ndarray]


def history_of(source: Any) -> Any:
    """Return the history of a net, or of the net inside a fitted pipeline or target transformer; None for others."""
    while hasattr(source, "steps") or hasattr(source, "regressor_"):
        source = source.steps[-1][1] if hasattr(source, "steps") else source.regressor_
    return getattr(source, "history", None)


def net_curves_data(net: Any, what: str = "train_loss") -> NetCurvesData:
    """Return the values that a net recorded per epoch, on its training rows and on held-out rows.

    Parameters
    ----------
    net : fitted net, or a Pipeline or TransformedTargetRegressor around one
    what : str, default="train_loss"
        A column of the net's `history`. For a column ``train_...`` or ``valid_...`` the other one is included if it
        exists. skorch's ``EpochScoring("accuracy", on_train=True, name="train_acc")`` records one for training rows.

    Returns
    -------
    data : NetCurvesData

    Raises
    ------
    ValueError
        If the history has no such numeric column.
    sklearn.exceptions.NotFittedError
        If the net has not been trained.
    """
    history = history_of(net)
    if not history:
        raise NotFittedError("The net must be fitted, got one whose history has no epochs. Call its fit first.")
    numbers = [name for name in history[-1] if isinstance(history[-1][name], float | int | np.number)]
    if what not in numbers:
        raise unknown_name("what", what, [name for name in numbers if name != "epoch"])
    part, _, name = what.partition("_")
    wanted = {f"{prefix}_{name}": word for prefix, word in PARTS.items()} if part in PARTS else {what: what}
    curves = {word: _column(history, key) for key, word in wanted.items() if key in numbers}
    return NetCurvesData(name if part in PARTS else what, np.arange(1, len(history) + 1), curves)


def _column(history: Any, name: str) -> np.ndarray:
    return np.array([row.get(name, np.nan) for row in history], dtype=float)


def plot_net_curves(data: NetCurvesData, ax: Any) -> Any:
    """Plot the curves of a net."""
    ax = get_axes(ax)
    for word, values in data.curves.items():
        ax.plot(data.epochs, values, label=word, marker="." if len(values) <= 15 else None)
    label_epoch_axis(ax)
    ax.set_ylabel(data.label.replace("_", " "))
    add_legend(ax)
    return ax
