"""Checks of a net's parameters that PyTorch and skorch do not check, or report in words that do not name them."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from skorch import NeuralNet
from torch import nn

from sklr._utils.names import resolve_criterion, resolve_optimizer
from sklr._utils.validation import check_count, must_be, unknown_name
from sklr._utils.warnings import warn
from sklr.exceptions import SettingsWarning
from sklr.nets._instances import check_arguments, required_arguments

_WEIGHTED = (  # the losses of torch that take an array of weights, and their subclasses
    nn.CrossEntropyLoss,
    nn.NLLLoss,
    nn.BCELoss,
    nn.BCEWithLogitsLoss,
    nn.MultiMarginLoss,
    nn.MultiLabelSoftMarginLoss,
)
_WEIGHTS = ("weight", "pos_weight")
_CALLED_ELSEWHERE = {  # in Keras, Lightning and scikit-learn
    "learning_rate": "lr",
    "learning_rate_init": "lr",
    "epochs": "max_epochs",
    "n_epochs": "max_epochs",
    "max_iter": "max_epochs",
    "loss": "criterion",
    "loss_fn": "criterion",
    "model": "module",
    "shuffle": "iterator_train__shuffle",
    "num_workers": "iterator_train__num_workers",
    "class_weight": "criterion__weight",
    "weight_decay": "optimizer__weight_decay",
    "momentum": "optimizer__momentum",
    "scheduler": "schedule",
    "lr_scheduler": "schedule",
    "seed": "random_state",
    "early_stopping": "callbacks",
}


def check_components(net: NeuralNet) -> None:
    """Raise a ValueError for a component that cannot be made, or an argument that it does not take."""
    if not callable(net.module):  # an instance is callable, too
        advice = "Write for example MLP, or a function that returns a module."
        raise ValueError(must_be("module", "a class, a function or an instance of torch.nn.Module", net.module, advice))
    if isinstance(net.optimizer, torch.optim.Optimizer):
        name = type(net.optimizer).__name__
        advice = f"Write optimizer={name.lower()!r}, and its arguments as optimizer__..."
        raise ValueError(must_be("optimizer", "a class or a name", f"an instance of {name}", advice))
    _check_loss_function(net.criterion)
    parts = {
        "module": net.module,
        "criterion": resolve_criterion(net.criterion),
        "optimizer": resolve_optimizer(net.optimizer),
        "iterator_train": net.iterator_train,
        "iterator_valid": net.iterator_valid,
    }
    for part, make in parts.items():
        if not isinstance(make, nn.Module):
            given = {name: value for name, value in net.get_params_for(part).items() if name != "param_groups"}
            check_arguments(f"{part}__", make, given)


def _check_loss_function(criterion: Any) -> None:
    """Raise a ValueError for the function of a loss, such as `torch.nn.functional.mse_loss`, in place of its class.

    A function without required arguments, which returns a loss, is accepted.
    """
    if inspect.isroutine(criterion) and required_arguments(criterion):
        advice = "Write a torch.nn.Module whose forward computes the loss."
        with suppress(ValueError):
            resolve_criterion(criterion.__name__)
            advice = f"Write criterion={criterion.__name__!r}."
        rule = "a class, an instance or the name of a loss"
        raise ValueError(must_be("criterion", rule, f"the function {criterion.__name__}", advice))


def check_training(net: NeuralNet) -> None:
    """Raise a ValueError for parameters of the training that would fail in the middle of it."""
    if not isinstance(net.lr, torch.Tensor):
        number = isinstance(net.lr, Real) and not isinstance(net.lr, bool) and 0 <= float(net.lr) < math.inf
        if not number:
            advice = "LRGridSearchCV(net, lrs=...) tries several." if isinstance(net.lr, list | tuple) else ""
            raise ValueError(must_be("lr", "a finite number >= 0", net.lr, advice))
    check_count("max_epochs", net.max_epochs, minimum=0)
    size = net.batch_size
    if isinstance(size, bool) or not isinstance(size, Integral) or (size < 1 and size != -1):
        raise ValueError(must_be("batch_size", "an integer >= 1, or -1 for all rows", size))
    if net.train_split is not None and not callable(net.train_split):
        advice = f"Write train_split=skorch.dataset.ValidSplit({net.train_split!r})."
        raise ValueError(must_be("train_split", "None or a function of the dataset", net.train_split, advice))
    _check_callbacks(net)


def _check_callbacks(net: NeuralNet) -> None:
    """Check the type of `callbacks`, and that no name in a `callbacks__...` parameter is a misspelt one.

    Other names without a callback are left alone, as in skorch: its callback may have been replaced by `set_params`.
    """
    given = net.callbacks
    if given == "disable":
        return
    if isinstance(given, str) or not isinstance(given, Iterable | None):
        advice = "Write for example callbacks=[EarlyStopping(patience=3)]."
        raise ValueError(must_be("callbacks", "a list of callbacks, or 'disable'", given, advice))
    for entry in given or []:
        callback = entry[1] if isinstance(entry, tuple) and len(entry) == 2 else entry
        if callback is not None and not hasattr(callback, "on_train_end"):
            advice = "Write for example callbacks=[EarlyStopping(patience=3)]."
            raise ValueError(must_be("an entry of callbacks", "a callback, or a pair (name, callback)", entry, advice))
    known = [name for name, _ in net._uniquely_named_callbacks()]
    for name in net.get_params_for("callbacks"):
        callback = name.partition("__")[0]
        if callback not in known and get_close_matches(callback, known):
            raise unknown_name("the callback in a parameter callbacks__...", callback, known)


def unexpected_argument(net: NeuralNet, name: str) -> ValueError:
    """Return the error for a parameter that no net has, with the name of the one that may be meant."""
    known = [p.name for p in inspect.signature(type(net).__init__).parameters.values() if p.kind is p.KEYWORD_ONLY]
    if (meant := _CALLED_ELSEWHERE.get(name)) is not None:
        rule = f"a parameter of {type(net).__name__}"
        return ValueError(must_be("an argument", rule, name, f"It is called {meant!r} here."))
    return unknown_name(f"an argument of {type(net).__name__}", name, ["module", *known])


def with_weights(criterion: Any, params: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Return the parameters of a loss with its weights, which may be lists or arrays, as tensors of a dtype.

    The loss would take nothing but a tensor of the dtype of the module's outputs.

    >>> with_weights(nn.CrossEntropyLoss, {"weight": [1, 5], "label_smoothing": 0.1}, torch.float32)
    {'weight': tensor([1., 5.]), 'label_smoothing': 0.1}
    >>> with_weights(nn.CrossEntropyLoss, {"weight": "balanced"}, torch.float32)
    Traceback (most recent call last):
    ValueError: criterion__weight must be an array of finite numbers >= 0, got 'balanced'. For balanced classes write
    len(y) / (n_classes * np.bincount(y)).
    """
    kind = criterion if isinstance(criterion, type) else type(criterion)
    if not issubclass(kind, _WEIGHTED):
        return dict(params)
    given = {name: params[name] for name in _WEIGHTS if params.get(name) is not None}
    return {**params, **{name: _as_weights(name, value, dtype) for name, value in given.items()}}


