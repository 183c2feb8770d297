"""Coordinator of a sweep: submit points, monitor them and update the studies until every point is settled.

Points left = wanted points - records - points in training. Coordinators share a sweep through claims.
"""

from __future__ import annotations

import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from nxm_sweep.errors import RecordError
from nxm_sweep.settings import SweepSettings
from nxm_sweep.store.attempts import (
    OUTPUT,
    Failure,
    Outcome,
    add_failure,
    classify,
    forget_failures,
    is_worth_a_try,
    read_failures,
)
from nxm_sweep.store.disk import is_full, write_error
from nxm_sweep.store.paths import RESULT, STOP, WORK, trial_folder
from nxm_sweep.store.progress import INTERRUPTED, PRUNED, read_progress, request_stop
from nxm_sweep.store.records import read_record, selected_value
from nxm_sweep.sweep.execution.backfill import Backfill
from nxm_sweep.sweep.execution.batch_runner import Runner
from nxm_sweep.sweep.execution.claims import Claims
from nxm_sweep.sweep.execution.sweep_state import SweepState
from nxm_sweep.sweep.planning.cell import Point
from nxm_sweep.sweep.planning.plan import Plan
from nxm_sweep.sweep.studies.search import Search
from nxm_sweep.sweep.studies.seed_means import SeedMeanStudy
from nxm_sweep.sweep.studies.study import CellStudy

_TICK_SECONDS = 0.25
_LOOK_AROUND_SECONDS = 5.0
_CATCH_UP_SECONDS = 0.1
"""Time per tick for adding the records of other sweeps to the studies."""


