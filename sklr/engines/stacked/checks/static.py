"""What keeps a net out of a stack that can be told from its parameters alone, before it is set up."""

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
from sklr.engines.stacked.data.index_batches import loads_plainly, reads_alike
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
    """Return what can be told from the parameters alone that keeps `net` out of a stack."""
    if not is_net(net):
        return [f"{type(net).__name__} is not a skorch net, nor a Pipeline or TransformedTargetRegressor around one"]
    reasons = [f"{type(net).__name__} overrides {name}" for name in _overridden(net)]
    if not reads_alike(experiment.X):
        reasons.append(f"X, a {type(experiment.X).__name__}, gives other numbers each time that its rows are taken")
    reasons += class_reasons(net)
    if not loads_plainly(net):
        reasons.append("iterator_train is not torch's DataLoader")
    for part in () if isinstance(experiment.X, Dataset) else ("iterator_train", "iterator_valid"):
        if net.get_params_for(part).get("collate_fn") not in (None, default_collate):
            reasons.append(f"{part}__collate_fn is not torch's default_collate")
    if any(names_gradients(scorer) for scorer in (scorers_of(experiment.scorer) or {"": experiment.scorer}).values()):
        reasons.append("the scorer reads .grad, and a stack does not keep the gradients of each run")
    if net.compile:
        reasons.append("compile=True compiles each module")
    allowed = {"sample_weight"} if hasattr(net, "start_fit") else set()
    params = {name.rpartition("__")[2] for name, value in experiment.fit_params.items() if value is not None}
    reasons += [f"the module is given the fit parameter {name}" for name in sorted(params - allowed)]
    return reasons + _callback_reasons(experiment, net)


def names_gradients(scorer: Any) -> bool:
    """Say whether a scorer's code, or a function beside it that it calls, has a word for gradients."""
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
    """Return what a subclass of the nets we know does its own way; predictions and scores it may."""
    own: set[str] = set()
    for cls in type(net).__mro__:  # a class of the user's may stand behind ours, too
        if cls.__module__.partition(".")[0] not in ("sklr", "skorch", "sklearn", "builtins", "abc"):
            own |= {name for name, value in vars(cls).items() if not isinstance(value, RequestMethod)}  # scikit-learn's
    harmless = ("predict", "predict_proba", "predict_log_proba", "score", "decision_function")
    return sorted(
        n for n in own if hasattr(NeuralNet, n) and n not in harmless and not n.startswith(("__", "_abc", "_sklearn"))
    )


def _callback_reasons(experiment: Experiment, net: NeuralNet) -> list[str]:
    if getattr(net, "_skl_callbacks", None):
        return ["scikit-learn callbacks are set on the net"]
    listeners = [type(callback).__name__ for callback in getattr(experiment.caller, "_skl_callbacks", [])]
    return [f"the callback {name} follows each training" for name in listeners if name != "ProgressBar"]
