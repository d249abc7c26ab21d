"""The identity of a process, and whether it is still working."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path

OUTSIDE = 0xEFFFFFFC  # Linux's number for the namespace of the machine itself
_AT_WORK: set[str] = set()  # the searches of this process that have signed on and not yet signed off


def this_machine() -> str:
    """Return the name of this machine; in a container, which has pids of its own, also the number of its namespace."""
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:  # not Linux
        namespace = OUTSIDE
    return socket.gethostname() + f"/{namespace}" * (namespace != OUTSIDE)


def this_process() -> str:
    """Return a text that identifies this process and thread, also against later processes with the same pid."""
    return f"{this_machine()} {os.getpid()} {_birth(os.getpid())} {threading.get_ident()} {time.time_ns()}"


def sign_on(owner: str) -> None:
    """Note that a search of this process is at work."""
    _AT_WORK.add(owner)


def sign_off(owner: str) -> None:
    """Note that a search of this process has ended."""
    _AT_WORK.discard(owner)


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
    """Return whether `owner` is a search of this process."""
    return owner.split(" ")[:3] == this_process().split(" ")[:3]


def is_dead(owner: str) -> bool:
    """Return whether a search is known to have ended: its process has, or it is one of this process that is over.

    False for a process on another machine or in another container, whose pids say nothing here.

    >>> me = this_process()
    >>> sign_on(me)
    >>> is_dead(me), is_dead("elsewhere 1 2 3 4"), sign_off(me), is_dead(me)
    (False, False, None, True)
    """
    if is_mine(owner):
        return owner not in _AT_WORK  # it could not sign off: the storage did not answer, or it was interrupted
    host, pid, birth, *_ = owner.split(" ")
    if host != this_machine():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # another user's, perhaps a later one with the same pid
    return _birth(int(pid)) not in (birth, "-")
