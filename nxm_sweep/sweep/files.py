"""Small JSON files that several processes read and write."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any


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
    text = json.dumps(value, indent=indent, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text + "\n")
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
