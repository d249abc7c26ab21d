"""Checks of a search's settings before anything is trained: errors that all runs would raise, and unused settings."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress
from numbers import Integral
from typing import Any

import numpy as np
import torch
from sklearn import get_config
from sklearn.base import is_classifier, is_regressor
from sklearn.compose import TransformedTargetRegressor
from sklearn.pipeline import Pipeline
from sklearn.utils import check_consistent_length
from skorch import NeuralNet

from sklr._utils.names import check_device
from sklr._utils.random import RandomStream
from sklr._utils.sklearn import take_rows
from sklr._utils.validation import must_be, without_address
from sklr._utils.warnings import warn
from sklr.callbacks._schedule import schedule_of
from sklr.exceptions import SettingsWarning
from sklr.experiment.cell_data import seeded_clone
from sklr.experiment.experiment import Experiment
from sklr.experiment.fold_labels import unknown_labels
from sklr.experiment.scorer_trial import check_scorer
from sklr.experiment.searched_values import MISTAKES, bad_values
from sklr.experiment.wrappers import net_name, net_of, trains_nets
from sklr.nets._conflicts import CAUSES, conflicts, overridden, shared_start
from sklr.nets._fit_arguments import OF_FIT, check_fit_arguments, unknown_argument
from sklr.nets._instances import has_hooks
from sklr.nets._mistakes import second_activation
from sklr.nets._parts import NetParts


def check_settings(experiment: Experiment, candidates: Sequence[dict], n_seeds: int) -> list[str]:
    """Initialize the net of a candidate on all rows, and warn of settings that are ignored or conflict.

    Returns
    -------
    without_effect : list of str
        A sentence for each parameter that is searched without effect.

    Raises
    ------
    ValueError, TypeError
        The error of the net, if it cannot be initialized with any candidate.
    """
    if not trains_nets(experiment.estimator) or not candidates:
        return []
    _check_epochs(experiment, candidates)
    estimator = _set_up(experiment, candidates)
    if estimator is None:
        return []
    net, without_effect = net_of(estimator), _without_effect(experiment, estimator, candidates)
    if net is estimator and isinstance(net, NetParts):
        check_scorer(experiment, net)
    messages = [
        *without_effect,
        shared_start(net, n_seeds),
        unknown_labels(experiment),
        _already_trained(experiment),
        _lost_hooks(experiment),
        _second_activation(experiment, net) if net is estimator else "",
    ]
    for message in [*(conflicts(net) if net.initialized_ else []), *filter(None, messages)]:
        warn(message, SettingsWarning)
    return without_effect


def _check_epochs(experiment: Experiment, candidates: Sequence[dict]) -> None:
    """Raise a ValueError if a search would train no candidate for a single epoch, and score initial weights."""
    if not hasattr(experiment.caller, "fit") or "epochs" in experiment.fit_params:  # a range test has its own epochs
        return
    name = "__".join(filter(None, [net_name(experiment.estimator), "max_epochs"]))
    present = net_of(experiment.estimator).max_epochs
    if all(isinstance(n := candidate.get(name, present), Integral) and n == 0 for candidate in candidates):
        raise ValueError(must_be(name, "at least 1 in a search", 0, "With 0 epochs nothing is trained."))


def _set_up(experiment: Experiment, candidates: Sequence[dict]) -> Any:
    """Return the estimator of the first candidate that can be initialized; raise the error if it is in all of them.

    Warns of searched values that no net can have. Returns None if the candidates' own parameters lead to the errors in
    another way: their fits then fail one by one.
    """
    try:
        estimator = _initialized(experiment, candidates[0])
    except MISTAKES as error:
        mistake = error
    else:
        _warn_of_bad_values(experiment, candidates, net_of(estimator))
        return estimator
    try:
        base = _initialized(experiment, {})
    except MISTAKES as error:
        if without_address(str(error)) != without_address(str(mistake)):
            return None  # without the candidates' parameters the error is another one
    else:
        _warn_of_bad_values(experiment, candidates, net_of(base))
        return None
    for candidate in candidates[1:]:
        with suppress(*MISTAKES):
            return _initialized(experiment, candidate)
    raise mistake


def _warn_of_bad_values(experiment: Experiment, candidates: Sequence[dict], net: NeuralNet) -> None:
    for message in bad_values(experiment, candidates, net):
        warn(message, SettingsWarning)


def _initialized(experiment: Experiment, candidate: dict) -> Any:
    """Return a clone with a candidate's parameters, its net initialized as far as possible without training."""
    estimator = seeded_clone(experiment, candidate, experiment.cells[0])
    net, X, y, ready = net_of(estimator), experiment.X, experiment.y, None
    net.set_params(verbose=0)
    check_device(net.device)
    weights = [w for name, w in experiment.fit_params.items() if name.endswith("sample_weight") and w is not None]
    with RandomStream(0), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the runs issue these warnings again
        if net is not estimator:  # the rows of a net in a pipeline are only known after the steps before it
            check_consistent_length(X, *weights)
            net.check_training_readiness()
            _initialize_blindly(net)
            _check_step_arguments(experiment, estimator, net)
        elif isinstance(net, NetParts):
            ready = net.start_fit(X, y, *weights[:1])
            called, known = _called(experiment)
            check_fit_arguments(net, experiment.fit_params.keys() - {"sample_weight"}, known, called=called)
        else:
            net.initialize()
        schedule_of(net, net.max_epochs)
    _check_own_score(experiment, net)
    if ready is not None and not experiment.fit_params.keys() - {"sample_weight"}:
        _check_loss(net, ready[0], ready[1], experiment.cells[0].train[:8])
    return estimator


