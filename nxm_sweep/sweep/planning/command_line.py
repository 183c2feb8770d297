"""Parse a sweep's command line into separately composed cells."""

from __future__ import annotations

import copy
import fnmatch
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override, RangeSweep
from hydra.types import HydraContext
from omegaconf import DictConfig, ListConfig, OmegaConf

from nxm_sweep.config.compose import choices, load_settings, unknown_setting, without_hydra
from nxm_sweep.config.precision import resolve_precision
from nxm_sweep.errors import ConfigError
from nxm_sweep.settings import PRECISION, SweepSettings, TrialSettings
from nxm_sweep.store.paths import digest_memo
from nxm_sweep.sweep.planning.axes import Axes, Range, can_be_axis, canonical, command_line_word, count, exists, listed
from nxm_sweep.sweep.planning.cell import Cell, live_axes
from nxm_sweep.trial.digests import DigestMemo, Digests

_MANY_POINTS = 10_000
_SPAN_CELLS = ("task", "model", "data", "sparsity", "training.devices")
"""Keys that, like config groups, span cells when they or keys below them are swept."""
_NAMES = ("task", "method", "sparsity", "model")
"""Keys of a rule that are not settings."""
_AXES_HINT = (
    "axes are numbers and words of learning_rate, rho, training and method, and seed; sweep.cells takes choices"
)


def plan_cells(
    arguments: Sequence[str],
    compose: Any,
    hydra_context: HydraContext,
    find: Callable[[TrialSettings], Digests] | None = None,
) -> tuple[list[Cell], TrialSettings]:
    """Return a command line's cells, each composed separately, and the settings that the whole sweep shares.

    Args:
        arguments: The command line.
        compose: Composes a config from overrides.
        hydra_context: Hydra's context.
        find: Finds digests, except in a dry run; None: in this process.

    Raises:
        ConfigError: Bad input.
        DataError: A data set is missing or not what its task expects.
        ModelError: A model is missing.
    """
    line = read_command_line(arguments, hydra_context)
    spans = {**_parse_spans(compose(line.fixed).sweep.cells, hydra_context), **line.spans}
    for key in [key for key in spans if key in line.single]:
        del spans[key]
    cells = [
        _compose_cell([*line.fixed, *chosen], line, compose)
        for chosen in itertools.product(*([f"{key}={value}" for value in values] for key, values in spans.items()))
    ]
    if "sparsity.scan" in {*line.single, *line.spans} and not any(cell.settings.sparsity.scan for cell in cells):
        raise ConfigError("no cell reads sparsity.scan", hint="sparsity=mixed does")
    shared = cells[0].settings
    if shared.sweep.probe and not shared.sweep.dry_run:
        raise ConfigError("sweep.probe=true belongs to a dry run", hint="add sweep.dry_run=true")
    if shared.sweep.sampler == "grid":
        _check_grid_size(sum(count(cell.axes, cell.tie) for cell in cells), shared.sweep)
    file = digest_memo(Path(shared.output_dir))
    memo = DigestMemo(file, None if shared.sweep.dry_run else find)
    return [replace(cell, digests=memo.of(cell.settings)) for cell in cells], shared


def _compose_cell(overrides: list[str], line: CommandLine, compose: Any) -> Cell:
    return make_cell(overrides, line, without_hydra(compose(overrides)))


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
            line.fixed.append(override.input_line or "")
            line.single.add(key)
        elif isinstance(override.value(), Glob):
            line.spans[key] = _match_choices(override, sorted({*loader.get_group_options(key), *choices(key)}))
        elif _spans_cells(key, hydra_context):
            line.spans[key] = list(override.sweep_string_iterator())
        else:
            line.axes[key] = _parse_values(key, override)
    return line


def _spans_cells(key: str, hydra_context: HydraContext) -> bool:
    spans = {key, key.split(".", maxsplit=1)[0]} & set(_SPAN_CELLS)
    return bool(spans or hydra_context.config_loader.get_group_options(key))


