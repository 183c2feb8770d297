"""Files and folders that appear whole or not at all."""

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
    """Write a JSON file atomically: readers see the old one or the whole new one.

    Args:
        path: Where to; its folder is made.
        value: What JSON can hold; no NaN or infinity.
        durable: Also survive a power cut.
        indent: As for ``json.dumps``; None is ten times as fast, for what is large and read by machines.

    Raises:
        ValueError: A number is not finite.
    """
    write_text(path, json.dumps(value, indent=indent, allow_nan=False) + "\n", durable=durable)


def write_text(path: Path, text: str, *, durable: bool = False) -> None:
    """Write a UTF-8 text file atomically, as :func:`write_json` does; half a surrogate pair becomes a question mark."""
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
    """Return what a JSON file holds, or None where there is none or it is damaged; for files that can be made anew."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return None


def replace_folder(fresh: Path, folder: Path) -> None:
    """Move a finished folder to where an older one may stand."""
    if folder.exists():
        shutil.rmtree(folder)
    fresh.rename(folder)


def check_destination(place: Path) -> None:
    """Raise unless a folder may be written at ``place``: there is nothing yet, or an empty folder.

    Raises:
        ConfigError: Something is there.
    """
    if place.is_dir() and not any(place.iterdir()):
        return
    if place.exists() or place.is_symlink():
        what = "is not empty" if place.is_dir() else "is a file"
        raise ConfigError(f"{place} {what}", hint="nothing is overwritten: give --to a new folder, or empty this one")


@contextmanager
def atomic_folder(place: Path) -> Iterator[Path]:
    """Give a folder to write into; it is moved to ``place`` when the block ends well, else removed.

    Raises:
        ConfigError: Something is at ``place``, or it cannot be written.
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
        check_destination(place)  # somebody may have been quicker
        fresh.replace(place)
    finally:
        if fresh.exists():
            shutil.rmtree(fresh)
