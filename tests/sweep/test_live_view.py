"""What a sweep shows: lines without a terminal, a table on one, and at the end the best of each cell and every problem."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from nxm_sweep.config.compose import compose_settings
from nxm_sweep.store.attempts import failure
from nxm_sweep.sweep.execution.sweep_state import SweepState
from nxm_sweep.sweep.live_view import LiveView, final_report
from nxm_sweep.sweep.planning.cell import Cell
from nxm_sweep.sweep.planning.estimate import Estimate
from nxm_sweep.sweep.planning.plan import Plan, make_plan
from nxm_sweep.trial.digests import Digests

RATES = (1e-5, 3e-5, 5e-5)


@pytest.fixture
def plan() -> Plan:
    cells = [
        Cell(
            settings=compose_settings(["task=glue/rte", f"method={method}"]),
            axes={"learning_rate.value": RATES},
            digests=Digests("data", "model", 100),
        )
        for method in ("dense", "asp")
    ]
    return make_plan(cells)


def _console(*, terminal: bool = False) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, force_terminal=terminal, width=160, highlight=False), file


def _view(plan: Plan, board: SweepState, folder: Path, console: Console, now: Any = lambda: 0.0) -> LiveView:
    coordinator: Any = SimpleNamespace(board=board, left=[])
    return LiveView(plan, folder, Estimate(plan, folder), coordinator, console, now=now)


def _identities(plan: Plan) -> list[str]:
    return [point.identity for point in plan]


def test_without_a_terminal_every_event_is_a_line(plan: Plan, tmp_path: Path) -> None:
    first, second, third, *_ = _identities(plan)
    board = SweepState(done={third: 0.5})
    console, file = _console()
    times = iter([10.0, 75.0])
    with _view(plan, board, tmp_path, console, lambda: next(times)) as view:
        board.running = {first: 1, second: 2}
        view.show(board)
        board.running = {}
        board.done[first] = 0.625
        board.failed[second] = failure("killed", "the worker was ended by SIGKILL")
        view.show(board)
    assert file.getvalue().splitlines() == [
        "2 cells, 6 points: 1 have a record, 5 to do",
        "start  glue/rte dense bert_base lr 1e-5",
        "start  glue/rte dense bert_base lr 3e-5",
        "2/6  glue/rte dense bert_base lr 1e-5  62.50  1 min 5 s",
        "3/6  glue/rte dense bert_base lr 3e-5  failed (killed): the worker was ended by SIGKILL  1 min 5 s",
    ]


def test_a_terminal_shows_cells_running_trials_and_the_time_left(plan: Plan, tmp_path: Path) -> None:
    first, second, *_ = _identities(plan)
    console, file = _console(terminal=True)
    board = SweepState()
    now = [0.0]
    with _view(plan, board, tmp_path, console, lambda: now[0]) as view:
        board.running = {first: 1}
        view.show(board)
        now[0] = 60.0
        board.running, board.done = {second: 2}, {first: 0.5}
        view.show(board)
        text = "\n".join(str(part) for part in _rendered(view, board))
    assert "glue/rte dense bert_base" in text
    assert "1/3" in text
    assert "50.00 lr 1e-5" in text
    assert "starting" in text
    assert "about 1 min left" in text  # the running one, at the seconds of the finished one
    assert "\x1b[?25h" in file.getvalue()  # the cursor is back


def test_the_time_left_is_known_from_the_first_finished_trial_of_any_cell(plan: Plan, tmp_path: Path) -> None:
    first, second, third, *others = _identities(plan)
    board = SweepState()
    coordinator: Any = SimpleNamespace(board=board, left=[])
    now = [0.0]
    console, _ = _console()
    with LiveView(plan, tmp_path, Estimate(plan, tmp_path), coordinator, console, now=lambda: now[0]) as view:
        board.running = {first: 1}
        view.show(board)
        assert _rendered(view, board)[-1] == "time left: not known before the first trial has finished"
        now[0] = 60.0
        board.running, board.done = {others[0]: 4}, {first: 0.5, second: 0.5, third: 0.5}  # the cell of dense is done
        coordinator.left = list(plan.points[1][1:])
        view.show(board)
        now[0] = 90.0  # of the running one, 30 s are over
        assert _rendered(view, board)[-1] == "about 2 min 30 s left; 3 points are timed by those of other cells"


def test_the_time_left_of_a_search_includes_the_points_that_are_not_drawn_yet(tmp_path: Path) -> None:
    settings = compose_settings(["task=glue/rte", "method=asp"])
    digests = Digests("data", "model", 100)
    cell = Cell(settings=settings, axes={"learning_rate.value": RATES}, digests=digests, search="random")
    plan = make_plan([cell], n_trials=3)
    point = cell.point({"learning_rate.value": 1e-5})
    plan.add(point)
    board = SweepState(running={point.identity: 1})
    console, _ = _console()
    now = [0.0]
    with _view(plan, board, tmp_path, console, lambda: now[0]) as view:
        view.show(board)
        now[0] = 60.0
        board.running, board.done = {}, {point.identity: 0.5}
        view.show(board)
        assert _rendered(view, board)[-1] == "about 2 min left"


def _rendered(view: LiveView, board: SweepState) -> list[str]:
    console, file = _console()
    console.print(view._render(board))
    return file.getvalue().splitlines()


def test_the_end_names_the_first_of_equal_bests_and_every_failed_point(plan: Plan, tmp_path: Path) -> None:
    identities = _identities(plan)
    board = SweepState(done={identities[0]: 0.5, identities[1]: 0.75, identities[2]: 0.75}, trained=2)
    board.failed = {identities[3]: failure("non-finite", "the loss became nan at step 3")}
    console, file = _console()
    assert final_report(plan, board, tmp_path, console, stopped=False) is False
    text = file.getvalue()
    assert "75.00 lr 3e-5" in text
    assert (
        f"problem: glue/rte asp 2of4 bert_base lr 1e-5  non-finite: the loss became nan at step 3  ({identities[3]})"
        in text
    )
    assert "3 of 6 points have a record, 2 trained now, 1 failed, 2 not trained yet\n" in text
    assert (
        "Scores times 100. The best epoch and the best point are selected on the set that they are reported on" in text
    )
    held_out = replace(
        plan,
        cells=tuple(
            replace(cell, settings=replace(cell.settings, selection=replace(cell.settings.selection, name="heldout")))
            for cell in plan.cells
        ),
    )
    console, file = _console()
    final_report(held_out, board, tmp_path, console, stopped=False)
    assert "are selected on held-out training rows." in file.getvalue()
    assert "optimistic" not in file.getvalue()


def test_a_sweep_is_complete_when_every_point_has_a_record_or_was_pruned(plan: Plan, tmp_path: Path) -> None:
    identities = _identities(plan)
    board = SweepState(done=dict.fromkeys(identities[:-1], 0.5))
    console, file = _console()
    assert final_report(plan, board, tmp_path, console, stopped=True) is False
    assert "stopped; the same command continues" in file.getvalue()
    board.pruned = {identities[-1]: 0.875}
    console, file = _console()
    assert final_report(plan, board, tmp_path, console, stopped=False) is True
    assert "87.50" not in file.getvalue()  # a pruned score is nobody's best
