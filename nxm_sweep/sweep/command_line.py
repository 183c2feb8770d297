"""From a sweep's command line to its cells, each composed on its own."""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override, RangeSweep
from hydra.types import HydraContext

from nxm_sweep.config import choices
from nxm_sweep.errors import ConfigError
from nxm_sweep.settings import SweepSettings, TrialSettings
from nxm_sweep.sweep.axes import Range, canonical, count
from nxm_sweep.sweep.cell import Cell, Digests
from nxm_sweep.sweep.digests import DigestMemo
from nxm_sweep.sweep.drafting import CommandLine, make_cell
from nxm_sweep.sweep.keys import word
from nxm_sweep.sweep.sweeper import without_hydra

_MANY_POINTS = 10_000
_SPAN_CELLS = ("task", "model", "data", "sparsity", "training.devices")
"""A sweep over one of these, or over a key of theirs, spans cells, as one over a config group does."""


def plan_cells(
    arguments: Sequence[str],
    compose: Any,
    hydra_context: HydraContext,
    find: Callable[[TrialSettings], Digests] | None = None,
) -> tuple[list[Cell], TrialSettings]:
    """Return a command line's cells, each composed on its own, and the settings that the whole sweep shares.

    Args:
        arguments: The command line.
        compose: Composes a config from overrides.
        hydra_context: Hydra's.
        find: Finds digests for a sweep that is no dry run; None: in this process.

    Raises:
        ConfigError: Bad input.
        DataError: A data set is missing or not what its task expects.
        ModelError: A model is missing.
    """
    line = read_command_line(arguments, hydra_context)
    spans = {**_configured_spans(compose(line.fixed).sweep.cells, hydra_context), **line.spans}
    for key in [key for key in spans if key in line.single]:
        del spans[key]
    cells = [
        _compose_cell([*line.fixed, *chosen], line, compose)
        for chosen in itertools.product(*([f"{key}={word}" for word in words] for key, words in spans.items()))
    ]
    if "sparsity.scan" in {*line.single, *line.spans} and not any(cell.settings.sparsity.scan for cell in cells):
        raise ConfigError("no cell reads sparsity.scan", hint="sparsity=mixed does")
    shared = cells[0].settings
    if shared.sweep.probe and not shared.sweep.dry_run:
        raise ConfigError("sweep.probe=true belongs to a dry run", hint="add sweep.dry_run=true")
    if shared.sweep.sampler == "grid":
        _ask_before_many(sum(count(cell.axes, cell.tie) for cell in cells), shared.sweep)
    file = Path(shared.output_dir) / "sweeps" / ".digests" / "memo.json"
    memo = DigestMemo(file, None if shared.sweep.dry_run else find)
    return [replace(cell, digests=memo.of(cell.settings)) for cell in cells], shared


def _compose_cell(overrides: list[str], line: CommandLine, compose: Any) -> Cell:
    return make_cell(overrides, line, without_hydra(compose(overrides)))


def read_command_line(arguments: Sequence[str], hydra_context: HydraContext) -> CommandLine:
    """Take a command line apart; ``choice``, ``range`` and the like mean what they mean to Hydra.

    Raises:
        ConfigError: A range that is empty, or a pattern that matches no choice.
    """
    loader = hydra_context.config_loader
    line = CommandLine()
    for override in OverridesParser.create(config_loader=loader).parse_overrides(list(arguments)):
        key = override.get_key_element().lstrip("+~")
        if not override.is_sweep_override():
            line.fixed.append(override.input_line or "")
            line.single.add(key)
        elif isinstance(override.value(), Glob):
            line.spans[key] = _matching(override, sorted({*loader.get_group_options(key), *choices(key)}))
        elif _spans_cells(key, hydra_context):
            line.spans[key] = list(override.sweep_string_iterator())
        else:
            line.axes[key] = _values(key, override)
    return line


def _spans_cells(key: str, hydra_context: HydraContext) -> bool:
    spans = {key, key.split(".", maxsplit=1)[0]} & set(_SPAN_CELLS)
    return bool(spans or hydra_context.config_loader.get_group_options(key))


def _configured_spans(configured: Mapping[str, Any], hydra_context: HydraContext) -> dict[str, list[str]]:
    """The cells that ``sweep.cells`` spans, as the command line would."""
    for key, words in configured.items():
        if not _spans_cells(key, hydra_context):
            raise ConfigError(
                f"sweep.cells holds {key}, which is neither a config group nor a key of {', '.join(_SPAN_CELLS)}",
                hint=f"sweep.axes={{{key}: [...]}} combines its values",
            )
        if not words:
            raise ConfigError(f"sweep.cells holds no choice for {key}")
    is_group = hydra_context.config_loader.get_group_options
    return {key: [name if is_group(key) else word(name) for name in names] for key, names in configured.items()}


def _ask_before_many(total: int, sweep: SweepSettings) -> None:
    if total > _MANY_POINTS and not (sweep.yes or sweep.dry_run):
        raise ConfigError(
            f"the grid has {total:,} combinations", hint="sweep.yes=true trains them; sweep.dry_run=true counts them"
        )


def _matching(override: Override, names: Sequence[str]) -> list[str]:
    """Those of a group's choices that a ``glob`` matches; as in Hydra, ``*`` stays in its folder."""
    glob: Any = override.value()
    found = [
        name
        for name in names
        if any(pattern.count("/") == name.count("/") and fnmatch.fnmatch(name, pattern) for pattern in glob.include)
        and not any(fnmatch.fnmatch(name, pattern) for pattern in glob.exclude)
    ]
    if not found:
        hint = f"its choices: {', '.join(names)}" if names else "a pattern is for the choices of a config group"
        raise ConfigError(f"{override.input_line} matches no choice", hint=hint)
    return found


def _values(key: str, override: Override) -> list[Any] | Range:
    value = override.value()
    if isinstance(value, IntervalSweep):
        return Range(float(value.start or 0.0), float(value.end or 0.0), log="log" in value.tags)
    values = [canonical(override._convert_value(item)) for item in override.sweep_iterator()]  # noqa: SLF001 - unquotes
    if isinstance(value, RangeSweep):  # adding steps up in floats can reach the excluded end
        values = [item for item in values if abs(item - (value.stop or 0)) > abs(value.step) * 1e-6]
    if not values:
        raise ConfigError(f"{override.input_line} holds no value", hint=f"{key}=1,2 gives it some")
    return values
