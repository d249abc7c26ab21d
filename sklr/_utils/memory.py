"""Returning freed memory to the system."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress


def trim() -> None:
    """Return freed memory to the system where the C library would keep it.

    glibc keeps up to 64 MiB at the end of its heap, and more in the gaps. After copies of many rows have been made and
    freed, that may be more than training needs.
    """
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library, such as musl
            ctypes.CDLL(None).malloc_trim(0)
