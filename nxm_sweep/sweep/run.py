"""Run a whole sweep: plan, studies, claims, workers, coordinator and final report."""

from __future__ import annotations

import gc
import itertools
import os
import shlex
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import FrameType

from rich.console import Console

from nxm_sweep.console import TextConsole
from nxm_sweep.errors import RecordError, SweepIncompleteError
from nxm_sweep.settings import SLICE_NOTE, SweepSettings, TrialSettings
from nxm_sweep.store.attempts import forget_failures
from nxm_sweep.store.paths import RESULT, trial_folder
from nxm_sweep.store.plans import set_aside_damaged_plans
from nxm_sweep.store.record import Record
from nxm_sweep.store.records import read_record, read_summary
from nxm_sweep.store.small_files import warn
from nxm_sweep.store.state import FAILED, RUNNING, TO_DO, point_state
from nxm_sweep.store.stop_signals import STOP_SIGNALS, TERMINATED, note_stop_signals, receive, received, signal_name
from nxm_sweep.sweep.execution.batch_runner import BatchRunner, Launch, Runner
from nxm_sweep.sweep.execution.claims import Claims
from nxm_sweep.sweep.execution.coordinator import Coordinator
from nxm_sweep.sweep.execution.pool import Pool, Shape, shape_of_machine, start_imports
from nxm_sweep.sweep.execution.sweep_state import SweepState
from nxm_sweep.sweep.live_view import LiveView, final_report
from nxm_sweep.sweep.planning.cell import Cell, Point, variants
from nxm_sweep.sweep.planning.estimate import Estimate, show_dry_run
from nxm_sweep.sweep.planning.plan import Plan, describe_changes, make_plan
from nxm_sweep.sweep.studies.search import Search
from nxm_sweep.sweep.studies.seed_means import SeedMeanStudy
from nxm_sweep.sweep.studies.storage import Storage, dashboard_address, in_use, open_storage, storage_lock
from nxm_sweep.sweep.studies.study import CellStudy
from nxm_sweep.trial.digests import Digests, model_bytes
from nxm_sweep.trial.identity import find_unread

Submit = Callable[[str, int], str]
"""Submit the jobs of a plan with a number of open points; return what was submitted, as text."""


def run_sweep(
    cells: Sequence[Cell],
    settings: TrialSettings,
    arguments: Sequence[str],
    launch: Launch | None,
    console: Console | None = None,
    *,
    submit: Submit | None = None,
) -> SweepState:
    """Run a sweep's cells until every point is settled.

    Args:
        cells: The cells to train.
        settings: Settings that the cells share: output folder, and how the sweep runs.
        arguments: The command line, for the plan's file.
        launch: A Hydra launcher; None: the local pool.
        console: Output of the live view.
        submit: Submits the jobs of a detached sweep, if points are open: the sweep then ends without waiting for them.

    Raises:
        SweepIncompleteError: Points have no record.
        StorageError: The studies' storage cannot be used.
    """
    note_stop_signals()
    console = console or TextConsole()
    output_dir, sweep = Path(settings.output_dir), settings.sweep
    plan = _plan_points(cells, sweep, arguments)
    if not sweep.dry_run:
        set_aside_damaged_plans(output_dir)
    plan.recall(output_dir)
    for line in [*describe_changes(plan, output_dir), *_describe_slices(cells), *_describe_unread(cells, arguments)]:
        console.print(line, soft_wrap=True)
    estimate = Estimate(plan, output_dir)
    if sweep.dry_run:
        elsewhere = launch is not None or submit is not None
        _show_dry_run(plan, output_dir, sweep, estimate, console, gain=None if elsewhere else _measure_bf16_gain)
        return SweepState()
    if submit is not None and _submit_open(plan, output_dir, sweep, submit, console):
        return SweepState()
    if launch is None and any(_is_to_train(output_dir, point.identity, sweep) for point in plan):
        start_imports()
    plan.write(output_dir)
    storage = open_storage(
        sweep.storage, output_dir, sweep.storage_patience, lambda line: console.print(line, soft_wrap=True)
    )
    job_of = plan.key if sweep.detach else ""
    with in_use(sweep.storage), Claims(output_dir, sweep.lease, job_of) as claims:
        claims.clear(point.identity for point in plan)
        lock = storage_lock(output_dir)
        with lock, _pause_collection():
            studies = {cell.study_name: _open_study(storage, cell, output_dir, sweep) for cell in plan.cells}
            searches = [Search(study, sweep, lock) for study in studies.values()] if _is_search(sweep) else []
            for point in itertools.chain.from_iterable(search.adopt() for search in searches):
                plan.add(point)
            if searches:  # before a study is recreated: a sweep resumed after a crash here needs its points
                plan.write(output_dir)
            for study, points in zip(studies.values(), plan.points, strict=True):
                _prepare(study, points, claims, output_dir, sweep)
        with _make_runner(plan, output_dir, sweep, launch, console) as runner:
            coordinator = Coordinator(
                plan,
                output_dir,
                sweep,
                studies,
                claims,
                runner=runner,
                seconds_of=estimate.cost,
                searches=searches,
                waits=not sweep.detach,
            )
            with (
                LiveView(plan, output_dir, estimate, coordinator, console) as view,
                _handle_interrupts(coordinator, console),
            ):
                board = coordinator.run(view.show)
    complete = final_report(plan, board, output_dir, console, stopped=coordinator.stopping)
    _print_next_commands(output_dir, sweep, board, console)
    if coordinator.stopping or board.failed or not (complete or sweep.detach):  # others train what is missing
        raise SweepIncompleteError("stopped" if coordinator.stopping else "points have no record")
    return board


