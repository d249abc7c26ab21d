"""Which callbacks of a net can be stacked, and what to change where one cannot."""

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

OBSERVERS = (EpochTimer, PassthroughScoring, PrintLog, ProgressBar, StopOnDivergence)
FOLLOWED = (EarlyStopping, EpochScoring, LRSchedule, LRScheduler, skorch.callbacks.EarlyStopping)
REPLACED = (GradientNormClipping, GradientClipping, BatchSizeSchedule)  # the stack does their work itself
KNOWN = (*OBSERVERS, *FOLLOWED, *REPLACED)  # exact classes: a subclass may do anything
_INSTEAD = {  # why one of skorch's callbacks cannot be stacked, and what to use instead
    "Checkpoint": (
        "writes files in each training, and the runs of a stack would overwrite each other's: leave it out, or use "
        "EarlyStopping(load_best=True), which keeps the best weights in memory"
    ),
    "BatchScoring": "scores each batch, and a stack scores after each epoch: use EpochScoring",
}


def class_reasons(net: NeuralNet) -> list[str]:
    """Return the reasons that the classes of a net's callbacks alone give, before they are initialized."""
    if net.callbacks == "disable":
        return [
            "callbacks='disable' removes every callback, those that record the losses too, which a stack does not "
            "support: leave out single ones instead (callbacks__print_log=None)"
        ]
    given = [c[-1] if isinstance(c, tuple) else c for c in net.callbacks or []]
    classes = [c if isinstance(c, type) else type(c) for c in given]
    return [_unknown(kind) for kind in classes if kind not in KNOWN]


def _unknown(kind: type) -> str:
    is_skorchs = kind.__module__.partition(".")[0] == "skorch"
    why = _INSTEAD.get(kind.__name__) if is_skorchs else None
    why = why or (
        "may change the training, and a stack runs only callbacks that it knows: leave it out, or use schedule=, "
        "warmup_epochs= or clip= of sklr's nets"
    )
    return f"the callback {kind.__name__} {why}"


def followed_reasons(net: NeuralNet, *, has_held: bool) -> list[str]:
    """Return the reasons why a stack cannot follow the callbacks of an initialized net.

    Parameters
    ----------
    net : NeuralNet
        Initialised.
    has_held : bool
        Whether its `train_split` holds rows out.
    """
    # columns of the history that a callback finds when it is called: callbacks are called in order, after the epoch
    reasons, written = list[str](), {"epoch", "train_batch_count"}
    written |= {"valid_batch_count"} if has_held else set()
    for name, callback in net.callbacks_:
        if type(callback) not in KNOWN:
            reasons.append(_unknown(type(callback)))
        elif isinstance(callback, skorch.callbacks.EarlyStopping):
            reasons += _missing(callback, callback.monitor, written)
        elif isinstance(callback, EpochScoring):
            reasons += [f"the callback {name} {why}" for why in _scoring_reasons(net, callback, has_held)]
        elif isinstance(callback, LRScheduler) and callback.policy_ is ReduceLROnPlateau:
            if callback.step_every == "batch":
                reasons.append(
                    "LRScheduler(ReduceLROnPlateau) steps after each batch, and a stack updates such a schedule after "
                    "each epoch: set step_every='epoch'"
                )
            reasons += _missing(callback, callback.monitor, written)
        written |= _written(callback, has_held)
    return reasons


def columns_of(net: NeuralNet, *, has_held: bool) -> set[str]:
    """Return the columns of the history that a schedule may monitor."""
    return set[str]().union(*(_written(callback, has_held) for _, callback in net.callbacks_))


def _written(callback: Callback, has_held: bool) -> set[str]:
    """Return the columns that a callback writes in every epoch; none where the rows that it needs are missing."""
    if isinstance(callback, PassthroughScoring):
        there = callback.name == "train_loss" if callback.on_train else callback.name == "valid_loss" and has_held
    else:
        there = has_held
    return set(written_by(callback)) if there else set()


def _missing(callback: Callback, monitor: Any, written: set[str]) -> list[str]:
    """Return a reason if what a callback monitors has not been written when the callback is called."""
    if isinstance(monitor, str) and monitor in written:
        return []
    columns = ", ".join(sorted(name for name in written if not name.endswith(("_best", "_count"))))
    return [
        f"the callback {type(callback).__name__} monitors {monitor!r}, which no callback before it writes to the "
        f"history: monitor one of {columns}, or set a train_split"
    ]


def _scoring_reasons(net: NeuralNet, callback: EpochScoring, has_held: bool) -> list[str]:
    if callback.on_train:
        return [
            "scores the training rows (on_train=True), for which a stack keeps no outputs: use the search's "
            "return_train_score=True"
        ]
    if not has_held:
        return []
    if not (callback.use_caching if net.use_caching == "auto" else net.use_caching):
        return [
            "predicts the held-out rows again, and a stack reuses the outputs of the validation step: leave "
            "use_caching at its default"
        ]
    if not predicts_as_its_library(net):
        return [
            f"scores predictions of {type(net).__name__}, which overrides how it predicts, and a stack scores the "
            "module's outputs: set train_split=None, and there is nothing for it to score"
        ]
    if not looks_only_at_predictions(check_scoring(net, callback.scoring_)):
        return [
            "may use more of the net than its predictions, and a stack has only these after each epoch: give it the "
            "name of a scorer, or one made by make_scorer"
        ]
    return []
