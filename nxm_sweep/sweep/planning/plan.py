"""A sweep's plan: its cells and wanted points, in a file from which another terminal shows the progress."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from nxm_sweep.console import track
from nxm_sweep.errors import ConfigError
from nxm_sweep.formatting import format_value
from nxm_sweep.store.draws import format_count
from nxm_sweep.store.files import write_json
from nxm_sweep.store.paths import PLANS
from nxm_sweep.store.plans import read_plans
from nxm_sweep.sweep.planning.axes import Axes, count, listed
from nxm_sweep.sweep.planning.cell import Cell, Point

_MANY = 50_000
"""Combinations whose listing takes so long that progress is shown."""


@dataclass(frozen=True)
class Plan:
    """The cells and wanted points of a sweep.

    Attributes:
        cells: Its cells, in the order of the command line.
        points: Each cell's points; each identity once in the whole plan. A search adds points as it runs.
        command: The command line.
        n_trials: Number of points that a search draws per cell; None: a grid.
        rules: What a reader of the file needs to determine the points' states: lease, max_attempts, pruning.
    """

    cells: tuple[Cell, ...]
    points: tuple[list[Point], ...]
    command: tuple[str, ...] = ()
    n_trials: int | None = None
    rules: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """Name of the plan's file: the same for the same points, and for a search with more trials."""
        lines = [cell.study_name for cell in self.cells]
        if self.n_trials is None:
            lines += sorted(point.identity for point in self)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]

    def __iter__(self) -> Iterator[Point]:
        for points in self.points:
            yield from points

    def __len__(self) -> int:
        return sum(map(len, self.points))

    def add(self, point: Point) -> None:
        """Add a point that a search has asked for, if it is new."""
        points = self.points[[cell.study_name for cell in self.cells].index(point.cell.study_name)]
        if all(known.identity != point.identity for known in points):
            points.append(point)

    def recall(self, output_dir: Path) -> None:
        """Add the points that each search has drawn before, according to the plans' files.

        A search whose list of seeds has changed takes over the points of the previous one, from the file with the most
        points, so that the new seeds are trained.
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
            for point in _restore_drawn(cell, max(own, key=lambda entry: len(entry["points"]), default=None))[:limit]:
                for repeat in cell.repeats(point):
                    self.add(repeat)

    @property
    def repeats_seeds(self) -> bool:
        """Whether a search trains each point with several seeds."""
        return any(cell.seeds for cell in self.cells)

    @property
    def unit(self) -> str:
        """Unit of the counts: ``points``, or ``trainings`` if a point has several."""
        return "trainings" if self.repeats_seeds else "points"

    @property
    def count_words(self) -> str:
        """Wanted points or trainings, as text."""
        return format_count((self.wanted(cell), len(cell.seeds)) for cell in self.cells)

    def wanted(self, cell: Cell) -> int:
        """Return the number of wanted trainings of a cell: a grid's points, or a search's points times the seeds."""
        if self.n_trials is None:
            return len(self.points[self.cells.index(cell)])
        return self.wanted_points(cell) * max(1, len(cell.seeds))

    def wanted_points(self, cell: Cell) -> int:
        """Return the number of points that a search draws, at most all."""
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


def describe_changes(plan: Plan, output_dir: Path) -> list[str]:
    """Return how a grid differs from the newest one of the same cells under ``output_dir``, one line per changed cell."""
    if plan.n_trials is not None:  # another space is another study
        return []
    newest = {entry.get("study"): entry for written in reversed(read_plans(output_dir)) for entry in written["cells"]}
    lines = []
    for cell, points in zip(plan.cells, plan.points, strict=True):
        entry = newest.get(cell.study_name)
        before = {identity for identity, _ in entry["points"]} if entry else set()
        now = {point.identity for point in points}
        if entry is None or before == now:
            continue
        old = {
            key: _distinct(values[column] for _, values in entry["points"]) for column, key in enumerate(entry["axes"])
        }
        new = {key: _distinct(point.values[key] for point in points) for key in cell.axes}
        parts = [f"{key} {_format_difference(old.get(key, []), new.get(key, []))}" for key in {**old, **new}]
        parts = [part for part in parts if not part.endswith(" ")]
        counts = f"{len(now - before)} points more, {len(before - now)} fewer than before"
        lines.append(f"{cell.title}: {'; '.join([counts, *parts])}")
    return lines


def _distinct(values: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(map(format_value, values)))


def _format_difference(old: Sequence[str], new: Sequence[str]) -> str:
    added = [f"+{value}" for value in new if value not in old]
    return " ".join([*added, *(f"-{value}" for value in old if value not in new)])


def _restore_drawn(cell: Cell, written: Mapping[str, Any] | None) -> list[Point]:
    """Return the points that a search has drawn, from a plan's file: each once, in order, with the first seed."""
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
    """Return the plan of cells; a cell that an earlier one covers is left out (dense, per pattern).

    Args:
        cells: Cells of one sweep. Those of one study, which differ only in axes, are merged.
        command: The command line.
        n_trials: Number of points that a search draws per cell; None: a grid, whose points are planned.
        rules: As in :class:`Plan`.

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
        drawn = itertools.chain.from_iterable(part.points() for part in parts)
        total = sum(count(part.axes, part.tie) for part in parts)
        for point in track(drawn, total, f"combinations of {cell.title}", many=_MANY):
            if point.identity not in seen:
                seen.add(point.identity)
                points.append(point if point.cell is cell else Point(cell, point.values, point.identity))
        if points:
            kept.append((cell, points))
    if not kept:
        raise ConfigError("sweep.exclude leaves no point")
    return Plan(tuple(cell for cell, _ in kept), tuple(points for _, points in kept), tuple(command), None, rules or {})


def _merge(cells: Sequence[Cell]) -> list[tuple[Cell, list[Cell]]]:
    """Merge the cells of each study into one with the values of all; each part keeps the axes that it combines.

    Searches of one study have the same values, perhaps with the seeds in another order.
    """
    by_study: dict[str, list[Cell]] = {}
    for cell in cells:
        by_study.setdefault(cell.study_name, []).append(cell)
    return [(_unite(parts), parts) for parts in by_study.values()]


def _unite(parts: Sequence[Cell]) -> Cell:
    first = parts[0]
    if first.search or all(part.axes == first.axes for part in parts):
        return first
    axes: Axes = {
        key: tuple(dict.fromkeys(value for part in parts for value in listed(part.axes[key]))) for key in first.axes
    }
    return replace(first, axes=axes)
