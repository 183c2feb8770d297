"""Axes of a sweep: values that a grid combines, ranges that a search draws from, and rules between them."""

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
"""String that the command line parses as a string even without quotes."""
_BEFORE_QUOTE = re.compile(r"(\\+)(?='|$)")
"""Backslashes to double in a quoted string; others are literal."""
Values = dict[str, Any]
Ties = Sequence[Sequence[str]]


def can_be_axis(settings: TrialSettings, key: str) -> bool:
    """Return whether a key names a number or string that changes a trial: no device, path or group."""
    node: Any = settings
    for name in key.split("."):
        known = getattr(node, "__dataclass_fields__", {})
        if name not in known or not all(known[name].metadata.get(mark, True) for mark in ("identity", "axis")):
            return False
        node = getattr(node, name)
    return node is None or isinstance(node, int | float | str)


def command_line_word(value: Any) -> str:
    """Return a value in command-line syntax."""
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
        parent: Any = settings
        for name in path:
            parent = getattr(parent, name)
        setattr(parent, leaf, value)
    return settings


def exists(settings: TrialSettings, key: str) -> bool:
    """Return whether a dotted key names a setting or a group."""
    node: Any = settings
    for name in key.split("."):
        if name not in getattr(node, "__dataclass_fields__", {}):
            return False
        node = getattr(node, name)
    return True


def has(tree: Any, key: str) -> bool:
    """Return whether a dotted key names a leaf of nested dictionaries."""
    for name in key.split("."):
        if not isinstance(tree, dict) or name not in tree:
            return False
        tree = tree[name]
    return not isinstance(tree, dict)


def holder_of(tree: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """Return the dictionary that contains a dotted key, and the last part of the key."""
    *path, leaf = key.split(".")
    for name in path:
        tree = tree[name]
    return tree, leaf


@dataclass(frozen=True)
class Range:
    """An axis of a search: numbers from ``low`` to ``high``, both included; integers if both ends are."""

    low: float
    high: float
    log: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether it contains only integers."""
        return isinstance(self.low, int) and isinstance(self.high, int)


Axes = dict[str, tuple[Any, ...] | Range]


def combinations(axes: Axes, tie: Ties = ()) -> Iterator[Values]:
    """Yield every combination of the axes' values; tied axes change together.

    Raises:
        ConfigError: Tied axes differ in length, or an axis is a range, which has no list of values.
    """
    groups = _group_tied(_require_lists(axes), tie)
    order = list(axes)
    for rows in itertools.product(*(_zip_values(axes, keys) for keys in groups)):
        values = {
            key: value for keys, row in zip(groups, rows, strict=True) for key, value in zip(keys, row, strict=True)
        }
        yield {key: values[key] for key in order}


def count(axes: Axes, tie: Ties = ()) -> int:
    """Return the number of combinations of the axes, ignoring rules that exclude some.

    Raises:
        ConfigError: As in :func:`combinations`.
    """
    return math.prod(len(_zip_values(axes, keys)) for keys in _group_tied(_require_lists(axes), tie))


def whole_ranges_listed(axes: Axes, limit: int) -> Axes | None:
    """Return the axes with integer ranges as lists; None for a real range or more than ``limit`` combinations.

    Args:
        axes: Lists and ranges.
        limit: Largest number of combinations to list.
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
    """Return a float rounded to 12 significant digits, as in identities; anything else unchanged."""
    return float(f"{value:.12g}") if isinstance(value, float) else value


def listed(value: Any) -> list[Any]:
    """Return a sequence as a list, and anything else as a list of one."""
    return list(value) if isinstance(value, list | tuple) else [value]


def is_wordy(values: Any) -> bool:
    """Return whether an axis holds strings or None, a list that a study cannot extend."""
    return not isinstance(values, Range) and any(value is None or isinstance(value, str) for value in values)


def _require_lists(axes: Axes) -> dict[str, tuple[Any, ...]]:
    for key, values in axes.items():
        if isinstance(values, Range):
            raise ConfigError(
                f"{key} is a range, which a grid cannot list",
                hint="sweep.sampler=random (tpe, qmc) with sweep.n_trials searches ranges",
            )
    return {key: values for key, values in axes.items() if isinstance(values, tuple)}


def _group_tied(axes: Mapping[str, tuple[Any, ...]], tie: Ties) -> list[tuple[str, ...]]:
    """Return the groups of tied axes, ordered by the first axis of each."""
    groups: list[tuple[str, ...]] = []
    for key in axes:
        partners = next((tuple(name for name in keys if name in axes) for keys in tie if key in keys), (key,))
        if partners not in groups:
            groups.append(partners)
    for keys in groups:
        if len({len(axes[key]) for key in keys}) > 1:
            lengths = ", ".join(f"{key} has {len(axes[key])}" for key in keys)
            raise ConfigError(f"sweep.tie needs axes of one length but {lengths}")
    return groups


def _zip_values(axes: Axes, keys: Sequence[str]) -> list[tuple[Any, ...]]:
    return list(zip(*(listed(axes[key]) for key in keys), strict=True))
