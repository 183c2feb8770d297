"""Progress of a running trial on disk: its step, its epochs, and requests to stop it.

Files work with every launcher: a local pool, SLURM and Ray share at least the output folder.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from nxm_sweep.formatting import format_score
from nxm_sweep.store.files import write_json
from nxm_sweep.store.liveness import is_alive, this_process
from nxm_sweep.store.paths import PROGRESS, PRUNED_FILE, STOP, WORK
from nxm_sweep.store.small_files import Progress, Pruned, Stop, read_small_file
from nxm_sweep.store.stop_signals import TERMINATED, received

INTERRUPTED, PRUNED, SUPERSEDED = "interrupted", "pruned", "taken over"
"""Reasons to stop: Ctrl-C, the pruner, and another process that has taken the trial over because the lease had run out."""

_SECONDS_BETWEEN_LOOKS = 0.5


class ProgressFile:
    """Write ``progress.json`` and poll ``stop.json`` while a trial trains; a context manager that removes both.

    Args:
        folder: The trial's folder.
        clock: Monotonic seconds; replaced in tests.
        is_superseded: Whether another process has taken the trial over; then nothing more is written.
    """

    def __init__(
        self,
        folder: Path,
        clock: Callable[[], float] = time.monotonic,
        is_superseded: Callable[[], bool] = lambda: False,
    ) -> None:
        self._is_superseded = is_superseded
        self.file = folder / PROGRESS
        self._folder, self._clock = folder, clock
        self._state: dict[str, Any] = {
            "process": this_process(),
            "since": time.time(),
            "step": 0,
            "steps": None,
            "epochs": [],
        }
        self._written = self._looked = -_SECONDS_BETWEEN_LOOKS
        self._reason: str | None = None

    def __enter__(self) -> Self:
        (self._folder / STOP).unlink(missing_ok=True)
        (self._folder / PRUNED_FILE).unlink(missing_ok=True)
        self._write()
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_superseded():
            return
        self.file.unlink(missing_ok=True)
        (self._folder / STOP).unlink(missing_ok=True)

    def on_step(self, step: int, steps: int) -> None:
        """Record a finished optimizer step."""
        self._state |= {"step": step, "steps": steps}
        if self._clock() - self._written >= _SECONDS_BETWEEN_LOOKS:
            self._write()

    def on_epoch(self, epochs: Sequence[Mapping[str, Any]]) -> None:
        """Record the epochs so far."""
        self._state["epochs"] = [dict(entry) for entry in epochs]
        self._write()

    def stop_now(self) -> str | None:
        """Return ``pruned`` if the pruner stopped the trial, or ``terminated`` after a stop signal."""
        if received() is not None or self._clock() - self._looked >= _SECONDS_BETWEEN_LOOKS:
            self._read_stop()
        return self._reason if self._reason in {PRUNED, TERMINATED, SUPERSEDED} else None

    def stop_after_epoch(self) -> str | None:
        """Return the reason to stop once the checkpoint is complete."""
        self._read_stop()
        return self._reason

    def keep_as_pruned(self) -> None:
        """Store the progress of a pruned trial and delete its checkpoints."""
        write_json(self._folder / PRUNED_FILE, self._state)
        remove_work(self._folder)

    def _read_stop(self) -> None:
        self._looked = self._clock()
        self._reason = read_stop(self._folder)
        if self._reason != PRUNED and received() is not None:
            self._reason = TERMINATED
        if self._is_superseded():
            self._reason = SUPERSEDED

    def _write(self) -> None:
        self._written = self._clock()
        if not self._is_superseded():
            write_json(self.file, self._state)


def request_stop(folder: Path, reason: str) -> None:
    """Request that a running trial stop: ``interrupted`` after its epoch, ``terminated`` after its step, ``pruned`` at once.

    The first two leave a checkpoint.
    """
    write_json(folder / STOP, {"reason": reason})


def close_as_pruned(folder: Path) -> None:
    """Mark an idle trial as pruned, since another seed of its point was; the caller holds its claim."""
    write_json(folder / PRUNED_FILE, {"epochs": []})
    remove_work(folder)


def remove_work(folder: Path) -> None:
    """Remove a trial's checkpoints, also those of processes from which it was taken over."""
    for work in folder.glob(f"{WORK}*"):
        shutil.rmtree(work, ignore_errors=True)


def read_stop(folder: Path) -> str | None:
    """Return the reason of a request to stop a trial, or None."""
    request: Stop | None = read_small_file(folder / STOP, Stop)
    return None if request is None else request["reason"]


def read_pruned(folder: Path) -> Pruned | None:
    """Return the progress of a pruned trial, or None."""
    pruned: Pruned | None = read_small_file(folder / PRUNED_FILE, Pruned)
    return pruned


def is_training(folder: Path, lease: float) -> bool:
    """Return whether a live process trains the trial of a folder."""
    progress = read_progress(folder)
    return progress is not None and is_alive(progress["process"], folder / PROGRESS, lease)


def read_progress(folder: Path) -> Progress | None:
    """Return the progress of a running trial, or None."""
    progress: Progress | None = read_small_file(folder / PROGRESS, Progress)
    return progress


def format_progress(folder: Path) -> str:
    """Format the progress of a running trial: step, epoch, last score."""
    progress = read_progress(folder)
    parts = []
    if progress is not None and progress["steps"]:
        parts.append(f"step {progress['step']}/{progress['steps']}")
    if progress is not None and progress["epochs"]:
        last = progress["epochs"][-1]
        parts.append(f"epoch {last['epoch']}: {format_score(last['selection'])}")
    return "  ".join(parts) or "starting"
