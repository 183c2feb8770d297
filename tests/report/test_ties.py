"""Points of equal scores: report, status, live view and end table name the same one."""

from __future__ import annotations

import io
import itertools
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from nxm_sweep import status
from nxm_sweep.config.compose import compose_settings
from nxm_sweep.report.formats.trial_table import trial_rows
from nxm_sweep.report.frames import read_report
from nxm_sweep.report.statistics import compare
from nxm_sweep.report.table import make_table
from nxm_sweep.sweep.execution.sweep_state import SweepState
from nxm_sweep.sweep.live_view import LiveView, final_report
from nxm_sweep.sweep.planning.cell import Cell
from nxm_sweep.sweep.planning.estimate import Estimate
from nxm_sweep.sweep.planning.plan import Plan, make_plan
from nxm_sweep.trial.digests import Digests
from tests.report.records import record, write

RATES = (5e-5, 1e-5, 3e-5)  # in an order that neither their sizes nor their identities have


def make_sweep(folder: Path, scores: tuple[float, ...], epochs: tuple[int, ...]) -> tuple[Plan, SweepState]:
    """Write a sweep over :data:`RATES` with these scores and epochs of one cell."""
    settings = compose_settings(["task=glue/rte", "method=asp"])
    plan = make_plan([Cell(settings, {"learning_rate.value": RATES}, Digests("data", "model", 100))])
    plan.write(folder)
    scored = list(zip(plan, scores, epochs, strict=True))
    for point, score, epoch in scored:
        rate = float(point.values["learning_rate.value"])
        write(folder, record(point.identity, score, lr=rate, epoch=epoch, model="bert_base"))
    return plan, SweepState(done={point.identity: score for point, score, _ in scored})


def bests(folder: Path, plan: Plan, board: SweepState, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> dict[str, str]:
    """The learning rate that each table names as the best."""
    monkeypatch.setattr(sys, "argv", ["status", str(folder)])
    monkeypatch.setenv("COLUMNS", "160")
    status.main()
    file = io.StringIO()
    console = Console(file=file, width=160)
    final_report(plan, board, folder, console, stopped=False)
    end = file.getvalue()
    coordinator: Any = SimpleNamespace(board=board, left=[])
    live = LiveView(plan, folder, Estimate(plan, folder), coordinator, console)
    console.print(live._render(board))
    report = read_report([folder])
    (row,) = make_table(report).rows
    (first, *_), _ = trial_rows(report, folder, 10)
    texts = {
        "status": capsys.readouterr().out,
        "end": end,
        "live": file.getvalue().removeprefix(end),
        "report": row.entries["glue/rte"].hyperparameters,
        "page": f"lr {first[4].text}",
    }
    found = {}
    for name, text in texts.items():
        (found[name],) = {rate for rate in ("5e-5", "1e-5", "3e-5") if f"lr {rate}" in text}
    return found


@pytest.mark.parametrize("epochs", [*itertools.product((1, 2), repeat=3)])
def test_of_equal_scores_the_lower_epoch_is_the_best_then_the_order_of_the_grid(
    epochs: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, board = make_sweep(tmp_path, (0.75, 0.75, 0.75), epochs)
    expected = f"{RATES[epochs.index(min(epochs))]:.0e}".replace("e-0", "e-")
    assert set(bests(tmp_path, plan, board, monkeypatch, capsys).values()) == {expected}


def test_a_better_score_of_a_later_epoch_is_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, board = make_sweep(tmp_path, (0.75, 0.75, 0.7501), (1, 1, 3))
    assert set(bests(tmp_path, plan, board, monkeypatch, capsys).values()) == {"3e-5"}


def test_the_rule_holds_for_means_over_seeds(tmp_path: Path) -> None:
    runs = {"a": ((0.6, 0.8), (2, 3)), "b": ((0.8, 0.6), (2, 2)), "c": ((0.7, 0.7), (2, 2))}  # equal means
    for place, (name, (scores, epochs)) in enumerate(runs.items()):
        for seed, (score, epoch) in enumerate(zip(scores, epochs, strict=True)):
            write(tmp_path, record(f"{name}{seed}", score, lr=(place + 1) * 1e-4, seed=seed, epoch=epoch))
    (row,) = make_table(read_report([tmp_path]), by="seed").rows
    assert row.entries["glue/rte"].identities == ("b0", "b1")


def test_a_record_in_no_plan_comes_after_those_of_the_plans(tmp_path: Path) -> None:
    plan, _ = make_sweep(tmp_path, (0.75, 0.75, 0.75), (1, 1, 1))
    write(tmp_path, record("0" * 16, 0.75, lr=1e-3, model="bert_base"))
    report = read_report([tmp_path])
    assert list(report.trials["identity"]) == [*(point.identity for point in plan), "0" * 16]
    assert list(report.trials["rank"]) == [1, 2, 3, 4]


def test_the_expected_best_of_all_trials_is_the_tables_entry(tmp_path: Path) -> None:
    """Two trials that other rows selected equally and that were reported differently."""
    write(tmp_path, record("a", 0.9, lr=1e-4, selected=0.8, epoch=2), record("b", 0.6, lr=2e-4, selected=0.8, epoch=1))
    report = read_report([tmp_path])
    (row,) = make_table(report).rows
    assert compare(report).expected["value"].iloc[-1] == row.entries["glue/rte"].value == 0.6
