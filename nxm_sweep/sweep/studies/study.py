"""A cell's Optuna study: plan and live view of its points. Records are the source of truth; the study mirrors them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from nxm_sweep.errors import StorageError
from nxm_sweep.store.attempts import Failure
from nxm_sweep.store.record import Record
from nxm_sweep.store.records import selected_value
from nxm_sweep.sweep.planning.axes import Range, is_wordy
from nxm_sweep.sweep.planning.cell import Cell, Point

_LOGARITHMIC = ("learning_rate.value", "rho.value")
IDENTITIES = "identities"
"""User attribute of a drawn point with several seeds: identities of its trainings, in the order of the seeds."""
_QUEUED = 100
"""Largest queue of a cell; each queued point delays the first trial by 4 ms, and slows every reader."""


class CellStudy:
    """One cell's study. Other coordinators change it too; a trial that one of them has ended is left unchanged.

    Args:
        storage: Storage of the study, which is created if it is new.
        cell: The cell. Every caller that creates or queues holds the storage's lock.
    """

    def __init__(self, storage: BaseStorage, cell: Cell) -> None:
        self.storage, self.cell = storage, cell
        self.study_id = find_or_create(storage, cell)
        self._waiting: dict[str, int] = {}
        self._running: dict[str, int] = {}
        self.recorded: dict[str, float] = {}
        self.seconds: list[float] = []
        self._reported: dict[int, int] = {}
        self._ranges: dict[str, BaseDistribution] = {}

    def read(self) -> dict[int, str]:
        """Read every trial; return the running ones with their points' identities."""
        trials = self.storage.get_all_trials(self.study_id, deepcopy=False)
        self._ranges = self._unite_ranges(trials)
        by_state = {state: [trial for trial in trials if trial.state == state] for state in TrialState}
        self._waiting = {identity_in(trial): _id(trial) for trial in by_state[TrialState.WAITING]}
        self.recorded = {identity_in(trial): float(trial.value or 0.0) for trial in by_state[TrialState.COMPLETE]}
        self.seconds = [
            trial.user_attrs["seconds"] for trial in by_state[TrialState.COMPLETE] if "seconds" in trial.user_attrs
        ]
        self._running = {identity_in(trial): _id(trial) for trial in by_state[TrialState.RUNNING]}
        return {_id(trial): identity_in(trial) for trial in by_state[TrialState.RUNNING]}

    def recreate(self) -> None:
        """Create the study anew, without trials: a finished trial cannot be changed. The caller is alone and holds the lock."""
        self.storage.delete_study(self.study_id)
        self.study_id = find_or_create(self.storage, self.cell)
        self.read()

    def unify_ranges(self) -> None:
        """Give all trials of a grown grid the same ranges: Optuna's importances leave out what lies outside the first ones.

        A finished trial cannot be changed, so the study is created anew. The caller is alone and holds the lock.
        """
        trials = self.storage.get_all_trials(self.study_id)
        if all(axis == self._ranges.get(key, axis) for trial in trials for key, axis in trial.distributions.items()):
            return
        self.storage.delete_study(self.study_id)
        self.study_id = find_or_create(self.storage, self.cell)
        for trial in trials:
            trial.distributions = {key: self._ranges.get(key, axis) for key, axis in trial.distributions.items()}
            self.storage.create_new_trial(self.study_id, template_trial=trial)
        self.read()

    def _unite_ranges(self, trials: Iterable[FrozenTrial]) -> dict[str, BaseDistribution]:
        """Return the ranges of a grid's numbers over this command's values and all trials."""
        if self.cell.search:
            return {}
        united = {key: distribution(self.cell, key) for key in self.cell.drawn_keys}
        for trial in trials:
            for key, axis in trial.distributions.items():
                if key in united:
                    united[key] = _unite(united[key], axis)
        return united

    def queue(self, points: Iterable[Point]) -> None:
        """Queue points to be trained; only the first hundred are shown as waiting."""
        for point in points:
            if len(self._waiting) >= _QUEUED:
                return
            if point.identity not in self._waiting and point.identity not in self._running:
                self._waiting[point.identity] = self._create(point, TrialState.WAITING)

    def begin(self, point: Point) -> int:
        """Mark a point as running; return its trial's number in the storage.

        The caller has claimed the point: a trial already marked as running was left by a dead coordinator.
        """
        trial = self._pop_unfinished(point.identity)
        if trial is not None:
            with suppress(UpdateFinishedTrialError):
                self.storage.set_trial_state_values(trial, TrialState.RUNNING)
                return trial
        return self._create(point, TrialState.RUNNING)

    def add(self, point: Point) -> None:
        """Queue a point that a search has drawn before."""
        self._waiting[point.identity] = self._create(point, TrialState.WAITING)

    def add_missing(self, points: Iterable[Point]) -> list[Point]:
        """Queue and return the points that a search has drawn before and that its study has since lost."""
        known = set(map(identity_in, self.storage.get_all_trials(self.study_id, deepcopy=False)))
        missing = [point for point in points if point.identity not in known]
        for point in missing:
            self.add(point)
        return missing

    def may_begin(self, point: Point) -> bool:
        """Return whether a point can be trained now."""
        return True

    def unjudged(self, trial: int) -> Sequence[int]:
        """Return the steps that a pruner must judge before the trial continues."""
        return ()

    def judged_part(self, trial: FrozenTrial, step: int) -> FrozenTrial:
        """Return a running trial as a pruner judges it at a step."""
        return trial

    def report(self, trial: int, identity: str, epochs: Sequence[Mapping[str, Any]]) -> Sequence[int]:
        """Report new epochs; return the step that a pruner must judge, if any."""
        known = self._reported.get(trial, 0)
        with suppress(UpdateFinishedTrialError):
            for entry in epochs[known:]:
                self.storage.set_trial_intermediate_value(trial, entry["epoch"], entry["selection"])
        self._reported[trial] = max(known, len(epochs))
        return [epochs[-1]["epoch"]] if len(epochs) > known else []

    def complete(self, trial: int, record: Record) -> Sequence[int]:
        """Complete a trial from its record; return the steps that a pruner must judge."""
        self.report(trial, record["identity"], record["epochs"])
        with suppress(UpdateFinishedTrialError):
            for key, value in main_figures(record).items():
                self.storage.set_trial_user_attr(trial, key, value)
            self.storage.set_trial_state_values(trial, TrialState.COMPLETE, [selected_value(record)])
            self.recorded[record["identity"]] = selected_value(record)
        return ()

    def add_record(self, point: Point, record: Record) -> None:
        """Add a record that was produced elsewhere."""
        trial = self._pop_unfinished(point.identity)
        if trial is not None:
            with suppress(UpdateFinishedTrialError):
                self.storage.set_trial_state_values(trial, TrialState.RUNNING)
                self.complete(trial, record)
            return
        now = datetime.now(UTC).replace(tzinfo=None)
        self.storage.create_new_trial(
            self.study_id,
            template_trial=_make_template(
                point,
                TrialState.COMPLETE,
                self._ranges,
                value=selected_value(record),
                intermediate_values={entry["epoch"]: entry["selection"] for entry in record["epochs"]},
                attributes=main_figures(record),
                started=_to_local(record.get("started")) or now,
                finished=_to_local(record.get("finished")) or now,
            ),
        )
        self.recorded[point.identity] = selected_value(record)

    def requeue(self, trial: int, identity: str) -> None:
        """Return an interrupted trial to the queue: it continues from its checkpoint."""
        with suppress(UpdateFinishedTrialError):
            self.storage.set_trial_state_values(trial, TrialState.WAITING)
            self._waiting[identity] = trial

    def fail(self, trial: int, identity: str, failure: Failure) -> None:
        """Mark an attempt as failed, with its failure."""
        with suppress(UpdateFinishedTrialError):
            for key, value in asdict(failure).items():
                if value:
                    self.storage.set_trial_user_attr(trial, f"failure {key}", value)
            self.storage.set_trial_state_values(trial, TrialState.FAIL)

    def mark_failed(self, trial: int) -> None:
        """End a trial whose point is being trained elsewhere, is a duplicate, or has failed for good."""
        with suppress(UpdateFinishedTrialError):
            self.storage.set_trial_state_values(trial, TrialState.FAIL)

    def drop_duplicate(self, identity: str) -> None:
        """End the unfinished trial of a recorded point: two coordinators had queued it."""
        trial = self._pop_unfinished(identity)
        if trial is not None:
            self.mark_failed(trial)

    def prune(self, trial: int) -> None:
        """Mark a trial as stopped early; its last score becomes its value."""
        frozen = self.storage.get_trial(trial)
        last = frozen.intermediate_values.get(frozen.last_step) if frozen.last_step is not None else None
        with suppress(UpdateFinishedTrialError):
            self.storage.set_trial_state_values(trial, TrialState.PRUNED, None if last is None else [last])

    def _pop_unfinished(self, identity: str) -> int | None:
        running = self._running.pop(identity, None)
        return self._waiting.pop(identity, running)

    def _create(self, point: Point, state: TrialState) -> int:
        return self.storage.create_new_trial(self.study_id, template_trial=_make_template(point, state, self._ranges))


