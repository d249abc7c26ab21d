"""muP: one learning rate for all widths, by parameter groups and initial weights, without changing the forward pass."""

from __future__ import annotations

import glob
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sklr._utils.html import ShownAsText
from sklr._utils.validation import must_be
from sklr.scaling._batch import Transfer, check_optimizer, check_positive, with_defaults
from sklr.scaling._roles import GrownParameter, check_attention, find_grown

_RULE = "muP: learning rates by parameter, the net's lr unchanged (Yang et al. 2022, Table 3)"
_NEEDS = ("the same depth, batch size, steps and data", "a base model that is not tiny", "all widths scaled together")


@dataclass(frozen=True)
class MupParam:
    """What muP changes for one parameter of a module.

    Parameters
    ----------
    name : str
        As in `module.named_parameters()`.
    role : {"input", "hidden", "output", "vector", "fixed"}
        Which of its dimensions grow with the width: fan-out, both, fan-in, its only one (biases and norms), or none.
    lr_multiplier : float
        Ratio of its learning rate to that of the net.
    init_multiplier : float
        Ratio of its initial values to those that the module draws at this width.
    scale : float
        The largest factor by which one of its dimensions grew.
    options : mapping
        The other optimizer options of its group, as absolute values.
    """

    name: str
    role: str
    lr_multiplier: float
    init_multiplier: float
    scale: float
    options: Mapping[str, float]


@dataclass(frozen=True)
class ScaledInit:
    """A module factory that multiplies some initial parameters; pass it to a net instead of the module's class.

    Parameters
    ----------
    module : class or callable
        Returns the module.
    multipliers : mapping of str to float
        The factors, by parameter name.

    Examples
    --------
    >>> make = ScaledInit(nn.Linear, {"bias": 0.0})
    >>> make(2, 1).bias.abs().tolist()
    [0.0]
    """

    module: Callable[..., nn.Module]
    multipliers: Mapping[str, float]

    def __call__(self, *args: Any, **kwargs: Any) -> nn.Module:
        return _multiply(self.module(*args, **kwargs), self.multipliers)

    @property
    def __signature__(self) -> inspect.Signature:  # sklr's nets look for n_inputs and n_outputs in it
        return inspect.signature(self.module)


