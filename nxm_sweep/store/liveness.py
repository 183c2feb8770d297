"""Signs of life: who works on something, and whether it still does.

A process says who it is (machine, process and its start) and touches a file while it lives. On the same machine the system
knows at once whether it lives; elsewhere a sign older than the lease means that it is dead. Ages are measured by the file
system's own clock, so machines need not agree on the time.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Self

import psutil

_SAME_START_SECONDS = 5.0
_SECONDS_BETWEEN_LOOKS = 0.5


@cache
def this_process() -> dict[str, Any]:
    """Return who this process is."""
    return {"machine": _machine(), "host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}


def is_alive(owner: Mapping[str, Any], sign: Path, lease: float) -> bool:
    """Return whether the owner of a sign lives.

    Args:
        owner: What :func:`this_process` returned there.
        sign: The file that it touches.
        lease: Seconds without a touch after which an owner elsewhere counts as dead.
    """
    if owner.get("machine") == _machine():
        started = _started(int(owner.get("pid", -1)))
        if started is None:
            return False
        if abs(started - float(owner.get("started", 0.0))) < _SAME_START_SECONDS:
            return True  # else another process has got its number, or the clock was set
    age = seconds_since_touch(sign)
    return age is not None and age < lease


def seconds_since_touch(sign: Path) -> float | None:
    """Return the seconds since a file was touched, by the file system's clock; None if there is no file.

    Where nothing can be written, this machine's clock has to do.
    """
    probe = sign.parent / f".clock.{uuid.uuid4().hex}"
    try:
        touched = sign.stat().st_mtime
    except OSError:
        return None
    try:
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
    except OSError:
        now = time.time()
    return now - touched


class Heartbeat:
    """Touches a file now and then while the block runs.

    Args:
        sign: The file; it must exist.
        interval: Seconds between touches.
    """

    def __init__(self, sign: Path, interval: float) -> None:
        self._sign, self._interval = sign, interval
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._over.wait(self._interval):
            try:
                os.utime(self._sign)
            except OSError:  # the file system is away for a moment; the lease allows for that
                continue


def exit_with_parent(parent: int) -> None:
    """End this process when another one, its parent, has ended; for a thread of its own."""
    while os.getppid() == parent:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    os._exit(1)


@cache
def _machine() -> str:
    """The running system: a container or a reboot is another one, since process numbers mean something else there."""
    parts = [socket.gethostname()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        try:
            parts.append(os.readlink(path) if path.endswith("pid") else Path(path).read_text().strip())  # noqa: PTH115
        except OSError:
            parts.append(str(psutil.boot_time()))
    return " ".join(parts)


def _started(pid: int) -> float | None:
    """When a process started; None if there is none, or only its corpse."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except (psutil.NoSuchProcess, psutil.AccessDenied, ValueError):
        return None
