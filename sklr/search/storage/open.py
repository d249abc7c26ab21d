"""Where a study is kept: what `storage=` may be, how a storage is opened, repaired, and waited for."""

from __future__ import annotations

import errno
import json
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalStorage

from sklr._utils.quiet_optuna import at_verbosity
from sklr._utils.validation import check_flag, must_be
from sklr._utils.warnings import warn
from sklr.exceptions import StorageError, StorageWarning, StudyError

PATIENCE = 60.0  # seconds a storage may be away in mid-search: a database server restarts in less
OPENING = 10.0  # seconds at the start, where a wrong address is likelier than a restart
HEARTBEAT = {"heartbeat_interval": 60, "grace_period": 120}  # seconds
LOCK_GRACE = 5  # seconds after which the lock of a writer that was killed is broken; a write takes milliseconds
SQLITE, JOURNAL = (".db", ".sqlite", ".sqlite3"), (".log", ".journal")
FORMS = "a path that ends in .db or .log, a database URL such as 'sqlite:///lr.db', or an Optuna storage"

SQLITE_START, OPERATION = b"SQLite format 3\0", b'{"op_code"'
PASSING_ERRNOS = {  # of a file system; others, such as a name that is too long, are there from the start
    *(errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EIO, errno.ENFILE, errno.EMFILE, errno.ENOLCK),
    *(errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH),
}
SQLITE_LOCKED = ("locked", "busy", "disk is full", "disk i/o error")
ANOTHERS_TABLES = ("no such column", "has no column", "unknown column", "no such table")
PASSING = ("OperationalError", "InterfaceError", "InternalError", "TimeoutError", "DisconnectionError")
REFUSED = ("password", "authentication", "access denied", "does not exist", "unknown database", "unknown column")
ANOTHERS = "Its tables are another program's: name another database."

T = TypeVar("T")


def check_storage(storage: Any, study_name: Any, resume: Any) -> None:
    """Check what can be checked without opening anything."""
    check_flag("resume", resume)
    if study_name is not None and (not isinstance(study_name, str) or not study_name):
        raise ValueError(must_be("study_name", "a non-empty text or None", study_name))
    if storage is None:
        for what, value in {"study_name": study_name, "resume": resume or None}.items():
            if value is not None:
                advice = "Give a storage, such as storage='lr.db'."
                raise ValueError(must_be(what, "left out where there is no storage", value, advice))
        return
    if resume and study_name is None:
        raise ValueError(must_be("study_name", "given where resume=True", None, "Name the study to resume."))
    if not isinstance(storage, BaseStorage):
        _address(storage)
    elif isinstance(storage, RDBStorage) and not _is_sqlite(storage) and storage.get_heartbeat_interval() is None:
        advice = "Write RDBStorage(url, heartbeat_interval=60), or give the URL itself."
        raise ValueError(must_be("storage", "made with heartbeat_interval for a database server", storage, advice))


def _address(storage: Any) -> tuple[str, str]:
    """Return the kind of a storage, "url" or "journal", and its URL or absolute path.

    >>> _address("sqlite:///lr.db")
    ('url', 'sqlite:///lr.db')
    >>> _address("/tmp/lr.log")
    ('journal', '/tmp/lr.log')
    >>> _address("/tmp/lr.db")
    ('url', 'sqlite:////tmp/lr.db')
    """
    if not isinstance(storage, (str, os.PathLike)):
        raise ValueError(must_be("storage", FORMS, storage))
    text = os.fspath(storage)
    if "://" in text:
        return "url", text
    # a journal's lock goes wrong under a relative path, and a worker may have another working directory
    path = Path(text).expanduser().absolute()
    if path.suffix in SQLITE:
        return "url", f"sqlite:///{path}"
    if path.suffix in JOURNAL:
        return "journal", str(path)
    raise ValueError(must_be("storage", FORMS, storage))


def open_storage(storage: Any) -> BaseStorage:
    """Open what `storage` names; databases get a heartbeat, an incomplete last line of a journal is removed."""
    if isinstance(storage, BaseStorage):
        return storage
    kind, address = _address(storage)
    if kind == "journal":
        check_file(Path(address))
        lock = JournalFileOpenLock(address, grace_period=LOCK_GRACE)
        repair_journal(Path(address), lock)
        return JournalStorage(JournalFileBackend(address, lock_obj=lock))
    if (file := _sqlite_path(address)) is not None:
        check_file(file, SQLITE_START)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # of the heartbeat
        return RDBStorage(address, engine_kwargs=_pool(address), **HEARTBEAT)  # type: ignore[arg-type]


