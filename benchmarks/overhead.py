"""Overhead of a sweep: empty trials, and planning a large grid of which most is recorded."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

from benchmarks.groups import Options
from benchmarks.measure import Figure, wall_figure

POINTS = 10_000
EMPTY_BAR, PLANNING_BAR = 0.05, 3.0
NEW = "no record, new study"
COUNTS = ("trials", "points")  # entries of benchmarks/sweep.py that are not seconds


def measure(options: Options) -> Iterator[Figure]:
    """Yield seconds per empty trial, and from the command to the first point for every initial state of a sweep."""
    sweep: Any = importlib.import_module("benchmarks.sweep")
    points = 1000 if options.quick else POINTS
    empty, planned = (
        {name: value for name, value in figures.items() if name not in COUNTS}
        for figures in (sweep.overhead(), sweep.planning(points))
    )
    for name, seconds in empty.items():
        yield wall_figure(f"overhead: 200 empty trials, {name}", [seconds], unit="s", bar=EMPTY_BAR, at_least=False)
    for state, seconds in planned.items():
        bar = PLANNING_BAR if points == POINTS and state != NEW else None
        yield wall_figure(
            f"overhead: planning {points:,} points, {state}", [seconds], unit="s", bar=bar, at_least=False
        )
