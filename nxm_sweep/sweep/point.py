"""One point, exactly once: a record that exists is returned, a missing one is trained by one process."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from rich.console import Console

from nxm_sweep.errors import DataError, RecordError, TrialStoppedError
from nxm_sweep.settings import TrialSettings
from nxm_sweep.sparsity import ranks
from nxm_sweep.sweep.attempts import forget_failures
from nxm_sweep.sweep.crew import run_crew
from nxm_sweep.sweep.group import Group
from nxm_sweep.sweep.identity import identity_of
from nxm_sweep.sweep.inputs import Inputs
from nxm_sweep.sweep.progress import PRUNED, Progress
from nxm_sweep.sweep.records import SCHEMA, read_record, trial_folder, write_record
from nxm_sweep.sweep.signs import Heartbeat
from nxm_sweep.training.device import check_device
from nxm_sweep.training.watch import Watch

if TYPE_CHECKING:
    from nxm_sweep.training.trial import Prepared

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
    with Group(settings):
        settings.training.precision = ranks.share(settings.training.precision)  # auto, on nodes that differ
        with ranks.together():
            prepared, identity, hashed = _find(settings, planned, inputs or Inputs())
        folder = trial_folder(Path(settings.output_dir), identity)
        record = _finished(folder, settings)
        if record is not None:
            return record, False
        folder.mkdir(parents=True, exist_ok=True)
        if settings.training.devices > ranks.count():
            trained = run_crew(settings, identity, console)
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
    with ranks.together():
        if not settings.force and ranks.rank() == 0:
            record = _usable_record(folder, settings)
    found: dict[str, Any] | None = ranks.share(record)
    return found


def _train(
    settings: TrialSettings, prepared: Prepared, folder: Path, console: Console, hashed: dict[str, Any]
) -> dict[str, Any]:
    """Train a trial and return its record. Of several ranks, rank 0 writes it."""
    from nxm_sweep.training.trial import run_trial  # noqa: PLC0415 - seconds of imports

    started, commit = datetime.now(UTC), _git_commit()
    with _watched(folder) as watch, ranks.together():
        body = run_trial(settings, prepared, folder, console, watch)
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
    if ranks.rank() == 0:
        write_record(folder, record)
        forget_failures(folder)
    shared: dict[str, Any] = ranks.share(record)
    return shared


@contextmanager
def _watched(folder: Path) -> Iterator[Watch]:
    """Give the trial's watch, which says on disk that it lives. Of several ranks, rank 0 does."""
    if ranks.rank() > 0:
        yield Watch()
        return
    with Progress(folder) as progress, Heartbeat(progress.file, _BEAT_SECONDS):
        try:
            yield progress
        except TrialStoppedError as stopped:
            if stopped.message == PRUNED:
                progress.keep_as_pruned()
            raise


@contextmanager
def _alone(folder: Path, console: Console) -> Iterator[None]:
    """Hold the trial's lock; the system releases it when the process dies, however it dies. Of several ranks, rank 0 does."""
    if ranks.rank() > 0:
        yield
        return
    lock = FileLock(folder / ".lock")
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
    if record is not None and settings.save_model and not (folder / "model").is_dir():
        raise RecordError(
            f"the trial {folder.name} has a record, but its model was not saved", hint="force=true trains it again"
        )
    return record


@cache
def _git_commit() -> str | None:
    """The commit of this package's checkout, with ``+`` if it has changes; None when it is installed.

    That of the process' first trial: the code that it has loaded stays.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
        status = subprocess.run(
            ["git", "-C", str(root), "status", "--porcelain", "--", "nxm_sweep", "conf"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+" if status.stdout.strip() else "")