def _print_next_commands(output_dir: Path, sweep: SweepSettings, board: SweepState, console: Console) -> None:
    """Print the commands that show the results: the report, once there is a record, and the studies' dashboard."""
    if board.done:
        folder = shlex.quote(str(output_dir))
        console.print(f"report: python -m nxm_sweep report {folder}", markup=False, soft_wrap=True)
    console.print(
        f"studies: optuna-dashboard {dashboard_address(sweep.storage, output_dir)}", style="dim", soft_wrap=True
    )


def _show_dry_run(
    plan: Plan,
    output_dir: Path,
    sweep: SweepSettings,
    estimate: Estimate,
    console: Console,
    *,
    gain: Callable[[TrialSettings], float | None] | None,
) -> None:
    shape = _split_machine(plan, sweep)
    if sweep.probe:
        from nxm_sweep.trial.step_timer import seconds_per_row  # noqa: PLC0415 - seconds of imports

        estimate.probe(plan, lambda point: seconds_per_row(point, shape.threads))
    show_dry_run(plan, output_dir, sweep, estimate, console, workers=shape.workers, bf16_gain=gain)


def _submit_open(plan: Plan, output_dir: Path, sweep: SweepSettings, submit: Submit, console: Console) -> bool:
    """Submit the jobs of a detached sweep; return False if no point is open, and nothing was submitted."""
    if sweep.retry_failed:
        _forget_failures(plan, output_dir, sweep)
        sweep = replace(sweep, retry_failed=False)
    count = _count_open(plan, output_dir, sweep)
    if not count:
        return False
    plan.write(output_dir)
    where = shlex.quote(str(output_dir))
    console.print(f"{len(plan.cells)} cells, {plan.count_words}: {count} to do", soft_wrap=True)
    console.print(submit(plan.key, count), soft_wrap=True)
    console.print(
        f"nxm-sweep status {where} shows how far they are; the same command submits what is missing", soft_wrap=True
    )
    return True


def _measure_bf16_gain(settings: TrialSettings) -> float | None:
    from nxm_sweep.sweep.planning.bf16_gain import bf16_gain  # noqa: PLC0415 - only where all is planned in fp32

    return bf16_gain(settings)


def _describe_slices(cells: Sequence[Cell]) -> list[str]:
    """Return a note per task whose validation rows are split off from its training rows."""
    tasks = {cell.settings.task.name: cell.settings.task.split_off for cell in cells}
    return [f"note: {name}: {' and '.join(sets)} {SLICE_NOTE}" for name, sets in tasks.items() if sets]


def _describe_unread(cells: Sequence[Cell], arguments: Sequence[str]) -> list[str]:
    """Return a note on settings of the command line that no cell's method reads."""
    hashed = [values for cell in cells for values in variants(cell.settings, cell.axes, Digests()).values()]
    return [f"note: no method of this sweep reads {key}" for key in find_unread(arguments, hashed)]


def _plan_points(cells: Sequence[Cell], sweep: SweepSettings, arguments: Sequence[str]) -> Plan:
    rules = {"lease": sweep.lease, "max_attempts": sweep.max_attempts, "pruning": sweep.pruner != "none"}
    return make_plan(cells, arguments, n_trials=None if sweep.sampler == "grid" else sweep.n_trials, rules=rules)


def _is_search(sweep: SweepSettings) -> bool:
    return sweep.sampler != "grid" or sweep.pruner != "none"


def _open_study(storage: Storage, cell: Cell, output_dir: Path, sweep: SweepSettings) -> CellStudy:
    return SeedMeanStudy(storage, cell, output_dir, sweep) if cell.seeds else CellStudy(storage, cell)


