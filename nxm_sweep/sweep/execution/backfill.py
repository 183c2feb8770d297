"""Backfill Optuna studies with records produced elsewhere; a lock prevents duplicates."""

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
"""Per identity, the best score in its record, or why it cannot be read."""


class Backfill:
    """Queue of records to add to studies.

    Args:
        output_dir: Root of trials and studies.
        claims: A claimed point is added by its claimant.
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
        """Add records for ``seconds``, unless another coordinator does; return what was read."""
        if not (self._waiting or self._batch):
            return {}
        try:
            self._begin_batch(timeout=0)
        except Timeout:
            return {}
        return self._add_batch(time.monotonic() + seconds)

    def finish(self) -> Read:
        """Add all queued records; return what was read."""
        read: Read = {}
        while self._waiting or self._batch:
            self._begin_batch(timeout=-1)
            read |= self._add_batch(float("inf"))
        return read

    def _begin_batch(self, timeout: float) -> None:
        """Lock, and read the studies and claims: a claimant adds its record before it releases the claim."""
        if self._batch:
            return
        self._lock.acquire(timeout=timeout)
        try:
            self._held = {point.identity for point in self._waiting if self._claims.is_taken(point.identity)}
            for name in {point.cell.study_name for point in self._waiting}:
                self._studies[name].read()
        except BaseException:  # the storage is unavailable
            self._lock.release()
            raise
        self._batch, self._waiting = self._waiting, deque()

    def _add_batch(self, until: float) -> Read:
        read: Read = {}
        while self._batch and time.monotonic() < until:
            self._add_record(self._batch[0], read)
            self._batch.popleft()
        if not self._batch:
            self._lock.release()
        return read

    def _add_record(self, point: Point, read: Read) -> None:
        study = self._studies[point.cell.study_name]
        try:
            record = read_record(trial_folder(self._output_dir, point.identity))
        except RecordError as error:
            read[point.identity] = classify(error)
            return
        if record is None:
            return
        read[point.identity] = selected_value(record)
        if point.identity in self._held:  # its claimant adds it
            return
        if point.identity in study.recorded:
            study.drop_duplicate(point.identity)
        else:
            study.add_record(point, record)
