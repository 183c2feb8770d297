"""One point, exactly once: a record that exists is returned, a missing one is trained by one process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from rich.console import Console

from nxm_sweep.config.device import check_device
from nxm_sweep.errors import DataError, RecordError, TrialStoppedError
from nxm_sweep.settings import TrialSettings
from nxm_sweep.sparsity import distributed
from nxm_sweep.store.attempts import forget_failures
from nxm_sweep.store.liveness import Heartbeat
from nxm_sweep.store.paths import MODEL, trial_folder, trial_lock
from nxm_sweep.store.progress import PRUNED, ProgressFile
from nxm_sweep.store.records import SCHEMA, read_record, write_record
from nxm_sweep.training.monitor import Monitor, NullMonitor
from nxm_sweep.trial.identity import identity_of
from nxm_sweep.trial.inputs import Inputs
from nxm_sweep.trial.process_group import ProcessGroup
from nxm_sweep.trial.provenance import git_commit
from nxm_sweep.trial.rank_launcher import launch_ranks

if TYPE_CHECKING:
    from nxm_sweep.trial.train import Prepared

_BEAT_SECONDS = 2.0


def run_point(
    settings: TrialSettings, console: Console, *, planned: str | None = None, inputs: Inputs | None = None
) -> tuple[dict[str, Any], bool]:
    """Return a point's record and whether it was trained now.

    A trial on several devices is trained by as many processes: those that this one was started among, or else its own.

    Args:
        settings: Checked settings.
        console: Where progress goes.
        planned: The identity that a sweep has planned, or None.
        inputs: Memory of a process that trains several points.

    Raises:
        ConfigError: The machine lacks the device or the precision asked for.
        DataError: Data or model are not what the sweep was planned with.
        TrialStoppedError: It was told to stop.
        RankError: One of several processes has died or met what nobody expected.
        NxmSweepError: Bad input, a diverged training, or a damaged record.
    """
    check_device(settings)
    with ProcessGroup(settings):
        settings.training.precision = distributed.share(settings.training.precision)  # auto, on nodes that differ
        with distributed.together():
            prepared, identity, hashed = _find(settings, planned, inputs or Inputs())
        folder = trial_folder(Path(settings.output_dir), identity)
        record = _finished(folder, settings)
        if record is not None:
            return record, False
        folder.mkdir(parents=True, exist_ok=True)
        if settings.training.devices > distributed.count():
            trained = launch_ranks(settings, identity, console)
            return read_record(folder) or {}, trained
        with _alone(folder, console):
            record = _finished(folder, settings)  # the other process may have finished it
            if record is not None:
                return record, False
            return _train(settings, prepared, folder, console, hashed), True


def _find(settings: TrialSettings, planned: str | None, inputs: Inputs) -> tuple[Prepared, str, dict[str, Any]]:
    """Return a trial's inputs, its identity and what that is the hash of."""
    prepared = inputs.prepare(settings)
    identity, hashed = identity_of(
        settings,
        data_digest=prepared.rows.digest,
        model_digest=prepared.model_digest,
        teacher_digest=prepared.teacher_digest,
        carries_head=prepared.carries_head,
    )
    if planned is not None and identity != planned:
        raise DataError(
            f"the sweep planned {planned}, but data and model now make it {identity}",
            hint="they have changed since; run the sweep's command again",
        )
    return prepared, identity, hashed


def _finished(folder: Path, settings: TrialSettings) -> dict[str, Any] | None:
    """The trial's record, if it has one that will do. Of several ranks, rank 0 looks."""
    record = None
    with distributed.together():
        if not settings.force and distributed.rank() == 0:
            record = _usable_record(folder, settings)
    found: dict[str, Any] | None = distributed.share(record)
    return found


def _train(
    settings: TrialSettings, prepared: Prepared, folder: Path, console: Console, hashed: dict[str, Any]
) -> dict[str, Any]:
    """Train a trial and return its record. Of several ranks, rank 0 writes it."""
    from nxm_sweep.trial.train import run_trial  # noqa: PLC0415 - seconds of imports

    started, commit = datetime.now(UTC), git_commit()
    with _monitored(folder) as monitor, distributed.together():
        body = run_trial(settings, prepared, folder, console, monitor)
    record = {
        "schema": SCHEMA,
        "identity": folder.name,
        "task": settings.task.name,
        "method": settings.method.name,
        "sparsity_name": settings.sparsity.name if "sparsity" in hashed else "dense",
        "model_name": settings.model.name,
        "started": started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": commit,
        **body,
        "config": asdict(settings),
        "hashed": hashed,
    }
    if distributed.rank() == 0:
        write_record(folder, record)
        forget_failures(folder)
    shared: dict[str, Any] = distributed.share(record)
    return shared


@contextmanager
def _monitored(folder: Path) -> Iterator[Monitor]:
    """Give the trial's monitor, which says on disk that it lives. Of several ranks, rank 0 does."""
    if distributed.rank() > 0:
        yield NullMonitor()
        return
    with ProgressFile(folder) as progress, Heartbeat(progress.file, _BEAT_SECONDS):
        try:
            yield progress
        except TrialStoppedError as stopped:
            if stopped.message == PRUNED:
                progress.keep_as_pruned()
            raise


@contextmanager
def _alone(folder: Path, console: Console) -> Iterator[None]:
    """Hold the trial's lock; the system releases it when the process dies, however it dies. Of several ranks, rank 0 does."""
    if distributed.rank() > 0:
        yield
        return
    lock = FileLock(trial_lock(folder))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        console.print(f"another process trains {folder.name}; waiting for its record", highlight=False)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _usable_record(folder: Path, settings: TrialSettings) -> dict[str, Any] | None:
    record = read_record(folder)
    if record is not None and settings.save_model and not (folder / MODEL).is_dir():
        raise RecordError(
            f"the trial {folder.name} has a record, but its model was not saved", hint="force=true trains it again"
        )
    return record