def _check_loss(net: NetParts, X: Any, y: Any, rows: np.ndarray) -> None:
    """Raise the ValueError or TypeError of a net's loss for a few training rows: outputs or targets it is not for."""
    own = type(net).__module__.startswith("sklr.")  # a subclass may use its loss in a train_step of its own
    if not own or y is None or not hasattr(X, "shape"):  # reading a Dataset's items may be slow, or change it
        return
    with RandomStream(0), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the runs issue these warnings again
        try:
            batch = next(
                iter(net.get_iterator(net.get_dataset(take_rows(X, rows), take_rows(y, rows)), training=False))
            )
            net._is_first_batch = True
            net.get_loss(net.evaluation_step(batch), batch[1], X=batch[0], training=False)
        except MISTAKES:
            raise
        except Exception:  # as everywhere here, other errors are those of the runs
            return


def _second_activation(experiment: Experiment, net: NeuralNet) -> str:
    """Return the warning of `second_activation` for the outputs for a few rows; "" if they cannot be computed.

    Of a net in a pipeline and of a Dataset the rows are not known yet: the refit then issues it.
    """
    if not isinstance(net, NetParts) or not hasattr(experiment.X, "shape"):  # reading a Dataset's items may be slow
        return ""
    with RandomStream(0), warnings.catch_warnings(), suppress(Exception):  # the training will raise the error
        warnings.simplefilter("ignore")
        rows = take_rows(experiment.X, experiment.cells[0].train[:8])
        batch = next(iter(net.get_iterator(net.get_dataset(rows), training=False)))
        net._set_training(False)
        return second_activation(net.infer(batch[0]), net.criterion_)  # with the graph of the gradient
    return ""


def _initialize_blindly(net: NeuralNet) -> None:
    """Initialize a net whose rows are unknown, with widths of 1: the names of its parameters do not depend on them."""
    if isinstance(net, NetParts):
        net._widths = {"n_inputs": 1, "n_outputs": 1}
    with suppress(Exception):  # a module may not work with widths of 1; the checks of an initialized net are skipped
        net.initialize()


def _check_own_score(experiment: Experiment, net: Any) -> None:
    """Raise a ValueError for targets that the net's own score, an accuracy or R2, cannot be computed from."""
    if getattr(experiment.caller, "scoring", "other") is not None or not type(net).__module__.startswith("sklr."):
        return
    if getattr(net, "_bce", None) is not None or np.ndim(experiment.y) < 2:
        return
    shape = np.shape(experiment.y)
    if is_regressor(net) and len(shape) > 2:
        advice = "Give a scoring, or reshape y."
        raise ValueError(must_be("y", "of shape (n_samples,) or (n_samples, n_targets) for R2", shape, advice))
    if is_classifier(net) and net.initialized_ and shape[1:] != (1,):
        advice = "Of one-hot rows write y.argmax(axis=1); for other targets give a scoring."
        raise ValueError(must_be("y", "of shape (n_samples,) for the accuracy", shape, advice))


