"""Open a storage and the study in it, and retry while the storage is temporarily unavailable."""

from __future__ import annotations

import errno
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalStorage
from optuna.study import StudyDirection

from sklr._utils.quiet_optuna import at_verbosity
from sklr._utils.validation import must_be
from sklr.exceptions import StorageError, StudyError
from sklr.search.storage.address import address_of, cannot_open, check_file, is_shared, sqlite_path
from sklr.search.storage.journal import repair_journal

PATIENCE = 60.0  # seconds to retry during a search: a database server restarts in less
OPENING = 10.0  # seconds to retry at the start, where a wrong address is more likely than a restart
HEARTBEAT = {"heartbeat_interval": 60, "grace_period": 120}  # seconds
WAITS_LONG = ("postgresql://", "postgresql+psycopg")  # drivers that wait minutes for a server that does not answer
LOCK_GRACE = 5  # seconds after which the lock of a killed writer is broken; a write takes milliseconds

SQLITE_START = b"SQLite format 3\0"
PASSING_ERRNOS = {  # temporary errors of a file system; others, such as a name that is too long, do not go away
    *(errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EIO, errno.ENFILE, errno.EMFILE, errno.ENOLCK),
    *(errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH),
}
SQLITE_LOCKED = ("locked", "busy", "disk is full", "disk i/o error")
FOREIGN_TABLES = ("no such column", "has no column", "unknown column", "no such table")
PASSING = (
    *("OperationalError", "InterfaceError", "InternalError", "TimeoutError", "DisconnectionError"),
    "PendingRollbackError",  # a second query after a lost connection; the next call begins a new transaction
)
REFUSED = ("password", "authentication", "access denied", "does not exist", "unknown database", "unknown column")
DELETED = (
    "The study is no longer in its storage: another program has deleted it. Finished candidates are kept in the "
    "search's attributes. Delete a study only when nobody is working on it; fit again with another study_name."
)
NO_DIALECT = "Can't load plugin: sqlalchemy.dialects"
FOREIGN = "Its tables are another program's: name another database."

T = TypeVar("T")


def open_storage(storage: Any) -> BaseStorage:
    """Open the storage; a database gets a heartbeat, incomplete lines of a journal are removed."""
    if isinstance(storage, BaseStorage):
        return storage
    kind, address = address_of(storage)
    if kind == "journal":
        check_file(Path(address))
        lock = JournalFileOpenLock(address, grace_period=LOCK_GRACE)
        repair_journal(Path(address), lock)
        return JournalStorage(JournalFileBackend(address, lock_obj=lock))
    if (file := sqlite_path(address)) is not None:
        check_file(file, SQLITE_START)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # Optuna's heartbeat is experimental
        return RDBStorage(address, engine_kwargs=_pool(address), **HEARTBEAT)  # type: ignore[arg-type]


def _pool(url: str) -> dict[str, Any]:
    """Return engine options: connections to a server are reused while they work, those to a file are closed at once."""
    from sqlalchemy.pool import NullPool

    if not url.startswith("sqlite"):
        server: dict[str, Any] = {"pool_pre_ping": True}  # a restarted server has dropped its connections
        if url.startswith(WAITS_LONG) and "connect_timeout" not in url:
            server["connect_args"] = {"connect_timeout": int(OPENING)}
        return server
    # an SQLite database in memory exists only as long as its connection
    in_memory = ":memory:" in url or url.rstrip("/") == "sqlite:"
    return {} if in_memory else {"poolclass": NullPool}


def open_study(storage: Any, name: str | None, resume: bool) -> tuple[optuna.Study, BaseStorage, bool]:
    """Create the study, or load it if `resume`; return it, its storage, and whether it is new.

    Raises
    ------
    StudyError
        If the name exists and `resume` is False.
    StorageError
        If the storage cannot be opened; after some seconds if a server does not answer or the storage is locked.
    """
    with _cannot_be_opened(storage), at_verbosity(optuna.logging.WARNING):
        opened = _open_and_check(storage)
        with _closed_after_error(opened):
            return patiently(lambda: _create_or_load(opened, name, resume), OPENING, opening=True)


@contextmanager
def opened_to_read(storage: Any) -> Iterator[BaseStorage]:
    """Open a storage for reading, and close the connections to a database server afterwards.

    Raises
    ------
    StorageError
        If it cannot be opened.
    """
    with _cannot_be_opened(storage):
        opened = _open_and_check(storage)
    try:
        yield opened
    finally:
        close_connections(opened)


def close_connections(storage: BaseStorage) -> None:
    """Close the idle connections to a database server; new ones are opened when the storage is used again."""
    if isinstance(storage, RDBStorage) and is_shared(storage):
        storage.engine.dispose()


@contextmanager
def _closed_after_error(storage: BaseStorage) -> Iterator[None]:
    try:
        yield
    except BaseException:
        close_connections(storage)
        raise


@contextmanager
def _cannot_be_opened(storage: Any) -> Iterator[None]:
    try:
        yield
    except (StorageError, StudyError, ImportError):
        raise
    except Exception as error:  # drivers, SQLAlchemy and Optuna raise exceptions of many kinds
        raise StorageError(cannot_open(storage, _reason(error).rstrip("."), _advice(error))) from error


