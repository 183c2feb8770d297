"""``--watch``: rewrite the report's files whenever a record arrives, until Ctrl-C."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from nxm_sweep.errors import RecordError
from nxm_sweep.store.files import check_output_dir

_WATCHED = ("trials/*/result.json", "trials/*/failures.json", "sweeps/*.json")
Signature = frozenset[tuple[str, int, int]]


def signature(folders: Sequence[Path]) -> Signature:
    """Return paths, sizes and modification times of the records, failures and plans under the folders."""
    entries = set()
    for folder in folders:
        for path in (path for pattern in _WATCHED for path in folder.glob(pattern)):
            try:
                state = path.stat()
            except FileNotFoundError:  # replaced or removed since the listing
                continue
            entries.add((str(path), state.st_size, state.st_mtime_ns))
    return frozenset(entries)


def watch(
    folders: Sequence[Path],
    seconds: float,
    refresh: Callable[[float | None], None],
    tell: Callable[[str], None],
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Call ``refresh(seconds)`` now and after every change, polling each ``seconds``; return on Ctrl-C.

    Missing records are waited for. On Ctrl-C ``refresh(None)`` is called a last time, so that the final page does not
    reload itself.

    Args:
        folders: The output folders.
        seconds: Polling interval.
        refresh: Writes the files; its argument is the page's interval.
        tell: Prints a line for the user.
        pause: Sleeps.

    Raises:
        RecordError: A folder does not exist.
    """
    for folder in folders:
        check_output_dir(folder)
    seen: Signature | None = None
    written = False
    try:
        while True:
            now = signature(folders)
            if now != seen:
                seen, before, written = now, written, True  # Ctrl-C may interrupt the write
                written = _try_refresh(refresh, seconds, tell) or before
            pause(seconds)
    except KeyboardInterrupt:
        if written:
            tell("stopped; the page is written once more, and reloads itself no longer")
            _try_refresh(refresh, None, tell)


def _try_refresh(refresh: Callable[[float | None], None], seconds: float | None, tell: Callable[[str], None]) -> bool:
    try:
        refresh(seconds)
    except RecordError as error:
        tell(f"waiting: {error.message}")
        return False
    return True
