"""State of a sweep as read from disk, without changing it and without Hydra, Optuna or PyTorch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nxm_sweep.errors import RecordError
from nxm_sweep.store.attempts import Failure, classify, is_worth_a_try, read_failures
from nxm_sweep.store.paths import RESULT, trial_folder
from nxm_sweep.store.plans import PlannedCell, PlannedPoint
from nxm_sweep.store.progress import is_training, read_pruned
from nxm_sweep.store.records import best_epoch, best_of, pattern_of, read_record, selected_value

DONE, RUNNING, FAILED, PRUNED, TO_DO = "done", "running", "failed", "pruned", "to do"


@dataclass
class TrialStates:
    """State of every point.

    Attributes:
        states: ``done``, ``running``, ``failed``, ``pruned`` or ``to do``, by identity.
        scores: Best score of the record, by identity.
        epochs: Epoch of that score, by identity.
        failures: Last failure, by identity.
        seconds: Total seconds of the trial, by identity.
        patterns: Label of the record's pattern, by identity.
    """

    states: dict[str, str] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    epochs: dict[str, float] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    patterns: dict[str, str] = field(default_factory=dict)

    def count(self, points: Iterable[PlannedPoint]) -> Counter[str]:
        """Return the number of points in each state."""
        return Counter(self.states[point.identity] for point in points)

    def best(self, points: Iterable[PlannedPoint]) -> tuple[float, PlannedPoint] | None:
        """Return the best score and its point; ``points`` are in the order of the grid."""
        scored = ((self.scores[point.identity], point) for point in points if point.identity in self.scores)
        return best_of(scored, self.epoch_of)

    def epoch_of(self, point: PlannedPoint) -> float:
        """Return the epoch of a scored point's score."""
        return self.epochs[point.identity]


def point_state(output_dir: Path, identity: str, *, lease: float, max_attempts: int, pruning: bool = False) -> str:
    """Return the state of a point.

    Args:
        output_dir: Root of the trials.
        identity: Identity of the point.
        lease: Seconds without a heartbeat after which a trial on another machine counts as dead.
        max_attempts: Attempts after which a point has failed for good.
        pruning: Whether a pruned trial settles its point.
    """
    folder = trial_folder(output_dir, identity)
    if (folder / RESULT).exists():
        return DONE
    if not folder.exists():
        return TO_DO
    if is_training(folder, lease):
        return RUNNING
    failures = read_failures(folder)
    if failures and not is_worth_a_try(failures, max_attempts):
        return FAILED
    return PRUNED if pruning and read_pruned(folder) is not None else TO_DO


def read_states(
    output_dir: Path, points: Iterable[PlannedPoint], *, lease: float, max_attempts: int, pruning: bool
) -> TrialStates:
    """Read the states of points and their records."""
    trials = TrialStates()
    for point in points:
        identity = point.identity
        state = point_state(output_dir, identity, lease=lease, max_attempts=max_attempts, pruning=pruning)
        trials.states[identity] = state
        folder = trial_folder(output_dir, identity)
        if state == DONE:
            try:
                record = read_record(folder)
            except RecordError as error:
                trials.states[identity], trials.failures[identity] = FAILED, classify(error)
                continue
            if record is not None:
                trials.scores[identity], trials.epochs[identity] = selected_value(record), best_epoch(record)
                trials.seconds[identity] = record["seconds"]["total"]
                if "sparsity" in record:
                    trials.patterns[identity] = pattern_of(record)
        elif state != TO_DO and (failures := read_failures(folder)):
            trials.failures[identity] = failures[-1]
    return trials


def pattern_in(cell: PlannedCell, patterns: Mapping[str, str]) -> str:
    """Return the label of a planned cell's pattern.

    Args:
        cell: The cell.
        patterns: Pattern of the record, by identity. The first point that has one decides; without any, the plan's
            pattern, or the name of the rules for an old plan, which has no pattern.
    """
    recorded = (patterns[point.identity] for point in cell.points if point.identity in patterns)
    return next(recorded, None) or cell.pattern or cell.names.get("sparsity", "")
