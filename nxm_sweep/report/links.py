"""Addresses of records, as seen from where a page lies."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote


def link(path: str, target: Path) -> str:
    """Return the relative address of a file for a page that lies in the folder ``target``."""
    return quote(Path(os.path.relpath(path, target)).as_posix())