def _as_weights(name: str, value: Any, dtype: torch.dtype) -> torch.Tensor:
    try:
        weights = torch.as_tensor(value if isinstance(value, torch.Tensor) else np.asarray(value), dtype=dtype)
        if bool((weights >= 0).all() and weights.isfinite().all()):
            return weights
    except (TypeError, ValueError, RuntimeError):  # not numbers
        pass
    advice = "For balanced classes write len(y) / (n_classes * np.bincount(y))."
    raise ValueError(must_be(f"criterion__{name}", "an array of finite numbers >= 0", value, advice))


def check_outputs(outputs: torch.Tensor, criterion: Any, n_classes: int) -> None:
    """Raise a ValueError, or warn, if a module's outputs are not what a classification loss is for.

    Parameters
    ----------
    outputs : Tensor (n_rows, n_outputs, ...)
    criterion : callable
    n_classes : int
        How many outputs it takes at least.

    >>> check_outputs(torch.tensor([[0.2, -0.1]]), nn.NLLLoss(), 2)
    Traceback (most recent call last):
    ValueError: the module's output must be probabilities for criterion NLLLoss, got 'negative'. Of logits or
    log-probabilities take CrossEntropyLoss, the default.
    """
    if isinstance(criterion, nn.CrossEntropyLoss | nn.NLLLoss):
        _check_classes(outputs, criterion, n_classes)
    if message := second_activation(outputs, criterion):
        warn(message, SettingsWarning)


def _check_classes(outputs: torch.Tensor, criterion: Any, n_classes: int) -> None:
    n_outputs = outputs.shape[1] if outputs.ndim > 1 else 1
    if n_outputs < n_classes:
        rule = f"at least {n_classes}, one per class"
        raise ValueError(must_be("the module's number of outputs", rule, n_outputs))
    if isinstance(criterion, nn.NLLLoss) and bool((outputs < 0).any()):
        advice = "Of logits or log-probabilities take CrossEntropyLoss, the default."
        raise ValueError(must_be("the module's output", "probabilities for criterion NLLLoss", "negative", advice))