def main_figures(record: Record) -> dict[str, Any]:
    """Return the figures of a record that the study shows."""
    best = next(entry for entry in record["epochs"] if entry["epoch"] == record["best"]["epoch"])
    return {
        "identity": record["identity"],
        "best epoch": best["epoch"],
        "pruned score": best["selection"] if best["pruned"] else None,
        "unpruned score": best["unpruned_selection"],
        "relative residual": best["relative_distance"],
        "pattern holds": record["sparsity"]["exact"],
        "seconds": round(record["seconds"]["total"], 1),
    }


def distribution(cell: Cell, key: str) -> BaseDistribution:
    """Return an axis' distribution: a grid's numbers as a range, so that it can grow; a search's list as choices."""
    values = cell.axes[key]
    if isinstance(values, Range):
        if isinstance(values.low, int) and isinstance(values.high, int):
            return IntDistribution(values.low, values.high, log=values.log)
        return FloatDistribution(values.low, values.high, log=values.log)
    if cell.search or is_wordy(values):
        return CategoricalDistribution(list(values))
    if all(isinstance(value, bool) for value in values):
        return CategoricalDistribution([False, True])
    if all(isinstance(value, int) for value in values):
        return IntDistribution(min(values), max(values))
    return FloatDistribution(min(values), max(values), log=key in _LOGARITHMIC)


