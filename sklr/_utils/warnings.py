"""Warnings that point at the user's line, however deep in sklr and its dependencies they are raised."""

from __future__ import annotations

import sys
import warnings
from types import FrameType

# frames of these are skipped; a frame of any other package is treated as the user's, as it is what called sklr
_LIBRARIES = {"sklr", "sklearn", "skorch", "joblib", "torch", "optuna", "skopt", "numpy", "scipy"}
_NOT_THE_USERS = _LIBRARIES | sys.stdlib_module_names


def warn(message: str, category: type[Warning]) -> None:
    """Issue a warning at the innermost frame that is not of sklr, its dependencies or the standard library.

    Where there is no such frame, as in a worker process, the warning points at the outermost one.

    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     warn("lr is high", UserWarning)
    >>> print(caught[0].message)
    lr is high
    """
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and not is_the_users(frame):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def is_the_users(frame: FrameType) -> bool:
    """Whether a frame runs code of the user's own, and not of a library."""
    return not is_a_library(frame.f_globals.get("__name__", ""))


def is_a_library(module: str) -> bool:
    """Whether a module belongs to sklr, to one of its dependencies or to the standard library.

    >>> is_a_library("torch.nn.functional"), is_a_library("__main__"), is_a_library("my_nets")
    (True, False, False)
    """
    return module.partition(".")[0] in _NOT_THE_USERS
