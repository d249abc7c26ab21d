"""Which of a net's callbacks a stack follows, and what to change where it cannot."""

from __future__ import annotations

from typing import Any

import skorch.callbacks
from sklearn.metrics import check_scoring
from skorch import NeuralNet
from skorch.callbacks import (
    Callback,
    EpochScoring,
    EpochTimer,
    GradientNormClipping,
    LRScheduler,
    PassthroughScoring,
    PrintLog,
    ProgressBar,
)
from torch.optim.lr_scheduler import ReduceLROnPlateau

from sklr.callbacks import BatchSizeSchedule, EarlyStopping, GradientClipping, LRSchedule, StopOnDivergence
from sklr.engines.stacked.model.record import written_by
from sklr.experiment.cell_data import looks_only_at_predictions, predicts_as_its_library

LOOKING_ON = (EpochTimer, PassthroughScoring, PrintLog, ProgressBar, StopOnDivergence)
FOLLOWED = (EarlyStopping, EpochScoring, LRSchedule, LRScheduler, skorch.callbacks.EarlyStopping)
TAKEN_OVER = (GradientNormClipping, GradientClipping, BatchSizeSchedule)  # a stack does what they do
KNOWN = (*LOOKING_ON, *FOLLOWED, *TAKEN_OVER)
_INSTEAD = {  # what to do about callbacks that cannot be followed
    "Checkpoint": (
        "writes files in each training, all under the same names: leave it out, EarlyStopping(load_best=True) keeps "
        "the best weights without files"
    ),
    "BatchScoring": "scores each batch: use EpochScoring",
}


def class_reasons(net: NeuralNet) -> list[str]:
    """Return what can be told of a net's callbacks by their classes alone, before they are initialised."""
    if net.callbacks == "disable":
        return ["the callback setting 'disable' may change the training"]
    given = [c[-1] if isinstance(c, tuple) else c for c in net.callbacks or []]
    classes = [c if isinstance(c, type) else type(c) for c in given]
    return [_unknown(kind) for kind in classes if kind not in KNOWN]


def _unknown(kind: type) -> str:
    is_skorchs = kind.__module__.partition(".")[0] == "skorch"
    why = _INSTEAD.get(kind.__name__) if is_skorchs else None
    return f"the callback {kind.__name__} {why or 'may change the training'}"


def followed_reasons(net: NeuralNet, *, has_held: bool) -> list[str]:
    """Return what keeps a stack from following the callbacks of a net as they are set.

    Parameters
    ----------
    net : NeuralNet
        Initialised.
    has_held : bool
        Whether its `train_split` holds rows out.
    """
    reasons, written = list[str](), {"epoch", "train_batch_count"}
    written |= {"valid_batch_count"} if has_held else set()
    for name, callback in net.callbacks_:
        if type(callback) not in KNOWN:
            reasons.append(_unknown(type(callback)))
        elif isinstance(callback, skorch.callbacks.EarlyStopping):
            reasons += _unheard(callback, callback.monitor, written)
        elif isinstance(callback, EpochScoring):
            reasons += [f"the callback {name} {why}" for why in _scoring_reasons(net, callback, has_held)]
        elif isinstance(callback, LRScheduler) and callback.policy_ is ReduceLROnPlateau:
            if callback.step_every == "batch":
                reasons.append("LRScheduler(ReduceLROnPlateau) listens to each batch: set step_every='epoch'")
            reasons += _unheard(callback, callback.monitor, written)
        written |= _written(callback, has_held)
    return reasons


def columns_of(net: NeuralNet, *, has_held: bool) -> set[str]:
    """Return the columns of the history that a schedule may follow."""
    return set[str]().union(*(_written(callback, has_held) for _, callback in net.callbacks_))


def _written(callback: Callback, has_held: bool) -> set[str]:
    """Return the columns that a callback writes, if it finds in each epoch what they are made of."""
    if isinstance(callback, PassthroughScoring):
        there = callback.name == "train_loss" if callback.on_train else callback.name == "valid_loss" and has_held
    else:
        there = has_held
    return set(written_by(callback)) if there else set()


def _unheard(callback: Callback, monitor: Any, written: set[str]) -> list[str]:
    if isinstance(monitor, str) and monitor in written:
        return []
    columns = ", ".join(sorted(name for name in written if not name.endswith(("_best", "_count"))))
    return [
        f"the callback {type(callback).__name__} monitors {monitor!r}, of which the history says nothing before: "
        f"monitor one of {columns}, or set a train_split"
    ]


def _scoring_reasons(net: NeuralNet, callback: EpochScoring, has_held: bool) -> list[str]:
    if callback.on_train:
        return ["scores the rows that are trained on (on_train=True): a search's return_train_score=True does so"]
    if not has_held:
        return []
    if not (callback.use_caching if net.use_caching == "auto" else net.use_caching):
        return ["predicts the held-out rows once more: leave use_caching at its default"]
    if not predicts_as_its_library(net):
        return [
            f"scores what {type(net).__name__} predicts in a way of its own: train_split=None gives it nothing to score"
        ]
    if not looks_only_at_predictions(check_scoring(net, callback.scoring_)):
        return ["may look at more than predictions: give it the name of a scorer, or one that make_scorer makes"]
    return []
