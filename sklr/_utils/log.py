"""What sklr says while it works: through the logger "sklr", which is seen unless its user has decided otherwise."""

from __future__ import annotations

import logging
import sys
from typing import Any

LOGGER = logging.getLogger("sklr")


class ToStdout(logging.StreamHandler):
    """Writes to where `sys.stdout` goes at the moment: a notebook's cell, a test's capture."""

    def __init__(self) -> None:
        super().__init__(sys.stdout)
        self.setFormatter(logging.Formatter("[sklr] %(message)s"))

    def emit(self, record: Any) -> None:
        """Write a record."""
        self.stream = sys.stdout
        super().emit(record)


def say(text: str) -> None:
    """Log a message; a logger that nobody has given a handler or a level writes to standard output.

    >>> say("engine: stacked")
    [sklr] engine: stacked
    >>> LOGGER.setLevel(logging.WARNING)
    >>> say("engine: stacked")
    >>> LOGGER.setLevel(logging.NOTSET)
    """
    if not LOGGER.handlers:
        LOGGER.addHandler(ToStdout())
        LOGGER.propagate = False  # or it would be seen twice where the root logger has a handler
    if LOGGER.level == logging.NOTSET:
        LOGGER.setLevel(logging.INFO)
    LOGGER.info(text)
