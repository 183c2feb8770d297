"""Hydra plugins of a sweep: sweeper, local launcher, and the job of a Hydra launcher that trains one point.

Every command imports this module through Hydra's plugin scan, so slow imports wait until a sweep begins.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig

from nxm_sweep.config.compose import load_settings, without_hydra
from nxm_sweep.config.hydra_app import check_hydra, explained
from nxm_sweep.errors import ConfigError
from nxm_sweep.store.attempts import classify
from nxm_sweep.store.disk import explain_write_errors
from nxm_sweep.sweep.planning.axes import command_line_word

if TYPE_CHECKING:
    from nxm_sweep.settings import TrialSettings
    from nxm_sweep.sweep.run import Submit

_JOBS_HINT = "sweep.workers is the number of local workers, hydra.launcher.array_parallelism that of a launcher's jobs"


class CellSweeper(Sweeper):
    """Plan the points of ``-m`` and run them."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._loader, self._config, self._context = hydra_context.config_loader, config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=train_job, config=config
        )

    def sweep(self, arguments: list[str]) -> Path:
        """Run the sweep of a command line and return its ``output_dir``.

        Raises:
            ConfigError: Bad input; nothing has been trained.
            OutputError: The output folder cannot be written.
            SweepIncompleteError: Points have no record.
        """
        given = (argument.partition("=")[2] for argument in reversed(arguments) if argument.startswith("output_dir="))
        with explain_write_errors(Path(next(given, str(self._config.output_dir)).strip("'\""))):
            return self._sweep(arguments)

    def _sweep(self, arguments: list[str]) -> Path:
        from nxm_sweep.config.device import check_device, launched  # noqa: PLC0415
        from nxm_sweep.sweep.execution.pool import apart  # noqa: PLC0415
        from nxm_sweep.sweep.planning.command_line import plan_cells  # noqa: PLC0415 - PyTorch, for sweeps alone
        from nxm_sweep.sweep.run import run_sweep  # noqa: PLC0415 - Optuna and the pool
        from nxm_sweep.trial.digests import find_digests  # noqa: PLC0415

        if launched() > 1:
            raise ConfigError(
                "a sweep starts its own processes",
                hint="python -m nxm_sweep -m ... training.devices=2, without torchrun",
            )
        own = isinstance(self.launcher, LocalPool)
        with apart() as run_apart:
            find = functools.partial(run_apart, find_digests) if own else None
            cells, settings = plan_cells(arguments, self._compose, self._context, find)
        if settings.force:
            raise ConfigError(
                "force=true is for single trials: a sweep trains what has no record",
                hint="to train points again, remove their folders under trials/",
            )
        submit = None
        if settings.sweep.detach:
            own = True  # the pool of each job
            submit = self._make_submit(arguments, settings)
        elif settings.sweep.jobs is not None:
            raise ConfigError("sweep.jobs holds for sweep.detach=true alone", hint=_JOBS_HINT)
        if own and submit is None:  # jobs run elsewhere, on other devices
            for cell in cells:
                check_device(cell.settings)
        if not own and settings.sweep.time_limit is not None:
            raise ConfigError(
                "sweep.time_limit holds for hydra/launcher=pool alone",
                hint="a cluster has its own: hydra.launcher.timeout_min for submitit_slurm",
            )
        command = [argument for argument in arguments if not argument.startswith("sweep.cwd=")]
        run_sweep(cells, settings, command, None if own else self._launch, submit=submit)
        return Path(settings.output_dir)

    def _make_submit(self, arguments: Sequence[str], settings: TrialSettings) -> Submit | None:
        """Return what submits the jobs of a detached sweep; None in such a job, which has ``sweep.cwd``."""
        from nxm_sweep.sweep.execution.detached import Cluster, make_job, submit_missing  # noqa: PLC0415

        sweep = settings.sweep
        if sweep.cwd is not None:
            sweep.retry_failed = False  # done before the jobs were submitted
            return None
        cluster = Cluster(self.launcher, self._config.hydra.runtime.choices["hydra/launcher"])
        cluster.check(sweep)
        job = make_job(self._config, self._loader.get_search_path().get_path(), arguments)
        output_dir = Path(settings.output_dir)
        return lambda plan, count: submit_missing(cluster, job, plan, count, output_dir=output_dir, sweep=sweep)

    def _compose(self, overrides: Sequence[str]) -> DictConfig:
        def compose(some: list[str]) -> DictConfig:
            return self._loader.load_sweep_config(self._config, some)

        with explained(overrides, compose):
            config = compose(list(overrides))
            check_hydra(config, RunMode.RUN)
            return config

    def _launch(self, batch: Sequence[Sequence[str]]) -> list[dict[str, Any] | None]:
        if self.launcher is None:
            raise ConfigError("the sweep has no launcher")
        sweep_dir = str(Path(self._config.hydra.sweep.dir).resolve())  # created where a job starts
        folder = f"hydra.sweep.dir={command_line_word(sweep_dir)}"
        returns = self.launcher.launch([[*overrides, folder] for overrides in batch], initial_job_idx=0)
        return list(map(_read_return, returns))


class LocalPool(Launcher):
    """Placeholder for the project's own worker processes; the sweeper submits points to them one by one."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Ignore Hydra's context."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        raise ConfigError(
            "hydra/launcher=pool needs hydra/sweeper=nxm_sweep", hint="hydra/launcher=basic goes with any"
        )


def train_job(config: DictConfig) -> dict[str, Any] | None:
    """Train one point as a job of a Hydra launcher; its record is the result, even if the launcher fails.

    Raises:
        ConfigError: The job does not come from this sweeper.
    """
    from nxm_sweep.sweep.execution.launcher_job import run_job  # noqa: PLC0415

    settings = load_settings(without_hydra(config), of_sweep=True)
    if settings.sweep.point is None or settings.sweep.cwd is None:
        raise ConfigError("sweep.point and sweep.cwd must be given", hint="hydra/sweeper=nxm_sweep gives them")
    os.chdir(settings.sweep.cwd)
    return run_job(settings, settings.sweep.point)


def _read_return(job: JobReturn) -> dict[str, Any] | None:
    """Return a job's result, or a failure's fields if it raised, as a job does that cannot begin."""
    try:
        answer: dict[str, Any] | None = job.return_value
    except Exception as error:  # noqa: BLE001 - whatever one job raises ends that job alone
        return asdict(classify(error))
    return answer
