"""What ends a search early: the timeout, ``study.stop()``, SIGTERM."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import optuna

from sklr._utils.validation import must_be
from sklr.experiment.lr_param import is_number

TIMEOUT = "timeout"


def check_timeout(timeout: Any) -> None:
    """Check that the time limit is a number of seconds or None."""
    if timeout is not None and not (is_number(timeout) and timeout > 0):
        raise ValueError(must_be("timeout", "a number of seconds > 0, or None", timeout))


class Deadline:
    """A deadline, `seconds` from now, after which no training is started; None means that there is none.

    >>> Deadline(None).passed(), Deadline(3600).passed(), Deadline(1e-9).passed()
    (False, False, True)
    """

    def __init__(self, seconds: float | None):
        self.seconds, self._start = seconds, time.monotonic()

    def passed(self) -> bool:
        """Return whether the deadline has passed."""
        return self.seconds is not None and time.monotonic() - self._start > self.seconds


@contextmanager
def stoppable(study: optuna.Study) -> Iterator[list[bool]]:
    """Make `study.stop()` append to the list yielded, because Optuna's own raises outside of `Study.optimize`.

    >>> study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    >>> with stoppable(study) as stops:
    ...     study.stop()
    >>> stops
    [True]
    """
    stops: list[bool] = []
    vars(study)["stop"] = lambda: stops.append(True)
    try:
        yield stops
    finally:
        del vars(study)["stop"]


def stopped_by_callback(study: optuna.Study, callbacks: Sequence[Callable], first: int) -> bool:
    """Call Optuna callbacks on the trials from number `first` on; return whether one called ``study.stop()``."""
    with stoppable(study) as stops:
        for trial in study.get_trials()[first:] if callbacks else ():
            for callback in callbacks:
                callback(study, trial)
    return bool(stops)


@contextmanager
def sigterm_is_ctrl_c() -> Iterator[None]:
    """Make SIGTERM, which batch systems send before they kill a job, end a search as Ctrl-C does.

    Only in the main thread, and only if the signal has no other handler.

    >>> import os
    >>> try:
    ...     with sigterm_is_ctrl_c():
    ...         os.kill(os.getpid(), signal.SIGTERM)
    ... except KeyboardInterrupt as ended:
    ...     print(repr(ended))
    KeyboardInterrupt()
    >>> signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    True
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    report = sys.unraisablehook
    signal.signal(signal.SIGTERM, _press_ctrl_c)
    sys.unraisablehook = lambda lost: _again() if lost.exc_type is KeyboardInterrupt else report(lost)
    try:
        yield
    finally:
        sys.unraisablehook = report
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _again() -> None:
    """Send the signal again in a moment: it came where exceptions are swallowed, such as in a finalizer."""
    threading.Timer(0.05, os.kill, [os.getpid(), signal.SIGTERM]).start()


def _press_ctrl_c(*signal_and_frame: Any) -> None:
    if callable(signal.getsignal(signal.SIGINT)):
        signal.raise_signal(signal.SIGINT)  # so that a handler for Ctrl-C is called
    else:
        raise KeyboardInterrupt
