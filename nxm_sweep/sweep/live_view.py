"""Output of a sweep: a live table on a terminal, a line per event elsewhere, and finally the best of each cell."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from nxm_sweep.console import plain_table
from nxm_sweep.errors import RecordError
from nxm_sweep.formatting import describe_point, format_duration, format_score, format_values
from nxm_sweep.store.draws import best_mean, format_mean
from nxm_sweep.store.paths import trial_folder
from nxm_sweep.store.progress import format_progress
from nxm_sweep.store.records import best_of, read_summary
from nxm_sweep.sweep.execution.coordinator import Coordinator
from nxm_sweep.sweep.execution.sweep_state import SweepState
from nxm_sweep.sweep.planning.cell import Cell, Point
from nxm_sweep.sweep.planning.estimate import Estimate
from nxm_sweep.sweep.planning.plan import Plan

_RUNNING_SHOWN = 12
_PROBLEMS_SHOWN = 20


class LiveView:
    """Show a coordinator's state while it runs.

    Args:
        plan: The sweep.
        output_dir: Root of trials.
        estimate: Expected time of the rest, updated as trials finish.
        coordinator: Source of the state.
        console: Output; without a terminal, a line per event.
        now: Monotonic clock in seconds, for tests.
    """

    def __init__(
        self,
        plan: Plan,
        output_dir: Path,
        estimate: Estimate,
        coordinator: Coordinator,
        console: Console,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan, self._output_dir, self._estimate = plan, output_dir, estimate
        self._coordinator, self._console, self._now = coordinator, console, now
        self._points: dict[str, Point] = {}
        self._names: dict[str, str] = {}
        self._seen: set[str] = set()
        self._begun: dict[str, float] = {}
        self._live: Live | None = None
        self._epoch_of = _make_epoch_reader(output_dir)

    def __enter__(self) -> Self:
        board = self._coordinator.board
        self._seen = {*board.done, *board.failed, *board.pruned}
        count, left = f"{len(self._plan)} points", len(self._plan) - len(self._seen)
        if self._plan.repeats_seeds:
            count, left = self._plan.count_words, sum(map(self._plan.wanted, self._plan.cells)) - len(self._seen)
        self._console.print(
            f"{len(self._plan.cells)} cells, {count}: {len(board.done)} have a record, {left} to do"
            + (f", {len(board.failed)} failed before (sweep.retry_failed=true)" if board.failed else "")
        )
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, board: SweepState) -> None:
        """Show the state."""
        if len(self._points) < len(self._plan):  # a search adds points as it goes
            self._points = {point.identity: point for point in self._plan}
            self._names = {point.identity: describe_point(point.cell.title, point.values) for point in self._plan}
        now = self._now()
        for identity in board.running:
            if identity not in self._begun:
                self._begun[identity] = now
                self._print_line(f"start  {self._names[identity]}")
        self._print_ends(board, now)
        if self._live is not None:
            self._live.update(self._render(board))

    def _print_ends(self, board: SweepState, now: float) -> None:
        ends: list[tuple[str, str]] = []
        ends += [
            (identity, format_score(value)) for identity, value in board.done.items() if identity not in self._seen
        ]
        ends += [
            (identity, f"failed ({failure.kind}): {failure.message}")
            for identity, failure in board.failed.items()
            if identity not in self._seen
        ]
        ends += [
            (identity, f"pruned at {format_score(value)}")
            for identity, value in board.pruned.items()
            if identity not in self._seen
        ]
        for identity, text in ends:
            self._seen.add(identity)
            begun = self._begun.pop(identity, None)
            took = f"  {format_duration(now - begun)}" if begun is not None else ""
            if begun is not None and identity in board.done:
                self._estimate.learn(self._points[identity], now - begun)
            self._print_line(f"{len(self._seen)}/{len(self._plan)}  {self._names[identity]}  {text}{took}")

    def _print_line(self, text: str) -> None:
        if self._live is None:
            self._console.print(text, soft_wrap=True, markup=False)

    def _render(self, board: SweepState) -> Group:
        parts: list[Any] = [_render_cells(self._plan, board, self._epoch_of)]
        running = Table(box=None, pad_edge=False, show_header=False)
        for identity in list(board.running)[:_RUNNING_SHOWN]:
            running.add_row(self._names[identity], format_progress(trial_folder(self._output_dir, identity)))
        if board.running:
            parts.append(running)
        if board.elsewhere:
            parts.append(Text(f"{len(board.elsewhere)} {self._plan.unit} are being trained by others", style="dim"))
        parts.append(Text(self._format_time_left(board), style="dim"))
        return Group(*parts)

    def _format_time_left(self, board: SweepState) -> str:
        """Return the time left as text: expected seconds of open points over running workers."""
        now, waiting = self._now(), self._coordinator.left
        spent = {identity: now - self._begun.get(identity, now) for identity in board.running}
        undrawn = [
            (Point(cell, {}, ""), self._plan.wanted(cell) - len(points))
            for cell, points in zip(self._plan.cells, self._plan.points, strict=True)
        ]
        seconds, untimed = 0.0, 0
        for point, count in [*((point, 1) for point in (*waiting, *map(self._points.__getitem__, spent))), *undrawn]:
            guess = self._estimate.guess(point)
            if guess is None:
                return "time left: not known before the first trial has finished"
            seconds += max(0.0, guess * count - spent.get(point.identity, 0.0))
            untimed += 0 if self._estimate.knows(point.cell) else count
        text = f"about {format_duration(seconds / max(1, len(board.running)))} left"
        return text + (f"; {untimed} {self._plan.unit} are timed by those of other cells" if untimed else "")


def final_report(plan: Plan, board: SweepState, output_dir: Path, console: Console, *, stopped: bool) -> bool:
    """Print the best point of each cell and the failures; return whether none failed or is missing."""
    console.print(best_table(plan, board, output_dir))
    on_reported = any(cell.settings.selection.name == "dev" for cell in plan.cells)
    rows = "the set that they are reported on: optimistic, as in the paper" if on_reported else "held-out training rows"
    console.print(f"Scores times 100. The best epoch and the best point are selected on {rows}.", style="dim")
    failed = [(point, board.failed[point.identity]) for point in plan if point.identity in board.failed]
    for point, why in failed[:_PROBLEMS_SHOWN]:
        line = (
            f"problem: {describe_point(point.cell.title, point.values)}  {why.kind}: {why.message}  ({point.identity})"
        )
        console.print(line, markup=False, soft_wrap=True)
    if len(failed) > _PROBLEMS_SHOWN:
        console.print(f"... and {len(failed) - _PROBLEMS_SHOWN} more problems")
    wanted = sum(map(plan.wanted, plan.cells))
    missing = wanted - len(board.done) - len(board.pruned) - len(failed)
    have = f"{len(board.done)} of {wanted} points have a record"
    if plan.repeats_seeds:
        have = f"{plan.count_words}: {len(board.done)} have a record"
    parts = [have, f"{board.trained} trained now"]
    parts += [f"{len(board.pruned)} pruned"] if board.pruned else []
    parts += [f"{len(failed)} failed"] if failed else []
    parts += [f"{missing} not trained yet"] if missing > 0 else []
    console.print(", ".join(parts), soft_wrap=True)
    if stopped:
        console.print("stopped; the same command continues")
    elif failed:
        console.print(
            "sweep.retry_failed=true tries the failed points again; what each printed is in its log.txt", soft_wrap=True
        )
    return not failed and missing <= 0


def best_table(plan: Plan, board: SweepState, output_dir: Path) -> Table:
    """Return a table of the best point of each cell."""
    table = plain_table("cell", plan.unit, "best", "at")
    epoch_of = _make_epoch_reader(output_dir)
    for cell, points in zip(plan.cells, plan.points, strict=True):
        done = f"{_count(points, board.done)}/{plan.wanted(cell)}"
        table.add_row(cell.title, done, *_format_best(cell, points, board, epoch_of))
    return table


def _render_cells(plan: Plan, board: SweepState, epoch_of: Callable[[Point], float]) -> Table:
    table = plain_table("cell", "done", "running", "failed", "best", "at")
    for cell, points in zip(plan.cells, plan.points, strict=True):
        table.add_row(
            cell.title,
            f"{_count(points, board.done)}/{plan.wanted(cell)}",
            str(_count(points, board.running)),
            str(_count(points, board.failed)),
            *_format_best(cell, points, board, epoch_of),
        )
    return table


def _format_best(
    cell: Cell, points: Iterable[Point], board: SweepState, epoch_of: Callable[[Point], float]
) -> tuple[str, str]:
    """Return the best score and its values; over several seeds the best mean, never one seed's score."""
    if cell.seeds:
        return format_mean(best_mean(points, len(cell.seeds), board.done, board.failed, epoch_of))
    best = _select_best(points, board, epoch_of)
    return format_score(best[0] if best else None), format_values(best[1].values) if best else ""


def _select_best(
    points: Iterable[Point], board: SweepState, epoch_of: Callable[[Point], float]
) -> tuple[float, Point] | None:
    scored = ((value, point) for point in points if (value := board.done.get(point.identity)) is not None)
    return best_of(scored, epoch_of)


def _make_epoch_reader(output_dir: Path) -> Callable[[Point], float]:
    """Return a cached reader of the epoch of a point's score in its record."""

    @cache
    def read(identity: str) -> float:
        try:
            record = read_summary(trial_folder(output_dir, identity))
        except RecordError:  # the coordinator reports it
            record = None
        return math.inf if record is None else record.epoch

    return lambda point: read(point.identity)


def _count(points: Iterable[Point], those: Mapping[str, Any]) -> int:
    return sum(point.identity in those for point in points)
