"""State of every point of a sweep, as its files have it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nxm_sweep.errors import RecordError
from nxm_sweep.settings import SweepSettings
from nxm_sweep.store.attempts import Failure, classify, is_worth_a_try, read_failures
from nxm_sweep.store.paths import trial_folder
from nxm_sweep.store.progress import read_pruned
from nxm_sweep.store.records import read_summary


@dataclass
class SweepState:
    """State of every point of a plan.

    Attributes:
        done: Points with a record; the value is the best score, or None until it has been read.
        failed: Points that will not be retried, with their last failure.
        pruned: Points that a pruner has stopped, with their last score.
        running: Points that this coordinator has submitted, with their trial number in the study.
        elsewhere: Points that other coordinators work on.
        trained: Number of attempts of this sweep that ended with a record.
    """

    done: dict[str, float | None] = field(default_factory=dict)
    failed: dict[str, Failure] = field(default_factory=dict)
    pruned: dict[str, float | None] = field(default_factory=dict)
    running: dict[str, int] = field(default_factory=dict)
    elsewhere: set[str] = field(default_factory=set)
    trained: int = 0

    def is_settled(self, identity: str) -> bool:
        """Return whether nothing is left to do for a point."""
        return identity in self.done or identity in self.failed or identity in self.pruned

    def read(self, identity: str, output_dir: Path, sweep: SweepSettings) -> bool:
        """Read a point's state from disk; return whether it is settled.

        Args:
            identity: The point's.
            output_dir: Root of trials.
            sweep: Attempts and pruner, which decide whether a point without a record is settled.
        """
        folder = trial_folder(output_dir, identity)
        if self._read_record(identity, folder):
            return True
        if sweep.pruner != "none" and (pruned := read_pruned(folder)) is not None:
            epochs = pruned["epochs"]
            self.pruned[identity] = epochs[-1]["selection"] if epochs else None
            return True
        if (failures := read_failures(folder)) and not is_worth_a_try(failures, sweep.max_attempts):
            self.failed[identity] = failures[-1]
            return True
        return False

    def recheck(self, output_dir: Path) -> None:
        """Compare the final state with the disk: a record may have been removed or damaged since it was read."""
        for identity in list(self.done):
            if not self._read_record(identity, trial_folder(output_dir, identity)):
                del self.done[identity]
        for identity in list(self.pruned):
            if read_pruned(trial_folder(output_dir, identity)) is None:
                del self.pruned[identity]

    def add(self, read: Mapping[str, float | Failure]) -> None:
        """Add what was read from records of other sweeps."""
        for identity, result in read.items():
            if isinstance(result, Failure):
                self.done.pop(identity, None)
                self.failed[identity] = result
            else:
                self.done[identity] = result

    def _read_record(self, identity: str, folder: Path) -> bool:
        """Read a point's record, or that it is damaged; return whether there is one."""
        try:
            record = read_summary(folder)
        except RecordError as error:
            self.done.pop(identity, None)
            self.failed[identity] = classify(error)
            return True
        if record is None:
            return False
        self.done[identity] = record.score
        return True
