"""Run one point exactly once: return its record, or train a missing one in one process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rich.console import Console

from nxm_sweep.config.device import check_device
from nxm_sweep.errors import (
    DataError,
    NxmSweepError,
    OutOfMemoryError,
    RankError,
    RecordError,
    TrialStoppedError,
    first_line,
)
from nxm_sweep.settings import TrialSettings
from nxm_sweep.sparsity import distributed
from nxm_sweep.store.attempts import LESS_MEMORY, forget_failures, is_out_of_memory
from nxm_sweep.store.disk import explain_write_errors
from nxm_sweep.store.files import refuse_links
from nxm_sweep.store.liveness import Heartbeat
from nxm_sweep.store.paths import MODEL, trial_folder
from nxm_sweep.store.progress import PRUNED, SUPERSEDED, ProgressFile, remove_work
from nxm_sweep.store.record import Record
from nxm_sweep.store.records import SCHEMA, read_record, write_record
from nxm_sweep.store.small_files import set_aside_damaged
from nxm_sweep.store.stop_signals import note_stop_signals
from nxm_sweep.store.trial_lock import TrialLock
from nxm_sweep.training.monitor import Monitor, NullMonitor, raise_if_stopped
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
) -> tuple[Record, bool]:
    """Return a point's record and whether it was trained now.

    A trial on several devices is trained by one process per device: this one's group, or else processes that it starts.

    Args:
        settings: Checked settings.
        console: Output for progress.
        planned: The identity planned by a sweep, or None.
        inputs: Cache of a process that trains several points.

    Raises:
        ConfigError: The machine lacks the device or the precision asked for.
        DataError: Data or model differ from those the sweep was planned with.
        TrialStoppedError: The monitor stopped the trial.
        OutputError: The output folder cannot be written.
        OutOfMemoryError: The trial needs more memory than there is.
        RankError: One of several processes died or raised an unexpected exception.
        NxmSweepError: Bad input, a diverged training, or a damaged record.
    """
    check_device(settings)
    with explain_write_errors(Path(settings.output_dir)), _explain_memory(), ProcessGroup(settings):
        settings.training.precision = distributed.share(settings.training.precision)  # auto may differ between nodes
        with distributed.together():
            prepared, identity, hashed = _identify(settings, planned, inputs or Inputs())
        folder = trial_folder(Path(settings.output_dir), identity)
        record = _find_record(folder, settings)
        if record is not None:
            return record, False
        folder.mkdir(parents=True, exist_ok=True)
        note_stop_signals()
        if settings.training.devices > distributed.count():
            try:
                trained = launch_ranks(settings, identity, console)
            except RankError:
                record = _find_record(folder, settings)
                if record is None:
                    raise
                return record, True  # a rank died once rank 0 had written the record
            return _read_written_record(folder), trained
        with _lock(folder, settings.sweep.lease, console) as lock:
            record = _find_record(folder, settings)  # the other process may have finished it
            if record is not None:
                return record, False
            if distributed.rank() == 0:
                set_aside_damaged(folder)
            with _monitor(folder, lock) as monitor:
                return _train(settings, prepared, lock, console=console, monitor=monitor, hashed=hashed), True


@contextmanager
def _explain_memory() -> Iterator[None]:
    """Say what needs less memory where there is too little."""
    try:
        yield
    except Exception as error:  # PyTorch has several; all others pass
        if isinstance(error, NxmSweepError) or not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(f"out of memory: {first_line(error)}", hint=LESS_MEMORY) from error


def _identify(settings: TrialSettings, planned: str | None, inputs: Inputs) -> tuple[Prepared, str, dict[str, Any]]:
    """Return a trial's inputs, its identity and the hashed values."""
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


def _find_record(folder: Path, settings: TrialSettings) -> Record | None:
    """Return the trial's record if it is usable. With several ranks, rank 0 reads it."""
    record = None
    with distributed.together():
        if not settings.force and distributed.rank() == 0:
            record = _read_usable_record(folder, settings)
    shared: Record | None = distributed.share(record)
    return shared


def _train(
    settings: TrialSettings,
    prepared: Prepared,
    lock: TrialLock,
    *,
    console: Console,
    monitor: Monitor,
    hashed: dict[str, Any],
) -> Record:
    """Train a trial and return its record. With several ranks, rank 0 writes it.

    Raises:
        TrialStoppedError: The monitor stopped it, or another process has taken it over.
    """
    from nxm_sweep.trial.train import run_trial  # noqa: PLC0415 - seconds of imports

    started, commit, folder = datetime.now(UTC), git_commit(), lock.folder
    with distributed.together():
        if distributed.rank() == 0:
            refuse_links(folder, and_pipes=True)  # checkpoints have names that can be guessed
    with distributed.together():
        body = run_trial(settings, prepared, folder, console, monitor, work=lock.work)
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "identity": folder.name,
        "task": settings.task.name,
        "method": settings.method.name,
        "sparsity_name": settings.sparsity.name if "sparsity" in hashed else "dense",
        "model_name": settings.model.name,
        "started": started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": commit,
        **cast("dict[str, Any]", body or {}),
        "config": asdict(settings),
        "hashed": hashed,
    }
    with distributed.together():
        if distributed.rank() == 0:
            raise_if_stopped(SUPERSEDED if lock.is_superseded() else None)
            write_record(folder, record)
            forget_failures(folder)
            remove_work(folder)
    shared: Record = distributed.share(record)
    return shared


@contextmanager
def _monitor(folder: Path, lock: TrialLock) -> Iterator[Monitor]:
    """Yield the trial's monitor, with a heartbeat on disk. With several ranks, only rank 0 does."""
    if distributed.rank() > 0:
        yield NullMonitor()
        return
    with ProgressFile(folder, is_superseded=lock.is_superseded) as progress, Heartbeat(progress.file, _BEAT_SECONDS):
        try:
            yield progress
        except TrialStoppedError as stopped:
            if stopped.message == PRUNED:
                progress.keep_as_pruned()
            raise


@contextmanager
def _lock(folder: Path, lease: float, console: Console) -> Iterator[TrialLock]:
    """Hold the trial's lock. Only rank 0 locks; all ranks work in its folder."""
    lock = TrialLock(folder, lease)
    if distributed.rank() == 0:
        lock.acquire(
            lambda: console.print(f"another process trains {folder.name}; waiting for its record", highlight=False)
        )
    try:
        lock.number = distributed.share(lock.number)
        yield lock
    finally:
        if distributed.rank() == 0:
            lock.release()


def _read_written_record(folder: Path) -> Record:
    """Read the record that the ranks wrote."""
    record = read_record(folder)
    if record is None:
        raise RecordError(
            f"the trial {folder.name} has ended without a record", hint="the same command trains it again"
        )
    return record


def _read_usable_record(folder: Path, settings: TrialSettings) -> Record | None:
    record = read_record(folder)
    if record is not None and settings.save_model and not (folder / MODEL).is_dir():
        raise RecordError(
            f"the trial {folder.name} has a record, but its model was not saved", hint="force=true trains it again"
        )
    return record
