"""From a sweep's command line to separately composed cells."""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.types import HydraContext
from omegaconf import DictConfig, ListConfig, OmegaConf

from nxm_sweep.config.checks import check_value
from nxm_sweep.config.compose import load_settings, without_hydra
from nxm_sweep.config.explain import unknown_setting
from nxm_sweep.config.precision import resolve_precision
from nxm_sweep.console import track
from nxm_sweep.errors import ConfigError
from nxm_sweep.settings import EPOCHS, PRECISION, SweepSettings, TrialSettings
from nxm_sweep.store.paths import digest_memo
from nxm_sweep.sweep.planning.axes import Axes, Range, can_be_axis, canonical, command_line_word, count, exists, listed
from nxm_sweep.sweep.planning.cell import Cell, live_axes
from nxm_sweep.sweep.planning.overrides import (
    MANY_POINTS,
    MOST_POINTS,
    SPAN_CELLS,
    CommandLine,
    check_size,
    no_values,
    read_command_line,
    refuse_doubles,
    spans_cells,
)
from nxm_sweep.trial.digests import DigestMemo, Digests

_MANY_CELLS = 50
"""Cells whose composition takes so long that progress is shown."""
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
    sweep = compose(line.fixed).sweep
    spans = {**_parse_spans(sweep.cells, hydra_context), **line.spans}
    for key in [key for key in spans if key in line.single]:
        del spans[key]
    limit = MOST_POINTS if sweep.yes or sweep.dry_run else MANY_POINTS
    for key, values in line.axes.items():
        if not isinstance(values, Range):
            check_size(len(values), limit, f"{key} has {len(values):,} values")
    count_cells = math.prod(map(len, spans.values()))
    check_size(count_cells, limit, f"the command line spans {count_cells:,} cells")
    chosen = itertools.product(*([f"{key}={value}" for value in values] for key, values in spans.items()))
    cells = [
        _compose_cell([*line.fixed, *choices], line, compose)
        for choices in track(chosen, count_cells, "cells composed", many=_MANY_CELLS)
    ]
    if "sparsity.scan" in {*line.single, *line.spans} and not any(cell.settings.sparsity.scan for cell in cells):
        raise ConfigError("no cell reads sparsity.scan", hint="sparsity=mixed does")
    shared = cells[0].settings
    if shared.sweep.probe and not shared.sweep.dry_run:
        raise ConfigError("sweep.probe=true belongs to a dry run", hint="add sweep.dry_run=true")
    if shared.sweep.sampler == "grid":
        total = sum(count(cell.axes, cell.tie) for cell in cells)
        check_size(total, limit, f"the grid has {total:,} combinations")
    else:
        total = sum(_count_drawn(cell, shared.sweep.n_trials or 0) for cell in cells)
        check_size(total, limit, f"the search trains up to {total:,} points")
    file = digest_memo(Path(shared.output_dir))
    memo = DigestMemo(file, None if shared.sweep.dry_run else find)
    return [replace(cell, digests=memo.of(cell.settings)) for cell in cells], shared


def _compose_cell(overrides: list[str], line: CommandLine, compose: Any) -> Cell:
    return make_cell(overrides, line, without_hydra(compose(overrides)))


def _parse_spans(configured: Mapping[str, Any], hydra_context: HydraContext) -> dict[str, list[str]]:
    """Return the spans of ``sweep.cells`` in command-line syntax."""
    for key, names in configured.items():
        if not spans_cells(key, hydra_context):
            raise ConfigError(
                f"sweep.cells holds {key}, which is neither a config group nor a key of {', '.join(SPAN_CELLS)}",
                hint=f"sweep.axes={{{key}: [...]}} combines its values",
            )
        if not names:
            raise ConfigError(f"sweep.cells holds no choice for {key}")
    is_group = hydra_context.config_loader.get_group_options
    return {
        key: [name if is_group(key) else command_line_word(name) for name in names] for key, names in configured.items()
    }


def _count_drawn(cell: Cell, n_trials: int) -> int:
    """Return the largest number of trainings that a search has in a cell."""
    lists = [values for key, values in cell.axes.items() if key in cell.drawn_keys and isinstance(values, tuple)]
    has_range = len(lists) < len(cell.drawn_keys)
    return min(n_trials, n_trials if has_range else math.prod(map(len, lists))) * max(1, len(cell.seeds))


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
    for key, values in sweep.axes.items():
        if values is None or values == []:
            raise no_values(key)
    given |= sweep.axes
    for key in ("learning_rate.value", "rho.value", "training.batch_size", "seed"):  # every study has these parameters
        given[key] = given.get(key) or [OmegaConf.select(config, key)]
    given |= {key: [OmegaConf.select(config, key)] for key in given if key in line.single}
    given |= line.axes
    for key in given:
        _check_axis(settings, key)
    _refuse_interpolated(config, given)
    axes = {key: _convert_values(config, settings, key, values) for key, values in given.items()}
    for key, values in axes.items():
        for value in () if isinstance(values, Range) else values:
            check_value(key, value)  # also where this cell's method does not read it
    axes = live_axes(settings, axes)
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
    raw = list(values) if isinstance(values, ListConfig) else listed(values)
    if not raw:
        raise no_values(key)
    converted = list(map(convert, raw))
    if key == PRECISION:  # auto may resolve to another of the values
        return tuple(dict.fromkeys(converted))
    return tuple(refuse_doubles(key, converted))


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
    epochs = axes.get(EPOCHS)
    if isinstance(epochs, Range) and epochs.low < 1:
        raise ConfigError(
            f"{EPOCHS} is searched from 0, which trains nothing", hint=f"{EPOCHS}='interval(1, {epochs.high})'"
        )
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
