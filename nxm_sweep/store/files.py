"""Atomic writes of files and folders."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nxm_sweep.errors import ConfigError


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
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace", newline="") as file:
            file.write(text)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """Return the content of a JSON file, or None if it is missing or damaged; for files that can be regenerated."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return None


def replace_folder(fresh: Path, folder: Path) -> None:
    """Move a finished folder to ``folder``, replacing an older one."""
    if folder.exists():
        shutil.rmtree(folder)
    fresh.rename(folder)


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
        fresh = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    except OSError as error:
        raise ConfigError(f"{place} cannot be written: {error.strerror}") from error
    try:
        fresh.chmod(0o755)
        yield fresh
        check_destination(place)  # another process may have written it meanwhile
        fresh.replace(place)
    finally:
        if fresh.exists():
            shutil.rmtree(fresh)
