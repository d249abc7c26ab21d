"""The learning rate for another batch size: linear scaling for SGD, square-root scaling for Adam, AdamW and RMSprop."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from skorch import NeuralNet

from sklr._utils.html import ShownAsText
from sklr._utils.names import resolve_optimizer
from sklr._utils.validation import check_count, must_be, unknown_name
from sklr._utils.warnings import warn
from sklr.exceptions import TransferWarning
from sklr.scaling._noise import NoiseScale

FAR = 8  # factor of the batch size: papers that go further measured where the rule fails, or used epochs of warmup


@dataclass(frozen=True)
class Transfer(ShownAsText):
    """A learning rate transferred to another size, with all other hyper-parameters that have to change.

    Parameters
    ----------
    lr : float
        Peak learning rate at the new size.
    old_lr : float
        Peak learning rate at the old size.
    scale : float
        Ratio of the new size to the old size.
    params : mapping
        The other hyper-parameters that change, by their parameter names in sklr's nets.
    rule : str
        Formula and paper.
    needs : tuple of str
        Preconditions of the rule.
    """

    lr: float
    old_lr: float
    scale: float
    params: Mapping[str, Any] = field(default_factory=dict)
    rule: str = ""
    needs: tuple[str, ...] = ()

    @property
    def ratio(self) -> float:
        """Ratio of the new learning rate to the old one."""
        return self.lr / self.old_lr

    def as_params(self) -> dict[str, Any]:
        """Return all changed hyper-parameters, for `net.set_params(**...)`."""
        return {"lr": self.lr, **self.params}

    def __str__(self) -> str:
        changed = ", ".join(f"{name}={_short(value)}" for name, value in self.as_params().items())
        return "\n".join([f"Set {changed}.", f"Rule: {self.rule}.", *(f"Needs: {need}." for need in self.needs)])


def transfer_lr(
    lr: float | None = None,
    *,
    net: Any = None,
    optimizer: Any = None,
    batch_size: tuple[int, int] | int,
    noise_scale: float | NoiseScale | None = None,
    **optimizer_params: Any,
) -> Transfer:
    r"""Scale a learning rate to another batch size, for the same number of epochs.

    With :math:`k = B'/B`, where batch sizes above the noise scale are replaced by the noise scale:

    - SGD, with or without momentum: :math:`lr' = k\,lr` (Goyal et al. 2017, arXiv 1706.02677, section 2.1). Momentum
      and `weight_decay` stay.
    - Adam, AdamW, RMSprop: :math:`lr' = \sqrt{k}\,lr`, :math:`1 - \beta' = k (1 - \beta)` for each averaging
      coefficient, :math:`\epsilon' = \epsilon / \sqrt{k}` (Malladi et al. 2022, arXiv 2205.10287, section 5).
      AdamW decays the weights by lr times `weight_decay` per step, so for the same decay per epoch `weight_decay` is
      multiplied by :math:`\sqrt{k}`; that of Adam and RMSprop is part of the gradient and does not change.

    Parameters
    ----------
    lr : float, default=None
        Peak learning rate at the old batch size; by default that of the net.
    net : skorch net, default=None
        A net from which optimizer, hyper-parameters and batch size are read. The result then also has the changes of
        its parameter groups: ``net.set_params(**transfer.as_params())``.
    optimizer : {"sgd", "adam", "adamw", "rmsprop"} or class, default=None
        Required without a net.
    batch_size : tuple of int, (old, new), or int
        Number of rows per step. With a net, the new `batch_size` alone is enough; its `accumulate_steps` is kept.
    noise_scale : float or NoiseScale, default=None
        The gradient noise scale, in rows: what `sklr.transfer.gradient_noise_scale` returns. Neither rule holds for
        larger batches, in which the noise no longer dominates: the lr is scaled up to the noise scale only, with a
        warning.
    **optimizer_params
        The optimizer's hyper-parameters at the old batch size, such as `betas`; by default those of the net, or
        torch's defaults.

    Returns
    -------
    transfer : Transfer

    Raises
    ------
    ValueError
        If lr, optimizer or batch size is missing and no net is given, there is no rule for the optimizer, a value is
        invalid, or a coefficient would become negative: :math:`k (1 - \beta) < 1` must hold, so with beta1 = 0.9 the
        batch size can increase by a factor of less than 10.

    Warns
    -----
    TransferWarning
        If the new batch size is above the noise scale, or, without a noise scale, more than 8 times the old one.

    Notes
    -----
    Both rules preserve the stochastic dynamics of the weights, with time measured in samples. They hold if the noise of
    a step's gradient dominates its mean, and fail for learning rates at the edge of stability, in the first steps, and
    with batch norm, whose statistics depend on the batch size. Warmup and schedule must be in epochs, as they are in
    sklr's nets. The paper does not cover RMSprop with momentum: the momentum is kept, as for SGD.

    Examples
    --------
    >>> print(transfer_lr(0.1, optimizer="sgd", batch_size=(32, 128)))
    Set lr=0.4, batch_size=128.
    Rule: lr' = k lr (Goyal et al. 2017).
    Needs: the same number of epochs.
    Needs: batches below the gradient noise scale.
    Needs: a learning rate that is still stable.
    >>> adam = transfer_lr(0.001, optimizer="adamw", batch_size=(32, 128), weight_decay=0.1)
    >>> {name: value for name, value in adam.as_params().items() if name != "optimizer__betas"}
    {'lr': 0.002, 'batch_size': 128, 'optimizer__eps': 5e-09, 'optimizer__weight_decay': 0.2}
    >>> [round(beta, 6) for beta in adam.params["optimizer__betas"]]
    [0.6, 0.996]
    >>> from sklr import MLP, NeuralNetClassifier
    >>> net = NeuralNetClassifier(MLP, lr=0.1, optimizer="sgd", optimizer__momentum=0.9, batch_size=64)
    >>> transfer_lr(net=net, batch_size=256).as_params()
    {'lr': 0.4, 'batch_size': 256}
    >>> transfer_lr(0.001, optimizer="adam", batch_size=(32, 320))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: batch_size must be (old, new) with new/old < 10 for beta1=0.9, got (32, 320). Increase it less, ...
    """
    if isinstance(noise_scale, NoiseScale):
        noise_scale = noise_scale.value if noise_scale.value < math.inf else None
    if hasattr(lr, "get_params"):
        raise TypeError(must_be("lr", "a number", type(lr).__name__, "Pass a net as net=."))
    if net is not None:
        return _transfer_net(net, lr, batch_size, noise_scale, optimizer_params)
    if lr is None or optimizer is None:
        advice = "Give lr, optimizer and batch_size=(old, new), or a net that has them."
        raise ValueError(must_be("net", "given if lr or optimizer is not", None, advice))
    check_positive("lr", lr)
    old, new = _check_batch_sizes(batch_size)
    kind = check_optimizer(optimizer)
    values = with_defaults(kind, optimizer_params)
    k = _scale(old, new, noise_scale)
    changed = _RULES[kind](k, values, (old, new))
    _warn_if_far(old, new, noise_scale)
    formula, power = ("lr' = k lr (Goyal et al. 2017)", 1.0) if kind is torch.optim.SGD else (_SQRT, 0.5)
    params = {"batch_size": new, **{f"optimizer__{name}": value for name, value in changed.items()}}
    return Transfer(lr * k**power, lr, new / old, params, formula, _NEEDS)


def _transfer_net(
    net: Any, lr: float | None, batch_size: Any, noise_scale: float | None, given: Mapping[str, Any]
) -> Transfer:
    """Transfer the settings of a net: batch size and optimizer options, including those of parameter groups."""
    if not isinstance(net, NeuralNet):
        advice = "Of a fitted search or a Pipeline pass the net inside, such as search.best_estimator_."
        raise TypeError(must_be("net", "a skorch net", type(net).__name__, advice))
    own = dict(net.get_params_for("optimizer"))
    groups, net_lr = own.pop("param_groups", []), own.pop("lr", net.lr)
    set_apart = [name for name in ("iterator_train__batch_size", "optimizer__lr") if name in net.get_params()]
    sizes, own = _sizes_of(net, batch_size), {**own, **given}

    def carry(peak: float, params: Mapping[str, Any]) -> Transfer:
        return transfer_lr(peak, optimizer=net.optimizer, batch_size=sizes, noise_scale=noise_scale, **params)

    carried = carry(net_lr if lr is None else lr, own)
    params = {**carried.params, "batch_size": sizes[1] // _parts_of(net)}
    params |= {name: params["batch_size"] if "batch" in name else carried.lr for name in set_apart}
    if groups:
        params["optimizer__param_groups"] = [(names, _carried_group(carry, group, own)) for names, group in groups]
    return replace(carried, params=params)


def _sizes_of(net: Any, batch_size: Any) -> tuple[int, int]:
    """Return the number of rows per optimizer step of the net, old and new."""
    if not isinstance(batch_size, int):
        old, new = _check_batch_sizes(batch_size)
        return old * _parts_of(net), new * _parts_of(net)
    in_step = net.get_params_for("iterator_train").get("batch_size", net.batch_size)
    return check_count("batch_size of the net", in_step), check_count("batch_size", batch_size) * _parts_of(net)


def _parts_of(net: Any) -> int:
    return getattr(net, "accumulate_steps", 1)


def _carried_group(carry: Callable[..., Transfer], group: dict[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    """Return a parameter group with its own options transferred."""
    own = {name: value for name, value in group.items() if name not in ("lr", "lr_multiplier")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TransferWarning)  # already issued for the net's lr
        there = carry(group.get("lr", 1.0), {**shared, **own})
    changed = {name: there.params[key] for name in own if (key := f"optimizer__{name}") in there.params}
    return {**group, **changed, **({"lr": there.lr} if "lr" in group else {})}


_SQRT = "lr' = sqrt(k) lr, 1 - beta' = k (1 - beta), eps' = eps / sqrt(k) (Malladi et al. 2022)"
_NEEDS = (
    "the same number of epochs",
    "batches below the gradient noise scale",
    "a learning rate that is still stable",
)


def _sgd(k: float, values: Mapping[str, Any], sizes: tuple[int, int]) -> dict[str, Any]:
    return {}


def _adam(k: float, values: Mapping[str, Any], sizes: tuple[int, int]) -> dict[str, Any]:
    betas = tuple(_shorter(f"beta{i}", beta, k, sizes) for i, beta in enumerate(values["betas"], start=1))
    return {"betas": betas, "eps": values["eps"] / math.sqrt(k)}


def _adamw(k: float, values: Mapping[str, Any], sizes: tuple[int, int]) -> dict[str, Any]:
    return {**_adam(k, values, sizes), "weight_decay": values["weight_decay"] * math.sqrt(k)}


def _rmsprop(k: float, values: Mapping[str, Any], sizes: tuple[int, int]) -> dict[str, Any]:
    return {"alpha": _shorter("alpha", values["alpha"], k, sizes), "eps": values["eps"] / math.sqrt(k)}


_RULES: dict[Any, Callable[[float, Mapping[str, Any], tuple[int, int]], dict[str, Any]]] = {
    torch.optim.SGD: _sgd,
    torch.optim.Adam: _adam,
    torch.optim.AdamW: _adamw,
    torch.optim.RMSprop: _rmsprop,
}


def _shorter(name: str, beta: float, k: float, sizes: tuple[int, int]) -> float:
    """Return the averaging coefficient that keeps the time constant of the average, measured in samples."""
    if not 0 <= beta < 1:
        raise ValueError(must_be(name, "at least 0 and less than 1", beta))
    # a coefficient of 0 does not average, and stays 0; the tolerance is for rounding: 10 * (1 - 0.9) is below 1
    if beta and k * (1 - beta) >= 1 - 1e-12:
        advice = f"Increase it less, or lower {name} and search the learning rate again."
        raise ValueError(
            must_be("batch_size", f"(old, new) with new/old < {1 / (1 - beta):.3g} for {name}={beta:g}", sizes, advice)
        )
    return 1 - k * (1 - beta) if beta else 0.0


def _scale(old: int, new: int, noise_scale: float | None) -> float:
    if noise_scale is None:
        return new / old
    check_positive("noise_scale", noise_scale)
    return min(new, noise_scale) / min(old, noise_scale)


def _warn_if_far(old: int, new: int, noise_scale: float | None) -> None:
    if noise_scale is None and new > FAR * old:
        advice = "Measure it with sklr.transfer.gradient_noise_scale and pass it as noise_scale."
        message = f"batch_size grows {new / old:g} times, further than the rule is known to hold. {advice}"
        warn(message, TransferWarning)
    elif noise_scale is not None and new > noise_scale:
        warn(
            f"batch_size {new} is above the noise scale of {noise_scale:.3g}, where the rule does not hold: the other "
            "hyper-parameters are those for a batch of the noise scale. Search around this learning rate.",
            TransferWarning,
        )


def check_positive(name: str, value: Any) -> None:
    """Raise a ValueError if `value` is not a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0 or value == math.inf:
        raise ValueError(must_be(name, "a finite number above 0", value))


