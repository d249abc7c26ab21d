"""Repair of a journal file: its incomplete lines are removed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from optuna.storages.journal import JournalFileOpenLock

from sklr._utils.warnings import warn
from sklr.exceptions import StorageError, StorageWarning
from sklr.search.storage.address import cannot_open

OPERATION = b'{"op_code"'  # every line of a journal begins like this


def repair_journal(path: Path, lock: JournalFileOpenLock) -> None:
    """Remove the incomplete lines of a journal, which a full disk or a power failure leaves behind.

    Raises
    ------
    StorageError
        If the file is not a journal; then it is not changed.
    """
    if not path.exists():
        return
    lock.acquire()
    try:
        lines = path.read_bytes().splitlines(keepends=True)
        whole = [line for line in lines if _is_whole(line)]
        if not _is_journal(lines, whole):
            raise StorageError(cannot_open(path, "it is not an Optuna journal", "Name another file."))
        if len(whole) < len(lines):
            fresh = path.with_name(path.name + ".repaired")
            fresh.write_bytes(b"".join(whole))
            fresh.replace(path)  # atomic: a process killed in between leaves the old file
    finally:
        lock.release()
    if len(whole) < len(lines):
        n_lost = len(lines) - len(whole)
        message = f"{n_lost} line(s) of the journal {path.name} were incomplete and were removed; the rest is kept."
        warn(message, StorageWarning)


def _is_journal(lines: Sequence[bytes], whole: Sequence[bytes]) -> bool:
    """Return whether all complete lines are a journal's; if there are none, whether the only line begins like one.

    >>> _is_journal([b'{"op_code": 0}\\n', b"half"], [b'{"op_code": 0}\\n']), _is_journal([b"epoch 1\\n"], [])
    (True, False)
    """
    if not whole:
        first = lines[0].strip(b"\0\n") if lines else b""
        return len(lines) <= 1 and (first.startswith(OPERATION) or OPERATION.startswith(first))
    return all(isinstance(entry := json.loads(line), dict) and "op_code" in entry for line in whole)


def _is_whole(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return line.endswith(b"\n")
