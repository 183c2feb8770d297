"""Who trains the points that a coordinator hands out: the local pool, or one of Hydra's launchers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from nxm_sweep.sweep.attempts import failure, read_failures
from nxm_sweep.sweep.cell import Point
from nxm_sweep.sweep.outcome import Outcome, outcome_of
from nxm_sweep.sweep.records import RESULT, trial_folder


class Runner(Protocol):
    """Trains points."""

    @property
    def has_room(self) -> bool:
        """Whether another point can be handed in."""

    def submit(self, point: Point) -> None:
        """Hand in a point."""

    def wait(self, seconds: float) -> list[tuple[str, Outcome]]:
        """Return the identities whose attempt has ended, after at most so many seconds."""


Launch = Callable[[Sequence[Sequence[str]]], Sequence[Any]]
"""Runs a batch of command lines; returns what each returned. It may raise for all because one was killed."""


class BatchRunner:
    """Hands all points to a launcher at once, and the ones to be tried again in a second batch.

    Args:
        launch: The launcher.
        output_dir: Root of trials; a record there ends an attempt, whatever the launcher says.
    """

    def __init__(self, launch: Launch, output_dir: Path) -> None:
        self._launch, self._output_dir = launch, output_dir
        self._batch: list[Point] = []
        self._open: dict[str, int] = {}  # identity: failed attempts before this one
        self._thread: threading.Thread | None = None
        self._returned: Sequence[Any] = ()
        self._error: BaseException | None = None

    @property
    def has_room(self) -> bool:
        """Whether the next batch is being filled."""
        return self._thread is None

    def submit(self, point: Point) -> None:
        """Add a point to the next batch."""
        self._batch.append(point)
        self._open[point.identity] = len(read_failures(self._folder(point.identity)))

    def wait(self, seconds: float) -> list[tuple[str, Outcome]]:
        """Start the batch, if it has not begun; return the identities that have ended."""
        if self._thread is None:
            if not self._batch:
                time.sleep(seconds)
                return []
            self._thread = threading.Thread(target=self._run, name="launcher", daemon=True)
            self._thread.start()
        self._thread.join(seconds)
        ended = {identity: Outcome() for identity in self._open if (self._folder(identity) / RESULT).exists()}
        if not self._thread.is_alive():
            for number, point in enumerate(self._batch):
                if point.identity in self._open and point.identity not in ended:
                    ended[point.identity] = self._outcome(number, point.identity)
            self._thread, self._batch = None, []
        for identity in ended:
            del self._open[identity]
        return list(ended.items())

    def _run(self) -> None:
        self._returned, self._error = (), None
        try:
            self._returned = self._launch([point.overrides for point in self._batch])
        except BaseException as error:  # noqa: BLE001 - a launcher raises for all because one job was killed
            self._error = error

    def _outcome(self, number: int, identity: str) -> Outcome:
        """How the job without a record ended: by its answer, by what it wrote down, or killed."""
        if number < len(self._returned):
            return outcome_of(self._returned[number])
        failures = read_failures(self._folder(identity))
        if len(failures) > self._open[identity]:
            return Outcome(failure=failures[-1])
        lines = str(self._error).strip().splitlines() or [""]
        return Outcome(failure=failure("killed", f"the launcher ended: {type(self._error).__name__}: {lines[0]}"))

    def _folder(self, identity: str) -> Path:
        return trial_folder(self._output_dir, identity)
