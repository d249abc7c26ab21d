"""A net's learning rate, computed from the parameter groups of its optimizer, some of which may have their own lr."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any


def group_options(net: Any) -> list[dict[str, Any]]:
    """Return the options that `optimizer__param_groups` sets for each group of the optimizer; {} for the last group.

    The last group has the parameters that no pattern matches. If a function created other groups, all get {}.
    """
    (given,), _ = net.get_params_for_optimizer("optimizer", net.get_all_learnable_params())
    options = [{name: value for name, value in group.items() if name != "params"} for group in given]
    n_groups = len(net.optimizer_.param_groups)
    return options if len(options) == n_groups else [{} for _ in range(n_groups)]


class NetLR:
    """The current or peak value of a net's `lr`, computed from those parameter groups that follow it.

    A group follows the net's lr, or a multiple of it, unless it has its own lr: set by the user, or given to it by a
    function that creates the optimizer. So the first group is not always one that follows. If no group does, the net's
    lr is assumed to change in proportion to those of the groups.

    Parameters
    ----------
    net : skorch.NeuralNet
        An initialized net.

    Examples
    --------
    >>> from sklr import MLP, NeuralNetRegressor
    >>> groups = [("layers.0.bias", {"lr_multiplier": 0.1}), ("layers.0.weight", {"lr": 0.7})]
    >>> net = NeuralNetRegressor(MLP(2, 1, hidden=(3,)), lr=0.2, optimizer__param_groups=groups).initialize()
    >>> [round(group["lr"], 6) for group in net.optimizer_.param_groups], NetLR(net).peak(net)
    ([0.02, 0.7, 0.2], 0.2)
    """

    def __init__(self, net: Any):
        self.asked = float(net.get_params_for("optimizer").get("lr", net.lr))
        knows_multipliers = hasattr(net, "start_fit")  # skorch's own nets have no `lr_multiplier`
        self.shares = [_share(options, knows_multipliers) for options in group_options(net)]
        if not _makes_groups_as_given(net.optimizer):
            pairs = zip(self.shares, net.optimizer_.param_groups, strict=True)
            self.shares = [share if share and peak_lr(group) == self.asked * share else None for share, group in pairs]

    def peak(self, net: Any) -> float:
        """Return the peak lr, which a schedule's multipliers refer to."""
        return self._read(net, peak_lr)

    def now(self, net: Any) -> float:
        """Return the lr of the next step."""
        return self._read(net, lambda group: float(group["lr"]))

    def _read(self, net: Any, lr_of: Callable[[dict[str, Any]], float]) -> float:
        groups = net.optimizer_.param_groups
        following = [(group, share) for group, share in zip(groups, self.shares, strict=True) if share]
        if not following:
            ratios = (lr_of(group) / peak for group in groups if (peak := peak_lr(group)))
            return self.asked * next(ratios, 1.0)
        group, share = min(following, key=lambda pair: pair[1] != 1)  # prefer a group that needs no (rounded) division
        lr = lr_of(group)
        return self.asked if lr == self.asked * share else lr / share


def _makes_groups_as_given(optimizer: Any) -> bool:
    """Whether an optimizer is given by class or name, and not by a function that may create any groups.

    >>> import torch
    >>> given = ("sgd", torch.optim.SGD, partial(torch.optim.SGD, momentum=0.9), lambda params, lr: None)
    >>> [_makes_groups_as_given(optimizer) for optimizer in given]
    [True, True, True, False]
    """
    while isinstance(optimizer, partial):
        optimizer = optimizer.func
    return isinstance(optimizer, type | str)


def _share(options: dict[str, Any], knows_multipliers: bool) -> float | None:
    """Return the ratio of a group's lr to that of the net; None if the group has its own lr."""
    if knows_multipliers and "lr_multiplier" in options:
        return float(options["lr_multiplier"])
    return None if "lr" in options else 1.0


def peak_lr(group: dict[str, Any]) -> float:
    """Return the peak lr of a group: the stored one, or the lr if it was set after `LRSchedule` last changed it."""
    lr = float(group["lr"])
    return float(group["initial_lr"]) if lr == group.get("scheduled_lr") else lr
