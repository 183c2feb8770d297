"""Axes of a sweep: the values that a grid combines, the ranges that a search draws from, and the rules between them."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nxm_sweep.errors import ConfigError
from nxm_sweep.settings import TrialSettings

_PLAIN = re.compile(r"(?!(null|true|false|nan|inf)$)[A-Za-z_./][\w./-]*", re.IGNORECASE)
"""A word that the command line takes without quotes, and for nothing but a word."""
_BEFORE_QUOTE = re.compile(r"(\\+)(?='|$)")
"""Backslashes that a quoted word needs twice; elsewhere one is one."""
Values = dict[str, Any]
Ties = Sequence[Sequence[str]]


def can_be_axis(settings: TrialSettings, key: str) -> bool:
    """Return whether a key names a number or a word that changes a trial; no device, no path, no group."""
    place: Any = settings
    for name in key.split("."):
        known = getattr(place, "__dataclass_fields__", {})
        if name not in known or not all(known[name].metadata.get(mark, True) for mark in ("identity", "axis")):
            return False
        place = getattr(place, name)
    return place is None or isinstance(place, int | float | str)


def command_line_word(value: Any) -> str:
    """Return a value as the command line takes it."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:.12g}"
        case str() if not _PLAIN.fullmatch(value):
            return "'" + _BEFORE_QUOTE.sub(r"\1\1", value).replace("'", "\\'") + "'"
    return str(value)


def assign_(settings: TrialSettings, values: Mapping[str, Any]) -> TrialSettings:
    """Set dotted keys in place."""
    for key, value in values.items():
        *path, leaf = key.split(".")
        place: Any = settings
        for name in path:
            place = getattr(place, name)
        setattr(place, leaf, value)
    return settings


def value_at(settings: TrialSettings, key: str) -> Any:
    """Return the value of a dotted key."""
    place: Any = settings
    for name in key.split("."):
        place = getattr(place, name)
    return place


def exists(settings: TrialSettings, key: str) -> bool:
    """Return whether a dotted key names a setting or a group of them."""
    place: Any = settings
    for name in key.split("."):
        if name not in getattr(place, "__dataclass_fields__", {}):
            return False
        place = getattr(place, name)
    return True


def has(tree: Any, key: str) -> bool:
    """Return whether a dotted key names a plain value in nested dictionaries."""
    for name in key.split("."):
        if not isinstance(tree, dict) or name not in tree:
            return False
        tree = tree[name]
    return not isinstance(tree, dict)


def holder_of(tree: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """Return the dictionary that holds a dotted key, and the key's last part."""
    *path, leaf = key.split(".")
    for name in path:
        tree = tree[name]
    return tree, leaf


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
