"""Claims: which coordinator has taken which point, so that several share one sweep and none trains another's.

A claim is a file in the trial's folder, made whole and never over another. Its coordinator shows that it lives by one
file that it touches; the claims of a dead one are taken over.
"""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path
from typing import Self

from filelock import FileLock

from nxm_sweep.store.files import read_json, write_json
from nxm_sweep.store.liveness import Heartbeat, is_alive, this_process
from nxm_sweep.store.paths import CLAIM, claims_lock, coordinator_file, trial_folder
from nxm_sweep.store.progress import is_training


class Claims:
    """The points that one coordinator holds. A context: the claims end with it.

    Args:
        output_dir: Root of trials, shared by all coordinators of a sweep.
        lease: Seconds without a sign of life after which a coordinator on another machine counts as dead.
    """

    def __init__(self, output_dir: Path, lease: float) -> None:
        self._output_dir, self._lease = output_dir, lease
        self.owner = uuid.uuid4().hex[:12]
        self._sign = coordinator_file(output_dir, self.owner)
        self._heartbeat = Heartbeat(self._sign, lease / 6)
        self._lock = FileLock(claims_lock(output_dir))
        self._held: set[str] = set()

    def __enter__(self) -> Self:
        for sign in self._sign.parent.glob("*.json"):  # of coordinators that were killed
            if not is_alive(read_json(sign) or {}, sign, self._lease):
                sign.unlink(missing_ok=True)
        write_json(self._sign, {**this_process(), "since": time.time()})
        self._heartbeat.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        for identity in list(self._held):
            self.release(identity)
        self._heartbeat.__exit__(*error)
        self._sign.unlink(missing_ok=True)

    def take(self, identity: str) -> bool:
        """Claim a point; return whether it is now this coordinator's. A dead claimant's point is taken over."""
        folder = trial_folder(self._output_dir, identity)
        folder.mkdir(parents=True, exist_ok=True)
        with self._lock:
            if self.is_taken(identity):
                return False
            (folder / CLAIM).unlink(missing_ok=True)
            claim = {**this_process(), "owner": self.owner, "since": time.time()}
            fresh = folder / f".{CLAIM}.{self.owner}"
            write_json(fresh, claim)
            try:
                os.link(fresh, folder / CLAIM)  # fails where a claim stands, also where a file system has no locks
            except FileExistsError:
                return False
            finally:
                fresh.unlink()
        self._held.add(identity)
        return True

    def release(self, identity: str) -> None:
        """Give a point back."""
        self._held.discard(identity)
        claim = trial_folder(self._output_dir, identity) / CLAIM
        if (read_json(claim) or {}).get("owner") == self.owner:
            claim.unlink(missing_ok=True)

    def is_alone(self) -> bool:
        """Return whether no other living coordinator works under this output folder."""
        others = [sign for sign in self._sign.parent.glob("*.json") if sign != self._sign]
        return not any(is_alive(read_json(sign) or {}, sign, self._lease) for sign in others)

    def is_taken(self, identity: str) -> bool:
        """Return whether a living coordinator holds a point, or a living process trains it."""
        folder = trial_folder(self._output_dir, identity)
        claim = read_json(folder / CLAIM)
        if isinstance(claim, dict) and is_alive(
            claim, coordinator_file(self._output_dir, str(claim.get("owner"))), self._lease
        ):
            return True
        return is_training(folder, self._lease)
