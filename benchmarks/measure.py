"""Interleaved measurements: samples of several ways taken in turn, ratios round by round, and the figures made of them."""

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
    """Seconds that one piece of work took: on the CPU over all threads of the process, and on the wall."""

    cpu: float = 0.0
    wall: float = 0.0

    def __add__(self, other: Sample) -> Sample:
        return Sample(self.cpu + other.cpu, self.wall + other.wall)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Add what the block takes in this process."""
        cpu, wall = time.process_time(), time.perf_counter()
        try:
            yield
        finally:
            self.cpu += time.process_time() - cpu
            self.wall += time.perf_counter() - wall


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table: a value per round, and the bar that their median is held against.

    Attributes:
        name: What is compared; unique in a run.
        values: One per round; empty if the figure was not measured.
        unit: ``times`` for a ratio, ``s``, ``GiB``, ...
        counted: What the values were taken from: ``CPU seconds``, ``wall seconds``, ``resident memory``, ...
        bar: The value to reach; None where there is none.
        at_least: Whether the bar is a lower bound; otherwise an upper one.
        samples: The measurements behind the values, by way.
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
        """The median and the spread for people, or why there is none."""
        if not self.values:
            return f"not measured: {self.skipped}"
        low, high = min(self.values), max(self.values)
        spread = "" if len(self.values) == 1 else f" ({_digits(low)} to {_digits(high)})"
        return f"{_digits(self.median)}{'' if self.unit == 'times' else ' ' + self.unit}{spread}"

    def to_dict(self) -> dict[str, Any]:
        """Return values for JSON; the spread is spelled out."""
        spread = {"median": self.median, "min": min(self.values), "max": max(self.values)} if self.values else {}
        return {**asdict(self), **spread, "is_met": self.is_met}


wall_figure = partial(Figure, counted="wall seconds")


def alternate(ways: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Call every way once per round, in turn, and return what they returned; every other round goes backwards (A B B A)."""
    taken: dict[str, list[T]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in list(ways)[:: -1 if number % 2 else 1]:
            taken[name].append(ways[name]())
    return taken


def ratios(numerators: Sequence[Sample], denominators: Sequence[Sample], clock: Clock = "cpu") -> list[float]:
    """Return the ratio of each round; what disturbs a round disturbs both sides."""
    return [getattr(a, clock) / getattr(b, clock) for a, b in zip(numerators, denominators, strict=True)]


def geometric_means(rows: Sequence[Sequence[float]]) -> list[float]:
    """Return the geometric mean over rows of each column: of several tasks, one value per round."""
    return [math.prod(column) ** (1 / len(column)) for column in zip(*rows, strict=True)]


def _digits(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"
