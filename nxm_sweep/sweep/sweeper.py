"""Hydra's side of a sweep: from a command line to cells, and from a cell's point to a job of one of Hydra's launchers."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from nxm_sweep.config import load_settings
from nxm_sweep.errors import ConfigError
from nxm_sweep.settings import SweepSettings, TrialSettings
from nxm_sweep.sweep.cell import Axes, Cell, Range, canonical, count, live_axes
from nxm_sweep.sweep.digests import DigestMemo

_MANY_POINTS = 10_000
_SPAN_CELLS = ("task", "model", "data", "sparsity")
"""A sweep over a key of these spans cells, as one over a config group does."""


class CellSweeper(Sweeper):
    """Plans the points of ``-m`` and runs them."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=train_job, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run the sweep of a command line.

        Raises:
            ConfigError: Bad input; nothing has been trained.
            SweepIncomplete: Points have no record.
        """
        from nxm_sweep.sweep.run import run_sweep  # noqa: PLC0415 - Optuna and the pool, for sweeps alone

        cells, settings = plan_cells(arguments, self._compose, self.hydra_context)
        launch = None if isinstance(self.launcher, LocalPool) else self._launch
        run_sweep(cells, settings, arguments, launch)

    def _compose(self, overrides: Sequence[str]) -> DictConfig:
        return self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))

    def _launch(self, batch: Sequence[Sequence[str]]) -> list[Any]:
        if self.launcher is None:
            raise ConfigError("the sweep has no launcher")
        returns = self.launcher.launch([list(overrides) for overrides in batch], initial_job_idx=0)
        return [job.return_value for job in returns]


class LocalPool(Launcher):
    """Stands for the project's own worker processes; the sweeper hands its points to them one by one."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Need nothing of Hydra."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        raise ConfigError(
            "hydra/launcher=pool needs hydra/sweeper=nxm_sweep", hint="hydra/launcher=basic goes with any"
        )


def train_job(config: DictConfig) -> dict[str, Any] | None:
    """Train one point as a job of one of Hydra's launchers; its record is the result, whatever becomes of the launcher.

    Raises:
        ConfigError: The job does not come from our sweeper.
    """
    from nxm_sweep.sweep.worker import train  # noqa: PLC0415

    settings = load_settings(_without_hydra(config))
    if settings.sweep.point is None or settings.sweep.cwd is None:
        raise ConfigError("sweep.point and sweep.cwd must be given", hint="hydra/sweeper=nxm_sweep gives them")
    os.chdir(settings.sweep.cwd)
    return train(settings, settings.sweep.point)


@dataclass
class CommandLine:
    """A sweep's command line, taken apart.

    Attributes:
        fixed: What all points share.
        spans: Per config group or key, its alternatives; they span cells.
        axes: Per key, the values to combine within each cell.
    """

    fixed: list[str] = field(default_factory=list)
    spans: dict[str, list[str]] = field(default_factory=dict)
    axes: dict[str, list[Any] | Range] = field(default_factory=dict)
    single: set[str] = field(default_factory=set)


def plan_cells(arguments: Sequence[str], compose: Any, hydra_context: HydraContext) -> tuple[list[Cell], TrialSettings]:
    """Return a command line's cells, each composed on its own, and the settings that the whole sweep shares.

    Raises:
        ConfigError: Bad input.
    """
    line = read_command_line(arguments, hydra_context)
    shared = load_settings(_without_hydra(compose(line.fixed)))
    spans = {**{key: [str(word) for word in words] for key, words in shared.sweep.cells.items()}, **line.spans}
    for key in [key for key in spans if key in line.single]:
        del spans[key]
    memo = DigestMemo(Path(shared.output_dir) / "sweeps" / ".digests" / "memo.json")
    cells = []
    for chosen in itertools.product(*([f"{key}={word}" for word in words] for key, words in spans.items())):
        cells.append(_cell([*line.fixed, *chosen], line, compose, memo, shared.sweep))
    total = sum(count(cell.axes) for cell in cells)
    if total > _MANY_POINTS and shared.sweep.sampler == "grid" and not (shared.sweep.yes or shared.sweep.dry_run):
        raise ConfigError(
            f"the grid has {total:,} combinations", hint="sweep.yes=true trains them; sweep.dry_run=true counts them"
        )
    return cells, shared


