"""Detached sweeps: jobs of submitit that share the points of a plan, so that no coordinator has to outlive them.

Each job is a coordinator with the local pool of its machine: it composes the submitted command again, claims points, and
ends when nothing is left that it can begin. A preempted job, or one at its time limit, saves checkpoints, releases its
claims, and is put back into the queue by submitit.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from nxm_sweep.config.compose import make_hydra
from nxm_sweep.console import print_error
from nxm_sweep.errors import ConfigError, LauncherError, NxmSweepError, SweepIncompleteError, first_line
from nxm_sweep.settings import SweepSettings
from nxm_sweep.store.stop_signals import received
from nxm_sweep.sweep.execution.claims import count_jobs
from nxm_sweep.sweep.planning.axes import command_line_word

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

_SLURM = "slurm"
_LARGEST_ARRAY = 1000
"""SLURM's default limit of a job array."""


@dataclass(frozen=True)
class DetachedJob:
    """What a job runs: the submitted command, as texts that submitit stores.

    Attributes:
        config_path: Folder of the primary config, as a URL.
        config_dir: Folder of ``--config-dir``, or None.
        config_name: Name of the primary config.
        overrides: The command line.
        cwd: Working directory of the command.
    """

    config_path: str
    config_dir: str | None
    config_name: str
    overrides: tuple[str, ...]
    cwd: str

    def __call__(self) -> None:
        """Share the sweep; if submitit's signal has ended this, let it put the job back into the queue."""
        import submitit  # noqa: PLC0415 - an extra

        os.chdir(self.cwd)
        number = submitit.JobEnvironment._usr_sig()  # noqa: SLF001 - the signal before a time limit, or on preemption
        with _save_before_requeue(number):
            code = self._run()
        if code:
            sys.exit(code)

    def checkpoint(self) -> DelayedSubmission:
        """Return what submitit runs when the job begins again."""
        from submitit.helpers import DelayedSubmission  # noqa: PLC0415 - an extra

        return DelayedSubmission(self)

    def _run(self) -> int:
        """Run the command; return the exit code."""
        try:
            hydra = make_hydra(self.config_path, self.config_dir)
            hydra.multirun(self.config_name, lambda _: None, list(self.overrides), with_log_configuration=False)
        except SweepIncompleteError:  # already printed by the sweep
            return 1 if (stopped := received()) is None else 128 + stopped
        except NxmSweepError as error:
            print_error(error)
            return 2
        return 0


