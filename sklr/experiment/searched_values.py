"""Values of a search space with which no net can be made: found before training, and not by a fit after another."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from sklr._utils.random import RandomStream
from sklr._utils.validation import must_be
from sklr.callbacks._schedule import schedule_of
from sklr.experiment.cell_data import seeded_clone
from sklr.experiment.experiment import Experiment
from sklr.experiment.lr_param import LR_NAMES
from sklr.experiment.wrappers import net_of
from sklr.nets._parts import NetParts

MOST_VALUES = 10  # of a parameter that are tried: each takes a module, and more are likely numbers from a range
MISTAKES = (ValueError, TypeError)  # other errors may be due to the machine, such as running out of memory


def bad_values(experiment: Experiment, candidates: Sequence[dict], net: Any) -> list[str]:
    """Return a warning for each searched value with which all of its candidates will fail.

    A value that is wrong with some values of other parameters only, such as `optimizer__betas` of another optimizer, is
    not one of them.

    Parameters
    ----------
    experiment : Experiment
    candidates : sequence of dict
    net : NeuralNet
        A net of this search that could be made, which knows the widths of the data.

    Raises
    ------
    ValueError
        If no candidate is left without such a value.
    """
    failing: set[int] = set()
    messages = []
    names = dict.fromkeys(name for candidate in candidates for name in candidate)
    for name in (name for name in names if name.rpartition("__")[2] not in LR_NAMES):  # the search has checked these
        for value, numbers in _numbers_by_value(candidates, name)[:MOST_VALUES]:
            error = _error(experiment, net, [{name: value}, *(candidates[i] for i in numbers)])
            if error is not None:
                failing.update(numbers)
                cause = f"{type(error).__name__}: {error}"
                rule = "values with which the net can be trained"
                messages.append(must_be(f"the searched values of {name}", rule, value, cause))
    if messages and len(failing) == len(candidates):
        raise ValueError(f"{messages[0]} Correct that value, or leave it out of the search.")
    return [f"{message} The candidates with that value will fail." for message in messages]


def _numbers_by_value(candidates: Sequence[dict], name: str) -> list[tuple[Any, list[int]]]:
    """Return each value of a parameter with the numbers of its candidates; equal values of a grid are one object."""
    found: dict[int, tuple[Any, list[int]]] = {}
    for i, candidate in enumerate(candidates):
        if name in candidate:
            found.setdefault(id(candidate[name]), (candidate[name], []))[1].append(i)
    return list(found.values())


def _error(experiment: Experiment, net: Any, candidates: Sequence[dict]) -> Exception | None:
    """Return the error of the first candidate if the others have the same; None if one of them can be made."""
    first = None
    for candidate in candidates:
        error = _try(experiment, net, candidate)
        if error is None or (first is not None and str(error) != str(first)):
            return None
        first = first or error
    return first


def _try(experiment: Experiment, net: Any, candidate: dict) -> Exception | None:
    """Make the net of a candidate for the widths of the data, without reading any rows."""
    with RandomStream(0), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the runs issue these warnings again
        try:
            estimator = seeded_clone(experiment, candidate, experiment.cells[0])
            new = net_of(estimator)
            new.set_params(verbose=0)
            if isinstance(new, NetParts):
                new.check_training_readiness()
                new._widths = dict(net._widths)
            if new is estimator:  # the widths that a pipeline's net will get are not known
                new.initialize()
            schedule_of(new, new.max_epochs)
        except MISTAKES as error:
            return error
        except Exception:  # as of the machine, or of a net that knows its widths from other attributes
            return None
    return None
