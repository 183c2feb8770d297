"""Storage of the Optuna studies. A password comes from the environment and is passed nowhere else."""

from __future__ import annotations

import os
import shlex
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import optuna
import sqlalchemy
from filelock import FileLock
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy.exc import SQLAlchemyError

from nxm_sweep.console import mask
from nxm_sweep.errors import StorageError, first_line
from nxm_sweep.store.files import refuse_links
from nxm_sweep.store.paths import DATABASE, JOURNAL, STUDIES, storage_lock_file
from nxm_sweep.store.small_files import warn
from nxm_sweep.sweep.studies.damage import Journal, open_or_rebuild
from nxm_sweep.sweep.studies.patience import PatientStorage

Storage: TypeAlias = BaseStorage
URL_VARIABLE = "NXM_STORAGE"
_BUSY_SECONDS = 120


def storage_lock(output_dir: Path) -> FileLock:
    """Return the lock for creating a storage and adding points to a study."""
    file = storage_lock_file(output_dir)
    file.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(file)


def open_storage(
    kind: str, output_dir: Path, patience: float = 0.0, report: Callable[[str], None] = lambda _: None
) -> BaseStorage:
    """Open the storage of a sweep's studies; create it under a lock if it is missing.

    Args:
        kind: ``sqlite``, ``journal`` or ``postgresql``.
        output_dir: Root of trials and studies.
        patience: Seconds for which a server may be away, once it has answered.
        report: Receives a line when the server is lost, and one when it is back.

    Raises:
        StorageError: It cannot be reached or read; the message masks passwords.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with storage_lock(output_dir), _explain_errors(kind):
        folder = (output_dir / STUDIES).resolve()
        refuse_links(folder)
        match kind:
            case "sqlite":
                return open_or_rebuild(folder / DATABASE, _open_sqlite)
            case "journal":
                return open_or_rebuild(folder / JOURNAL, _open_journal)
            case _:
                return PatientStorage(postgresql_url(), patience, report)


def dashboard_address(kind: str, output_dir: Path) -> str:
    """Return the argument of ``optuna-dashboard`` for the studies, in shell syntax."""
    match kind:
        case "sqlite":
            return shlex.quote(_sqlite_url(output_dir / STUDIES / DATABASE))
        case "journal":
            return shlex.quote(str(output_dir / STUDIES / JOURNAL))
        case _:
            return f'"postgresql+psycopg://${{{URL_VARIABLE}#*://}}"'


def postgresql_url() -> str:
    """Return the server's address from the environment, with the installed driver.

    Raises:
        StorageError: It is not set, is no PostgreSQL address, or contains a bare @.
    """
    url = os.environ.get(URL_VARIABLE, "")
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.split("+")[0] not in {"postgresql", "postgres"}:
        raise StorageError(
            f"sweep.storage=postgresql needs the server's address in the environment variable {URL_VARIABLE}"
            + (f" but it holds one of {scheme}" if separator else ""),
            hint=f"export {URL_VARIABLE}=postgresql://user:password@host:5432/database",
        )
    location = rest.partition("@")[2]
    if "@" in location.partition("/")[0] or "@" in location.partition("?")[0]:  # part of it would be read as the host
        raise StorageError(
            f"the user or the password in the environment variable {URL_VARIABLE} holds a bare @",
            hint="write %40 for @, %2F for / and %3A for :",
        )
    rest = rest.replace("{", "%7B").replace("}", "%7D")  # Optuna fills in the fields of a template
    return f"postgresql+psycopg://{rest}"


def _sqlite_url(path: Path) -> str:
    """Return the address of a database file, with the characters of its path that mean something in an address escaped."""
    return sqlalchemy.URL.create("sqlite", database=str(path)).render_as_string()


def _open_sqlite(path: Path) -> BaseStorage:
    path.touch()  # SQLite would withhold it from a group that the umask lets write
    storage = RDBStorage(_sqlite_url(path), engine_kwargs={"connect_args": {"timeout": _BUSY_SECONDS}})
    sqlalchemy.event.listen(storage.engine, "connect", _tune)
    storage.engine.dispose()  # connections made without the listener
    return storage


def _tune(connection: sqlite3.Connection, _: Any) -> None:
    """Use a write-ahead log: readers such as a dashboard never block. Records restore what a power cut loses."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


def _open_journal(path: Path) -> BaseStorage:
    return Journal(JournalFileBackend(str(path), lock_obj=_JournalLock(path)))


class _JournalLock(JournalFileOpenLock):
    """A lock that the system releases when its process dies.

    Acquiring it cuts an unfinished last line of a killed writer, on which every later load would fail.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path
        self._lock = FileLock(path.with_name(f".{path.name}.flock"))

    def acquire(self) -> bool:
        self._lock.acquire()
        if self._path.exists():
            with self._path.open("r+b") as file:
                if cut := _cut_torn_line(file):
                    warn(f"{self._path}: a killed writer left its last line unfinished; its {cut} bytes are cut")
        return True

    def release(self) -> None:
        self._lock.release()


def _cut_torn_line(file: BinaryIO) -> int:
    """Cut what follows the last line break; return the number of bytes."""
    end = file.seek(0, os.SEEK_END)
    if end == 0:
        return 0
    file.seek(end - 1)
    if file.read(1) == b"\n":
        return 0
    file.seek(0)
    return end - file.truncate(file.read().rfind(b"\n") + 1)


@contextmanager
def _explain_errors(kind: str) -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, OSError, ModuleNotFoundError, RuntimeError, ValueError) as error:
        hint = "pip install 'nxm_sweep[postgresql]'" if isinstance(error, ImportError) else ""
        raise StorageError(
            f"the {kind} storage of the studies cannot be opened: {_describe_error(error)}", hint=hint
        ) from None


@contextmanager
def in_use(kind: str) -> Iterator[None]:
    """Report in one line that the storage is lost while the block uses it.

    Raises:
        StorageError: It is lost; the message masks passwords.
    """
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        raise StorageError(
            f"the {kind} storage of the studies is lost: {_describe_error(error.__cause__ or error)}",
            hint="no record is; the same command continues",
        ) from None


def _describe_error(error: BaseException) -> str:
    return mask(first_line(error))
