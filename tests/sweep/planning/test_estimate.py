"""How long a sweep may take: by finished trials, by timed steps, and never without saying which."""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from nxm_sweep.config.compose import compose_settings
from nxm_sweep.settings import SweepSettings, TrialSettings
from nxm_sweep.store.paths import trial_folder
from nxm_sweep.store.records import write_record
from nxm_sweep.sweep.planning.axes import Axes, Range
from nxm_sweep.sweep.planning.cell import Cell, Point
from nxm_sweep.sweep.planning.estimate import Estimate, rows_trained, show_dry_run
from nxm_sweep.sweep.planning.plan import Plan, make_plan
from nxm_sweep.trial.digests import Digests
from nxm_sweep.trial.step_timer import seconds_per_row
from tests.store.core import core_record

AXES: Axes = {"learning_rate.value": (1e-5, 3e-5, 5e-5), "training.epochs": (1, 2)}


def _plan(*methods: str, axes: Axes = AXES, also: tuple[str, ...] = ()) -> Plan:
    return make_plan(
        [Cell(compose_settings([f"method={method}", *also]), axes, Digests("d", "m", 100)) for method in methods]
    )


def _finish(point: Point, output_dir: Path, seconds: float) -> None:
    write_record(trial_folder(output_dir, point.identity), core_record(point.identity, seconds=seconds))


def _dry_run(plan: Plan, output_dir: Path, estimate: Estimate, workers: int = 1, gain: float | None = None) -> str:
    console = Console(file=io.StringIO(), width=200)
    show_dry_run(plan, output_dir, SweepSettings(), estimate, console, workers=workers, bf16_gain=lambda _: gain)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_finished_trial_says_how_long_its_cell_takes(tmp_path: Path) -> None:
    plan = _plan("dense")
    one_epoch, two_epochs = plan.points[0][:2]
    _finish(one_epoch, tmp_path, 10.0)
    estimate = Estimate(plan, tmp_path)
    assert estimate.seconds(one_epoch) == pytest.approx(10.0)
    assert estimate.seconds(two_epochs) == pytest.approx(20.0)  # twice the rows


def test_several_finished_trials_are_averaged_per_row(tmp_path: Path) -> None:
    plan = _plan("dense")
    _finish(plan.points[0][0], tmp_path, 10.0)  # 100 rows: 0.1 s each
    _finish(plan.points[0][1], tmp_path, 60.0)  # 200 rows: 0.3 s each
    assert Estimate(plan, tmp_path).seconds(plan.points[0][2]) == pytest.approx(0.2 * 100)


def test_a_damaged_record_is_passed_over(tmp_path: Path) -> None:
    plan = _plan("dense")
    folder = trial_folder(tmp_path, plan.points[0][0].identity)
    folder.mkdir(parents=True)
    (folder / "result.json").write_text("{")
    assert Estimate(plan, tmp_path).seconds(plan.points[0][0]) is None


@pytest.mark.parametrize(
    ("overrides", "values", "rows"),
    [([], {}, 500), (["training.epochs=2"], {}, 200), ([], {"training.epochs": 3}, 300),
     (["training.max_train_samples=40"], {}, 200), ([], {"training.max_train_samples": 10}, 50),
     (["training.max_train_samples=4000"], {}, 500),
     (["training.max_train_samples=40"], {"training.max_train_samples": None}, 500)],
)  # fmt: skip
def test_rows_count_as_often_as_they_are_trained_on(overrides: list[str], values: dict[str, Any], rows: int) -> None:
    cell = Cell(compose_settings(overrides), {}, Digests("d", "m", 100))
    assert rows_trained(Point(cell, values, "")) == rows


def test_the_longest_points_cost_most_also_where_nothing_is_known(tmp_path: Path) -> None:
    plan = _plan("dense", "asp")
    estimate = Estimate(plan, tmp_path)
    assert estimate.cost(plan.points[0][1]) == 2 * estimate.cost(plan.points[0][0])
    _finish(plan.points[0][0], tmp_path, 10.0)
    assert Estimate(plan, tmp_path).cost(plan.points[1][0]) == pytest.approx(10.0)  # by the other cell's speed


