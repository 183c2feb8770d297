"""Study of a search with several seeds: one trial per drawn point, whose value is the mean over the seeds.

Every seed's training has its own identity and record, as in a grid. The trial is computed only from those files, so
that a killed, shared or copied search arrives at the same means.

A pruner sees the running mean. Steps count epochs, seed after seed: step ``k * epochs + e`` of seed number ``k`` is the
mean of epoch ``e`` over the seeds 0 to ``k``, and exists once the seeds before ``k`` are done. Points are thus compared
over the same seeds at the same epoch, and no step ever changes. To this end, a search with a pruner trains the seeds
of a point one after another; its workers take different points.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from nxm_sweep.errors import RecordError
from nxm_sweep.settings import SweepSettings
from nxm_sweep.store.attempts import Failure, forget_failures, is_worth_a_try, read_failures
from nxm_sweep.store.paths import trial_folder
from nxm_sweep.store.progress import PRUNED as STOP_AS_PRUNED
from nxm_sweep.store.progress import close_as_pruned, read_pruned, request_stop
from nxm_sweep.store.record import Record
from nxm_sweep.store.records import read_record, read_summary, selected_value
from nxm_sweep.store.small_files import EpochScore
from nxm_sweep.store.state import DONE, FAILED, PRUNED, TO_DO
from nxm_sweep.sweep.planning.axes import Range
from nxm_sweep.sweep.planning.cell import Cell, Point
from nxm_sweep.sweep.studies.study import IDENTITIES, CellStudy


class Claims(Protocol):
    """Which points are taken, and by whom: :class:`~nxm_sweep.sweep.execution.claims.Claims`."""

    def take(self, identity: str) -> bool: ...
    def release(self, identity: str) -> None: ...
    def is_taken(self, identity: str) -> bool: ...
    def is_alone(self) -> bool: ...


MISSING = "missing seeds"
"""User attribute: the seeds whose training failed for good, which the mean leaves out."""


@dataclass
class _Draw:
    """A drawn point: its latest trial with the scores noted in it, and its trainings in the order of the seeds."""

    trial: int
    identities: list[str]
    state: TrialState
    noted: dict[str, float]
    value: float | None


@dataclass(frozen=True)
class _Training:
    """The fields of a record that the mean needs."""

    score: float
    curve: Mapping[int, float]
    seconds: float
    exact: bool


class SeedMeanStudy(CellStudy):
    """One cell's search over several seeds.

    Args:
        storage: As in :class:`CellStudy`.
        cell: A cell with seeds.
        output_dir: Root of trials.
        sweep: Attempts and pruner, which decide when a training is settled.
    """

    def __init__(self, storage: BaseStorage, cell: Cell, output_dir: Path, sweep: SweepSettings) -> None:
        super().__init__(storage, cell)
        self._output_dir, self._sweep = output_dir, sweep
        self._draws: dict[str, _Draw] = {}
        self._of: dict[str, _Draw] = {}
        self._by_trial: dict[int, _Draw] = {}
        self._trained: dict[str, _Training] = {}
        self._live: dict[str, dict[int, float]] = {}
        self._steps: dict[int, set[int]] = {}
        self._seen: set[int] = set()

    # --- storage ------------------------------------------------------------------------------------------------------

    def read(self) -> dict[int, str]:
        """Read every trial; return the running ones with their first seed's identity."""
        self._draws, self._by_trial, running = {}, {}, {}
        self.recorded = {}
        for trial in self.storage.get_all_trials(self.study_id, deepcopy=False):
            identities = list(trial.user_attrs.get(IDENTITIES, []))
            number: int = trial._trial_id  # noqa: SLF001 - what every method of a storage takes
            if trial.state == TrialState.RUNNING:
                running[number] = identities[0] if identities else ""
            if identities:
                scores = self._read_scores(trial, identities)
                draw = _Draw(number, identities, trial.state, scores, trial.value)
                self._draws[identities[0]] = self._by_trial[number] = draw  # the latest trial of a point counts
                self.recorded |= scores
        self._of = {identity: draw for draw in self._draws.values() for identity in draw.identities}
        return running

    def resume(self, points: Sequence[Point], claims: Claims) -> None:
        """Update the study from disk. The caller holds the storage's lock.

        Missing points are added in order, and what a dead coordinator left is resumed. A study cannot change a mean: if
        the seeds of one have changed, because a failed seed was retried, the study is recreated.

        Args:
            points: The trainings of every point that the search has drawn, this study's included.
            claims: This coordinator's claims.
        """
        for trial, identity in self.read().items():
            if not identity:  # its coordinator died while drawing
                self.mark_failed(trial)
        if self._sweep.retry_failed:
            for point in points:
                if self._read_state(point.identity) == FAILED:
                    forget_failures(self._folder(point.identity))
        if any(map(self._is_stale, self._draws.values())) and claims.is_alone():
            self.recreate()
        first = {point.identity: point for point in points if point.values["seed"] == self.cell.seeds[0]}
        for identity, point in first.items():
            if identity not in self._draws or self._is_reopened(self._draws[identity]):
                self.add(point)
        self.read()
        for point in first.values():
            self._resume_point(point, claims)

    def catch_up(self, point: Point) -> None:
        """Update a point's trial from its trainings on disk."""
        draw = self._find_draw(point)
        if not draw.state.is_finished():
            for identity in draw.identities:
                self._add_score(draw, identity)
            self._report(draw)
            self.settle(point.identity)

    def _resume_point(self, point: Point, claims: Claims) -> None:
        self.catch_up(point)
        draw = self._find_draw(point)
        if self._is_pruned(draw):
            self.close(draw.identities[0], claims)
        elif draw.state == TrialState.RUNNING and not any(map(claims.is_taken, draw.identities)):
            self.requeue(draw.trial, draw.identities[0])

    def _is_stale(self, draw: _Draw) -> bool:
        """Return whether a mean is not that of its records, or omits a seed that has or may get one."""
        if draw.state != TrialState.COMPLETE:
            return False
        counted = {identity: self._read_training(identity) for identity in draw.noted}
        scores = {identity: training.score for identity, training in counted.items() if training is not None}
        if scores != draw.noted or draw.value != fmean(scores.values()):
            return True
        return any(self._read_state(identity) != FAILED for identity in draw.identities if identity not in scores)

    def _is_reopened(self, draw: _Draw) -> bool:
        """Return whether a finished trial's point has trainings to do: failed ones to retry, or pruned ones."""
        if not draw.state.is_finished() or self._is_pruned(draw):
            return False
        if draw.state == TrialState.COMPLETE:
            return self._is_stale(draw)
        return TO_DO in map(self._read_state, draw.identities)

    def _is_pruned(self, draw: _Draw) -> bool:
        return draw.state == TrialState.PRUNED and self._prunes

    # --- trainings ----------------------------------------------------------------------------------------------------

    def may_begin(self, point: Point) -> bool:
        """Return whether a training can begin: with a pruner, once the seeds before it are done."""
        if not self._prunes:
            return True
        identities = self._find_draw(point).identities
        before = identities[: identities.index(point.identity)]
        return all(self._read_state(identity) != TO_DO for identity in before)

    def begin(self, point: Point) -> int:
        """Mark a training as begun; return the number of its point's trial in the storage."""
        draw = self._find_draw(point)
        if draw.state.is_finished() and not self._is_pruned(draw):
            self.add(point)
            self.read()
            draw = self._find_draw(point)
        if draw.state == TrialState.WAITING:
            with suppress(UpdateFinishedTrialError):
                self.storage.set_trial_state_values(draw.trial, TrialState.RUNNING)
                draw.state = TrialState.RUNNING
        return draw.trial

    def unjudged(self, trial: int) -> Sequence[int]:
        """Return a trial's last step, which another coordinator may have left before its pruner judged it."""
        if trial in self._seen and not self._is_pruned(self._by_trial[trial]):
            return ()
        self._seen.add(trial)
        return [max(self._load_steps(trial), default=0)]

    def judged_part(self, trial: FrozenTrial, step: int) -> FrozenTrial:
        """Return a trial as a pruner judges it at a step: with only the means over that step's seeds.

        A median pruner compares the best value so far, which must not be that of a first, lucky seed.
        """
        start = (step - 1) // self.epochs_per_seed * self.epochs_per_seed
        part = copy.copy(trial)
        part.intermediate_values = {at: value for at, value in trial.intermediate_values.items() if start < at <= step}
        return part

    def report(self, trial: int, identity: str, epochs: Sequence[Mapping[str, Any]]) -> Sequence[int]:
        """Report a training's epochs; return the new steps of its point."""
        self._live[identity] = _extract_curve(epochs)
        return self._report(self._by_trial[trial])

    def complete(self, trial: int, record: Record) -> Sequence[int]:
        """Add a training's record, and its point's mean after the last; return the steps that a pruner must judge."""
        draw = self._by_trial[trial]
        self._trained[record["identity"]] = _reduce_record(record)
        self._add_score(draw, record["identity"])
        new = self._report(draw)
        self.settle(record["identity"])
        return () if draw.state.is_finished() else new

    def add_record(self, point: Point, record: Record) -> None:
        """Add a record that was produced elsewhere."""
        self.complete(self._find_draw(point).trial, record)

    def requeue(self, trial: int, identity: str) -> None:
        """Mark a point as waiting: its interrupted trainings continue from their checkpoints."""
        with suppress(UpdateFinishedTrialError):
            self.storage.set_trial_state_values(trial, TrialState.WAITING)
            self._by_trial[trial].state = TrialState.WAITING

    def fail(self, trial: int, identity: str, failure: Failure) -> None:
        """Add the failure of an attempt at a seed; the point continues with the others."""
        draw = self._by_trial[trial]
        with suppress(UpdateFinishedTrialError):
            text = f"{failure.kind}: {failure.message}"
            self.storage.set_trial_user_attr(trial, f"failure of seed {self._seed(draw, identity)}", text)
        self.settle(identity)

    def prune(self, trial: int) -> None:
        """End a point early; its last mean becomes its value."""
        super().prune(trial)
        self._by_trial[trial].state = TrialState.PRUNED

    def drop_duplicate(self, identity: str) -> None:
        """Do nothing: a point's trial stands for several trainings."""

    def close(self, identity: str, claims: Claims) -> None:
        """Stop the running trainings of a pruned point, and settle those that have not begun."""
        for member in reversed(self._of[identity].identities):  # those that have not begun first
            if self._read_state(member) != TO_DO:
                continue
            if claims.take(member):
                close_as_pruned(self._folder(member))
                claims.release(member)
            else:
                request_stop(self._folder(member), STOP_AS_PRUNED)

    def members(self, identity: str) -> list[str]:
        """Return the identities of all trainings of a training's point."""
        return list(self._of[identity].identities)

    def settle(self, identity: str) -> None:
        """End a point's trial once all its trainings are settled, with the mean over those that have a record."""
        draw = self._of[identity]
        states = [self._read_state(member) for member in draw.identities]
        if draw.state.is_finished():
            return
        if PRUNED in states:
            self.prune(draw.trial)
        elif TO_DO not in states:
            self._end(draw)

    def _end(self, draw: _Draw) -> None:
        trained = {member: self._read_training(member) for member in draw.identities}
        recorded = [training for training in trained.values() if training is not None]
        missing = [self._seed(draw, member) for member, training in trained.items() if training is None]
        state = TrialState.COMPLETE if recorded else TrialState.FAIL
        attributes: dict[str, Any] = {MISSING: missing} if missing else {}
        if recorded:
            attributes["seconds"] = round(sum(training.seconds for training in recorded), 1)
            attributes["pattern holds"] = all(training.exact for training in recorded)
        with suppress(UpdateFinishedTrialError):
            self.storage.set_trial_state_values(
                draw.trial, TrialState.RUNNING
            )  # begins it, if nothing was trained here
            for key, value in attributes.items():
                self.storage.set_trial_user_attr(draw.trial, key, value)
            mean = [fmean(training.score for training in recorded)] if recorded else None
            self.storage.set_trial_state_values(draw.trial, state, mean)
        draw.state = state

    # --- the running mean ---------------------------------------------------------------------------------------------

    @property
    def epochs_per_seed(self) -> int:
        """Steps of one seed: the most epochs of any training of this cell."""
        axis = self.cell.axes.get("training.epochs", (self.cell.settings.training.epochs,))
        return int(axis.high if isinstance(axis, Range) else max(axis))

    def _report(self, draw: _Draw) -> list[int]:
        known = self._load_steps(draw.trial)
        new = {step: value for step, value in self._compute_running_mean(draw).items() if step not in known}
        with suppress(UpdateFinishedTrialError):
            for step, value in new.items():
                self.storage.set_trial_intermediate_value(draw.trial, step, value)
        known.update(new)
        return list(new)

    def _compute_running_mean(self, draw: _Draw) -> dict[int, float]:
        """Return the mean per reached step, in order. A seed that failed for good is left out."""
        means: dict[int, float] = {}
        before: list[Mapping[int, float]] = []
        for number, identity in enumerate(draw.identities):
            training = self._read_training(identity)
            curve = self._live.get(identity, {}) if training is None else training.curve
            if training is None and (state := self._read_state(identity)) != TO_DO:
                if state == FAILED:
                    continue
                pruned = read_pruned(self._folder(identity))
                curve = _extract_curve([] if pruned is None else pruned["epochs"])
            for epoch, value in curve.items():
                others = [other[epoch] for other in before if epoch in other]
                means[number * self.epochs_per_seed + epoch] = fmean([*others, value])
            if training is None:
                break
            before.append(curve)
        return means

    def _load_steps(self, trial: int) -> set[int]:
        if trial not in self._steps:
            self._steps[trial] = set(self.storage.get_trial(trial).intermediate_values)
        return self._steps[trial]

    # --- disk ---------------------------------------------------------------------------------------------------------

    @property
    def _prunes(self) -> bool:
        return self._sweep.pruner != "none"

    def _read_state(self, identity: str) -> str:
        """Return a training's state; TO_DO includes running ones."""
        folder = self._folder(identity)
        try:
            if read_summary(folder) is not None:
                return DONE
        except RecordError:  # a damaged record is a failure
            return FAILED
        if self._prunes and read_pruned(folder) is not None:
            return PRUNED
        failures = read_failures(folder)
        return FAILED if failures and not is_worth_a_try(failures, self._sweep.max_attempts) else TO_DO

    def _read_training(self, identity: str) -> _Training | None:
        """Return the needed fields of a training's record, or None if there is no readable one."""
        if identity not in self._trained:
            with suppress(RecordError):
                record = read_record(self._folder(identity))
                if record is not None:
                    self._trained[identity] = _reduce_record(record)
        return self._trained.get(identity)

    def _add_score(self, draw: _Draw, identity: str) -> None:
        """Add a seed's score to the trial."""
        training = self._read_training(identity)
        if training is not None and identity not in draw.noted:
            self.recorded[identity] = training.score
            with suppress(UpdateFinishedTrialError):
                self.storage.set_trial_user_attr(draw.trial, _score_of(self._seed(draw, identity)), training.score)
                draw.noted[identity] = training.score

    def _read_scores(self, trial: FrozenTrial, identities: Sequence[str]) -> dict[str, float]:
        named = zip(identities, map(_score_of, self.cell.seeds), strict=True)
        return {identity: trial.user_attrs[name] for identity, name in named if name in trial.user_attrs}

    def _find_draw(self, point: Point) -> _Draw:
        if point.identity not in self._of:  # it has just been drawn, perhaps elsewhere
            self.read()
        return self._of[point.identity]

    def _seed(self, draw: _Draw, identity: str) -> int:
        return self.cell.seeds[draw.identities.index(identity)]

    def _folder(self, identity: str) -> Path:
        return trial_folder(self._output_dir, identity)


def _score_of(seed: int) -> str:
    return f"score of seed {seed}"


def _reduce_record(record: Record) -> _Training:
    exact, seconds = record["sparsity"]["exact"], record["seconds"]["total"]
    return _Training(selected_value(record), _extract_curve(record["epochs"]), float(seconds), bool(exact))


def _extract_curve(epochs: Iterable[Mapping[str, Any] | EpochScore]) -> dict[int, float]:
    return {int(entry["epoch"]): float(entry["selection"]) for entry in epochs}
