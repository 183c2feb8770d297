"""Damaged storages of studies: set aside and opened anew, since records rebuild the studies."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from nxm_sweep.errors import first_line
from nxm_sweep.store.small_files import set_aside, warn

_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, AssertionError, ArithmeticError, RecursionError)
"""What Optuna raises on values that it has not written; a server's or a full disk's errors are others."""
_CODES = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_ERROR}
"""Primary result codes of SQLite for a file that is damaged or another program's; the last is a missing table or column."""
_COMPANIONS = ("-wal", "-shm")  # of SQLite, which belong to the database beside them


class DamagedJournalError(StorageInternalError, ValueError):
    """A line of a journal is none that Optuna writes."""


class Journal(JournalStorage):
    """A journal whose damage is one error, also while it is used."""

    def _sync_with_backend(self) -> None:
        try:
            super()._sync_with_backend()
        except _UNREADABLE as error:
            line = self._replay_result.log_number_read + 1
            raise DamagedJournalError(f"around its line {line}: {first_line(error)}") from None


def open_or_rebuild(path: Path, open_storage: Callable[[Path], BaseStorage]) -> BaseStorage:
    """Open the storage in a file; set a damaged one aside, say so, and open a new one.

    Args:
        path: The file. The caller holds the storage's lock.
        open_storage: Opens it, or creates it if it is missing.
    """
    reason = _explain_other_kind(path)
    if not reason:
        try:
            storage = open_storage(path)
            _read_all(storage)
        except (StorageInternalError, SQLAlchemyError, *_UNREADABLE) as error:  # a damaged file, or something else
            reason = _explain_damage(error)
            if not reason:
                raise
        else:
            return storage
    place = set_aside(path, f"{path}, the storage of the studies, is damaged: {reason}")
    for suffix in _COMPANIONS:
        companion = path.with_name(path.name + suffix)
        if companion.exists():
            companion.rename(place.with_name(place.name + suffix))
    warn("the studies are rebuilt from the records")
    return open_storage(path)


def _explain_other_kind(path: Path) -> str:
    """Explain why a path is no file; empty if it is one or free."""
    try:
        return "" if stat.S_ISREG(path.stat().st_mode) else "it is no regular file"
    except FileNotFoundError:
        return "it is a broken link" if os.path.lexists(path) else ""


def _read_all(storage: BaseStorage) -> None:
    """Read a storage whole, which finds what is damaged in it."""
    if isinstance(storage, RDBStorage):
        with storage.engine.connect() as connection:
            found = connection.execute(text("PRAGMA quick_check(1)")).scalar()
        if found != "ok":
            raise ValueError(found)
    for study in storage.get_all_studies():
        storage.get_all_trials(study._study_id, deepcopy=False)  # noqa: SLF001 - what every method of a storage takes


def _explain_damage(error: BaseException) -> str:
    """Explain the damage that an error stands for; empty for any other error."""
    for cause in _causes(error):
        if isinstance(cause, sqlite3.Error):
            code = getattr(cause, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
            return first_line(cause) if code in _CODES else ""
    for cause in _causes(error):
        if isinstance(cause, _UNREADABLE):
            return first_line(error)
    return ""


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        original = getattr(cause, "orig", None)  # SQLAlchemy's name for the driver's error
        if isinstance(original, BaseException):
            yield original
        cause = cause.__cause__