def _parse_spans(configured: Mapping[str, Any], hydra_context: HydraContext) -> dict[str, list[str]]:
    """Return the spans of ``sweep.cells`` in command-line syntax."""
    for key, names in configured.items():
        if not _spans_cells(key, hydra_context):
            raise ConfigError(
                f"sweep.cells holds {key}, which is neither a config group nor a key of {', '.join(_SPAN_CELLS)}",
                hint=f"sweep.axes={{{key}: [...]}} combines its values",
            )
        if not names:
            raise ConfigError(f"sweep.cells holds no choice for {key}")
    is_group = hydra_context.config_loader.get_group_options
    return {
        key: [name if is_group(key) else command_line_word(name) for name in names] for key, names in configured.items()
    }


def _check_grid_size(total: int, sweep: SweepSettings) -> None:
    if total > _MANY_POINTS and not (sweep.yes or sweep.dry_run):
        raise ConfigError(
            f"the grid has {total:,} combinations", hint="sweep.yes=true trains them; sweep.dry_run=true counts them"
        )


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
    if isinstance(value, IntervalSweep):
        return Range(float(value.start or 0.0), float(value.end or 0.0), log="log" in value.tags)
    values = [canonical(override._convert_value(item)) for item in override.sweep_iterator()]  # noqa: SLF001 - unquotes
    if isinstance(value, RangeSweep):  # float rounding can reach the excluded end
        values = [item for item in values if abs(item - (value.stop or 0)) > abs(value.step) * 1e-6]
    if not values:
        raise ConfigError(f"{override.input_line} holds no value", hint=f"{key}=1,2 gives it some")
    return values


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


def make_cell(overrides: Sequence[str], line: CommandLine, config: DictConfig) -> Cell:
    """Return the cell of a command line without reading its data and model.

    Args:
        overrides: The command line of the cell, without the axes.
        line: The whole command line.
        config: The config composed from ``overrides``.

    Raises:
        ConfigError: Bad input.
    """
    settings = load_settings(config, of_sweep=True)
    sweep = settings.sweep
    given: dict[str, Any] = {"learning_rate.value": settings.learning_rate.grid, "rho.value": settings.rho.grid}
    given |= sweep.axes
    for key in ("learning_rate.value", "rho.value", "training.batch_size", "seed"):  # every study has these parameters
        given[key] = given.get(key) or [OmegaConf.select(config, key)]
    given |= {key: [OmegaConf.select(config, key)] for key in given if key in line.single}
    given |= line.axes
    for key in given:
        _check_axis(settings, key)
    _refuse_interpolated(config, given)
    axes = live_axes(settings, {key: _convert_values(config, settings, key, values) for key, values in given.items()})
    check_search(sweep, axes)
    _check_ties(settings)
    return Cell(
        settings=settings,
        axes=axes,
        overrides=tuple(overrides),
        exclude=tuple(_parse_rule(config, settings, rule) for rule in sweep.exclude),
        tie=tuple(map(tuple, sweep.tie)),
        search="" if sweep.sampler == "grid" else sweep.sampler,
    )


def _check_axis(settings: TrialSettings, key: str) -> None:
    if not can_be_axis(settings, key):
        if not exists(settings, key):
            raise unknown_setting(key)
        raise ConfigError(f"{key} cannot be an axis: it is no number or word that changes a trial", hint=_AXES_HINT)


def _check_ties(settings: TrialSettings) -> None:
    keys = list(itertools.chain.from_iterable(settings.sweep.tie))
    for key in keys:
        _check_axis(settings, key)
        if keys.count(key) > 1:
            raise ConfigError(
                f"sweep.tie names {key} {keys.count(key)} times", hint="one list holds all that it is tied to"
            )


