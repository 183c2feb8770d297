"""Runners of a coordinator's points: their protocol, and the one for Hydra's launchers."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any, Protocol

from nxm_sweep.errors import LauncherError
from nxm_sweep.store.attempts import Outcome, failure, outcome_of, read_failures
from nxm_sweep.store.paths import RESULT, trial_folder
from nxm_sweep.store.small_files import Job
from nxm_sweep.sweep.execution.launcher_job import answer_of, forget_job, lives, read_job, stop_of
from nxm_sweep.sweep.planning.cell import Point

_LARGEST_BATCH = 1000
"""SLURM's default limit of a job array."""


class Runner(Protocol):
    """Train points."""

    @property
    def has_room(self) -> bool:
        """Whether another point can be submitted."""

    def submit(self, point: Point) -> None:
        """Submit a point."""

    def wait(self, seconds: float) -> list[tuple[str, Outcome]]:
        """Return identity and outcome of ended attempts, after at most ``seconds``."""


Launch = Callable[[Sequence[Sequence[str]]], Sequence[Mapping[str, Any] | None]]
"""Run a batch of command lines; return the result of each. It may raise for all because one was killed."""


class BatchRunner:
    """Submit points to a launcher in batches; retries come in a later batch.

    A job's outcome is its record, the answer in its trial's folder, or its death; the launcher's result comes last. If
    the launcher raises, live jobs are awaited, and those that never began go into the next batch.

    Args:
        launch: The launcher.
        output_dir: Root of trials.
        lease: Seconds without a heartbeat after which a job elsewhere counts as dead, and after which jobs that have
            not begun are launched again.
        clock: Monotonic clock in seconds, for tests.
    """

    def __init__(
        self, launch: Launch, output_dir: Path, lease: float = 60.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._launch, self._output_dir, self._lease, self._clock = launch, output_dir, lease, clock
        self._waiting: list[Point] = []
        self._batch: list[Point] = []
        self._open: dict[str, int] = {}  # identity: failed attempts before this one
        self._thread: threading.Thread | None = None
        self._returned: Sequence[Mapping[str, Any] | None] = ()
        self._error: BaseException | None = None
        self._shares_fate = False  # whether a killed job ends others too
        self._has_begun = False  # whether any job of the batch has begun
        self._last_sign = 0.0

    @property
    def has_room(self) -> bool:
        """Whether the next batch accepts points."""
        return self._thread is None and len(self._waiting) < _LARGEST_BATCH

    def submit(self, point: Point) -> None:
        """Add a point to the next batch."""
        folder = self._folder(point.identity)
        forget_job(folder)
        self._waiting.append(point)
        self._open[point.identity] = len(read_failures(folder))

    def wait(self, seconds: float) -> list[tuple[str, Outcome]]:
        """Start the batch, if it has not begun; return identity and outcome of ended jobs."""
        if self._thread is None:
            stopped = self._pop_stopped()
            if stopped or not self._waiting:
                time.sleep(0 if stopped else seconds)
                return stopped
            self._start_batch()
        if self._is_over():
            time.sleep(seconds)  # jobs outlive the launcher
        elif self._thread is not None:
            self._thread.join(seconds)
        return self._collect_ended()

    def _start_batch(self) -> None:
        fresh = [point for point in self._waiting if not self._is_suspect(point)]
        self._batch = fresh or self._waiting[:1]  # suspects run one at a time
        launched = {point.identity for point in self._batch}
        self._waiting = [point for point in self._waiting if point.identity not in launched]
        self._returned, self._error, self._has_begun, self._last_sign = (), None, False, self._clock()
        self._thread = threading.Thread(target=self._run, name="launcher", daemon=True)
        self._thread.start()

    def _is_suspect(self, point: Point) -> bool:
        return self._shares_fate and self._open[point.identity] > 0

    def _run(self) -> None:
        try:
            self._returned = self._launch([point.overrides for point in self._batch])
        except BaseException as error:  # noqa: BLE001 - a launcher raises for all because one job was killed
            self._error = error

    def _is_over(self) -> bool:
        return self._thread is not None and not self._thread.is_alive()

    def _pop_stopped(self) -> list[tuple[str, Outcome]]:
        """Remove and return the points with a stop request before their launch."""
        requests = {point.identity: stop_of(self._folder(point.identity)) for point in self._waiting}
        stopped = {identity: outcome_of(request) for identity, request in requests.items() if request is not None}
        self._waiting = [point for point in self._waiting if point.identity not in stopped]
        for identity in stopped:
            del self._open[identity]
        return list(stopped.items())

    def _collect_ended(self) -> list[tuple[str, Outcome]]:
        over = self._is_over()  # read first: whatever a job has left by then is visible
        ended: list[tuple[str, Outcome]] = []
        left: list[Point] = []
        any_alive = False
        for number, point in enumerate(self._batch):
            if point.identity not in self._open:
                continue
            folder = self._folder(point.identity)
            job = read_job(folder)
            outcome = self._determine_outcome(number, folder, job, over=over)
            if outcome is not None:
                forget_job(folder)
                del self._open[point.identity]
                ended.append((point.identity, outcome))
            elif job is None:
                left.append(point)
            else:
                any_alive = True
        if ended or any_alive:
            self._has_begun, self._last_sign = True, self._clock()
        if over and not any_alive:
            self._end_batch(left)
        return ended

    def _determine_outcome(self, number: int, folder: Path, job: Job | None, *, over: bool) -> Outcome | None:
        """Return a job's outcome: by its record, its answer, the launcher, or its death; None if it may continue."""
        if os.path.lexists(folder / RESULT):
            return Outcome()
        if (answer := answer_of(job)) is not None:
            return outcome_of(answer)
        return self._infer_outcome(number, folder, job) if over else None

    def _infer_outcome(self, number: int, folder: Path, job: Job | None) -> Outcome | None:
        """Return the outcome of a job without an answer, after the launcher has ended."""
        if self._error is None:
            return outcome_of(self._returned[number]) if number < len(self._returned) else Outcome()
        failures = read_failures(folder)
        if len(failures) > self._open[folder.name]:
            return Outcome(failure=failures[-1])
        if job is None or lives(job, folder, self._lease):
            return None
        return Outcome(failure=failure("killed", f"the launcher ended: {self._describe_error()}"))

    def _end_batch(self, left: list[Point]) -> None:
        """End the batch; what it has left goes into the next one."""
        is_gone = isinstance(self._error, BrokenExecutor)
        if left and self._has_begun and not is_gone and self._clock() - self._last_sign < self._lease:
            return  # queued jobs may still begin
        if left and not self._has_begun:
            raise LauncherError(f"the launcher has started no job: {self._describe_error()}") from self._error
        self._shares_fate |= is_gone
        self._waiting = [*left, *self._waiting]
        self._thread, self._batch = None, []

    def _describe_error(self) -> str:
        lines = [line.strip() for line in str(self._error).splitlines() if line.strip()]
        return f"{type(self._error).__name__}: {lines[0]}" if lines else type(self._error).__name__

    def _folder(self, identity: str) -> Path:
        return trial_folder(self._output_dir, identity)
