"""Claims on points, so that coordinators share one sweep and none trains another's point.

A claim is a file in the trial's folder, created atomically and never over another. Its coordinator touches one file as
its heartbeat; the claims of a dead one are taken over.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

from nxm_sweep.store.files import write_json
from nxm_sweep.store.liveness import Heartbeat, is_alive, seconds_since_touch, this_process
from nxm_sweep.store.paths import CLAIM, JOB, PROGRESS, RESULT, STOP, claims_lock, coordinator_file, trial_folder
from nxm_sweep.store.progress import is_training, remove_work
from nxm_sweep.store.small_files import Claim, Coordinator, read_small_file, set_aside_damaged


class Claims:
    """The points that one coordinator has claimed. A context manager that releases them.

    Args:
        output_dir: Root of trials, shared by all coordinators of a sweep.
        lease: Seconds without a heartbeat after which a coordinator on another machine counts as dead.
        job_of: Key of the plan that this coordinator shares as a detached job; empty if it is none.
    """

    def __init__(self, output_dir: Path, lease: float, job_of: str = "") -> None:
        self._output_dir, self._lease, self._job_of = output_dir, lease, job_of
        self.owner = uuid.uuid4().hex[:12]
        self._sign = coordinator_file(output_dir, self.owner)
        self._heartbeat = Heartbeat(self._sign, lease / 6)
        self._lock = FileLock(claims_lock(output_dir))
        self._held: set[str] = set()

    def __enter__(self) -> Self:
        for file in self._sign.parent.glob("*.json"):  # of coordinators that were killed
            if not self._is_alive(file):
                set_aside_damaged(file.parent, {file.name: Coordinator})
                file.unlink(missing_ok=True)
        for file in (*self._sign.parent.glob(".*"), *self._sign.parent.parent.glob(".*.json.*")):
            if (seconds_since_touch(file) or 0.0) > self._lease:  # of a write that was killed
                file.unlink(missing_ok=True)
        self._announce()
        self._heartbeat.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        for identity in list(self._held):
            self.release(identity)
        self._heartbeat.__exit__(*error)
        self._sign.unlink(missing_ok=True)

    def clear(self, identities: Iterable[str]) -> None:
        """Remove what dead coordinators and workers have left in the folders of points: claims, and files half written."""
        for identity in identities:
            folder = trial_folder(self._output_dir, identity)
            if folder.exists() and not self.is_taken(identity):
                with suppress(OSError):  # a read-only folder fails its point, if it is to be trained
                    _clear(folder)

    def _announce(self) -> None:
        job = {"job_of": self._job_of} if self._job_of else {}
        write_json(self._sign, {**this_process(), "since": time.time(), **job})

    def holds(self, identity: str) -> bool:
        """Return whether this coordinator still holds a point that it has taken: its lease may have run out."""
        claim: Claim | None = read_small_file(trial_folder(self._output_dir, identity) / CLAIM, Claim)
        return claim is not None and claim["owner"] == self.owner

    def take(self, identity: str) -> bool:
        """Claim a point, even from a dead claimant; return whether this coordinator now holds it."""
        folder = trial_folder(self._output_dir, identity)
        folder.mkdir(parents=True, exist_ok=True)
        with self._exclusive():
            if not self._sign.exists():  # removed by one that took this coordinator for dead
                self._announce()
            if self.is_taken(identity):
                return False
            set_aside_damaged(folder, {CLAIM: Claim})
            (folder / CLAIM).unlink(missing_ok=True)
            claim = {**this_process(), "owner": self.owner, "since": time.time()}
            fresh = folder / f".{CLAIM}.{self.owner}"
            write_json(fresh, claim)
            try:
                os.link(fresh, folder / CLAIM)  # fails if a claim exists, even on a file system without locks
            except FileExistsError:
                return False
            finally:
                fresh.unlink()
        self._held.add(identity)
        return True

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Keep other coordinators from taking; go on without that where one of them is frozen: a link is exclusive too."""
        try:
            self._lock.acquire(timeout=self._lease)
        except Timeout:
            yield
            return
        try:
            yield
        finally:
            self._lock.release()

    def release(self, identity: str) -> None:
        """Release a point; one with a record keeps nothing that a worker, killed once it had written it, has left."""
        self._held.discard(identity)
        folder = trial_folder(self._output_dir, identity)
        if self.holds(identity):
            with suppress(OSError):  # its folder has become read-only; the claim ends with its coordinator
                if (folder / RESULT).exists():
                    _clear(folder)
                (folder / CLAIM).unlink(missing_ok=True)

    def is_alone(self) -> bool:
        """Return whether no other coordinator is alive under this output folder."""
        others = [file for file in self._sign.parent.glob("*.json") if file != self._sign]
        return not any(map(self._is_alive, others))

    def is_taken(self, identity: str, within: float | None = None) -> bool:
        """Return whether a live coordinator holds a point, or a live process trains it.

        Args:
            identity: The point's identity.
            within: Age in seconds up to which a heartbeat from another machine counts; None: the lease.
        """
        folder = trial_folder(self._output_dir, identity)
        lease = self._lease if within is None else within
        claim: Claim | None = read_small_file(folder / CLAIM, Claim)
        if claim is not None and is_alive(claim, coordinator_file(self._output_dir, claim["owner"]), lease):
            return True
        return is_training(folder, lease)

    def _is_alive(self, file: Path) -> bool:
        """Return whether a coordinator is alive; that of a damaged file is as long as it touches the file."""
        return is_alive(read_small_file(file, Coordinator) or {}, file, self._lease)


def count_jobs(output_dir: Path, plan: str, lease: float) -> int:
    """Return the number of live detached jobs that share a plan."""
    files = coordinator_file(output_dir, "").parent.glob("*.json")
    read = ((file, read_small_file(file, Coordinator) or {}) for file in files)
    return sum(entry.get("job_of") == plan and is_alive(entry, file, lease) for file, entry in read)


def _clear(folder: Path) -> None:
    """Remove what a dead process has left in a trial's folder; what is damaged is set aside."""
    set_aside_damaged(folder)
    is_done = (folder / RESULT).exists()
    for name in (CLAIM, PROGRESS, STOP, *((JOB,) if is_done else ())):
        (folder / name).unlink(missing_ok=True)
    for file in folder.glob(".*.json.*"):  # of a write that was killed
        file.unlink(missing_ok=True)
    if is_done:
        remove_work(folder)
