"""Interleaved measurements: samples of all variants in turn, ratios per round, and figures made from them."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Literal, TypeVar

Clock = Literal["cpu", "wall"]
T = TypeVar("T")


@dataclass(slots=True)
class Sample:
    """Seconds of one piece of work: CPU time over all threads of the process, and wall time."""

    cpu: float = 0.0
    wall: float = 0.0

    def __add__(self, other: Sample) -> Sample:
        return Sample(self.cpu + other.cpu, self.wall + other.wall)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Add the seconds that the block takes in this process."""
        cpu, wall = time.process_time(), time.perf_counter()
        try:
            yield
        finally:
            self.cpu += time.process_time() - cpu
            self.wall += time.perf_counter() - wall


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table: a value per round, and the bar for their median.

    Attributes:
        name: What is compared; unique in a run.
        values: One per round; empty if the figure was not measured.
        unit: ``times`` for a ratio, ``s``, ``GiB``, ...
        counted: What the values measure: ``CPU seconds``, ``wall seconds``, ``resident memory``, ...
        bar: The value to reach; None where there is none.
        at_least: Whether the bar is a lower bound; otherwise an upper one.
        samples: Measurements behind the values, by variant.
        skipped: Why it was not measured; empty if it was.
    """

    name: str
    values: Sequence[float] = ()
    unit: str = "times"
    counted: str = "CPU seconds"
    bar: float | None = None
    at_least: bool = True
    samples: Mapping[str, Any] = field(default_factory=dict)
    skipped: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def is_met(self) -> bool | None:
        """Whether the median reaches the bar; None without a bar or without a value."""
        if self.bar is None or not self.values:
            return None
        return self.median >= self.bar if self.at_least else self.median <= self.bar

    def __str__(self) -> str:
        """Format the median and the spread, or the reason why there are none."""
        if not self.values:
            return f"not measured: {self.skipped}"
        low, high = min(self.values), max(self.values)
        spread = "" if len(self.values) == 1 else f" ({_format_number(low)} to {_format_number(high)})"
        return f"{_format_number(self.median)}{'' if self.unit == 'times' else ' ' + self.unit}{spread}"

    def to_dict(self) -> dict[str, Any]:
        """Return values for JSON, including the spread."""
        spread = {"median": self.median, "min": min(self.values), "max": max(self.values)} if self.values else {}
        return {**asdict(self), **spread, "is_met": self.is_met}


wall_figure = partial(Figure, counted="wall seconds")


def alternate(ways: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Call every variant once per round and return the results; every other round runs backwards (A B B A)."""
    taken: dict[str, list[T]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in list(ways)[:: -1 if number % 2 else 1]:
            taken[name].append(ways[name]())
    return taken


def ratios(numerators: Sequence[Sample], denominators: Sequence[Sample], clock: Clock = "cpu") -> list[float]:
    """Return the ratio of each round; a disturbance affects both sides of a round."""
    return [getattr(a, clock) / getattr(b, clock) for a, b in zip(numerators, denominators, strict=True)]


def geometric_means(rows: Sequence[Sequence[float]]) -> list[float]:
    """Return the geometric mean over rows of each column: over tasks, one value per round."""
    return [math.prod(column) ** (1 / len(column)) for column in zip(*rows, strict=True)]


def _format_number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"
