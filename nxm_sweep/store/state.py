"""State of a sweep as read from disk, without changing it and without Hydra, Optuna or PyTorch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nxm_sweep.errors import RecordError
from nxm_sweep.store.attempts import Failure, classify, is_worth_a_try, read_failures
from nxm_sweep.store.paths import trial_folder
from nxm_sweep.store.plans import PlannedCell, PlannedPoint
from nxm_sweep.store.progress import is_training, read_pruned
from nxm_sweep.store.records import Summary, best_of, read_summary

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


@dataclass(frozen=True, slots=True)
class PointState:
    """State of one point.

    Attributes:
        state: ``done``, ``running``, ``failed``, ``pruned`` or ``to do``.
        record: Of a point that is done.
        failure: Last failure of a point that is not; of a failed one its reason.
    """

    state: str
    record: Summary | None = None
    failure: Failure | None = None


def point_state(
    output_dir: Path, identity: str, *, lease: float, max_attempts: int, pruning: bool = False
) -> PointState:
    """Read the state of a point from disk: done is what has a usable record.

    Args:
        output_dir: Root of the trials.
        identity: Identity of the point.
        lease: Seconds without a heartbeat after which a trial on another machine counts as dead.
        max_attempts: Attempts after which a point has failed for good.
        pruning: Whether a pruned trial settles its point.
    """
    folder = trial_folder(output_dir, identity)
    try:
        record = read_summary(folder)
    except RecordError as error:
        return PointState(FAILED, failure=classify(error))
    if record is not None:
        return PointState(DONE, record)
    if not folder.exists():
        return PointState(TO_DO)
    failures = read_failures(folder)
    last = failures[-1] if failures else None
    if is_training(folder, lease):
        state = RUNNING
    elif failures and not is_worth_a_try(failures, max_attempts):
        state = FAILED
    elif pruning and read_pruned(folder) is not None:
        state = PRUNED
    else:
        state, last = TO_DO, None
    return PointState(state, failure=last)


def read_states(
    output_dir: Path, points: Iterable[PlannedPoint], *, lease: float, max_attempts: int, pruning: bool
) -> TrialStates:
    """Read the states of points and their records."""
    trials = TrialStates()
    for point in points:
        identity = point.identity
        found = point_state(output_dir, identity, lease=lease, max_attempts=max_attempts, pruning=pruning)
        trials.states[identity] = found.state
        if found.failure is not None:
            trials.failures[identity] = found.failure
        if (record := found.record) is not None:
            trials.scores[identity], trials.epochs[identity] = record.score, record.epoch
            trials.seconds[identity], trials.patterns[identity] = record.seconds, record.pattern
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