@dataclass(frozen=True, repr=False)
class MupGroups(ShownAsText):
    """The learning rate of a base model, transferred to a wider model as parameter groups and initial weights.

    Parameters
    ----------
    lr : float
        Peak learning rate of the base model.
    optimizer : str
        Name of the optimizer class.
    params : tuple of MupParam
        Every parameter of the wider model, in the order of `named_parameters`.
    """

    lr: float
    optimizer: str
    params: tuple[MupParam, ...]

    def torch_groups(self, module: nn.Module) -> list[dict[str, Any]]:
        """Return parameter groups with their own learning rates, for a `torch.optim` optimizer.

        A schedule must multiply these learning rates; setting all groups to the same lr undoes muP.
        """
        named = dict(module.named_parameters())
        _check_same_names(named, [p.name for p in self.params], "module")
        return [{"params": [named[p.name]], "lr": self.lr * p.lr_multiplier, **p.options} for p in self.params]

    def scale_init(self, module: nn.Module) -> nn.Module:
        """Scale the initial weights of a new module in place, and return it. Call it only once per module."""
        return _multiply(module, self._init_multipliers())

    def as_params(self, module: Callable[..., nn.Module]) -> dict[str, Any]:
        """Return all parameters that change, for `set_params` of one of sklr's nets.

        Parameters
        ----------
        module : class or callable
            The net's `module`. In the result it is wrapped to scale its initial weights.

        Returns
        -------
        params : dict
            `lr`, `module`, and `optimizer__param_groups` with learning rates relative to the lr, so that a search can
            vary it. skorch's own nets do not support relative groups.
        """
        groups = [
            (glob.escape(p.name), {"lr_multiplier": p.lr_multiplier, **p.options})
            for p in self.params
            if p.lr_multiplier != 1 or p.options
        ]
        make, scaled = (module.module, module.multipliers) if isinstance(module, ScaledInit) else (module, {})
        init = {**scaled, **self._init_multipliers()}
        return {"lr": self.lr, "module": ScaledInit(make, init), "optimizer__param_groups": groups}

    def as_transfer(self, module: Callable[..., nn.Module], **params: Any) -> Transfer:
        """Return a `Transfer` for `sklr.transfer.verify_transfer`, including the parameters that widen the net.

        Parameters
        ----------
        module : class or callable
            The net's `module`.
        **params
            Parameters of the net that make it wider, such as `module__hidden`.
        """
        changed = {name: value for name, value in self.as_params(module).items() if name != "lr"}
        return Transfer(self.lr, self.lr, self.scale, {**changed, **params}, _RULE, _NEEDS)

    @property
    def scale(self) -> float:
        """The largest factor by which a dimension of a parameter is wider than in the base model."""
        return max(p.scale for p in self.params)

    def _init_multipliers(self) -> dict[str, float]:
        return {p.name: p.init_multiplier for p in self.params if p.init_multiplier != 1}

    def conclusion(self) -> str:
        """Return the learning rate and the number of parameters in one line."""
        return f"lr {self.lr:g} of {self.optimizer}, for {len(self.params)} parameters"

    def __str__(self) -> str:
        width = max(len(p.name) for p in self.params)
        rows = [
            f"{p.name:<{width}}  {p.role:<6}  {p.lr_multiplier:>8.4g}  {p.init_multiplier:>8.4g}" for p in self.params
        ]
        return "\n".join([f"{'parameter':<{width}}  {'role':<6}  {'lr x':>8}  {'init x':>8}", *rows])