def check_width_is_known(net: NeuralNet, shape: tuple[int, ...]) -> None:
    """Raise a ValueError if the module needs the number of inputs, and X has a shape from which it is not inferred."""
    given = net.get_params_for("module")
    if (
        len(shape) != 2
        and not isinstance(net.module, nn.Module)
        and "n_inputs" in required_arguments(net.module, given)
    ):
        name = getattr(net.module, "__name__", repr(net.module))
        advice = "Reshape X, for example X.reshape(len(X), -1), or set module__n_inputs."
        raise ValueError(must_be("X", f"of shape (n_samples, n_features) for the n_inputs of {name}", shape, advice))


def check_indices(targets: Any, outputs: Any, criterion: Any) -> None:
    """Raise a ValueError for a target that is not the index of one of a module's outputs, in own words.

    PyTorch's error on a CPU does not say what to do, and on a CUDA device it ends the process.

    >>> check_indices(torch.tensor([1, 3, 2]), torch.zeros(3, 3), nn.CrossEntropyLoss())
    Traceback (most recent call last):
    ValueError: the targets must be from 0 to 2, since the module has 3 outputs, got 3. Number the classes from 0, or
    set the module's number of outputs.
    """
    if not isinstance(criterion, nn.CrossEntropyLoss | nn.NLLLoss) or not isinstance(outputs, torch.Tensor):
        return
    indices = torch.as_tensor(targets)
    if outputs.ndim < 2 or indices.is_floating_point():
        return
    n_outputs = outputs.shape[1]
    outside = indices[(indices != criterion.ignore_index) & ((indices < 0) | (indices >= n_outputs))]
    if len(outside):
        rule = f"from 0 to {n_outputs - 1}, since the module has {n_outputs} outputs"
        advice = "Number the classes from 0, or set the module's number of outputs."
        raise ValueError(must_be("the targets", rule, outside[0].item(), advice))


TWICE = "The module's outputs are "  # the start of the two messages below


def second_activation(outputs: torch.Tensor, criterion: Any) -> str:
    """Return a warning if a module applies the softmax or sigmoid that its loss applies as well, else ""."""
    return _second_softmax(outputs, criterion) or _second_sigmoid(outputs, criterion)


def _second_sigmoid(outputs: torch.Tensor, criterion: Any) -> str:
    """Return a warning if outputs are those of a sigmoid and the loss expects logits, else "".

    It is read from the graph of the gradient: the logits of an untrained net may all be between 0 and 1.

    >>> logits = torch.tensor([0.2, 0.4], requires_grad=True)
    >>> _second_sigmoid(logits.sigmoid()[:, None], nn.BCEWithLogitsLoss())[:46]
    "The module's outputs are those of a sigmoid, a"
    >>> _second_sigmoid(logits * 1, nn.BCEWithLogitsLoss())
    ''
    """
    if getattr(type(criterion), "forward", None) is not nn.BCEWithLogitsLoss.forward:  # a subclass may not apply one
        return ""
    step: Any = outputs.grad_fn
    while step is not None and re.match("(Uns|S)queeze|View|UnsafeView|ReshapeAlias|Select|Slice", step.name()):
        step = step.next_functions[0][0]
    if step is None or not step.name().startswith("SigmoidBackward"):
        return ""
    return (
        f"{TWICE}those of a sigmoid, and BCEWithLogitsLoss applies another one, so that every prediction is positive. "
        "Leave the sigmoid out of the module, or pass criterion=torch.nn.BCELoss."
    )


def _second_softmax(outputs: torch.Tensor, criterion: Any) -> str:
    """Return a warning if outputs (n_rows, n_classes, ...) are probabilities and the loss expects logits, else "".

    >>> _second_softmax(torch.rand(2, 3).softmax(1), nn.CrossEntropyLoss())[:47]
    "The module's outputs are probabilities, as of a"
    >>> _second_softmax(torch.full((2, 3), torch.nan), nn.CrossEntropyLoss())
    ''
    """
    applies_softmax = getattr(type(criterion), "forward", None) is nn.CrossEntropyLoss.forward  # a subclass may not
    if not applies_softmax or outputs.ndim < 2 or outputs.shape[1] < 2 or not outputs.numel():
        return ""
    outputs = outputs.detach()
    if not ((outputs >= 0).all() and ((outputs.sum(1) - 1).abs() <= 1e-3).all()):  # NaN are no probabilities
        return ""
    return (
        f"{TWICE}probabilities, as of a softmax, and CrossEntropyLoss applies another softmax to "
        "them, which slows learning. Leave the softmax out of the module, or pass criterion=torch.nn.NLLLoss."
    )


def cast_weights(criterion: Any, dtype: torch.dtype) -> None:
    """Cast the weights of a loss that the net has copied from an instance."""
    if isinstance(criterion, _WEIGHTED):
        for name in _WEIGHTS:
            if (weights := getattr(criterion, name, None)) is not None:
                setattr(criterion, name, _as_weights(name, weights, dtype))
