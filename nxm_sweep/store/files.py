"""Atomic writes of files and folders.

Others may share the folder: a new file gets a random name and is made only if that name is free, then renamed, so that
a symbolic link planted there is replaced and never followed. Modes are those that the umask gives.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, TextIO

from nxm_sweep.errors import ConfigError, RecordError, StorageError
from nxm_sweep.store.paths import DAMAGED

_SHOWN = 200  # characters of a path in an error
_LARGEST = 1 << 28  # bytes; a plan of a million points has less


def write_json(path: Path, value: Any, *, durable: bool = False, indent: int | None = 1) -> None:
    """Write a JSON file atomically: readers see either the old or the new content.

    Args:
        path: Destination; missing parents are created.
        value: JSON-serializable; no NaN or infinity.
        durable: Whether the file must survive a power cut.
        indent: As for ``json.dumps``; None is ten times as fast, for large files that only machines read.

    Raises:
        ValueError: A number is not finite.
    """
    write_text(path, json.dumps(value, indent=indent, allow_nan=False) + "\n", durable=durable)


def write_text(path: Path, text: str, *, durable: bool = False) -> None:
    """Write a UTF-8 text file atomically, as :func:`write_json` does; a lone surrogate becomes a question mark."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = fresh_name(path)
    try:
        with fresh.open("x", encoding="utf-8", errors="replace", newline="") as file:
            file.write(text)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def fresh_name(path: Path) -> Path:
    """Return a hidden name beside ``path`` that nobody can guess, for content that is renamed to ``path`` when complete."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


def open_log(path: Path) -> TextIO:
    """Open a text file for appending; create it if it is missing.

    Raises:
        StorageError: It is a symbolic link, or a pipe.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.ENXIO}:
            raise
        raise _refuse(path) from error
    return os.fdopen(descriptor, "a", encoding="utf-8", errors="replace")


def refuse_links(folder: Path, *, and_pipes: bool = False) -> None:
    """Raise if a folder or anything in it is a symbolic link, unless it was set aside.

    Args:
        folder: A folder that will be written to.
        and_pipes: Refuse pipes and devices too.

    Raises:
        StorageError: With the first of them.
    """
    for path in (folder, *sorted(folder.rglob("*"))):
        is_pipe = and_pipes and not (path.is_dir() or path.is_file())
        if DAMAGED not in path.name and (path.is_symlink() or is_pipe):
            raise _refuse(path)


def _refuse(path: Path) -> StorageError:
    if not path.is_symlink():
        return StorageError(f"{path} is no file and no folder", hint="remove it")
    return StorageError(
        f"{path} is a symbolic link to {path.readlink()}, and none is followed here",
        hint="put what it points to in its place, or remove it",
    )


def follow_umask(folder: Path) -> None:
    """Give each file of a folder that this process has made the mode of a new file: libraries make some private."""
    mode = folder.stat().st_mode & 0o666  # reading the umask itself would set it for a moment, in all threads
    for path in folder.iterdir():
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)


def read_regular_file(path: Path) -> bytes:
    """Return the content of a file of ours; a pipe or a device in its place is neither waited for nor read.

    Raises:
        OSError: It is missing, is no regular file, is larger than any file of ours, or cannot be read.
    """
    with open_regular_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > _LARGEST:
            raise OSError(errno.EFBIG, f"it has {size:,} bytes", str(path))
        return file.read()


def open_regular_file(path: Path) -> BufferedReader:
    """Open a file for reading.

    Raises:
        OSError: It is missing, is no regular file, or cannot be opened.
    """

    def open_without_waiting(name: str, flags: int) -> int:
        descriptor = os.open(name, flags | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "it is no regular file", name)
        return descriptor

    return open(path, "rb", opener=open_without_waiting)


def read_json(path: Path) -> Any:
    """Return the content of a JSON file, or None if it is missing or damaged; for caches, which can be regenerated."""
    try:
        return json.loads(read_regular_file(path))
    except (OSError, ValueError, RecursionError):
        return None


def sync(path: Path) -> None:
    """Write a file's content or a folder's entries through to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (path.is_dir() and error.errno in {errno.EINVAL, errno.ENOTSUP}):  # some file systems sync no folder
            raise
    finally:
        os.close(descriptor)


def replace_folder(fresh: Path, folder: Path) -> None:
    """Move a finished folder to ``folder``, replacing an older one or a symbolic link."""
    follow_umask(fresh)
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)
    fresh.rename(folder)


def check_output_dir(folder: Path) -> None:
    """Raise unless an output folder exists and can be read.

    Raises:
        RecordError: It does not or cannot.
    """
    name = str(folder) if len(str(folder)) <= _SHOWN else f"{str(folder)[:_SHOWN]}..."
    try:
        next(folder.iterdir(), None)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RecordError(f"there is no folder {name}", hint="give the output_dir of a sweep or a trial") from error
    except OSError as error:
        hint = "give the output_dir of a sweep or a trial, which this user may read"
        raise RecordError(f"the folder {name} cannot be read: {error.strerror}", hint=hint) from error


def check_destination(place: Path) -> None:
    """Raise unless ``place`` is free: it is missing or an empty folder.

    Raises:
        ConfigError: It is a file or a folder with content.
    """
    if place.is_dir() and not any(place.iterdir()):
        return
    if place.exists() or place.is_symlink():
        what = "is not empty" if place.is_dir() else "is a file"
        raise ConfigError(f"{place} {what}", hint="nothing is overwritten: give --to a new folder, or empty this one")


@contextmanager
def atomic_folder(place: Path) -> Iterator[Path]:
    """Yield a folder to write into; it is moved to ``place`` if the block succeeds, and removed otherwise.

    Raises:
        ConfigError: ``place`` is not free or cannot be written.
    """
    check_destination(place)
    place = place.absolute()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        fresh = fresh_name(place)
        fresh.mkdir()
    except OSError as error:
        raise ConfigError(f"{place} cannot be written: {error.strerror}") from error
    try:
        yield fresh
        follow_umask(fresh)
        check_destination(place)  # another process may have written it meanwhile
        fresh.replace(place)
    finally:
        if fresh.exists():
            shutil.rmtree(fresh)
