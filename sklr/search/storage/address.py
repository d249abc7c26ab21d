"""The `storage` parameter: paths, URLs and Optuna storages, and the checks before one is opened."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage, RDBStorage

from sklr._utils.validation import check_flag, must_be
from sklr.exceptions import StorageError

SQLITE, JOURNAL = (".db", ".sqlite", ".sqlite3"), (".log", ".journal")
FORMS = "a path that ends in .db or .log, a database URL such as 'sqlite:///lr.db', or an Optuna storage"


def check_storage(storage: Any, study_name: Any, resume: Any) -> None:
    """Check `storage`, `study_name` and `resume` without opening anything."""
    check_flag("resume", resume)
    if study_name is not None and (not isinstance(study_name, str) or not study_name):
        raise ValueError(must_be("study_name", "a non-empty text or None", study_name))
    if storage is None:
        for what, value in {"study_name": study_name, "resume": resume or None}.items():
            if value is not None:
                advice = "Give a storage, such as storage='lr.db'."
                raise ValueError(must_be(what, "left out if there is no storage", value, advice))
        return
    if resume and study_name is None:
        raise ValueError(must_be("study_name", "given if resume=True", None, "Name the study to resume."))
    if not isinstance(storage, BaseStorage):
        address_of(storage)
    elif isinstance(storage, RDBStorage) and not _is_sqlite(storage) and storage.get_heartbeat_interval() is None:
        advice = "Write RDBStorage(url, heartbeat_interval=60), or give the URL itself."
        raise ValueError(must_be("storage", "made with heartbeat_interval for a database server", storage, advice))


def address_of(storage: Any) -> tuple[str, str]:
    """Return the kind of a storage, "url" or "journal", and its URL or absolute path.

    >>> address_of("sqlite:///lr.db")
    ('url', 'sqlite:///lr.db')
    >>> address_of("/tmp/lr.log")
    ('journal', '/tmp/lr.log')
    >>> address_of("/tmp/lr.db")
    ('url', 'sqlite:////tmp/lr.db')
    """
    if not isinstance(storage, (str, os.PathLike)):
        raise ValueError(must_be("storage", FORMS, storage))
    text = os.fspath(storage)
    if "://" in text:
        return "url", text
    # absolute, because a journal's lock fails with a relative path, and a worker may have another working directory
    path = Path(text).expanduser().absolute()
    if path.suffix in SQLITE:
        return "url", f"sqlite:///{path}"
    if path.suffix in JOURNAL:
        return "journal", str(path)
    raise ValueError(must_be("storage", FORMS, storage))


def storage_file(storage: Any) -> Path | None:
    """Return the file that a path or URL names; None for a database server and for a database in memory."""
    kind, address = address_of(storage)
    return Path(address) if kind == "journal" else sqlite_path(address)


def sqlite_path(url: str) -> Path | None:
    """Return the file of an SQLite URL; None for other databases and for a database in memory.

    >>> sqlite_path("sqlite:////tmp/lr.db"), sqlite_path("sqlite://"), sqlite_path("postgresql://host/lr")
    (PosixPath('/tmp/lr.db'), None, None)
    """
    kind, _, rest = url.partition("://")
    name = rest.partition("?")[0].removeprefix("/")
    if kind.partition("+")[0] != "sqlite" or not name or name == ":memory:" or name.startswith("file:"):
        return None
    return Path(name).absolute()


def is_shared(storage: BaseStorage) -> bool:
    """Return whether several machines can share the storage, that is, whether it is on a database server."""
    return isinstance(storage, RDBStorage) and not _is_sqlite(storage)


def _is_sqlite(storage: RDBStorage) -> bool:
    return storage.engine.name == "sqlite"


def cannot_open(storage: Any, why: str, advice: str) -> str:
    """Return the error message for a storage that cannot be opened; a password in its URL is masked."""
    shown = re.sub(r"//([^:/@]*):[^@]*@", r"//\1:***@", str(storage))
    return f"storage must be one that can be opened, got {shown!r}: {why}.{' ' * bool(advice)}{advice}"


def check_file(path: Path, start: bytes = b"") -> None:
    """Check that the file of a storage can be read and written and, if it exists, that it begins with `start`.

    Raises
    ------
    StorageError
        If not.
    """
    folder = path.parent
    wrong = {
        f"there is no folder {str(folder)!r}": not folder.exists(),
        f"{str(folder)!r} is not a folder": folder.exists() and not folder.is_dir(),
        "it is a folder": path.is_dir(),
        "it is not a file": path.exists() and not path.is_dir() and not path.is_file(),
        "this user may not write there": not os.access(path if path.exists() else folder, os.R_OK | os.W_OK),
    }
    for why, is_so in wrong.items():
        if is_so:
            raise StorageError(cannot_open(path, why, "Create the folder, or name a file in an existing one."))
    if start and path.exists() and path.stat().st_size and not _starts_with(path, start):
        raise StorageError(cannot_open(path, "it is not an SQLite database", "Name another file."))


def _starts_with(path: Path, start: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(start)) == start
