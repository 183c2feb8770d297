"""The lock that a process holds while it trains a trial, and the folder that it works in.

The system releases the lock however its holder ends. A holder that is frozen, or whose machine is lost, keeps it: when its
lease has run out, the next process creates a lock with the next number, copies the checkpoints, and works in a folder of
its own. The former holder finds that it was superseded, and writes nothing more.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from nxm_sweep.store.paths import trial_lock, work_folder
from nxm_sweep.store.progress import is_training, read_progress

_SECONDS_BETWEEN_TRIES = 1.0
_SECONDS_TO_BEGIN = 60.0
"""Longest time from a process' lock to its first sign of life, on a busy machine."""


class TrialLock:
    """A trial's lock.

    Args:
        folder: The trial's folder.
        lease: Seconds without a sign of life after which a holder on another machine counts as dead.
    """

    def __init__(self, folder: Path, lease: float) -> None:
        self.folder, self._lease = folder, lease
        self.number = 0
        self._lock = FileLock(trial_lock(folder))

    @property
    def work(self) -> Path:
        """The holder's folder for checkpoints."""
        return work_folder(self.folder, self.number)

    def acquire(self, tell: Callable[[], None] = lambda: None) -> None:
        """Acquire the lock; wait for a living holder.

        Args:
            tell: Called once if there is something to wait for.
        """
        silent_since, told = time.monotonic(), False
        while True:
            self.number = _latest_number(self.folder)
            self._lock = FileLock(trial_lock(self.folder, self.number))
            try:
                self._lock.acquire(timeout=_SECONDS_BETWEEN_TRIES if told else 0)
            except Timeout:
                if read_progress(self.folder) is not None:
                    silent_since = time.monotonic()
                    is_dead = not is_training(self.folder, self._lease)
                else:
                    is_dead = time.monotonic() - silent_since > max(self._lease, _SECONDS_TO_BEGIN)
                if is_dead:
                    trial_lock(self.folder, self.number + 1).touch()
                elif not told:
                    told = True
                    tell()
            else:
                if not self.is_superseded():
                    self._adopt_checkpoints()
                    return
                self._lock.release()

    def release(self) -> None:
        """Release the lock."""
        self._lock.release()

    def is_superseded(self) -> bool:
        """Return whether another process has taken the trial over."""
        return trial_lock(self.folder, self.number + 1).exists()

    def _adopt_checkpoints(self) -> None:
        """Copy the checkpoints of the superseded holder, which may still write its own."""
        if self.number == 0 or self.work.exists():
            return
        earlier = (work_folder(self.folder, number) for number in range(self.number)[::-1])
        before = next((work for work in earlier if work.exists()), None)
        if before is None:
            return
        copy = self.work.with_name(f".{self.work.name}.tmp")
        shutil.rmtree(copy, ignore_errors=True)
        try:
            shutil.copytree(before, copy)
            copy.rename(self.work)
        except (OSError, shutil.Error):  # changed meanwhile: the trial begins anew
            shutil.rmtree(copy, ignore_errors=True)


def _latest_number(folder: Path) -> int:
    names = (file.name.rpartition(".")[2] for file in folder.glob(f"{trial_lock(folder).name}.*"))
    return max((int(name) for name in names if name.isdigit()), default=0)