def test_larger_models_come_first_where_nothing_is_known_and_scale_what_is(tmp_path: Path) -> None:
    settings = [compose_settings(["method=dense", "model=local", f"model.path={tmp_path / name}"]) for name in "ab"]
    for name, size in (("a", 100), ("b", 300)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(bytes(size))
        (tmp_path / name / "config.json").write_bytes(bytes(10_000))  # is no weight
    cells = [Cell(one, {}, Digests("d", name, 100)) for one, name in zip(settings, "ab", strict=True)]
    plan = make_plan(cells)
    small, large = (points[0] for points in plan.points)
    estimate = Estimate(plan, tmp_path)
    assert estimate.cost(large) == 3 * estimate.cost(small)
    _finish(small, tmp_path, 10.0)
    estimate = Estimate(plan, tmp_path)
    assert (estimate.cost(small), estimate.cost(large)) == pytest.approx((10.0, 30.0))
    assert estimate.seconds(large) is None  # an order, not a promise


def test_a_probe_times_the_cells_without_a_finished_trial(tmp_path: Path) -> None:
    plan = _plan("dense", "asp")
    _finish(plan.points[0][0], tmp_path, 10.0)
    estimate = Estimate(plan, tmp_path)
    probed: list[TrialSettings] = []

    def time_steps(settings: TrialSettings) -> float:
        probed.append(settings)
        return 0.5

    estimate.probe(plan, time_steps)
    assert [settings.method.name for settings in probed] == ["asp"]
    assert probed[0].learning_rate.value == 1e-5
    assert estimate.seconds(plan.points[1][0]) == pytest.approx(50.0)
    assert estimate.seconds(plan.points[0][0]) == pytest.approx(10.0)


# --- what a dry run says ----------------------------------------------------------------------------------------------


def test_a_dry_run_without_any_time_says_so(tmp_path: Path) -> None:
    plan = _plan("dense", "asp")
    said = _dry_run(plan, tmp_path, Estimate(plan, tmp_path))
    assert "12 points in 2 cells: 0 done, 0 failed, 12 to do" in said
    assert "12 points belong to cells without a finished trial, so their time is not known: sweep.probe=true" in said
    assert "about" not in said


def test_a_dry_run_goes_by_finished_trials(tmp_path: Path) -> None:
    plan = _plan("dense")
    _finish(plan.points[0][0], tmp_path, 10.0)
    said = _dry_run(plan, tmp_path, Estimate(plan, tmp_path), workers=2)
    assert "6 points in 1 cells: 1 done, 0 failed, 5 to do" in said
    assert "about 40 s on 2 workers, going by finished trials\n" in said  # 2 of 10 s and 3 of 20 s, halved
    assert "not known" not in said


def test_a_dry_run_says_that_timed_steps_are_not_all(tmp_path: Path) -> None:
    plan = _plan("dense")
    estimate = Estimate(plan, tmp_path)
    estimate.probe(plan, lambda _: 0.1)
    said = _dry_run(plan, tmp_path, estimate)
    assert (
        "about 1 min 30 s on 1 worker, going by a few timed steps (evaluation, loading and saving come on top)\n"
        in said
    )
    assert "finished trials" not in said


def test_a_dry_run_names_both_sources(tmp_path: Path) -> None:
    plan = _plan("dense", "asp")
    _finish(plan.points[0][0], tmp_path, 10.0)
    estimate = Estimate(plan, tmp_path)
    estimate.probe(plan, lambda _: 0.1)
    assert "going by finished trials and a few timed steps (" in _dry_run(plan, tmp_path, estimate)


def test_a_dry_run_in_fp32_says_once_per_model_what_bf16_gains_here(tmp_path: Path) -> None:
    plan = _plan("dense", "nxm")
    said = _dry_run(plan, tmp_path, Estimate(plan, tmp_path), gain=2.94)
    assert said.count("bf16 matrix products run 2.9 times as fast as fp32 here (shapes of bert_base)") == 1
    for nothing in (None, 0.8):
        assert "bf16" not in _dry_run(plan, tmp_path, Estimate(plan, tmp_path), gain=nothing)


@pytest.mark.parametrize(
    ("also", "axes", "named"),
    [
        (("training.precision=bf16",), AXES, "training.precision: bf16"),
        ((), {**AXES, "training.precision": ("fp32", "bf16")}, "training.precision: bf16, fp32"),
    ],
)
def test_a_dry_run_in_bf16_names_it_and_measures_nothing(
    also: tuple[str, ...], axes: Axes, named: str, tmp_path: Path
) -> None:
    plan = _plan("dense", axes=axes, also=also)
    said = _dry_run(plan, tmp_path, Estimate(plan, tmp_path), gain=2.94)
    assert named in said.splitlines()
    assert "times as fast" not in said


def test_a_dry_run_with_nothing_to_train_measures_nothing(tmp_path: Path) -> None:
    plan = _plan("dense")
    for point in plan:
        _finish(point, tmp_path, 1.0)
    assert "bf16" not in _dry_run(plan, tmp_path, Estimate(plan, tmp_path), gain=2.94)


def test_a_dry_run_of_a_search_counts_what_it_will_ask_for(tmp_path: Path) -> None:
    cell = Cell(
        compose_settings(["method=dense"]),
        {"learning_rate.value": Range(1e-5, 1e-4)},
        Digests("d", "m", 100),
        search="tpe",
    )
    plan = make_plan([cell], n_trials=4)
    plan.add(cell.point({"learning_rate.value": 2e-5}))
    _finish(plan.points[0][0], tmp_path, 60.0)
    said = _dry_run(plan, tmp_path, Estimate(plan, tmp_path))
    assert "4 points in 1 cells: 1 done, 0 failed, 3 to do" in said
    assert "about 3 min on 1 worker, going by finished trials" in said


# --- timed steps ------------------------------------------------------------------------------------------------------


def _tiny(tiny_model: Path, *overrides: str) -> TrialSettings:
    return compose_settings(
        ["task=demo/paraphrase", "model=local", f"model.path={tiny_model}", "training.max_length=32",
         "training.max_train_samples=50", "training.max_eval_samples=8", "training.device=cpu", *overrides]
    )  # fmt: skip


def _ticks(step: float) -> Any:
    now = [0.0]

    def clock() -> float:
        now[0] += step
        return now[0]

    return clock


@pytest.mark.parametrize("method", ["dense", "asp", "nxm"])
@pytest.mark.parametrize(("batch", "accumulation"), [(8, 1), (4, 3)])
def test_a_probe_divides_the_seconds_of_three_steps_by_their_rows(
    tiny_model: Path, method: str, batch: int, accumulation: int
) -> None:
    settings = _tiny(
        tiny_model, f"method={method}", f"training.batch_size={batch}", f"training.gradient_accumulation={accumulation}"
    )
    assert seconds_per_row(settings, 1, _ticks(6.0)) == pytest.approx(6.0 / (batch * accumulation))


def test_a_probe_of_less_data_than_a_batch_works(tiny_model: Path) -> None:
    settings = _tiny(tiny_model, "method=nxm", "training.batch_size=64", "training.max_train_samples=5")
    assert seconds_per_row(settings, 1, _ticks(1.0)) == pytest.approx(1.0 / 64)


def test_a_probe_leaves_nothing_and_changes_nothing(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary, work = tmp_path / "temporary", tmp_path / "work"
    for folder in (temporary, work):
        folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.chdir(work)
    settings = _tiny(tiny_model, "method=nxm", "training.epochs=3")
    assert seconds_per_row(settings, 1) > 0
    assert os.listdir(temporary) == os.listdir(work) == []  # noqa: PTH208
    assert settings.training.epochs == 3
