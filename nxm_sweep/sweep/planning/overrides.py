"""Overrides of a sweep: what is fixed, what spans cells, and the axes within a cell."""

from __future__ import annotations

import fnmatch
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override, RangeSweep
from hydra.types import HydraContext

from nxm_sweep.config.explain import choices
from nxm_sweep.errors import ConfigError, first_line
from nxm_sweep.formatting import format_value
from nxm_sweep.sweep.planning.axes import Range, canonical

MANY_POINTS, MOST_POINTS = 10_000, 1_000_000
"""Points that need a yes, and points that no sweep has: a plan lists them all."""
SPAN_CELLS = ("task", "model", "data", "sparsity", "training.devices")
"""Keys that, like config groups, span cells when they or keys below them are swept."""


@dataclass
class CommandLine:
    """A sweep's parsed command line.

    Attributes:
        fixed: Overrides shared by all points.
        spans: Per config group or key, its alternatives; they span cells.
        axes: Per key, the values to combine within each cell.
        single: The keys with one value for all points.
    """

    fixed: list[str] = field(default_factory=list)
    spans: dict[str, list[str]] = field(default_factory=dict)
    axes: dict[str, list[Any] | Range] = field(default_factory=dict)
    single: set[str] = field(default_factory=set)

    def forget_values(self, key: str) -> None:
        """Drop the alternatives of a key that is given again: the last one wins, as in Hydra."""
        self.spans.pop(key, None)
        self.axes.pop(key, None)

    def forget(self, key: str) -> None:
        """Drop everything given for a key before."""
        self.forget_values(key)
        self.single.discard(key)
        self.fixed = [text for text in self.fixed if text.partition("=")[0].lstrip("+~") != key]


def read_command_line(arguments: Sequence[str], hydra_context: HydraContext) -> CommandLine:
    """Parse a command line; ``choice``, ``range`` and the like have the same meaning as in Hydra.

    Raises:
        ConfigError: A range is empty, or a pattern matches no choice.
    """
    loader = hydra_context.config_loader
    line = CommandLine()
    for override in OverridesParser.create(config_loader=loader).parse_overrides(list(arguments)):
        key = override.get_key_element().lstrip("+~")
        if not override.is_sweep_override():
            line.forget_values(key)
            line.fixed.append(override.input_line or "")
            line.single.add(key)
            continue
        line.forget(key)
        try:
            if isinstance(override.value(), Glob):
                line.spans[key] = _match_choices(override, sorted({*loader.get_group_options(key), *choices(key)}))
            elif spans_cells(key, hydra_context):
                line.spans[key] = refuse_doubles(key, list(_list_words(key, override)))
            else:
                line.axes[key] = _parse_values(key, override)
        except ConfigError:
            raise
        except Exception as error:  # Hydra's functions raise what Python does for values of a wrong type
            raise ConfigError(f"cannot read {override.input_line!r}: {first_line(error)}") from error
    return line


def _list_words(key: str, override: Override) -> Iterator[str]:
    """Yield the alternatives of an override in command-line syntax."""
    _count_values(key, override)
    words = list(override.sweep_string_iterator())
    if not words:
        raise no_values(key)
    yield from words


def _count_values(key: str, override: Override) -> None:
    """Refuse a range with more values than any sweep has, before they are listed."""
    value = override.value()
    if not isinstance(value, RangeSweep):
        return
    ratio = ((value.stop or 0) - (value.start or 0)) / value.step if value.step else 0
    if math.isinf(ratio) and ratio > 0:
        raise ConfigError(f"{override.input_line} has no end", hint=f"a sweep has at most {MOST_POINTS:,} points")
    size = math.ceil(ratio) if math.isfinite(ratio) else 0
    check_size(size, MOST_POINTS, f"{key} has {size:,} values")


def refuse_doubles(key: str, values: list[Any]) -> list[Any]:
    """Return the values of an axis or a group if each occurs once.

    Raises:
        ConfigError: One occurs twice.
    """
    for value, times in Counter(values).items():
        if times > 1:
            raise ConfigError(f"{key} has the value {format_value(value)} {times} times", hint="give each value once")
    return values


def spans_cells(key: str, hydra_context: HydraContext) -> bool:
    """Return whether the values of a key or group make cells instead of an axis."""
    spans = {key, key.split(".", maxsplit=1)[0]} & set(SPAN_CELLS)
    return bool(spans or hydra_context.config_loader.get_group_options(key))


def _match_choices(override: Override, names: Sequence[str]) -> list[str]:
    """Return the choices that a ``glob`` matches; as in Hydra, ``*`` stays within a folder."""
    glob: Any = override.value()
    matches = [
        name
        for name in names
        if any(pattern.count("/") == name.count("/") and fnmatch.fnmatch(name, pattern) for pattern in glob.include)
        and not any(fnmatch.fnmatch(name, pattern) for pattern in glob.exclude)
    ]
    if not matches:
        hint = f"its choices: {', '.join(names)}" if names else "a pattern is for the choices of a config group"
        raise ConfigError(f"{override.input_line} matches no choice", hint=hint)
    return matches


def _parse_values(key: str, override: Override) -> list[Any] | Range:
    value = override.value()
    _count_values(key, override)
    if isinstance(value, IntervalSweep):
        return Range(float(value.start or 0.0), float(value.end or 0.0), log="log" in value.tags)
    values = [canonical(override._convert_value(item)) for item in override.sweep_iterator()]  # noqa: SLF001 - unquotes
    if isinstance(value, RangeSweep):  # float rounding can reach the excluded end
        values = [item for item in values if abs(item - (value.stop or 0)) > abs(value.step) * 1e-6]
    if not values:
        raise ConfigError(f"{override.input_line} holds no value", hint=f"{key}=1,2 gives it some")
    return values


def check_size(total: int, limit: int, what: str) -> None:
    """Refuse a sweep of more than ``limit`` points, or of more than any sweep has.

    Raises:
        ConfigError: ``what`` is its message.
    """
    if total > MOST_POINTS:
        raise ConfigError(what, hint=f"a sweep has at most {MOST_POINTS:,}")
    if total > limit:
        raise ConfigError(what, hint="sweep.yes=true trains them; sweep.dry_run=true counts them")


def no_values(key: str) -> ConfigError:
    """Return the error for an axis without values."""
    return ConfigError(f"{key} has no values", hint=f"{key}=1,2 gives it some")
