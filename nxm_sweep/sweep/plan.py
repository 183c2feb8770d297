"""A sweep's plan: its cells and the points that it wants. Written down, so that another terminal can say how far it is."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from nxm_sweep.errors import ConfigError
from nxm_sweep.sweep.axes import Axes, listed
from nxm_sweep.sweep.cell import Cell, Point
from nxm_sweep.sweep.files import read_json, write_json
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
        """Name of the plan's file: the same for the same points, and for a search of more trials."""
        words = [cell.study_name for cell in self.cells]
        if self.n_trials is None:
            words += sorted(point.identity for point in self)
        return hashlib.sha256("\n".join(words).encode()).hexdigest()[:12]

    def __iter__(self) -> Iterator[Point]:
        for points in self.points:
            yield from points

    def __len__(self) -> int:
        return sum(map(len, self.points))

    def add(self, point: Point) -> None:
        """Add a point that a search has asked for; once."""
        points = self.points[[cell.study_name for cell in self.cells].index(point.cell.study_name)]
        if all(known.identity != point.identity for known in points):
            points.append(point)

    def recall(self, output_dir: Path) -> None:
        """Add the points that this search has asked for before, as far as its file says."""
        found = read_json(output_dir / PLANS / f"{self.key}.json")
        if self.n_trials is None or not isinstance(found, dict):
            return
        for cell, written in zip(self.cells, found["cells"], strict=True):
            for _, values in written["points"]:
                self.add(cell.point(dict(zip(cell.axes, values, strict=True))))

    def wanted(self, cell: Cell) -> int:
        """Return how many points are wanted of a cell: of a search so many as there are, at most."""
        if self.n_trials is None:
            return len(self.points[self.cells.index(cell)])
        space = cell.space
        return self.n_trials if space is None else min(self.n_trials, len(space))

    def write(self, output_dir: Path) -> Path:
        """Write the plan under ``output_dir`` and return its file."""
        cells = [
            {
                "name": cell.name,
                "names": cell.names,
                "pattern": cell.pattern,
                "study": cell.study_name,
                "metric": cell.settings.task.selection_metric,
                "axes": list(cell.axes),
                "wanted": self.wanted(cell),
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


def make_plan(
    cells: Sequence[Cell],
    command: Sequence[str] = (),
    n_trials: int | None = None,
    rules: Mapping[str, Any] | None = None,
) -> Plan:
    """Return the plan of cells; one that an earlier one covers is left out (dense, per pattern).

    Args:
        cells: Cells of one sweep. Those of one study, whose axes alone differ, become one.
        command: The command line.
        n_trials: How many trials a search makes per cell; None: a grid, whose points are planned.
        rules: As :class:`Plan` has them.

    Raises:
        ConfigError: The rules leave no point.
    """
    merged = _merge(cells)
    if n_trials is not None:
        return Plan(tuple(cell for cell, _ in merged), tuple([] for _ in merged), tuple(command), n_trials, rules or {})
    seen: set[str] = set()
    kept: list[tuple[Cell, list[Point]]] = []
    for cell, parts in merged:
        points = []
        for point in itertools.chain.from_iterable(part.points() for part in parts):
            if point.identity not in seen:
                seen.add(point.identity)
                points.append(point if point.cell is cell else Point(cell, point.values, point.identity))
        if points:
            kept.append((cell, points))
    if not kept:
        raise ConfigError("sweep.exclude leaves no point")
    return Plan(tuple(cell for cell, _ in kept), tuple(points for _, points in kept), tuple(command), None, rules or {})


def _merge(cells: Sequence[Cell]) -> list[tuple[Cell, list[Cell]]]:
    """Cells of one study as one with the values of all; the axes that each of them combines stay its own."""
    by_study: dict[str, list[Cell]] = {}
    for cell in cells:
        by_study.setdefault(cell.study_name, []).append(cell)
    return [(_union(parts), parts) for parts in by_study.values()]


def _union(parts: Sequence[Cell]) -> Cell:
    first = parts[0]
    if all(part.axes == first.axes for part in parts):
        return first
    axes: Axes = {
        key: tuple(dict.fromkeys(value for part in parts for value in listed(part.axes[key]))) for key in first.axes
    }
    return replace(first, axes=axes)