class Coordinator:
    """Run a plan to its end.

    Args:
        plan: The wanted points.
        output_dir: Root of trials.
        settings: The sweep's settings.
        studies: The study of each cell, by its name.
        claims: This coordinator's claims.
        runner: Trains the points.
        seconds_of: Expected seconds of a point; the longest come first, after those that have checkpoints.
        searches: Sources of points that the plan does not list, and of early stopping.
        waits: Whether to wait for the points of other coordinators. If not, the run ends once nothing can begin here
            and every other claimant has given a sign of life since.
    """

    def __init__(
        self,
        plan: Plan,
        output_dir: Path,
        settings: SweepSettings,
        studies: Mapping[str, CellStudy],
        claims: Claims,
        *,
        runner: Runner,
        seconds_of: Callable[[Point], float],
        searches: Sequence[Search] = (),
        waits: bool = True,
    ) -> None:
        self._plan, self._output_dir, self._settings = plan, output_dir, settings
        self._studies, self._claims, self._runner = studies, claims, runner
        self._searches = {search.study.cell.study_name: search for search in searches}
        self._waits, self._busy_until = waits, time.monotonic()
        self._points = {point.identity: point for point in plan}
        self.board = SweepState()
        self._stop_reason: str | None = None
        self._read_states(self._points)
        if settings.retry_failed:
            for identity in list(self.board.failed):
                if not self._has_file(identity, RESULT):  # a damaged record is never trained over
                    forget_failures(self._folder(identity))
                    del self.board.failed[identity]
        open_points = [point for point in plan if not self.board.is_settled(point.identity)]
        begun = {point.identity for point in open_points if self._has_file(point.identity, WORK)}
        order = sorted(open_points, key=lambda point: (point.identity in begun, seconds_of(point)), reverse=True)
        self._to_do = deque(order)  # stable: ties in the plan's order
        self._looked = time.monotonic()
        self._catch_up = Backfill(output_dir, claims, studies)
        for point in plan:
            if point.identity in self.board.done and not self._is_in_study(point):
                self._catch_up.add(point)

    @property
    def left(self) -> list[Point]:
        """Points waiting for a worker."""
        return list(self._to_do)

    @property
    def stop_reason(self) -> str | None:
        """Reason of :meth:`stop`, or None."""
        return self._stop_reason

    @property
    def stopping(self) -> bool:
        """Whether :meth:`stop` was called."""
        return self._stop_reason is not None

    def run(self, show: Callable[[SweepState], None] = lambda _: None) -> SweepState:
        """Run until every point is settled, here or elsewhere, or :meth:`stop` is called.

        Args:
            show: Called at every tick with the state.
        """
        show(self.board)
        while self._tick():
            show(self.board)
        self.board.add(self._catch_up.finish())
        self.board.recheck(self._output_dir)
        show(self.board)
        return self.board

    def stop(self, reason: str = INTERRUPTED) -> None:
        """Submit nothing more; running trials stop after their epoch, or after their step if it is ``terminated``.

        Either way they leave a checkpoint.
        """
        self._stop_reason = reason
        for identity in list(self.board.running):  # now: the studies' storage may keep the coordinator waiting
            _request_stop(self._folder(identity), reason)

    def _tick(self) -> bool:
        if not self.stopping:
            self._hand_out()
            self._search()
        ended = self._runner.wait(_TICK_SECONDS)
        for identity, outcome in ended:
            self._end(identity, outcome)
        for identity in self.board.running:
            self._monitor(identity)
        if time.monotonic() - self._looked >= _LOOK_AROUND_SECONDS or not (self.board.running or ended):
            self._check_elsewhere()
        self.board.add(self._catch_up.work(_CATCH_UP_SECONDS))
        if self.board.running or ended:
            self._busy_until = time.monotonic()
        if self.board.running:
            return True
        if ended and not self._has_points_left():
            self._check_elsewhere()  # others may have drawn points since the last check
        return not self.stopping and self._has_points_left()

    def _has_points_left(self) -> bool:
        """Return whether points are open that are not being trained here."""
        searching = any(search.wants_more for search in self._searches.values())
        if self._waits:
            return bool(self._to_do or self.board.elsewhere or searching)
        return searching or any(self._study(point).may_begin(point) for point in self._to_do) or self._may_inherit()

    def _may_inherit(self) -> bool:
        """Return whether a claimant elsewhere may be dead: it has not touched its heartbeat since this one is idle."""
        idle = time.monotonic() - self._busy_until
        return any(not self._claims.is_taken(identity, within=idle) for identity in self.board.elsewhere)

    def _search(self) -> None:
        """Ask the searches for points while workers are free and no waiting point can begin."""
        for search in self._searches.values():
            while self._runner.has_room and search.wants_more and self._ask(search):
                self._hand_out()

    def _ask(self, search: Search) -> bool:
        """Submit a point that a search asks for, or answer from its record; return whether to ask for more."""
        with search.lock:
            asked = search.ask()
            if asked is None:
                return False
            trial, point = asked
            identity = point.identity
            for repeat in point.cell.repeats(point):
                self._points[repeat.identity] = repeat
                self._plan.add(repeat)
            if point.cell.seeds:
                self._to_do.extend(point.cell.repeats(point))
                self._plan.write(self._output_dir)
                return True
            if not self._claim(identity):  # another sweep trains it; its record will count
                search.study.mark_failed(trial)
                return True
        if self._read_states([identity]):
            self._answer(search, trial, identity)
            self._claims.release(identity)
        else:
            self.board.running[identity] = trial
            self._runner.submit(point)
        self._plan.write(self._output_dir)
        return True

    def _answer(self, search: Search, trial: int, identity: str) -> None:
        """End a search's trial of a settled point, with its record if there is one."""
        try:
            record = read_record(self._folder(identity)) if identity in self.board.done else None
        except RecordError as error:
            self.board.add({identity: classify(error)})
            record = None
        if record is not None:
            search.study.complete(trial, record)
            self.board.done[identity] = selected_value(record)
        else:
            search.study.mark_failed(trial)

    def _adopt(self) -> None:
        """Add the points that other coordinators' searches have asked for."""
        for point in itertools.chain.from_iterable(search.adopt() for search in self._searches.values()):
            self._points[point.identity] = point
            self._plan.add(point)
            self.board.elsewhere.add(point.identity)

    def _hand_out(self) -> None:
        held_back = []
        while self._runner.has_room and self._to_do:
            point = self._to_do.popleft()
            if not self._study(point).may_begin(point):
                held_back.append(point)
            elif not self._claim(point.identity):
                continue
            elif self._read_states([point.identity]):  # settled elsewhere since
                self._catch_up.add(point)
                self._claims.release(point.identity)
                study = self._study(point)
                if isinstance(study, SeedMeanStudy):  # at once: the next draw depends on the means
                    study.catch_up(point)
            else:
                self._begin(point)
        self._to_do.extendleft(reversed(held_back))

    def _claim(self, identity: str) -> bool:
        """Claim a point; else note that it is trained elsewhere, or failed because its folder cannot be written."""
        try:
            if self._claims.take(identity):
                return True
        except OSError as error:
            explained = write_error(error, self._output_dir)
            if explained is None or is_full(error):
                raise
            self.board.failed[identity] = classify(explained)
        else:
            self.board.elsewhere.add(identity)
        return False

    def _begin(self, point: Point) -> None:
        """Train a claimed point, unless a pruner stops it first."""
        study = self._study(point)
        trial = study.begin(point)
        if self._should_prune(point, trial, study.unjudged(trial)):
            self._claims.release(point.identity)
            self._prune(point, trial)
        else:
            self.board.running[point.identity] = trial
            self._runner.submit(point)

    def _end(self, identity: str, outcome: Outcome) -> None:
        """Record how an attempt ended: in the study, on disk, in the state."""
        trial, point = self.board.running.pop(identity), self._points[identity]
        study, folder = self._study(point), self._folder(identity)
        try:
            record = read_record(folder)  # first: a worker may have died, or run out of time, once it had written it
        except RecordError as error:
            outcome = Outcome(failure=classify(error))
            record = None
        if record is not None:
            new_steps = study.complete(trial, record)
            forget_failures(folder)
            self.board.done[identity] = selected_value(record)
            self.board.trained += self._claims.holds(identity)
            if self._should_prune(point, trial, new_steps):
                self._prune(point, trial)
        elif not self._claims.holds(identity):  # another coordinator has taken it over, and its trial in the study
            self.board.elsewhere.add(identity)
            self._claims.release(identity)
            return
        elif outcome.stopped == PRUNED:
            study.prune(trial)
            self._read_states([identity])
        elif outcome.stopped:
            study.requeue(trial, identity)
            if not self.stopping:  # the worker alone was told to; first, so that few checkpoints lie around at a time
                self._to_do.appendleft(point)
        else:
            self._fail(point, trial, outcome.failure or classify(RuntimeError("the worker left no record")))
        if self.stopping:  # a point with other seeds to do waits; an ended one is unchanged
            study.requeue(trial, identity)
        self._claims.release(identity)

    def _fail(self, point: Point, trial: int, failed: Failure) -> None:
        folder = self._folder(point.identity)
        if failed not in read_failures(folder):
            try:
                add_failure(folder, failed)
            except OSError as error:
                if is_full(error):
                    raise
                failed = replace(failed, kind=OUTPUT)  # the folder has become read-only
        self._study(point).fail(trial, point.identity, failed)
        if failed.kind != OUTPUT and is_worth_a_try(read_failures(folder), self._settings.max_attempts):
            self._to_do.append(point)
        else:
            self.board.failed[point.identity] = failed

    def _monitor(self, identity: str) -> None:
        """Report a running trial's new epochs, and stop it for a pruner or Ctrl-C."""
        folder, trial = self._folder(identity), self.board.running[identity]
        point = self._points[identity]
        study = self._study(point)
        progress = read_progress(folder)
        if progress is None:
            if self._stop_reason and not any(self._has_file(identity, name) for name in (RESULT, STOP)):
                _request_stop(folder, self._stop_reason)  # a launcher's job that has not begun
            return
        if self._should_prune(point, trial, study.report(trial, identity, progress["epochs"])):
            self._prune(point, trial)
        elif self._stop_reason:
            _request_stop(folder, self._stop_reason)

    def _should_prune(self, point: Point, trial: int, steps: Iterable[int]) -> bool:
        """Return whether the pruner stops a trial at one of the steps, judged in order."""
        search = self._searches.get(point.cell.study_name)
        return search is not None and any(search.should_prune(trial, step) for step in steps)

    def _prune(self, point: Point, trial: int) -> None:
        """Stop a training, and those of the other seeds of its point."""
        study = self._study(point)
        if not isinstance(study, SeedMeanStudy):
            _request_stop(self._folder(point.identity), PRUNED)
            return
        study.prune(trial)
        study.close(point.identity, self._claims)
        self._read_states(member for member in study.members(point.identity) if member not in self.board.running)
        self._to_do = deque(left for left in self._to_do if not self.board.is_settled(left.identity))

    def _check_elsewhere(self) -> None:
        """Take up what other coordinators have settled or left behind."""
        self._looked = time.monotonic()
        self._adopt()
        left_behind = []
        for identity in sorted(self.board.elsewhere):
            if self._read_states([identity]):
                self.board.elsewhere.discard(identity)
                self._catch_up.add(self._points[identity])
            elif not self._claims.is_taken(identity):
                left_behind.append(self._points[identity])
        for point in left_behind:
            self.board.elsewhere.discard(point.identity)
            self._to_do.append(point)
        for name in {point.cell.study_name for point in left_behind}:
            self._studies[name].read()  # to resume the trial that a dead coordinator left

    def _read_states(self, identities: Iterable[str]) -> int:
        """Read the states of points from disk; return how many are settled."""
        return sum(self.board.read(identity, self._output_dir, self._settings) for identity in identities)

    def _is_in_study(self, point: Point) -> bool:
        return point.identity in self._study(point).recorded

    def _study(self, point: Point) -> CellStudy:
        return self._studies[point.cell.study_name]

    def _has_file(self, identity: str, name: str) -> bool:
        return os.path.lexists(self._folder(identity) / name)

    def _folder(self, identity: str) -> Path:
        return trial_folder(self._output_dir, identity)


def _request_stop(folder: Path, reason: str) -> None:
    with suppress(OSError):  # a folder that has become read-only: its trial ends by itself
        request_stop(folder, reason)
