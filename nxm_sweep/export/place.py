"""A folder that appears whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nxm_sweep.errors import ConfigError


def check_place(place: Path) -> None:
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
def appearing(place: Path) -> Iterator[Path]:
    """Give a folder to write into; it is moved to ``place`` when the block ends well, else removed.

    Raises:
        ConfigError: Something is at ``place``, or it cannot be written.
    """
    check_place(place)
    place = place.absolute()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    except OSError as error:
        raise ConfigError(f"{place} cannot be written: {error.strerror}") from error
    try:
        fresh.chmod(0o755)
        yield fresh
        check_place(place)  # somebody may have been quicker
        fresh.replace(place)
    finally:
        if fresh.exists():
            shutil.rmtree(fresh)
