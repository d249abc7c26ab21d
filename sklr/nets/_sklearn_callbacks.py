"""How callbacks follow and stop a training: scikit-learn's are notified of each epoch, skorch's raise an interrupt."""

from __future__ import annotations

import dis
from types import TracebackType
from typing import Any

from skorch.callbacks import Callback


class StopTraining(KeyboardInterrupt):
    """Raised when a scikit-learn callback asks to stop this training; skorch's loop ends on a KeyboardInterrupt."""


def raised_by_callback(error: BaseException) -> bool:
    """Whether a KeyboardInterrupt was raised by a callback to stop its training, and not by Ctrl-C.

    skorch's callbacks, such as EarlyStopping, raise it with a `raise` statement in or below one of their methods.
    Ctrl-C is raised at any other instruction, even while a callback runs.

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


class CallbackTasks:
    """The tasks of one training in scikit-learn's callback protocol: one for `fit`, and a subtask for each epoch.

    Parameters
    ----------
    net : skorch.NeuralNet
        The net in training.
    n_epochs : int
        The number of epochs planned; the training may stop earlier.
    X, y, sample_weight
        The data as the user passed it, on which callbacks may score.
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
        """Close the epoch's subtask; callbacks can reconstruct the net in its present state, to score it.

        Raises
        ------
        StopTraining
            If a callback asks to stop the training.
        """
        epoch, self.epoch = self.epoch, None
        if epoch is not None and epoch.call_on_fit_task_end(**self.about, reconstruction_attributes={}):
            raise StopTraining

    def on_train_end(self) -> None:
        """Close the task of `fit`."""
        self.whole.call_on_fit_task_end(**self.about, reconstruction_attributes={})
