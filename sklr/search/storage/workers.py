"""Which process is at work on something, and whether it still runs."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path


def this_process() -> str:
    """Return what tells this process, and this thread of it, from all others, also later ones with its number."""
    return f"{socket.gethostname()} {os.getpid()} {_birth(os.getpid())} {threading.get_ident()} {time.time_ns()}"


def _birth(pid: int) -> str:
    """Return when a process of this machine began, in the kernel's ticks; "-" where the system does not say.

    One that has ended, and whose parent has not asked after it, began at no time.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "ended" if fields[0] == "Z" else fields[19]
    except OSError:
        return "-"


def is_mine(owner: str) -> bool:
    """Say whether this process has written that: an earlier search in it, which could not sign off."""
    return owner.split(" ")[:3] == this_process().split(" ")[:3]


def is_dead(owner: str) -> bool:
    """Say whether a process is known to be gone; one of another machine is not known.

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