def _pool(url: str) -> dict[str, Any]:
    """Return how connections are kept: to a server, for later transactions while they work; to a file, not at all."""
    from sqlalchemy.pool import NullPool

    if not url.startswith("sqlite"):
        return {"pool_pre_ping": True}  # a server that was restarted has dropped them
    in_memory = ":memory:" in url or url.rstrip("/") == "sqlite:"
    return {} if in_memory else {"poolclass": NullPool}  # no file is left open after `fit`


def is_shared(storage: BaseStorage) -> bool:
    """Say whether several machines may be at work on a storage: it is a database server's."""
    return isinstance(storage, RDBStorage) and not _is_sqlite(storage)


def _is_sqlite(storage: RDBStorage) -> bool:
    return storage.engine.name == "sqlite"


def repair_journal(path: Path, lock: JournalFileOpenLock) -> None:
    """Drop the lines of a journal that are not whole, as a full disk or a loss of power leaves them.

    Raises
    ------
    StorageError
        If the file is no journal: nothing of it is dropped.
    """
    if not path.exists():
        return
    lock.acquire()
    try:
        lines = path.read_bytes().splitlines(keepends=True)
        whole = [line for line in lines if _is_whole(line)]
        if not _is_journal(lines, whole):
            raise StorageError(cannot_open(path, "it is not a journal of Optuna's", "Name another file."))
        if len(whole) < len(lines):
            fresh = path.with_name(path.name + ".repaired")
            fresh.write_bytes(b"".join(whole))
            fresh.replace(path)
    finally:
        lock.release()
    if len(whole) < len(lines):
        n_lost = len(lines) - len(whole)
        message = f"{n_lost} line(s) of the journal {path.name} were incomplete and are removed; the rest is kept."
        warn(message, StorageWarning)


def _is_journal(lines: Sequence[bytes], whole: Sequence[bytes]) -> bool:
    """Say whether all lines that are whole are a journal's, and if there are none, the first is the start of one.

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


def open_study(storage: Any, name: str | None, resume: bool) -> tuple[optuna.Study, BaseStorage, bool]:
    """Create the study, or open it to go on; return it, its storage, and whether it is new.

    Raises
    ------
    StudyError
        If the name is taken and `resume` is False.
    StorageError
        If the storage cannot be opened: at once, unless it is a server that does not answer, or locked.
    """
    with _cannot_be_opened(storage), at_verbosity(optuna.logging.WARNING):
        opened = _open_and_check(storage)
        return patiently(lambda: _create_or_load(opened, name, resume), OPENING, opening=True)


def opened_patiently(storage: Any) -> BaseStorage:
    """Open a storage for reading.

    Raises
    ------
    StorageError
        If that fails.
    """
    with _cannot_be_opened(storage):
        return _open_and_check(storage)


@contextmanager
def _cannot_be_opened(storage: Any) -> Iterator[None]:
    try:
        yield
    except (StorageError, StudyError, ImportError):
        raise
    except Exception as error:  # whatever a database's driver, SQLAlchemy or Optuna has to say against it
        raise StorageError(cannot_open(storage, _reason(error).rstrip("."), _advice(error))) from error


def _open_and_check(storage: Any) -> BaseStorage:
    opened = patiently(lambda: open_storage(storage), OPENING, opening=True)
    patiently(lambda: _check_tables(opened, storage), OPENING, opening=True)
    return opened


def storage_file(storage: Any) -> Path | None:
    """Return the file that a path or URL names; None for a server's address and a database in memory."""
    kind, address = _address(storage)
    return Path(address) if kind == "journal" else _sqlite_path(address)


