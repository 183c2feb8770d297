"""Errors of writing below an output folder, in one line: a full disk with its device, a folder that cannot be written."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from nxm_sweep.errors import OutputError, StorageError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM}
_RUST_FULL = f"(os error {errno.ENOSPC})"
"""Part of the message of safetensors, whose errors have no number."""
_NEARLY_FULL = 1 << 20
"""Bytes below which a database's error is the disk's."""


@contextmanager
def explain_write_errors(output_dir: Path) -> Iterator[None]:
    """Turn an error of writing below ``output_dir`` into one line.

    Raises:
        OutputError: The disk is full, or a file or folder cannot be written.
    """
    try:
        yield
    except StorageError as error:
        if _free_bytes(output_dir) >= _NEARLY_FULL:
            raise
        raise describe_full_disk(output_dir) from error
    except Exception as error:  # safetensors has errors of its own; all others pass
        explained = write_error(error, output_dir)
        if explained is None:
            raise
        raise explained from error


def write_error(error: BaseException, output_dir: Path) -> OutputError | None:
    """Return an error of writing below ``output_dir`` in one line; None if it is another one."""
    if is_full(error):
        return describe_full_disk(output_dir)
    if not isinstance(error, OSError) or error.errno not in _REFUSED or error.filename is None:
        return None
    path = Path(os.fsdecode(error.filename))
    if not path.absolute().is_relative_to(output_dir.absolute()):
        return None
    return OutputError(
        f"{path} cannot be written: {error.strerror}",
        hint="make it writable, or give another folder: output_dir=FOLDER",
    )


def is_full(error: BaseException) -> bool:
    """Return whether an error says that a disk is full, or a quota used up."""
    return (isinstance(error, OSError) and error.errno in _FULL) or _RUST_FULL in str(error)


def describe_full_disk(output_dir: Path) -> OutputError:
    """Return the error of a full disk: that of the output folder, or that of temporary files if it has less room."""
    folder = min((_existing(output_dir), Path(tempfile.gettempdir())), key=_free_bytes)
    mounts = [part for part in psutil.disk_partitions(all=True) if folder.resolve().is_relative_to(part.mountpoint)]
    mount = max(mounts, key=lambda part: len(part.mountpoint), default=None)
    device = str(folder) if mount is None else f"{mount.device} at {mount.mountpoint}"
    return OutputError(
        f"no space left on {device}, {_free_bytes(folder) >> 20} MiB free",
        hint="make room; the same command continues",
    )


def _free_bytes(folder: Path) -> int:
    return psutil.disk_usage(str(_existing(folder))).free


def _existing(folder: Path) -> Path:
    """Return the folder, or its nearest parent that exists."""
    return next((path for path in (folder.absolute(), *folder.absolute().parents) if path.exists()), Path("/"))
