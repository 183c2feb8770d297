"""Tells the studies of records that were not made through them, one coordinator at a time, so that none is told twice."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from filelock import FileLock, Timeout

from nxm_sweep.errors import RecordError
from nxm_sweep.store.attempts import Failure, classify
from nxm_sweep.store.paths import backfill_lock, trial_folder
from nxm_sweep.store.records import read_record, selected_value
from nxm_sweep.sweep.execution.claims import Claims
from nxm_sweep.sweep.planning.cell import Point
from nxm_sweep.sweep.studies.study import CellStudy

Read = dict[str, "float | Failure"]
"""Per identity the best score that its record holds, or why it cannot be read."""


class Backfill:
    """Records that wait to be told.

    Args:
        output_dir: Root of trials and studies.
        claims: A point that somebody holds is told by its holder.
        studies: The studies by name.
    """

    def __init__(self, output_dir: Path, claims: Claims, studies: Mapping[str, CellStudy]) -> None:
        self._output_dir, self._claims, self._studies = output_dir, claims, studies
        self._lock = FileLock(backfill_lock(output_dir))
        self._waiting: deque[Point] = deque()
        self._batch: deque[Point] = deque()
        self._held: set[str] = set()

    def add(self, point: Point) -> None:
        """Add a point that has a record."""
        self._waiting.append(point)

    def work(self, seconds: float) -> Read:
        """Tell for so many seconds, unless another coordinator does; return what was read."""
        if not (self._waiting or self._batch):
            return {}
        try:
            self._begin(timeout=0)
        except Timeout:
            return {}
        return self._tell(time.monotonic() + seconds)

    def finish(self) -> Read:
        """Tell all that waits."""
        read: Read = {}
        while self._waiting or self._batch:
            self._begin(timeout=-1)
            read |= self._tell(float("inf"))
        return read

    def _begin(self, timeout: float) -> None:
        """Read what others have told of the points that nobody holds: whoever held one has told it before letting go."""
        if self._batch:
            return
        self._lock.acquire(timeout=timeout)
        try:
            self._held = {point.identity for point in self._waiting if self._claims.is_taken(point.identity)}
            for name in {point.cell.study_name for point in self._waiting}:
                self._studies[name].read()
        except BaseException:  # the storage is away
            self._lock.release()
            raise
        self._batch, self._waiting = self._waiting, deque()

    def _tell(self, until: float) -> Read:
        read: Read = {}
        while self._batch and time.monotonic() < until:
            self._tell_one(self._batch[0], read)
            self._batch.popleft()
        if not self._batch:
            self._lock.release()
        return read

    def _tell_one(self, point: Point, read: Read) -> None:
        study = self._studies[point.cell.study_name]
        try:
            record = read_record(trial_folder(self._output_dir, point.identity))
        except RecordError as error:
            read[point.identity] = classify(error)
            return
        if record is None:
            return
        read[point.identity] = selected_value(record)
        if point.identity in self._held:  # its holder tells it
            return
        if point.identity in study.told:
            study.drop_second(point.identity)
        else:
            study.tell(point, record)