def _prepare(study: CellStudy, points: list[Point], claims: Claims, output_dir: Path, sweep: SweepSettings) -> None:
    """Update a study from disk and queue what is to be trained; the caller holds the storage's lock."""
    if isinstance(study, SeedMeanStudy):
        study.resume(points, claims)
        return
    _settle_orphans(study, claims, output_dir)
    if any(_differs(output_dir, *told) for told in study.recorded.items()) and claims.is_alone():
        warn(f"the study {study.cell.study_name!r} differs from its records; it is rebuilt from them")
        study.recreate()
    if claims.is_alone():
        study.unify_ranges()
    if study.cell.search:
        for point in study.add_missing(points):
            if (record := _load_record(output_dir, point.identity)) is not None:
                study.add_record(point, record)
    else:
        study.queue(point for point in points if _is_to_train(output_dir, point.identity, sweep))


def _settle_orphans(study: CellStudy, claims: Claims, output_dir: Path) -> None:
    """Settle trials that are marked as running but whose coordinator died."""
    for trial, identity in study.read().items():
        if not identity or identity in study.recorded:  # its coordinator died while asking, or it is a duplicate
            study.mark_failed(trial)
        elif not claims.is_taken(identity):
            record = _load_record(output_dir, identity)
            if record is None:
                study.requeue(trial, identity)
            else:
                study.complete(trial, record)


def _differs(output_dir: Path, identity: str, value: float) -> bool:
    """Return whether a point's record has another score than its study."""
    try:
        record = read_summary(trial_folder(output_dir, identity))
    except RecordError:  # the coordinator reports it for the points that it wants
        return False
    return record is not None and record.score != value


def _load_record(output_dir: Path, identity: str) -> Record | None:
    try:
        return read_record(trial_folder(output_dir, identity))
    except RecordError:  # the coordinator reports it for the points that it wants
        return None


def _is_to_train(output_dir: Path, identity: str, sweep: SweepSettings) -> bool:
    pruning = sweep.pruner != "none"
    state = point_state(output_dir, identity, lease=sweep.lease, max_attempts=sweep.max_attempts, pruning=pruning).state
    return state in {TO_DO, RUNNING} or (state == FAILED and sweep.retry_failed)


def _count_open(plan: Plan, output_dir: Path, sweep: SweepSettings) -> int:
    """Return the number of wanted trainings that are not settled, including those that a search has yet to draw."""
    undrawn = sum(map(plan.wanted, plan.cells)) - len(plan)
    return undrawn + sum(_is_to_train(output_dir, point.identity, sweep) for point in plan)


def _forget_failures(plan: Plan, output_dir: Path, sweep: SweepSettings) -> None:
    """Forget the failures of failed points once, before any job begins; a damaged record is never trained over."""
    for point in plan:
        folder = trial_folder(output_dir, point.identity)
        found = point_state(output_dir, point.identity, lease=sweep.lease, max_attempts=sweep.max_attempts)
        if found.state == FAILED and not os.path.lexists(folder / RESULT):
            forget_failures(folder)


def _split_machine(plan: Plan, sweep: SweepSettings) -> Shape:
    """Divide the machine between workers, sized for the largest trial."""
    cells = [cell.settings for cell in plan.cells]
    sizes = [size for model in cells if (size := model_bytes(model.model)) is not None]
    return shape_of_machine(sweep, max(cell.training.devices for cell in cells), max(sizes, default=None))


def _make_runner(
    plan: Plan, output_dir: Path, sweep: SweepSettings, launch: Launch | None, console: Console
) -> AbstractContextManager[Runner]:
    if launch is not None:
        return nullcontext(BatchRunner(launch, output_dir, sweep.lease))
    shape = _split_machine(plan, sweep)
    console.print(f"{shape}; the longest trials first", style="dim")
    return Pool(shape.workers, shape.threads, shape.devices, time_limit=sweep.time_limit)


@contextmanager
def _pause_collection() -> Iterator[None]:
    """Pause garbage collection while studies are read: they create thousands of trials and no garbage."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def _handle_interrupts(coordinator: Coordinator, console: Console) -> Iterator[None]:
    """Finish the running epochs on Ctrl-C, the running steps on a stop signal; end at once on the second of a kind."""

    def on_interrupt(_: int, __: FrameType | None) -> None:
        if coordinator.stopping:
            raise KeyboardInterrupt
        coordinator.stop()
        console.print("stopping after the running epochs; Ctrl-C again stops at once. Either can be resumed.")

    def on_stop_signal(number: int, _: FrameType | None) -> None:
        if receive(number):
            raise KeyboardInterrupt
        if coordinator.stop_reason != TERMINATED:
            coordinator.stop(TERMINATED)
            console.print(
                f"{signal_name(number)}: stopping after the running steps; the same command continues from there"
            )

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: signal.signal(number, on_interrupt if number == signal.SIGINT else on_stop_signal)
        for number in (signal.SIGINT, *STOP_SIGNALS)
        if signal.getsignal(number) is not signal.SIG_IGN  # as under nohup
    }
    if received() is not None:  # while the studies were prepared
        coordinator.stop(TERMINATED)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