def mup_param_groups(
    module: nn.Module,
    base_module: nn.Module,
    lr: float,
    optimizer: Any,
    *,
    roles: Mapping[str, str] | None = None,
    **optimizer_params: Any,
) -> MupGroups:
    r"""Transfer the learning rate of a narrow model to a wide one, parameter by parameter (muP).

    The shapes of the parameters of both models are compared. With `m` the ratio of the wide to the narrow size of a
    dimension, Table 3 of Yang et al. 2022 (Tensor Programs V, arXiv 2203.03466) gives the following factors, relative
    to PyTorch's initial values (:math:`1/\sqrt{fan\_in}`) and to a common lr:

    ====================  =============================  ============================  =======================
    parameter             adaptive: lr times             SGD: lr times                 initial values times
    ====================  =============================  ============================  =======================
    input weights         1                              :math:`m_{out}`               1
    biases, norms         1                              m                             1
    hidden weights        :math:`1/m_{in}`               :math:`m_{out}/m_{in}`        1
    output weights        :math:`1/m_{in}`               :math:`1/m_{in}`              :math:`m_{in}^{-1/2}`
    ====================  =============================  ============================  =======================

    A bias that is drawn from :math:`\pm 1/\sqrt{fan\_in}` keeps the spread it has in the base model: its initial
    values are multiplied by :math:`\sqrt{m_{in}}`. `weight_decay` is divided by the multiplier of the lr, so that their
    product does not change. `eps` of the adaptive optimizers is divided by :math:`m_{out}`, as the gradient decreases
    by that factor (Everett et al. 2024, arXiv 2407.05872).

    Parameters
    ----------
    module, base_module : torch.nn.Module
        The wide and the narrow model, which may differ only in their widths. Both may be on `torch.device("meta")`.
    lr : float
        Peak learning rate of the base model.
    optimizer : {"sgd", "adam", "adamw", "rmsprop"} or class
    roles : mapping of str to str, optional
        The role of parameters that cannot be inferred from their layer, by name or pattern:
        ``{"positions": "input"}``. The dimensions of a matrix are taken as (out, in).
    **optimizer_params
        The optimizer's hyper-parameters, such as `weight_decay`; torch's defaults otherwise.

    Returns
    -------
    groups : MupGroups

    Raises
    ------
    ValueError
        If the models do not have the same parameters. If a parameter that grew cannot be classified: it is not the
        weight of a linear, convolution, embedding, recurrent or attention layer, is shared by two layers, or its
        kernel size changed. If Adam or RMSprop is used with weight decay, which is then part of the gradient and has
        no known rule; use AdamW. If the heads of an `nn.MultiheadAttention` grew: muP divides logits by the head size,
        torch by its square root, so increase the number of heads instead.

    Notes
    -----
    The rule holds for the same depth, batch size, number of steps, data and optimizer, for a base model that is not
    tiny (width 64 or more), and if all widths are scaled together. The strength of regularization does not transfer.
    Custom attention must divide its logits by the head size, or keep the head size. `sklr.transfer.coordinate_check`
    checks whether a model is parametrized correctly, and `verify_transfer` whether its best learning rate is the same.

    Examples
    --------
    >>> from sklr.modules import MLP
    >>> groups = mup_param_groups(MLP(8, 2, hidden=(256, 256)), MLP(8, 2, hidden=(64, 64)), 0.01, "adam")
    >>> print(groups)
    parameter        role        lr x    init x
    layers.0.weight  input          1         1
    layers.0.bias    vector         1         1
    layers.2.weight  hidden      0.25         1
    layers.2.bias    vector         1         2
    layers.4.weight  output      0.25       0.5
    layers.4.bias    fixed          1         2
    >>> sorted(groups.as_params(MLP))
    ['lr', 'module', 'optimizer__param_groups']
    >>> mup_param_groups(MLP(8, 2, hidden=(256,)), MLP(8, 2, hidden=(64, 64)), 0.01, "adam")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: module must have the same parameters as base_module, got 'layers.4.bias' in only one of them. ...
    """
    check_positive("lr", lr)
    kind = check_optimizer(optimizer)
    values = with_defaults(kind, optimizer_params)
    if kind in (torch.optim.Adam, torch.optim.RMSprop) and values["weight_decay"]:
        advice = "No rule is known if weight decay is part of the gradient: use AdamW."
        raise ValueError(must_be("weight_decay", f"0 with {kind.__name__}", values["weight_decay"], advice))
    base = dict(base_module.named_parameters())
    _check_same_names(base, [name for name, _ in module.named_parameters()], "module")
    check_attention(module, base_module)
    sides = list(find_grown(module, base_module, roles or {}))
    return MupGroups(lr, kind.__name__, tuple(_mup_param(side, kind, values) for side in sides))


def _mup_param(side: GrownParameter, kind: Any, values: Mapping[str, Any]) -> MupParam:
    is_sgd = kind is torch.optim.SGD
    lr = side.m_out / side.m_in if is_sgd else 1 / side.m_in
    init = side.m_in**-0.5 if side.role == "output" else math.sqrt(side.bias_fan_in)
    options = {"weight_decay": values["weight_decay"] / lr} if values["weight_decay"] and lr != 1 else {}
    if not is_sgd and side.m_out != 1:
        options["eps"] = values["eps"] / side.m_out
    return MupParam(side.name, side.role, lr, init, max(side.m_out, side.m_in), options)


def _check_same_names(named: Mapping[str, Any], names: list[str], what: str) -> None:
    alone = sorted(named.keys() ^ set(names))
    if alone:
        advice = "Change only the widths, not the depth."
        raise ValueError(
            f"{what} must have the same parameters as base_module, got {alone[0]!r} in only one of them. {advice}"
        )


def _multiply(module: nn.Module, multipliers: Mapping[str, float]) -> nn.Module:
    named = dict(module.named_parameters())
    with torch.no_grad():
        for name, multiplier in multipliers.items():
            named[name].mul_(multiplier)
    return module
