"""How long a sweep may take: from the seconds of finished trials or of timed steps, never from guesses."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

from nxm_sweep.errors import RecordError
from nxm_sweep.settings import TrialSettings
from nxm_sweep.sweep.cell import Cell, Point
from nxm_sweep.sweep.digests import model_bytes
from nxm_sweep.sweep.plan import Plan
from nxm_sweep.sweep.records import read_record, trial_folder

_SAMPLE = 20
"""Records that are read per cell."""
_FINISHED = "finished trials"
_PROBED = "a few timed steps (evaluation, loading and saving come on top)"


class Estimate:
    """Expected seconds of a point: those of finished trials of its cell, scaled by the rows that it trains on.

    Args:
        plan: The sweep.
        output_dir: Root of trials.
    """

    def __init__(self, plan: Plan, output_dir: Path) -> None:
        self._seconds_per_row: defaultdict[str, list[float]] = defaultdict(list)
        self._sources: set[str] = set()
        sizes = {cell.study_name: model_bytes(cell.settings.model) for cell in plan.cells}
        usual = max((size for size in sizes.values() if size is not None), default=1)
        self._size = {name: size or usual for name, size in sizes.items()}
        for points in plan.points:
            read = 0
            for point in points:
                seconds = _recorded_seconds(output_dir, point.identity) if read < _SAMPLE else None
                if seconds is not None:
                    read += 1
                    self.learn(point, seconds)

    def learn(self, point: Point, seconds: float) -> None:
        """Learn how long a trial took."""
        self._sources.add(_FINISHED)
        self._seconds_per_row[point.cell.study_name].append(seconds / rows_trained(point))

    @property
    def source(self) -> str:
        """Where the seconds come from, in words."""
        return "going by " + " and ".join(words for words in (_FINISHED, _PROBED) if words in self._sources)

    def knows(self, cell: Cell) -> bool:
        """Whether a trial of a cell has been timed."""
        return bool(self._seconds_per_row[cell.study_name])

    def seconds(self, point: Point) -> float | None:
        """Return the expected seconds of one worker, or None if no trial of the cell has been timed."""
        known = self._seconds_per_row[point.cell.study_name]
        return fmean(known) * rows_trained(point) if known else None

    def cost(self, point: Point) -> float:
        """Return what orders points: expected seconds by this cell's speed.

        Unknown, it is the mean speed of the cells that are known, in proportion to the size of the models.
        """
        own = self._seconds_per_row[point.cell.study_name]
        if own:
            return fmean(own) * rows_trained(point)
        speeds = [fmean(values) / self._size[name] for name, values in self._seconds_per_row.items() if values]
        return (fmean(speeds) if speeds else 1.0) * self._size[point.cell.study_name] * rows_trained(point)

    def probe(self, plan: Plan, time_steps: Callable[[TrialSettings], float]) -> None:
        """Time a few steps of one point of every cell that has no finished trial; ``time_steps`` returns seconds a row."""
        for cell, points in zip(plan.cells, plan.points, strict=True):
            if not self.knows(cell):
                self._sources.add(_PROBED)
                settings = points[0].settings if points else cell.settings
                self._seconds_per_row[cell.study_name].append(time_steps(settings))


def rows_trained(point: Point) -> int:
    """Return how many rows a trial trains on, epochs counted."""
    training, there = point.cell.settings.training, point.cell.digests.train_rows
    limit = point.values.get("training.max_train_samples", training.max_train_samples)
    return max(1, min(there, limit or there) * int(point.values.get("training.epochs", training.epochs)))


def _recorded_seconds(output_dir: Path, identity: str) -> float | None:
    folder = trial_folder(output_dir, identity)
    try:
        record = read_record(folder)
    except RecordError:
        return None
    return None if record is None else float(record["seconds"]["total"])
