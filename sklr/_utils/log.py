"""Messages through the logger "sklr", which go to standard output unless the user has configured that logger."""

from __future__ import annotations

import logging
import sys
from typing import Any

LOGGER = logging.getLogger("sklr")


class ToStdout(logging.StreamHandler):
    """Write to the current `sys.stdout`, which notebooks and pytest replace while the process runs."""

    def __init__(self) -> None:
        super().__init__(sys.stdout)
        self.setFormatter(logging.Formatter("[sklr] %(message)s"))

    def emit(self, record: Any) -> None:
        """Write a record."""
        self.stream = sys.stdout
        super().emit(record)


def say(text: str) -> None:
    """Log a message at level INFO; without a handler or a level of its own, the logger writes to standard output.

    >>> say("engine: stacked")
    [sklr] engine: stacked
    >>> LOGGER.setLevel(logging.WARNING)
    >>> say("engine: stacked")
    >>> LOGGER.setLevel(logging.NOTSET)
    """
    if not LOGGER.handlers:
        LOGGER.addHandler(ToStdout())
        LOGGER.propagate = False  # a handler of the root logger would print the message a second time
    if LOGGER.level == logging.NOTSET:
        LOGGER.setLevel(logging.INFO)
    LOGGER.info(text)
