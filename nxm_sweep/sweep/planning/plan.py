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
from nxm_sweep.store.draws import format_count
from nxm_sweep.store.files import write_json
from nxm_sweep.store.paths import PLANS
from nxm_sweep.store.plans import read_plans
from nxm_sweep.sweep.planning.axes import Axes, listed
from nxm_sweep.sweep.planning.cell import Cell, Point


@dataclass(frozen=True)
class Plan:
    """What a sweep wants.

    Attributes:
        cells: Its cells, in the order of the command line.
        points: Each cell's points; each identity once in the whole plan. A search adds them as it goes.
        command: The command line.
        n_trials: How many points a search draws per cell; None: a grid.
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
        """Add the points that each search has drawn before, as far as the plans' files say.

        A search whose list of seeds has changed takes over the points of the one before, for the new seeds to be
        trained: those of the file with most points.
        """
        if self.n_trials is None:
            return
        written = [cell for plan in read_plans(output_dir) for cell in plan["cells"]]
        for cell in self.cells:
            own = [entry for entry in written if entry.get("study") == cell.study_name]
            limit = None
            if not any(entry["points"] for entry in own) and cell.seeds:
                own = [entry for entry in written if entry.get("search") == cell.search_name]
                limit = self.n_trials
            for point in _drawn(cell, max(own, key=lambda entry: len(entry["points"]), default=None))[:limit]:
                for repeat in cell.repeats(point):
                    self.add(repeat)

    @property
    def repeats_seeds(self) -> bool:
        """Whether it is a search whose points are trained with several seeds each."""
        return any(cell.seeds for cell in self.cells)

    @property
    def unit(self) -> str:
        """What is counted: ``points``, or ``trainings`` where a point has several."""
        return "trainings" if self.repeats_seeds else "points"

    @property
    def count_words(self) -> str:
        """How much is wanted, in words."""
        return format_count((self.wanted(cell), len(cell.seeds)) for cell in self.cells)

    def wanted(self, cell: Cell) -> int:
        """Return how many trainings are wanted of a cell: a grid's points, or a search's points times the seeds."""
        if self.n_trials is None:
            return len(self.points[self.cells.index(cell)])
        return self.wanted_points(cell) * max(1, len(cell.seeds))

    def wanted_points(self, cell: Cell) -> int:
        """Return how many points a search draws: so many as there are, at most."""
        space = cell.space
        wanted = self.n_trials or 0
        return wanted if space is None else min(wanted, len(space))

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
                **({"search": cell.search_name, "seeds": list(cell.seeds)} if cell.search else {}),
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
            indent=None,
        )
        return file


def _drawn(cell: Cell, written: Mapping[str, Any] | None) -> list[Point]:
    """The points that a plan's file says a search has drawn, each once, in their order; of seeds, the first stands for all."""
    points: dict[str, Point] = {}
    for _, values in [] if written is None else written["points"]:
        named = dict(zip(written["axes"], values, strict=True)) if written else {}
        if set(named) == set(cell.axes):
            first = {"seed": cell.seeds[0]} if cell.seeds else {}
            point = cell.point({key: {**named, **first}[key] for key in cell.axes})
            points.setdefault(point.identity, point)
    return list(points.values())


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
        n_trials: How many points a search draws per cell; None: a grid, whose points are planned.
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
    """Cells of one study as one with the values of all; the axes that each of them combines stay its own.

    Searches of one study have the same values, in another order of the seeds perhaps.
    """
    by_study: dict[str, list[Cell]] = {}
    for cell in cells:
        by_study.setdefault(cell.study_name, []).append(cell)
    return [(_union(parts), parts) for parts in by_study.values()]


def _union(parts: Sequence[Cell]) -> Cell:
    first = parts[0]
    if first.search or all(part.axes == first.axes for part in parts):
        return first
    axes: Axes = {
        key: tuple(dict.fromkeys(value for part in parts for value in listed(part.axes[key]))) for key in first.axes
    }
    return replace(first, axes=axes)