def _called(experiment: Experiment) -> tuple[str, list[str]]:
    """Return the name of the function that the user has called, and the names of its arguments."""
    caller = experiment.caller
    called = caller if inspect.isfunction(caller) else getattr(caller, "called_by", getattr(caller, "fit", None))
    named = [] if called is None else inspect.signature(called).parameters.values()
    groups = ["groups"] if hasattr(caller, "cv") else []  # scikit-learn's searches pass it to the splitter
    known = [*(p.name for p in named if p.kind is not p.VAR_KEYWORD), *OF_FIT, *groups]
    return getattr(called, "__name__", "fit"), list(dict.fromkeys(known))


def _check_step_arguments(experiment: Experiment, estimator: Any, net: Any) -> None:
    """Check that a pipeline's arguments of `fit` name one of its steps, and those of the net one that the net takes."""
    while type(estimator) is TransformedTargetRegressor:
        estimator = estimator.regressor
    if type(estimator) is not Pipeline or get_config()["enable_metadata_routing"]:
        return
    called, own = _called(experiment)
    for name in experiment.fit_params:
        step, _, rest = name.partition("__")
        if not rest or step not in estimator.named_steps:
            what, steps = f"an argument of {called}", ", ".join(f"{step}__..." for step in estimator.named_steps)
            if name in OF_FIT:
                advice = f"Did you mean '{net_name(estimator)}__{name}'?"
                raise ValueError(must_be(what, f"one of {steps} for a pipeline", name, advice))
            own = [n for n in own if n != "sample_weight"]
            raise unknown_argument(called, name, own, f"of a pipeline {steps}")
        if step == net_name(estimator) and hasattr(net, "module_") and rest != "sample_weight":
            check_fit_arguments(net, [rest], ["sample_weight"], f"{step}__", called)


def _without_effect(experiment: Experiment, estimator: Any, candidates: Sequence[dict]) -> list[str]:
    """Return a sentence for each searched parameter that has no effect with any candidate."""
    net = net_of(estimator)
    prefix = "" if net is estimator else f"{net_name(estimator)}__"
    searched = {name.removeprefix(prefix) for candidate in candidates for name in candidate if name.startswith(prefix)}
    depends = any(name.startswith(CAUSES) or name == "optimizer" for name in searched)
    nets = [net, *(_nets(experiment, candidates) if depends else [])]
    found = {name: [overridden(net, name) for net in nets] for name in sorted(searched)}
    return [
        f"{prefix}{name} is searched without effect: {reasons[0]}." for name, reasons in found.items() if all(reasons)
    ]


def _nets(experiment: Experiment, candidates: Sequence[dict]) -> Iterable[NeuralNet]:
    for candidate in candidates:
        try:
            yield net_of(_initialized(experiment, candidate))
        except MISTAKES:
            continue


def _given_instance(experiment: Experiment) -> Any:
    """Return the user's net if it is one of skorch's own and its module is an instance; None otherwise."""
    net = net_of(getattr(experiment.caller, "estimator", experiment.estimator))
    return None if isinstance(net, NetParts) or not isinstance(net.module, torch.nn.Module) else net


def _already_trained(experiment: Experiment) -> str:
    """Return the warning about a skorch net that has trained its module instance in place; sklr's nets copy it."""
    net = _given_instance(experiment)
    if net is None or getattr(net, "module_", None) is not net.module or not net.history:
        return ""
    return (
        "The module instance has been trained by this net before, and every run starts from its weights. Pass the "
        "module's class to the net, or an instance with the intended initial weights."
    )


def _lost_hooks(experiment: Experiment) -> str:
    """Return the warning about a skorch net whose clones lose hooks; clones of sklr's nets keep them."""
    net = _given_instance(experiment)
    if net is None or not has_hooks(net.module):
        return ""
    return (
        "The module instance has hooks on its parameters, which sklearn.base.clone leaves out: no run has them. Pass "
        "the module's class to the net and register the hooks in its __init__, or use the net of that name in sklr."
    )
