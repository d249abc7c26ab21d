"""The identity of a process, and whether it is still running."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path


def this_process() -> str:
    """Return a text that identifies this process and thread, also against later processes with the same pid."""
    return f"{socket.gethostname()} {os.getpid()} {_birth(os.getpid())} {threading.get_ident()} {time.time_ns()}"


def _birth(pid: int) -> str:
    """Return the start time of a process on this machine, in clock ticks; "-" if the system does not tell.

    A zombie, which has ended but not been waited for by its parent, is "ended".
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "ended" if fields[0] == "Z" else fields[19]
    except OSError:
        return "-"


def is_mine(owner: str) -> bool:
    """Return whether `owner` is this process: an earlier search in it could not sign off."""
    return owner.split(" ")[:3] == this_process().split(" ")[:3]


def is_dead(owner: str) -> bool:
    """Return whether a process is known to have ended; False for a process on another machine.

    >>> is_dead(this_process()), is_dead("elsewhere 1 2 3 4")
    (False, False)
    """
    host, pid, birth, *_ = owner.split(" ")
    if host != socket.gethostname():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return _birth(int(pid)) not in (birth, "-")
