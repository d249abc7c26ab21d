"""Reasons why a net cannot be stacked that its parameters alone give, before it is initialized."""

from __future__ import annotations

from functools import partial
from types import CellType, CodeType, FunctionType
from typing import Any

import skorch
from skorch import NeuralNet
from torch.utils.data import Dataset, default_collate

from sklr import nets
from sklr._utils.sklearn import RequestMethod
from sklr.engines.stacked.checks.callbacks import class_reasons
from sklr.engines.stacked.data.index_batches import loads_plainly
from sklr.engines.stacked.data.read_rows import reads_alike
from sklr.experiment.cell_data import LIBRARIES, scorers_of
from sklr.experiment.experiment import Experiment
from sklr.experiment.wrappers import is_net

KNOWN_NETS = (
    nets.NeuralNetClassifier,
    nets.NeuralNetBinaryClassifier,
    nets.NeuralNetRegressor,
    skorch.NeuralNetClassifier,
    skorch.NeuralNetBinaryClassifier,
    skorch.NeuralNetRegressor,
    skorch.NeuralNet,
)


class Unstackable(Exception):
    """These candidates cannot be stacked; the arguments are the reasons."""


def static_reasons(experiment: Experiment, net: Any) -> list[str]:
    """Return the reasons why `net` cannot be stacked that its parameters alone give; empty if there are none."""
    if not is_net(net):
        return [f"{type(net).__name__} is not a skorch net, nor a Pipeline or TransformedTargetRegressor around one"]
    allowed = {"sample_weight"} if hasattr(net, "start_fit") else set()
    params = {name.rpartition("__")[2] for name, value in experiment.fit_params.items() if value is not None}
    reasons = [
        f"the module is given the fit parameter {name}, and a stack gives it X alone: make X a dict that contains it"
        + " (sklr's nets weight the loss instead)" * (name == "sample_weight")
        for name in sorted(params - allowed)
    ]
    if overridden := _overridden(net):
        reasons.append(
            f"{type(net).__name__} overrides {', '.join(overridden)}, and a stack has a training loop of its own that "
            "may not call it: put the change into the module, the criterion or X"
        )
    if net.compile:
        reasons.append("compile=True compiles each module, and a stack calls one for all runs: leave it at False")
    if any(names_gradients(scorer) for scorer in (scorers_of(experiment.scorer) or {"": experiment.scorer}).values()):
        reasons.append(
            "the scorer reads .grad, and a stack does not keep the gradients of each run: score weights or predictions"
        )
    return [*reasons, *_data_reasons(experiment, net), *class_reasons(net), *_callback_reasons(experiment, net)]


def _data_reasons(experiment: Experiment, net: NeuralNet) -> list[str]:
    """Return the reasons that X and the DataLoaders give."""
    reasons = list[str]()
    if not reads_alike(experiment.X):
        reasons.append(
            f"X, a {type(experiment.X).__name__}, gives other numbers each time that its rows are taken, and a stack "
            "takes them once for all runs: compute them once, or give X as a torch Dataset"
        )
    if not loads_plainly(net):
        reasons.append(
            "iterator_train is not torch's DataLoader, from which a stack takes the order of the batches: leave it at "
            "its default (iterator_train__sampler and others may be set)"
        )
    for part in () if isinstance(experiment.X, Dataset) else ("iterator_train", "iterator_valid"):
        if net.get_params_for(part).get("collate_fn") not in (None, default_collate):
            reasons.append(
                f"{part}__collate_fn is not torch's default_collate, and a stack keeps the rows of arrays as tensors: "
                "transform X before, or give it as a torch Dataset"
            )
    return reasons


def names_gradients(scorer: Any) -> bool:
    """Say whether a scorer's code, or that of a user's function it refers to, contains the name ``grad``."""
    waiting, seen = [scorer], list[Any]()
    while waiting:
        function = waiting.pop()
        while isinstance(function, partial):
            function = function.func
        function = getattr(function, "__func__", function)
        if not isinstance(function, FunctionType):
            function = getattr(type(function), "__call__", None)  # noqa: B004 - to be read, not called
        if not isinstance(function, FunctionType) or function in seen or function.__module__.startswith(LIBRARIES):
            continue
        seen.append(function)
        names = _names_in(function.__code__)
        if "grad" in names:
            return True
        waiting += [function.__globals__[name] for name in sorted(names & function.__globals__.keys())]
        waiting += [cell.cell_contents for cell in function.__closure__ or () if cell != CellType()]
    return False


def _names_in(code: CodeType) -> set[str]:
    inner = (_names_in(part) for part in code.co_consts if isinstance(part, CodeType))
    return set(code.co_names).union(*inner, (part for part in code.co_consts if isinstance(part, str)))


def _overridden(net: NeuralNet) -> list[str]:
    """Return the methods of skorch's net that the user's classes override, except those that predict or score."""
    own: set[str] = set()
    for cls in type(net).__mro__:  # a user's mixin may come after our class, too
        if cls.__module__.partition(".")[0] not in ("sklr", "skorch", "sklearn", "builtins", "abc"):
            own |= {name for name, value in vars(cls).items() if not isinstance(value, RequestMethod)}  # scikit-learn's
    harmless = ("predict", "predict_proba", "predict_log_proba", "score", "decision_function")
    return sorted(
        n for n in own if hasattr(NeuralNet, n) and n not in harmless and not n.startswith(("__", "_abc", "_sklearn"))
    )


def _callback_reasons(experiment: Experiment, net: NeuralNet) -> list[str]:
    if getattr(net, "_skl_callbacks", None):
        return ["scikit-learn callbacks are set on the net, and a stack does not fit each net: leave them out"]
    listeners = [type(callback).__name__ for callback in getattr(experiment.caller, "_skl_callbacks", [])]
    return [
        f"the scikit-learn callback {name} follows each fit, and a stack trains all runs in one: leave it out "
        "(ProgressBar can stay)"
        for name in listeners
        if name != "ProgressBar"
    ]
