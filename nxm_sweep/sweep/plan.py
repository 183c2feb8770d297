"""A sweep's plan: its cells and the points that it wants. Written down, so that another terminal can say how far it is."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from nxm_sweep.sweep.cell import Cell, Point
from nxm_sweep.sweep.files import write_json
from nxm_sweep.sweep.survey import PLANS


@dataclass(frozen=True)
class Plan:
    """What a sweep wants.

    Attributes:
        cells: Its cells, in the order of the command line.
        points: Each cell's points; each identity once in the whole plan. A search adds them as it goes.
        command: The command line.
        n_trials: How many trials a search makes per cell; None: a grid.
        rules: What a reader of the file needs to tell the points' states: lease, max_attempts, pruning.
    """

    cells: tuple[Cell, ...]
    points: tuple[list[Point], ...]
    command: tuple[str, ...] = ()
    n_trials: int | None = None
    rules: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """Name of the plan's file: the same for the same points."""
        words = [*(cell.study_name for cell in self.cells), str(self.n_trials)]
        if self.n_trials is None:
            words += sorted(point.identity for point in self)
        return hashlib.sha256("\n".join(words).encode()).hexdigest()[:12]

    def __iter__(self) -> Iterator[Point]:
        for points in self.points:
            yield from points

    def __len__(self) -> int:
        return sum(map(len, self.points))

    def add(self, point: Point) -> None:
        """Add a point that a search has asked for."""
        self.points[self.cells.index(point.cell)].append(point)

    def write(self, output_dir: Path) -> Path:
        """Write the plan under ``output_dir`` and return its file."""
        cells = [
            {
                "name": cell.name,
                "study": cell.study_name,
                "metric": cell.settings.task.selection_metric,
                "axes": list(cell.axes),
                "points": [[point.identity, list(point.values.values())] for point in points],
            }
            for cell, points in zip(self.cells, self.points, strict=True)
        ]
        file = output_dir / PLANS / f"{self.key}.json"
        write_json(
            file,
            {
                "command": self.command,
                "written": time.time(),
                "n_trials": self.n_trials,
                **self.rules,
                "cells": cells,
            },
        )
        return file


def make_plan(cells: Sequence[Cell], command: Sequence[str] = ()) -> Plan:
    """Return the plan of all points of the cells; a cell that an earlier one covers is left out (dense, per pattern)."""
    seen: set[str] = set()
    kept: list[tuple[Cell, list[Point]]] = []
    for cell in cells:
        points = [point for point in cell.points() if point.identity not in seen]
        seen |= {point.identity for point in points}
        if points:
            kept.append((cell, points))
    return Plan(tuple(cell for cell, _ in kept), tuple(points for _, points in kept), tuple(command))
