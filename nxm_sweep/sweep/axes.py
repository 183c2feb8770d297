"""Axes of a sweep: the values that a grid combines, the ranges that a search draws from, and the rules between them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nxm_sweep.errors import ConfigError

Values = dict[str, Any]
Ties = Sequence[Sequence[str]]


@dataclass(frozen=True)
class Range:
    """An axis of a search: any number between ``low`` and ``high``, both included; a whole one if both are."""

    low: float
    high: float
    log: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether it holds whole numbers alone."""
        return isinstance(self.low, int) and isinstance(self.high, int)


Axes = dict[str, tuple[Any, ...] | Range]


def combinations(axes: Axes, tie: Ties = ()) -> Iterator[Values]:
    """Yield every combination of the axes' values, tied axes changing together.

    Raises:
        ConfigError: Tied axes of different lengths, or a range, which has no list of values.
    """
    groups = _groups(_lists(axes), tie)
    order = list(axes)
    for rows in itertools.product(*(_rows(axes, keys) for keys in groups)):
        values = {
            key: value for keys, row in zip(groups, rows, strict=True) for key, value in zip(keys, row, strict=True)
        }
        yield {key: values[key] for key in order}


def count(axes: Axes, tie: Ties = ()) -> int:
    """Return how many combinations the axes have, rules that leave some out aside.

    Raises:
        ConfigError: As :func:`combinations`.
    """
    return math.prod(len(_rows(axes, keys)) for keys in _groups(_lists(axes), tie))


def whole_ranges_listed(axes: Axes, limit: int) -> Axes | None:
    """Return the axes with each range of whole numbers as a list; None if their combinations are no more than a few.

    Args:
        axes: Lists and ranges.
        limit: More combinations than this are not listed.
    """
    sizes = [
        len(values)
        if isinstance(values, tuple)
        else int(values.high) - int(values.low) + 1
        if values.is_whole
        else None
        for values in axes.values()
    ]
    if None in sizes or math.prod(size or 0 for size in sizes) > limit:
        return None
    return {
        key: tuple(range(int(values.low), int(values.high) + 1)) if isinstance(values, Range) else values
        for key, values in axes.items()
    }


def agrees(rule: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    """Return whether every key of a rule has one of the rule's values."""
    return all(
        key in facts and canonical(facts[key]) in [canonical(value) for value in listed(wanted)]
        for key, wanted in rule.items()
    )


def canonical(value: Any) -> Any:
    """Return a number to 12 significant digits, as identities have it; anything else as it is."""
    return float(f"{value:.12g}") if isinstance(value, float) else value


def listed(value: Any) -> list[Any]:
    """Return a list as it is, and anything else as a list of one."""
    return list(value) if isinstance(value, list | tuple) else [value]


def is_wordy(values: Any) -> bool:
    """Return whether an axis holds words, whose list a study cannot grow."""
    return not isinstance(values, Range) and any(value is None or isinstance(value, str) for value in values)


def _lists(axes: Axes) -> dict[str, tuple[Any, ...]]:
    for key, values in axes.items():
        if isinstance(values, Range):
            raise ConfigError(
                f"{key} is a range, which a grid cannot list",
                hint="sweep.sampler=random (tpe, qmc, cmaes) with sweep.n_trials searches ranges",
            )
    return {key: values for key, values in axes.items() if isinstance(values, tuple)}


def _groups(axes: Mapping[str, tuple[Any, ...]], tie: Ties) -> list[tuple[str, ...]]:
    """Axes that change together, in the order of the first of each."""
    groups: list[tuple[str, ...]] = []
    for key in axes:
        partners = next((tuple(name for name in keys if name in axes) for keys in tie if key in keys), (key,))
        if partners not in groups:
            groups.append(partners)
    for keys in groups:
        if len({len(axes[key]) for key in keys}) > 1:
            words = ", ".join(f"{key} has {len(axes[key])}" for key in keys)
            raise ConfigError(f"sweep.tie needs axes of one length but {words}")
    return groups


def _rows(axes: Axes, keys: Sequence[str]) -> list[tuple[Any, ...]]:
    return list(zip(*(listed(axes[key]) for key in keys), strict=True))
