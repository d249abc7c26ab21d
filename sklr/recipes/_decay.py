"""Weight decay by layer, as parameter groups for `optimizer__param_groups`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from glob import escape
from numbers import Real
from typing import Any

from torch import nn

from sklr._utils.validation import must_be


def weight_decay_by_layer(
    module: nn.Module,
    decay: float | Mapping[Any, float] | None = None,
    *,
    biases_and_norms: float | None = 0.0,
) -> list[tuple[str, dict[str, float]]]:
    """Return parameter groups with a weight decay per layer, and no decay of biases and normalization layers.

    Parameters
    ----------
    module : torch.nn.Module
        The module to train, or one of the same structure: only its layers and parameter names are used.
    decay : float, or dict from str or layer class to float, optional
        The weight decay of all weights, or of some of them: keys are patterns of parameter names such as "layers.0.*"
        or "*embedding*", or layer classes such as ``torch.nn.Conv2d``. If several keys match a parameter, the first
        one is used. Parameters that no key matches get the optimizer's `weight_decay`, which can still be searched.
    biases_and_norms : float or None, default=0
        The weight decay of biases and of all parameters of normalization layers, unless a key of `decay` is the exact
        name of the parameter. None treats them like all other parameters.

    Returns
    -------
    groups : list of (pattern, {"weight_decay": decay})
        For ``optimizer__param_groups`` of a net of sklr or skorch. Few patterns are used, since each one creates a
        parameter group.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid, or a key matches no parameter.

    Notes
    -----
    Most recipes do not decay norms and biases, following He et al. 2019 (arXiv 1812.01187, section 3.1): the scale of a
    layer before a norm does not change the output, and a shift adds no capacity. In a search over the module's
    architecture, such as its depth, parameter names differ between candidates: use patterns that match all of them, or
    the same decay for all weights.

    Examples
    --------
    >>> from sklr import MLP, NeuralNetClassifier
    >>> module = MLP(64, 10, hidden=(32, 32), batch_norm=True)
    >>> weight_decay_by_layer(module)
    [('*.bias', {'weight_decay': 0.0}), ('layers.1.*', {'weight_decay': 0.0}), ('layers.4.*', {'weight_decay': 0.0})]
    >>> groups = weight_decay_by_layer(module, {"layers.6.*": 0.1})
    >>> groups[1]
    ('layers.6.*', {'weight_decay': 0.1})
    >>> net = NeuralNetClassifier(MLP, module__hidden=(32, 32), module__batch_norm=True, optimizer="adamw",
    ...                           optimizer__weight_decay=0.01, optimizer__param_groups=groups)
    >>> weight_decay_by_layer(module, {"head.*": 0.1})
    Traceback (most recent call last):
    ValueError: each key of decay must be a pattern or class that matches a parameter of the module, got 'head.*'. Its
    parameters are layers.0.weight, layers.0.bias, layers.1.weight, layers.1.bias, layers.3.weight, ...
    """
    if not isinstance(module, nn.Module):
        advice = "Build one, such as MLP(64, 10), or take the module_ of a fitted net."
        raise TypeError(must_be("module", "a torch.nn.Module", module, advice))
    rules = dict(decay) if isinstance(decay, Mapping) else {} if decay is None else {"*": decay}
    for value in (*rules.values(), *([] if biases_and_norms is None else [biases_and_norms])):
        _check_decay(value)
    layers = dict(_named_layers(module))
    _check_keys(rules, layers)
    wanted = {name: _decay_of(name, layer, rules, biases_and_norms) for name, layer in layers.items()}
    return [(pattern, {"weight_decay": value}) for pattern, value in _patterns(wanted, rules)]


def _named_layers(module: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    """Yield the name of each parameter with its layer; shared parameters once, as optimizers need them."""
    for name, _ in module.named_parameters():
        yield name, module.get_submodule(name.rpartition(".")[0])


def _check_decay(value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < float("inf"):
        raise ValueError(must_be("each weight decay", "a number at least 0", value))


def _check_keys(rules: Mapping[Any, float], layers: Mapping[str, nn.Module]) -> None:
    for key in rules:
        if not any(_fits(key, name, layer) for name, layer in layers.items()):
            rule = "a pattern or class that matches a parameter of the module"
            first = ", ".join(list(layers)[:5]) + (", ..." if len(layers) > 5 else "")
            raise ValueError(must_be("each key of decay", rule, key, f"Its parameters are {first}"))


def _fits(key: Any, name: str, layer: nn.Module) -> bool:
    return isinstance(layer, key) if isinstance(key, type) else isinstance(key, str) and fnmatchcase(name, key)


def _decay_of(name: str, layer: nn.Module, rules: Mapping[Any, float], exempt: float | None) -> float | None:
    """Return the weight decay of one parameter, None for the optimizer's default."""
    if name not in rules and exempt is not None and _is_bias_or_norm(name, layer):
        return exempt
    return next((float(value) for key, value in rules.items() if _fits(key, name, layer)), None)


def _is_bias_or_norm(name: str, layer: nn.Module) -> bool:
    is_norm = isinstance(layer, nn.modules.batchnorm._NormBase) or type(layer).__name__.endswith("Norm")
    return is_norm or "bias" in name.rpartition(".")[2]


def _patterns(wanted: Mapping[str, float | None], rules: Mapping[Any, float]) -> Iterable[tuple[str, float]]:
    """Yield few patterns that assign every parameter its decay, greedily by the number of parameters they match.

    The order matters, as skorch assigns a parameter to the first pattern that matches it.
    """
    left = dict(wanted)
    while any(value is not None for value in left.values()):
        pattern = max(_candidates(left, rules), key=lambda p: (_reach(p, left), -len(p)))
        fitting = [name for name in left if fnmatchcase(name, pattern)]
        value = left[fitting[0]]
        assert value is not None  # `_reach` is 0 for parameters that keep the optimizer's decay
        yield pattern, value
        for name in fitting:
            del left[name]


def _candidates(left: Mapping[str, float | None], rules: Mapping[Any, float]) -> list[str]:
    patterns = [key for key in rules if isinstance(key, str)]
    for name in left:
        *path, last = map(escape, name.split("."))
        patterns += [escape(name), f"*.{last}"]
        patterns += [".".join(path[: i + 1]) + ".*" for i in range(len(path))]
        patterns += [f"*.{path[-1]}.*"] if len(path) > 1 and not path[-1].isdigit() else []
    return list(dict.fromkeys(patterns))


def _reach(pattern: str, left: Mapping[str, float | None]) -> int:
    """Return how many parameters a pattern matches, 0 if they do not all have the same decay."""
    values = [value for name, value in left.items() if fnmatchcase(name, pattern)]
    return len(values) if len(set(values)) == 1 and values[0] is not None else 0
