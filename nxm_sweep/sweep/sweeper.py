"""Hydra's side of a sweep: from a command line to cells, and from a cell's point to a job of one of Hydra's launchers."""

from __future__ import annotations

import fnmatch
import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from nxm_sweep.config import choices, load_settings
from nxm_sweep.errors import ConfigError
from nxm_sweep.settings import SweepSettings, TrialSettings
from nxm_sweep.sweep.attempts import classify
from nxm_sweep.sweep.axes import Range, canonical, count
from nxm_sweep.sweep.cell import Cell
from nxm_sweep.sweep.digests import DigestMemo
from nxm_sweep.sweep.drafting import CommandLine, make_cell
from nxm_sweep.sweep.keys import word
from nxm_sweep.training.device import check_device, launched

_MANY_POINTS = 10_000
_SPAN_CELLS = ("task", "model", "data", "sparsity", "training.devices")
"""A sweep over one of these, or over a key of theirs, spans cells, as one over a config group does."""


class CellSweeper(Sweeper):
    """Plans the points of ``-m`` and runs them."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._loader, self._config, self._context = hydra_context.config_loader, config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=train_job, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run the sweep of a command line.

        Raises:
            ConfigError: Bad input; nothing has been trained.
            SweepIncompleteError: Points have no record.
        """
        from nxm_sweep.sweep.run import run_sweep  # noqa: PLC0415 - Optuna and the pool, for sweeps alone

        if launched() > 1:
            raise ConfigError(
                "a sweep starts its own processes",
                hint="python -m nxm_sweep -m ... training.devices=2, without torchrun",
            )
        cells, settings = plan_cells(arguments, self._compose, self._context)
        if settings.force:
            raise ConfigError(
                "force=true is for single trials: a sweep trains what has no record",
                hint="to train points again, remove their folders under trials/",
            )
        launch = None if isinstance(self.launcher, LocalPool) else self._launch
        if launch is None:  # the jobs of other launchers run elsewhere, with other devices
            for cell in cells:
                check_device(cell.settings)
        if launch is not None and settings.sweep.time_limit is not None:
            raise ConfigError(
                "sweep.time_limit holds for hydra/launcher=pool alone",
                hint="a cluster has its own: hydra.launcher.timeout_min for submitit_slurm",
            )
        run_sweep(cells, settings, arguments, launch)

    def _compose(self, overrides: Sequence[str]) -> DictConfig:
        return self._loader.load_sweep_config(self._config, list(overrides))

    def _launch(self, batch: Sequence[Sequence[str]]) -> list[dict[str, Any] | None]:
        if self.launcher is None:
            raise ConfigError("the sweep has no launcher")
        folder = f"hydra.sweep.dir={word(str(Path(self._config.hydra.sweep.dir).resolve()))}"  # made where a job starts
        returns = self.launcher.launch([[*overrides, folder] for overrides in batch], initial_job_idx=0)
        return list(map(_answer, returns))


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
    from nxm_sweep.sweep.job import run_job  # noqa: PLC0415

    settings = load_settings(_without_hydra(config), of_sweep=True)
    if settings.sweep.point is None or settings.sweep.cwd is None:
        raise ConfigError("sweep.point and sweep.cwd must be given", hint="hydra/sweeper=nxm_sweep gives them")
    os.chdir(settings.sweep.cwd)
    return run_job(settings, settings.sweep.point)


def _answer(job: JobReturn) -> dict[str, Any] | None:
    """What a job returned; a failure's fields if it raised, which it does where it cannot even begin."""
    try:
        answer: dict[str, Any] | None = job.return_value
    except Exception as error:  # noqa: BLE001 - whatever one job raises ends that job alone
        return asdict(classify(error))
    return answer


def plan_cells(arguments: Sequence[str], compose: Any, hydra_context: HydraContext) -> tuple[list[Cell], TrialSettings]:
    """Return a command line's cells, each composed on its own, and the settings that the whole sweep shares.

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
    memo = DigestMemo(Path(shared.output_dir) / "sweeps" / ".digests" / "memo.json")
    return [replace(cell, digests=memo.of(cell.settings)) for cell in cells], shared


def _compose_cell(overrides: list[str], line: CommandLine, compose: Any) -> Cell:
    return make_cell(overrides, line, _without_hydra(compose(overrides)))


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


def _without_hydra(config: DictConfig) -> DictConfig:
    if "hydra" not in config:
        return config
    bare = config.copy()
    with open_dict(bare):
        del bare["hydra"]
    return bare