def _parse_rule(config: DictConfig, settings: TrialSettings, rule: Mapping[str, Any]) -> dict[str, Any]:
    """Return a rule of ``sweep.exclude`` with its values converted to their keys' types.

    Raises:
        ConfigError: The rule is empty, or names a key that no point has.
    """
    if not rule:
        raise ConfigError("a rule of sweep.exclude is empty", hint="[{method: asp, learning_rate.value: [7e-5, 9e-5]}]")
    for key in rule:
        if key not in _NAMES:
            _check_axis(settings, key)
    return {
        key: listed(wanted) if key in _NAMES else _convert_values(config, settings, key, wanted)
        for key, wanted in rule.items()
    }


def _convert_values(config: DictConfig, settings: TrialSettings, key: str, values: Any) -> tuple[Any, ...] | Range:
    """Convert an axis' values to its key's type and drop duplicates; a precision of ``auto`` is resolved.

    Raises:
        ConfigError: The axis has no values, or is not a valid range of numbers.
    """
    *path, leaf = key.split(".")
    scratch = copy.deepcopy(OmegaConf.select(config, ".".join(path)) if path else config)

    def convert(value: Any) -> Any:
        scratch[leaf] = int(value) if isinstance(value, float) and value.is_integer() else value
        value = canonical(scratch[leaf])
        return resolve_precision(value, settings, keep=not settings.sweep.dry_run) if key == PRECISION else value

    if isinstance(values, Range):
        low, high = convert(values.low), convert(values.high)
        if isinstance(low, str | bool) or not low < high or (values.log and low <= 0):
            raise ConfigError(
                f"{key} cannot be searched between {values.low:g} and {values.high:g}",
                hint="interval(a, b) needs numbers with a below b, and tag(log, ...) an a above 0",
            )
        return Range(low, high, values.log)
    converted = tuple(dict.fromkeys(map(convert, list(values) if isinstance(values, ListConfig) else listed(values))))
    if not converted:
        raise ConfigError(f"{key} has no values", hint=f"{key}=1,2 gives it some")
    return converted


def _refuse_interpolated(config: DictConfig, keys: Iterable[str]) -> None:
    """Refuse an axis that another setting is interpolated from: points are not composed one by one."""
    text = OmegaConf.to_yaml(config, resolve=False)
    for key in keys:
        if re.search(r"\$\{" + re.escape(key) + r"\}", text):
            raise ConfigError(
                f"{key} is an axis, but another setting is interpolated from it",
                hint="give that setting values too and couple them with sweep.tie",
            )


def check_search(settings: SweepSettings, axes: Axes) -> None:
    """Check that the search settings fit the sampler or grid.

    Raises:
        ConfigError: ``n_trials`` is set for a grid or missing for a search, or the sampler does not support the axes.
    """
    ranges = [key for key, values in axes.items() if isinstance(values, Range)]
    if settings.sampler == "grid":
        _check_grid(settings, ranges)
        return
    if settings.n_trials is None:
        raise ConfigError(
            f"sweep.sampler={settings.sampler} needs sweep.n_trials", hint="for instance sweep.n_trials=20"
        )
    if isinstance(axes.get("seed"), Range):
        raise ConfigError(
            "seed is a range, but a search trains each of its points with every seed", hint="list them: seed=0,1,2"
        )
    if any("seed" in rule for rule in settings.exclude) and len(listed(axes.get("seed"))) > 1:
        raise ConfigError(
            "sweep.exclude names seed, but a search trains each of its points with every seed",
            hint="leave the seed out of seed=...",
        )
    if settings.tie:
        raise ConfigError(f"sweep.tie couples the axes of a grid but sweep.sampler is {settings.sampler}")


def _check_grid(settings: SweepSettings, ranges: list[str]) -> None:
    if settings.n_trials is not None:
        raise ConfigError(
            f"sweep.n_trials is {settings.n_trials}, but a grid trains all its points",
            hint="sweep.sampler=random (tpe, qmc) searches with so many trials",
        )
    if ranges:
        raise ConfigError(
            f"{ranges[0]} is a range, which a grid cannot list",
            hint="sweep.sampler=random (tpe, qmc) with sweep.n_trials searches ranges",
        )
