"""Process liveness: heartbeat files and their owners.

A process records its machine, PID and start time, and touches a file while it runs. On the same machine the process
table decides whether it is alive; elsewhere a heartbeat older than the lease means that it is dead. Ages are measured
by the file system's clock, so machines need not agree on the time.
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
    """Return the machine, host, PID and start time of this process."""
    return {
        "machine": _identify_machine(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": _read_start_time(os.getpid()),
    }


def is_alive(owner: Mapping[str, Any], sign: Path, lease: float) -> bool:
    """Return whether the owner of a heartbeat file is alive.

    Args:
        owner: Value of :func:`this_process` in the owner.
        sign: File that the owner touches.
        lease: Seconds without a touch after which an owner on another machine counts as dead.
    """
    if owner.get("machine") == _identify_machine():
        started = _read_start_time(int(owner.get("pid", -1)))
        if started is None:
            return False
        if abs(started - float(owner.get("started") or 0.0)) < _SAME_START_SECONDS:
            return True  # else the PID was reused, or the clock was set
    age = seconds_since_touch(sign)
    return age is not None and age < lease


def seconds_since_touch(sign: Path) -> float | None:
    """Return the seconds since a file was touched, by the file system's clock; None if there is no file.

    Falls back to this machine's clock where nothing can be written.
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
    """Context manager that touches a file at intervals.

    Args:
        sign: An existing file.
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
            except OSError:  # a short outage of the file system; the lease allows for it
                continue


def exit_with_parent(parent: int) -> None:
    """Wait until the parent process ends, then exit this one; run it in a thread."""
    while os.getppid() == parent:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    os._exit(1)


@cache
def _identify_machine() -> str:
    """Identify the running system; a container or a reboot is another one, since PIDs are reused there."""
    parts = [socket.gethostname()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        try:
            parts.append(os.readlink(path) if path.endswith("pid") else Path(path).read_text().strip())  # noqa: PTH115
        except OSError:
            parts.append(str(psutil.boot_time()))
    return " ".join(parts)


def _read_start_time(pid: int) -> float | None:
    """Return the start time of a process; None if it does not exist or is a zombie."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except (psutil.NoSuchProcess, psutil.AccessDenied, ValueError, OverflowError):
        return None
