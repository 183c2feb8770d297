"""From a composed config to a cell: its axes with their values, and its rules, checked."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from nxm_sweep.config import load_settings, unknown_setting
from nxm_sweep.errors import ConfigError
from nxm_sweep.precision import PRECISION, resolve_precision
from nxm_sweep.settings import TrialSettings
from nxm_sweep.sweep.axes import Range, canonical, listed
from nxm_sweep.sweep.cell import Cell, live_axes
from nxm_sweep.sweep.keys import can_be_axis, exists

_NAMES = ("task", "method", "sparsity", "model")
"""What a rule can name beside settings."""
_AXES_HINT = (
    "axes are numbers and words of learning_rate, rho, training and method, and seed; sweep.cells takes choices"
)


@dataclass
class CommandLine:
    """A sweep's command line, taken apart.

    Attributes:
        fixed: What all points share.
        spans: Per config group or key, its alternatives; they span cells.
        axes: Per key, the values to combine within each cell.
        single: The keys that have one value for all points.
    """

    fixed: list[str] = field(default_factory=list)
    spans: dict[str, list[str]] = field(default_factory=dict)
    axes: dict[str, list[Any] | Range] = field(default_factory=dict)
    single: set[str] = field(default_factory=set)


def make_cell(overrides: Sequence[str], line: CommandLine, config: DictConfig) -> Cell:
    """Return the cell that a command line composes to; its data and model are not read yet.

    Args:
        overrides: The command line of the cell, without the axes.
        line: The whole command line.
        config: What ``overrides`` compose to.

    Raises:
        ConfigError: Bad input.
    """
    from nxm_sweep.sweep.search import check_search  # noqa: PLC0415 - Optuna, for sweeps alone

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
    axes = live_axes(settings, {key: _typed(config, settings, key, values) for key, values in given.items()})
    check_search(sweep, axes)
    _check_ties(settings)
    return Cell(
        settings=settings,
        axes=axes,
        overrides=tuple(overrides),
        exclude=tuple(_rule(config, settings, rule) for rule in sweep.exclude),
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


def _rule(config: DictConfig, settings: TrialSettings, rule: Mapping[str, Any]) -> dict[str, Any]:
    """Return a rule of ``sweep.exclude`` with its values as their keys' types have them.

    Raises:
        ConfigError: It is empty, or names what no point has.
    """
    if not rule:
        raise ConfigError("a rule of sweep.exclude is empty", hint="[{method: asp, learning_rate.value: [7e-5, 9e-5]}]")
    for key in rule:
        if key not in _NAMES:
            _check_axis(settings, key)
    return {
        key: listed(wanted) if key in _NAMES else _typed(config, settings, key, wanted) for key, wanted in rule.items()
    }


def _typed(config: DictConfig, settings: TrialSettings, key: str, values: Any) -> tuple[Any, ...] | Range:
    """Return an axis' values as its key's type has them, each once; ``auto`` for a precision is the one that it stands for.

    Raises:
        ConfigError: An axis without values, or a range of what is no number.
    """
    *path, leaf = key.split(".")
    scratch = copy.deepcopy(OmegaConf.select(config, ".".join(path)) if path else config)

    def typed(value: Any) -> Any:
        scratch[leaf] = int(value) if isinstance(value, float) and value.is_integer() else value
        value = canonical(scratch[leaf])
        return resolve_precision(value, settings, keep=not settings.sweep.dry_run) if key == PRECISION else value

    if isinstance(values, Range):
        low, high = typed(values.low), typed(values.high)
        if isinstance(low, str | bool) or not low < high or (values.log and low <= 0):
            raise ConfigError(
                f"{key} cannot be searched between {values.low:g} and {values.high:g}",
                hint="interval(a, b) needs numbers with a below b, and tag(log, ...) an a above 0",
            )
        return Range(low, high, values.log)
    found = tuple(dict.fromkeys(map(typed, list(values) if isinstance(values, ListConfig) else listed(values))))
    if not found:
        raise ConfigError(f"{key} has no values", hint=f"{key}=1,2 gives it some")
    return found


def _refuse_interpolated(config: DictConfig, keys: Iterable[str]) -> None:
    """Refuse an axis that another setting is computed from: its points are laid out without composing each anew."""
    text = OmegaConf.to_yaml(config, resolve=False)
    for key in keys:
        if re.search(r"\$\{" + re.escape(key) + r"\}", text):
            raise ConfigError(
                f"{key} is an axis, but another setting is interpolated from it",
                hint="give that setting values too and couple them with sweep.tie",
            )
