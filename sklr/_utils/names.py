"""Optimizers, losses and devices of torch, looked up by name."""

from __future__ import annotations

from typing import Any

import torch

from sklr._utils.validation import must_be, unknown_name

ALSO_CALLED = {  # the names in torch.nn.functional, Keras and scikit-learn
    "binary_cross_entropy": "bce",
    "binary_cross_entropy_with_logits": "bce_with_logits",
    "mae": "l1",
    "mean_squared_error": "mse",
    "squared_error": "mse",
    "absolute_error": "l1",
}


def resolve_optimizer(value: Any) -> Any:
    """Return the optimizer class of that name, case-insensitive; any other value is returned unchanged.

    Raises
    ------
    ValueError
        If torch has no optimizer of that name; the message lists the known names.

    Examples
    --------
    >>> resolve_optimizer("adamw"), resolve_optimizer("SGD"), resolve_optimizer(torch.optim.Adam)
    (<class 'torch.optim.adamw.AdamW'>, <class 'torch.optim.sgd.SGD'>, <class 'torch.optim.adam.Adam'>)
    """
    if not isinstance(value, str):
        return value
    known = {name.lower(): cls for name, cls in vars(torch.optim).items() if _is_optimizer(cls)}
    return _look_up("optimizer", value, known, value.lower())


def resolve_criterion(value: Any) -> Any:
    """Return the loss class of a name such as "cross_entropy" or "MSELoss"; any other value is returned unchanged.

    Raises
    ------
    ValueError
        If torch has no loss of that name; the message lists the known names.

    Examples
    --------
    >>> resolve_criterion("cross_entropy") is resolve_criterion("CrossEntropyLoss") is torch.nn.CrossEntropyLoss
    True
    >>> resolve_criterion("mean_squared_error"), resolve_criterion("bce_with_logits")
    (<class 'torch.nn.modules.loss.MSELoss'>, <class 'torch.nn.modules.loss.BCEWithLogitsLoss'>)
    """
    if not isinstance(value, str):
        return value
    name = _loss_name(ALSO_CALLED.get(value.lower(), value))
    losses = {_loss_name(name): cls for name, cls in vars(torch.nn).items() if name.endswith("Loss")}
    return _look_up("criterion", value, losses, name)


def best_device() -> str:
    """Return the first available of "cuda", "mps" and "cpu"."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def check_device(device: Any) -> Any:
    """Return the device if PyTorch can use it on this machine, else raise a ValueError; "auto" and None always pass.

    None is skorch's value for "leave the device alone".

    >>> check_device("cpu"), check_device(None)
    ('cpu', None)
    >>> check_device("cup")
    Traceback (most recent call last):
    ValueError: device must be one that PyTorch can use here, got 'cup'. Use 'auto' or 'cpu'.
    """
    try:
        if device is not None and device != "auto":
            torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError, ImportError, NotImplementedError) as error:
        rule = "one that PyTorch can use here"
        raise ValueError(must_be("device", rule, device, "Use 'auto' or 'cpu'.")) from error
    return device


def _is_optimizer(value: Any) -> bool:
    is_class = isinstance(value, type) and issubclass(value, torch.optim.Optimizer)
    return is_class and value is not torch.optim.Optimizer


def _loss_name(name: str) -> str:
    return name.lower().replace("_", "").removesuffix("loss")


def _look_up(what: str, value: str, known: dict[str, Any], name: str) -> Any:
    if name not in known:
        raise unknown_name(what, value, sorted(known))
    return known[name]