def _open_and_check(storage: Any) -> BaseStorage:
    opened = patiently(lambda: open_storage(storage), OPENING, opening=True)
    with _closed_after_error(opened):
        patiently(lambda: _check_tables(opened, storage), OPENING, opening=True)
    return opened


def _check_tables(opened: BaseStorage, given: Any) -> None:
    """Check that the tables of a database are Optuna's: names such as `trials` may belong to another program.

    A missing index is created. A process that was killed while creating the tables may have left one without it, and
    then two studies could have the same name.
    """
    if not isinstance(opened, RDBStorage):
        return
    from optuna.storages._rdb.models import BaseModel
    from sqlalchemy import inspect

    inspector = inspect(opened.engine)
    for table in BaseModel.metadata.sorted_tables:
        columns = {column["name"] for column in inspector.get_columns(table.name)}
        missing = [column.name for column in table.columns if column.name not in columns]
        if missing:
            why = f"the table {table.name!r} has no column {missing[0]!r}"
            raise StorageError(cannot_open(given, why, FOREIGN))
        for index in table.indexes:
            index.create(opened.engine, checkfirst=True)


def _create_or_load(storage: BaseStorage, name: str | None, resume: bool) -> tuple[optuna.Study, BaseStorage, bool]:
    try:
        return optuna.create_study(storage=storage, study_name=name, direction="maximize"), storage, True
    except DuplicatedStudyError:
        if not resume:
            advice = "Use resume=True to resume it, or another name."
            rule = "one that the storage does not have yet"
            raise StudyError(must_be("study_name", rule, name, advice)) from None  # a long chain of the database's own
    study = optuna.load_study(storage=storage, study_name=name)
    if study.directions != [StudyDirection.MAXIMIZE]:
        names = [direction.name.lower() for direction in study.directions]
        raise StudyError(must_be("study_name", "a study that maximizes a single score", names, "Use another name."))
    return study, storage, False


def patiently(call: Callable[[], T], seconds: float | None = None, opening: bool = False) -> T:
    """Call, and retry at growing intervals while the storage has a temporary problem, for `seconds` in all.

    Parameters
    ----------
    call : callable
    seconds : float, optional
        Default: `PATIENCE`.
    opening : bool
        Whether the storage has not worked before: then a missing file counts as a permanent error.

    Raises
    ------
    StorageError
        When the time is over; at once for a permanent problem, such as a study that was deleted during the search.
    """
    seconds = PATIENCE if seconds is None else seconds
    start, pause = time.monotonic(), 0.05
    while True:
        try:
            return call()
        except Exception as error:
            if isinstance(error, KeyError) and not opening:  # Optuna's error for a study or trial that is not there
                raise StorageError(DELETED) from error
            if not may_pass(error, opening):
                if opening or not _is_storage_error(error):
                    raise
                raise StorageError(_unusable(error)) from error
            if time.monotonic() - start + pause > seconds:
                raise StorageError(_gave_up(error, seconds)) from error
        time.sleep(pause)
        pause = min(2 * pause, 5.0)


def may_pass(error: Exception, opening: bool) -> bool:
    """Return whether an error is a temporary problem of a storage: a lock, a full disk, a server that does not answer.

    >>> may_pass(OSError(28, "No space left on device"), True), may_pass(KeyError("lr"), False)
    (True, False)
    >>> may_pass(OSError(36, "File name too long"), True)
    False
    >>> may_pass(FileNotFoundError(2, "No such file"), True), may_pass(FileNotFoundError(2, "No such file"), False)
    (False, True)
    """
    inside = isinstance(error, StorageInternalError)
    cause = error.__cause__ if inside and error.__cause__ is not None else error
    text, kind = str(cause).lower(), type(cause).__name__
    if isinstance(cause, OSError):
        of_network = isinstance(cause, ConnectionError | TimeoutError)
        return not opening or of_network or cause.errno in PASSING_ERRNOS
    if not type(cause).__module__.startswith("sqlalchemy."):
        return inside
    if any(words in text for words in FOREIGN_TABLES):
        return False
    if "already exists" in text or kind == "IntegrityError":
        return True  # two processes created the same tables or rows at the same time
    if "(sqlite3." in text:
        away = not opening and "unable to open" in text  # a file system that may come back
        return away or any(words in text for words in SQLITE_LOCKED)
    return kind in PASSING and not (opening and any(words in text for words in REFUSED))


def _reason(error: BaseException) -> str:
    cause = error.__cause__ or error
    return str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__


def _is_storage_error(error: Exception) -> bool:
    return isinstance(error, StorageInternalError | OSError) or type(error).__module__.startswith("sqlalchemy.")


def _advice(error: BaseException) -> str:
    is_foreign = any(words in str(error.__cause__ or error).lower() for words in FOREIGN_TABLES)
    if NO_DIALECT in str(error):
        return "A URL begins with the kind of database, as 'sqlite:///lr.db' or 'postgresql+psycopg://user@host/lr'."
    return FOREIGN if is_foreign else ""


def _unusable(error: BaseException) -> str:
    advice = _advice(error) or "Finished candidates are kept in the search's attributes; name another database."
    return f"The storage cannot be used: {_reason(error).rstrip('.')}. {advice}"


def _gave_up(error: BaseException, seconds: float) -> str:
    return (
        f"The storage did not answer for {seconds:g} seconds: {_reason(error)}. Finished candidates are kept in the "
        "storage and, if a search was running, in its attributes; continue with resume=True once the storage is back."
    )