def read_command_line(arguments: Sequence[str], hydra_context: HydraContext) -> CommandLine:
    """Take a command line apart; ``choice``, ``range`` and the like mean what they mean to Hydra."""
    loader = hydra_context.config_loader
    line = CommandLine()
    for override in OverridesParser.create(config_loader=loader).parse_overrides(list(arguments)):
        key = override.get_key_element().lstrip("+~")
        if not override.is_sweep_override():
            line.fixed.append(override.input_line or "")
            line.single.add(key)
        elif loader.get_group_options(key) or key.split(".")[0] in _SPAN_CELLS:
            line.spans[key] = list(override.sweep_string_iterator())
        else:
            line.axes[key] = _values(override)
    return line


def _values(override: Override) -> list[Any] | Range:
    value = override.value()
    if isinstance(value, IntervalSweep):
        return Range(value.start or 0.0, value.end or 0.0, log="log" in value.tags)
    values = [override._convert_value(item) for item in override.sweep_iterator()]  # noqa: SLF001 - unquotes
    if isinstance(value, RangeSweep) and not value.shuffle:  # adding steps up in floats can reach the excluded end
        values = [item for item in values if canonical(float(item)) != canonical(float(value.stop or 0.0))]
    return [canonical(item) for item in values]


def _cell(overrides: list[str], line: CommandLine, compose: Any, memo: DigestMemo, sweep: SweepSettings) -> Cell:
    from nxm_sweep.sweep.search import check_search  # noqa: PLC0415 - Optuna, for sweeps alone

    config = _without_hydra(compose(overrides))
    settings = load_settings(config)
    given: dict[str, Any] = {"learning_rate.value": settings.learning_rate.grid, "rho.value": settings.rho.grid}
    given |= settings.sweep.axes
    for key in ("learning_rate.value", "rho.value", "training.batch_size", "seed"):  # every study has these parameters
        if key in line.single or not given.get(key):
            given[key] = [OmegaConf.select(config, key)]
    given = {key: [OmegaConf.select(config, key)] if key in line.single else values for key, values in given.items()}
    given |= line.axes
    _refuse_interpolated(config, given)
    axes = live_axes(settings, {key: _typed(config, key, values) for key, values in given.items()})
    check_search(sweep, axes)
    return Cell(
        settings=settings,
        axes=axes,
        digests=memo.of(settings),
        overrides=tuple(overrides),
        exclude=tuple(settings.sweep.exclude),
        tie=tuple(map(tuple, settings.sweep.tie)),
        search="" if sweep.sampler == "grid" else sweep.sampler,
    )


def _typed(config: DictConfig, key: str, values: Any) -> tuple[Any, ...] | Range:
    """Return an axis' values as its key's type has them, each once.

    Raises:
        ConfigError: An axis without values.
    """
    if isinstance(values, Range):
        return values
    listed = list(values) if isinstance(values, list | tuple | ListConfig) else [values]
    if not listed:
        raise ConfigError(f"{key} has no values", hint=f"{key}=1,2 gives it some")
    scratch = OmegaConf.create(config)
    typed: list[Any] = []
    for value in listed:
        OmegaConf.update(scratch, key, value)
        typed.append(canonical(OmegaConf.select(scratch, key)))
    return tuple(dict.fromkeys(typed))


def _refuse_interpolated(config: DictConfig, keys: Iterable[str]) -> None:
    """Refuse an axis that another setting is computed from: its points are laid out without composing each anew."""
    text = OmegaConf.to_yaml(config, resolve=False)
    for key in keys:
        if re.search(r"\$\{" + re.escape(key) + r"\}", text):
            raise ConfigError(
                f"{key} is an axis, but another setting is interpolated from it",
                hint="give that setting values too and couple them with sweep.tie",
            )


def _without_hydra(config: DictConfig) -> DictConfig:
    if "hydra" not in config:
        return config
    bare = config.copy()
    with open_dict(bare):
        del bare["hydra"]
    return bare