def _check_batch_sizes(batch_size: Any) -> tuple[int, int]:
    if not isinstance(batch_size, tuple | list) or len(batch_size) != 2:
        raise ValueError(must_be("batch_size", "a pair (old, new)", batch_size, "Write for example (32, 128)."))
    old, new = (check_count("each batch_size", size) for size in batch_size)
    return old, new


def check_optimizer(optimizer: Any) -> Any:
    """Return the class of an optimizer; raise a ValueError if there is no rule for it."""
    kind = resolve_optimizer(optimizer)
    if kind not in _RULES:
        name = getattr(kind, "__name__", kind)
        raise ValueError(
            f"{unknown_name('optimizer', name, [known.__name__ for known in _RULES])} "
            "For others no rule is known: search the learning rate again."
        )
    return kind


def with_defaults(kind: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return all hyper-parameters of an optimizer except its lr: the given ones, torch's defaults for the others."""
    parameters = inspect.signature(kind).parameters.items()
    defaults = {name: p.default for name, p in parameters if name not in ("params", "lr")}
    for name in given:
        if name not in defaults:
            raise unknown_name(f"a hyper-parameter of {kind.__name__}", name, defaults)
    return {**defaults, **given}


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_short, value))})"
    return f"{value:.6g}" if isinstance(value, float) else repr(value)