@contextmanager
def _save_before_requeue(number: int) -> Iterator[None]:
    """Turn submitit's signal into SIGTERM, after which the sweep saves and ends; then call submitit's handler.

    Before the sweep handles SIGTERM there is nothing to save.
    """
    requeue, foreign = signal.getsignal(number), signal.getsignal(signal.SIGTERM)
    asked = False

    def save(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if signal.getsignal(signal.SIGTERM) is foreign and callable(requeue):
            requeue(number, frame)
        asked = True
        if received() is None:
            os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(number, save)
    try:
        yield
    finally:
        signal.signal(number, requeue)
        if asked and callable(requeue):
            requeue(number, None)


class Cluster:
    """Submit jobs with the settings of a Hydra launcher for submitit.

    Args:
        launcher: The launcher.
        choice: Its name on the command line.

    Raises:
        ConfigError: It is another launcher.
    """

    def __init__(self, launcher: Any, choice: str) -> None:
        self.name = getattr(launcher, "_EXECUTOR", "")
        if self.name not in {_SLURM, "local"}:
            raise ConfigError(
                f"sweep.detach=true needs hydra/launcher=submitit_slurm or submitit_local but got {choice}",
                hint="without it, the command itself waits for the trials",
            )
        self._parameters: Mapping[str, Any] = launcher.params

    def check(self, sweep: SweepSettings) -> None:
        """Refuse a storage that jobs on several machines cannot share.

        Raises:
            ConfigError: The storage and the way out.
        """
        if self.name == _SLURM and sweep.storage == "sqlite":
            raise ConfigError(
                "sweep.storage=sqlite is for one machine, and the jobs of a detached sweep run on several",
                hint="sweep.storage=journal keeps the studies in a file of output_dir, postgresql on a server",
            )

    def limit(self, sweep: SweepSettings) -> int:
        """Return the number of jobs that may exist at once."""
        return min(_LARGEST_ARRAY, sweep.jobs or int(self._parameters.get("array_parallelism", 1)))

    def job_name(self, plan: str) -> str:
        """Return the name of the jobs that share a plan."""
        return f"{self._parameters['name']}-{plan}"

    def count_queued(self, name: str) -> int:
        """Return the number of this user's jobs of a name that are queued or running; 0 where that is not known."""
        if self.name != _SLURM:
            return 0
        command = ["squeue", "--me", "--noheader", "--array", "--format=%j"]
        try:
            asked = subprocess.run(  # noqa: S603 - a list, no shell
                command, capture_output=True, text=True, check=True, timeout=60
            )
        except (OSError, subprocess.SubprocessError):
            return 0
        return Counter(line.strip() for line in asked.stdout.splitlines())[name]

    def submit(self, job: DetachedJob, count: int, name: str) -> list[str]:
        """Submit a job ``count`` times, as an array on SLURM; return the identifiers of the jobs.

        Raises:
            LauncherError: It cannot be submitted.
        """
        from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf  # noqa: PLC0415 - an extra
        from submitit import AutoExecutor  # noqa: PLC0415 - an extra

        given = {**self._parameters, "name": name}
        folder = Path(given.pop("submitit_folder")).absolute()
        limits = {f"{self.name}_{key}": given.pop(key) for key in ("max_num_timeout",) if key in given}
        shared = set(vars(BaseQueueConf())) & set(given)
        specific = {f"{self.name}_{key}": value for key, value in given.items() if key not in shared}
        try:
            executor = AutoExecutor(folder=folder, cluster=self.name, **limits)
            executor.update_parameters(**{key: given[key] for key in shared}, **specific)
            with _quiet_controllers(self.name), executor.batch():
                jobs = [executor.submit(job) for _ in range(count)]
        except Exception as error:  # submitit raises errors of many kinds, and asserts, for what sbatch refuses
            raise LauncherError(f"no job could be submitted: {first_line(error)}") from error
        return [job.job_id for job in jobs]


def submit_missing(
    cluster: Cluster, job: DetachedJob, plan: str, open_points: int, *, output_dir: Path, sweep: SweepSettings
) -> str:
    """Submit as many jobs as a plan has use for, besides those that are queued or running; return what was submitted.

    Args:
        cluster: Where to.
        job: What to submit.
        plan: Key of the plan.
        open_points: Number of points without a record, those in training included.
        output_dir: Root of trials.
        sweep: The number of jobs, and the lease.
    """
    name = cluster.job_name(plan)
    active = max(count_jobs(output_dir, plan, sweep.lease), cluster.count_queued(name))
    count = min(open_points, cluster.limit(sweep)) - active
    present = f"{active} {'job is' if active == 1 else 'jobs are'} queued or running"
    if count <= 0:
        return f"{present} ({name}): nothing to submit"
    jobs = cluster.submit(job, count, name)
    text = f"submitted 1 job, {jobs[0]}" if count == 1 else f"submitted {count} jobs, {jobs[0]} to {jobs[-1]}"
    text += f" ({name})"
    return f"{text}; {present}" if active else text


@contextmanager
def _quiet_controllers(cluster: str) -> Iterator[None]:
    """Keep the processes that control local jobs from holding this command's output open."""
    if cluster == _SLURM:
        yield
        return
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [(stream, os.dup(stream)) for stream in (1, 2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for stream, _ in saved:
            os.dup2(nowhere, stream)
        yield
    finally:
        for stream, copy in saved:
            os.dup2(copy, stream)
            os.close(copy)
        os.close(nowhere)


def make_job(config: Any, search_path: Sequence[Any], arguments: Sequence[str]) -> DetachedJob:
    """Return the job of a command.

    Args:
        config: The config that Hydra has composed for it.
        search_path: Elements of Hydra's search path.
        arguments: The command line without the overrides of Hydra itself.
    """
    places = {element.provider: element.path for element in search_path}
    of_hydra = [text for text in config.hydra.overrides.hydra if not text.startswith("hydra.mode=")]
    cwd = str(Path.cwd())
    return DetachedJob(
        config_path=places["main"],
        config_dir=places["command-line"].removeprefix("file://") if "command-line" in places else None,
        config_name=config.hydra.job.config_name,
        overrides=(*of_hydra, *arguments, f"sweep.cwd={command_line_word(cwd)}"),
        cwd=cwd,
    )