def identity_attribute(point: Point) -> dict[str, Any]:
    """Return the user attribute that identifies a trial's training, or its trainings if seeds are repeats."""
    if point.cell.seeds:
        return {IDENTITIES: [repeat.identity for repeat in point.cell.repeats(point)]}
    return {"identity": point.identity}


def identity_in(trial: FrozenTrial) -> str:
    """Return the identity of a trial's point, with its first seed; empty for a foreign trial."""
    return str(trial.user_attrs.get("identity") or next(iter(trial.user_attrs.get(IDENTITIES, [])), ""))


def find_or_create(storage: BaseStorage, cell: Cell) -> int:
    """Find or create a cell's study and return its number; the caller holds the storage's lock.

    Raises:
        StorageError: The study of this name is of something else.
    """
    name = cell.study_name
    try:
        study_id = storage.create_new_study([StudyDirection.MAXIMIZE], name)
    except DuplicatedStudyError:
        study_id = storage.get_study_id_from_name(name)
        differences = _compare(storage, study_id, cell)
        if differences:
            raise StorageError(
                f"the study {name!r} is not that of this sweep: {'; '.join(differences)}",
                hint="delete that study, or move the studies away: they are rebuilt from the records",
            ) from None
        if "fingerprint" in storage.get_study_user_attrs(study_id):
            return study_id
    metric = cell.settings.task.selection_metric
    over_seeds = f", mean over the seeds {' '.join(map(str, cell.seeds))}" if cell.seeds else ""
    attributes = {
        **cell.choices,
        "sparsity": cell.sparsity_name,
        "pattern": cell.pattern,
        "fingerprint": cell.fingerprint,
        "score": f"{metric} of the pruned model, best epoch on the reported set (optimistic){over_seeds}",
    }
    for key, value in attributes.items():
        storage.set_study_user_attr(study_id, key, value)
    return study_id


def _compare(storage: BaseStorage, study_id: int, cell: Cell) -> list[str]:
    """Return how a study differs from that of a cell."""
    direction = [found.name for found in storage.get_study_directions(study_id)]
    wanted = [StudyDirection.MAXIMIZE.name]
    differences = [f"its direction is {' '.join(direction)}, not {wanted[0]}"] if direction != wanted else []
    attributes = storage.get_study_user_attrs(study_id)
    fingerprint = attributes.get("fingerprint", cell.fingerprint)  # missing if its creator died
    if fingerprint != cell.fingerprint:
        differences.append(f"its fingerprint is {str(fingerprint)[:40]}, not {cell.fingerprint}")
    for trial in storage.get_all_trials(study_id, deepcopy=False)[-1:]:
        for key in set(trial.distributions) & set(cell.drawn_keys):
            found, own = type(trial.distributions[key]).__name__, type(distribution(cell, key)).__name__
            if found != own:
                differences.append(f"its {key} is a {found}, not a {own}")
    return differences


def _make_template(
    point: Point,
    state: TrialState,
    ranges: Mapping[str, BaseDistribution],
    *,
    value: float | None = None,
    intermediate_values: dict[int, float] | None = None,
    attributes: Mapping[str, Any] | None = None,
    started: datetime | None = None,
    finished: datetime | None = None,
) -> FrozenTrial:
    params = {key: value for key, value in point.values.items() if key in point.cell.drawn_keys}
    trial = create_trial(
        state=state,
        value=value,
        params=params,
        distributions={key: ranges.get(key) or distribution(point.cell, key) for key in params},
        intermediate_values=intermediate_values,
        user_attrs={**identity_attribute(point), **(attributes or {})},
    )
    if started is not None:
        trial.datetime_start, trial.datetime_complete = started, finished
    return trial


def _unite(first: BaseDistribution, second: BaseDistribution) -> BaseDistribution:
    """Return the smallest range that holds two ranges of one kind; anything else is the first."""
    if isinstance(first, FloatDistribution) and isinstance(second, FloatDistribution):
        return FloatDistribution(min(first.low, second.low), max(first.high, second.high), log=first.log)
    if isinstance(first, IntDistribution) and isinstance(second, IntDistribution):
        return IntDistribution(min(first.low, second.low), max(first.high, second.high), log=first.log)
    return first


def _id(trial: FrozenTrial) -> int:
    return trial._trial_id  # noqa: SLF001 - what every method of a storage takes


def _to_local(time: str | None) -> datetime | None:
    """Return a record's UTC time as naive local time, as Optuna stores it."""
    return None if time is None else datetime.fromisoformat(time).astimezone().replace(tzinfo=None)
