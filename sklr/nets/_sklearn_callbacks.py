"""How callbacks hear of a training and end one: scikit-learn's are told of each epoch, skorch's may stop it."""

from __future__ import annotations

import dis
from types import TracebackType
from typing import Any

from skorch.callbacks import Callback


class StopTraining(KeyboardInterrupt):
    """A scikit-learn callback asked for the end of this training."""


def raised_by_callback(error: BaseException) -> bool:
    """Whether a KeyboardInterrupt is a callback's way to end its training, rather than someone's Ctrl-C.

    skorch's callbacks (EarlyStopping is one) raise it themselves, by a `raise` statement below one of their
    methods. Ctrl-C comes out of any other instruction, be it in a callback that happens to run.

    >>> raised_by_callback(KeyboardInterrupt())
    False
    """
    if isinstance(error, StopTraining):
        return True
    in_callback, traceback = False, error.__traceback__
    innermost: TracebackType | None = None
    while traceback is not None:
        in_callback |= isinstance(traceback.tb_frame.f_locals.get("self"), Callback)
        innermost, traceback = traceback, traceback.tb_next
    return in_callback and innermost is not None and _is_raise(innermost)


def _is_raise(traceback: TracebackType) -> bool:
    return dis.opname[traceback.tb_frame.f_code.co_code[traceback.tb_lasti]] == "RAISE_VARARGS"


class ToldCallbacks:
    """scikit-learn's callbacks kept up to date about one training: a task for it, a subtask for each epoch.

    Parameters
    ----------
    net : skorch.NeuralNet
        The net in training.
    n_epochs : int
        How many epochs it is to have; it may stop before.
    X, y, sample_weight
        The data as the user gave it, which callbacks score on.
    """

    def __init__(self, net: Any, n_epochs: int, X: Any, y: Any, sample_weight: Any = None):
        self.net, self.epoch = net, None
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        self.about = {"estimator": net, "X": X, "y": y, "metadata": metadata}
        self.whole = net._init_callback_context(max_subtasks=n_epochs)
        self.whole.call_on_fit_task_begin(**self.about)

    def on_epoch_begin(self) -> None:
        """Open the epoch's subtask."""
        self.epoch = self.whole.subcontext(task_name="epoch").call_on_fit_task_begin(**self.about)

    def on_epoch_end(self) -> None:
        """Close it, with a copy of the net as it is now for those who want to score it.

        Raises
        ------
        StopTraining
            If a callback asks for the end of the training.
        """
        epoch, self.epoch = self.epoch, None
        if epoch is not None and epoch.call_on_fit_task_end(**self.about, reconstruction_attributes={}):
            raise StopTraining

    def on_train_end(self) -> None:
        """Close the task of the training."""
        self.whole.call_on_fit_task_end(**self.about, reconstruction_attributes={})
