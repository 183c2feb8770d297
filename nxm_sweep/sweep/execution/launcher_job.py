"""Job of a Hydra launcher: train one point, and write heartbeat and outcome to the trial's folder.

A launcher's result is not enough: it raises for all jobs because one was killed, while others still run or wait.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from nxm_sweep.settings import TrialSettings
from nxm_sweep.store.attempts import STOPPED
from nxm_sweep.store.files import write_json
from nxm_sweep.store.liveness import Heartbeat, is_alive, this_process
from nxm_sweep.store.paths import JOB, STOP, trial_folder
from nxm_sweep.store.progress import read_stop
from nxm_sweep.store.small_files import Job, read_small_file

_PROCESS: Final = "process"
_ANSWER: Final = "answer"


_BEAT_SECONDS = 2.0


def run_job(settings: TrialSettings, identity: str) -> dict[str, str] | None:
    """Train one point in a process that a launcher has started.

    Args:
        settings: The point's settings; ``sweep.threads`` applies to this process.
        identity: Its planned identity.

    Returns:
        None if it has a record; else why not, as in :func:`nxm_sweep.sweep.execution.worker.train`.
    """
    folder = trial_folder(Path(settings.output_dir), identity)
    with _keep_heartbeat(folder / JOB):  # before the slow imports: jobs are often killed in them
        answer = stop_of(folder) or _train(settings, identity)
    if answer is not None:
        write_json(folder / JOB, {_ANSWER: answer})
    return answer


def forget_job(folder: Path) -> None:
    """Remove what an earlier job has left in a trial's folder, and its stop request."""
    for name in (JOB, STOP):
        (folder / name).unlink(missing_ok=True)


def stop_of(folder: Path) -> dict[str, str] | None:
    """Return the answer of a job with a stop request before it begins, or None."""
    reason = read_stop(folder)
    return None if reason is None else {STOPPED: reason}


def read_job(folder: Path) -> Job | None:
    """Return a job's file in a trial's folder, or None if it has not begun or has left a record."""
    job: Job | None = read_small_file(folder / JOB, Job)
    return job


def answer_of(job: Job | None) -> Mapping[str, Any] | None:
    """Return a job's answer, or None if it has none."""
    return None if job is None else job.get(_ANSWER)


def lives(job: Job, folder: Path, lease: float) -> bool:
    """Return whether the process of a begun job is alive."""
    return is_alive(job.get(_PROCESS, {}), folder / JOB, lease)


def _train(settings: TrialSettings, identity: str) -> dict[str, str] | None:
    import torch  # noqa: PLC0415 - seconds of imports

    from nxm_sweep.sweep.execution.worker import train  # noqa: PLC0415

    if settings.sweep.threads is not None:
        torch.set_num_threads(settings.sweep.threads)
    return train(settings, identity)


@contextmanager
def _keep_heartbeat(sign: Path) -> Iterator[None]:
    if threading.current_thread() is threading.main_thread():  # else it is the coordinator's process
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the coordinator
    write_json(sign, {_PROCESS: this_process()})
    try:
        with Heartbeat(sign, _BEAT_SECONDS):
            yield
    finally:
        sign.unlink(missing_ok=True)
