"""What ends a search early: the clock, a study that is stopped, the signal that asks a process to terminate."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
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
    """A moment, some seconds from now, after which nothing more is begun; never, if `seconds` is None.

    >>> Deadline(None).passed(), Deadline(3600).passed(), Deadline(1e-9).passed()
    (False, False, True)
    """

    def __init__(self, seconds: float | None):
        self.seconds, self._start = seconds, time.monotonic()

    def passed(self) -> bool:
        """Whether time is up."""
        return self.seconds is not None and time.monotonic() - self._start > self.seconds


@contextmanager
def stoppable(study: optuna.Study) -> Iterator[list[bool]]:
    """Let `study.stop()` add to the list yielded; outside of `Study.optimize` Optuna's own raises.

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


@contextmanager
def sigterm_is_ctrl_c() -> Iterator[None]:
    """Let SIGTERM, which batch systems send before they kill, end a search as Ctrl-C does.

    Only in the main thread, and only where nobody else has asked for the signal.

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
    """Send a signal that came while Python could raise nothing, in a finalizer say, once more in a moment."""
    threading.Timer(0.05, os.kill, [os.getpid(), signal.SIGTERM]).start()


def _press_ctrl_c(*signal_and_frame: Any) -> None:
    if callable(signal.getsignal(signal.SIGINT)):
        signal.raise_signal(signal.SIGINT)  # whoever listens for Ctrl-C hears of it
    else:
        raise KeyboardInterrupt