def _check_tables(opened: BaseStorage, given: Any) -> None:
    """Check that the tables of a database are Optuna's; its names, such as `trials`, are others' too.

    A process that was killed while it made them may have left a table without its index, which is made then: without it
    there could be two studies of one name.
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
            raise StorageError(cannot_open(given, why, ANOTHERS))
        for index in table.indexes:
            index.create(opened.engine, checkfirst=True)


def cannot_open(storage: Any, why: str, advice: str) -> str:
    """Return the message about a storage that cannot work; a password in its address is left out."""
    shown = re.sub(r"//([^:/@]*):[^@]*@", r"//\1:***@", str(storage))
    return f"storage must be one that can be opened, got {shown!r}: {why}.{' ' * bool(advice)}{advice}"


def check_file(path: Path, start: bytes = b"") -> None:
    """Check that a file of a storage can be written and, if there is one, that it begins as it should.

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
            raise StorageError(cannot_open(path, why, "Make the folder, or name a file in one that there is."))
    if start and path.exists() and path.stat().st_size and not _starts_with(path, start):
        raise StorageError(cannot_open(path, "it is not an SQLite database", "Name another file."))


def _starts_with(path: Path, start: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(start)) == start


def _sqlite_path(url: str) -> Path | None:
    """Return the file of an SQLite URL; None for other databases and for one in memory.

    >>> _sqlite_path("sqlite:////tmp/lr.db"), _sqlite_path("sqlite://"), _sqlite_path("postgresql://host/lr")
    (PosixPath('/tmp/lr.db'), None, None)
    """
    kind, _, rest = url.partition("://")
    name = rest.partition("?")[0].removeprefix("/")
    if kind.partition("+")[0] != "sqlite" or not name or name == ":memory:" or name.startswith("file:"):
        return None
    return Path(name).absolute()


def _create_or_load(storage: BaseStorage, name: str | None, resume: bool) -> tuple[optuna.Study, BaseStorage, bool]:
    try:
        return optuna.create_study(storage=storage, study_name=name, direction="maximize"), storage, True
    except DuplicatedStudyError as error:
        if not resume:
            advice = "Use resume=True to resume it, or another name."
            raise StudyError(must_be("study_name", "one that the storage does not have yet", name, advice)) from error
    return optuna.load_study(storage=storage, study_name=name), storage, False


def patiently(call: Callable[[], T], seconds: float | None = None, opening: bool = False) -> T:
    """Call, and call again while the storage is in trouble that may pass, at growing intervals, for `seconds` in all.

    Parameters
    ----------
    call : callable
    seconds : float, optional
    opening : bool
        Whether the storage has not yet worked: then a file that is not there will not come back.

    Raises
    ------
    StorageError
        When that time is over; at once for trouble that does not pass, such as tables of another program.
    """
    seconds = PATIENCE if seconds is None else seconds
    start, pause = time.monotonic(), 0.05
    while True:
        try:
            return call()
        except Exception as error:
            if not may_pass(error, opening):
                if opening or not _is_a_storages(error):
                    raise
                raise StorageError(_unusable(error)) from error
            if time.monotonic() - start + pause > seconds:
                raise StorageError(_gave_up(error, seconds)) from error
        time.sleep(pause)
        pause = min(2 * pause, 5.0)


def may_pass(error: Exception, opening: bool) -> bool:
    """Say whether an error is a storage's, and one that waiting may mend: a lock, a full disk, a server that is away.

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
    if any(words in text for words in ANOTHERS_TABLES):
        return False
    if "already exists" in text or kind == "IntegrityError":
        return True  # two processes make tables, or rows, at the same time
    if "(sqlite3." in text:
        away = not opening and "unable to open" in text  # a file system that comes back
        return away or any(words in text for words in SQLITE_LOCKED)
    return kind in PASSING and not (opening and any(words in text for words in REFUSED))


def _reason(error: BaseException) -> str:
    cause = error.__cause__ or error
    return str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__


def _is_a_storages(error: Exception) -> bool:
    return isinstance(error, StorageInternalError | OSError) or type(error).__module__.startswith("sqlalchemy.")


def _advice(error: BaseException) -> str:
    others = any(words in str(error.__cause__ or error).lower() for words in ANOTHERS_TABLES)
    return ANOTHERS if others else ""


def _unusable(error: BaseException) -> str:
    advice = _advice(error) or "What has finished is kept, in the search's attributes; name another database."
    return f"The storage cannot be used: {_reason(error).rstrip('.')}. {advice}"


def _gave_up(error: BaseException, seconds: float) -> str:
    return (
        f"The storage did not answer for {seconds:g} seconds: {_reason(error)}. What has finished is kept, in the "
        "storage and, where a search was under way, in its attributes; go on with resume=True once the storage is back."
    )
