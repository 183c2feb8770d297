"""A sweep's plan: every identity once, cells of one study joined, and the file that another terminal reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nxm_sweep.config.compose import compose_settings
from nxm_sweep.errors import ConfigError
from nxm_sweep.sweep.planning.axes import Axes, Range
from nxm_sweep.sweep.planning.cell import Cell
from nxm_sweep.sweep.planning.plan import describe_changes, make_plan
from nxm_sweep.trial.digests import Digests

RATES: Axes = {"learning_rate.value": (1e-5, 3e-5), "seed": (0,)}


def _cell(*overrides: str, axes: Axes = RATES, **kwargs: Any) -> Cell:
    return Cell(compose_settings(overrides), axes, Digests("rows", "files", 100), **kwargs)


def test_a_plan_counts_every_identity_once() -> None:
    plan = make_plan(
        [_cell("method=dense", "sparsity=2of4"), _cell("method=dense", "sparsity=1of4"), _cell("method=asp")]
    )
    assert [len(points) for points in plan.points] == [2, 2]
    assert len({point.identity for point in plan}) == len(plan) == 4


def test_a_cell_whose_points_are_all_elsewhere_is_left_out() -> None:
    twin = _cell("method=dense", "task.name=other")  # the same rows under another name
    plan = make_plan([_cell("method=dense"), twin])
    assert plan.cells == (_cell("method=dense"),)


def test_cells_of_one_study_become_one_with_the_values_of_all() -> None:
    more = _cell("method=dense", axes={"learning_rate.value": (3e-5, 9e-5), "seed": (1,)})
    plan = make_plan([_cell("method=dense"), more])
    assert len(plan.cells) == 1
    assert plan.cells[0].axes == {"learning_rate.value": (1e-5, 3e-5, 9e-5), "seed": (0, 1)}
    assert [tuple(point.values.values()) for point in plan] == [(1e-5, 0), (3e-5, 0), (3e-5, 1), (9e-5, 1)]
    assert all(point.cell is plan.cells[0] for point in plan)


def test_rules_that_leave_nothing_are_an_error() -> None:
    with pytest.raises(ConfigError, match=r"^sweep.exclude leaves no point$"):
        make_plan([_cell(exclude=({"seed": 0},))])


def test_the_file_lists_the_points(tmp_path: Path) -> None:
    plan = make_plan([_cell("method=dense")], ["method=dense"], rules={"lease": 60})
    written = json.loads(plan.write(tmp_path).read_text())
    cell = plan.cells[0]
    assert written["cells"] == [
        {
            "name": cell.name,
            "names": {
                "task": "glue/rte",
                "method": "dense",
                "sparsity": "dense",
                "model": cell.settings.model.name,
                "distillation": "none",
            },
            "pattern": "dense",
            "study": cell.study_name,
            "metric": "accuracy",
            "axes": ["learning_rate.value", "seed"],
            "wanted": 2,
            "points": [[point.identity, list(point.values.values())] for point in plan],
        }
    ]
    assert (written["command"], written["lease"], written["n_trials"]) == (["method=dense"], 60, None)


def test_the_file_is_named_by_the_points(tmp_path: Path) -> None:
    first, again = make_plan([_cell()], ["a"]), make_plan([_cell()], ["b"])
    grown = make_plan([_cell(axes={**RATES, "seed": (0, 1)})])
    assert first.write(tmp_path) == again.write(tmp_path) != grown.write(tmp_path)


SPACE: Axes = {"learning_rate.value": Range(1e-5, 1e-4, log=True), "seed": (0,)}


def test_a_search_starts_without_points_and_wants_its_trials() -> None:
    plan = make_plan([_cell(axes=SPACE, search="random")], n_trials=5)
    assert (len(plan), plan.wanted(plan.cells[0])) == (0, 5)


def test_a_search_wants_no_more_points_than_there_are() -> None:
    plan = make_plan([_cell(axes={"seed": Range(0, 2)}, search="random")], n_trials=5)
    assert plan.wanted(plan.cells[0]) == 3


def test_a_search_of_one_study_is_one_cell() -> None:
    twins = [_cell("method=dense", f"sparsity={name}", axes=SPACE, search="random") for name in ("2of4", "1of4")]
    assert len(make_plan(twins, n_trials=5).cells) == 1


def test_a_search_recalls_what_it_has_asked_for_also_with_more_trials(tmp_path: Path) -> None:
    plan = make_plan([_cell(axes=SPACE, search="random")], n_trials=2)
    point = plan.cells[0].point({"learning_rate.value": 2.5e-5, "seed": 0})
    plan.add(point)
    plan.add(point)
    plan.write(tmp_path)
    later = make_plan([_cell(axes=SPACE, search="random")], n_trials=9)
    later.recall(tmp_path)
    assert [(found.identity, found.values) for found in later] == [(point.identity, point.values)]
    other = make_plan([_cell(axes=SPACE, search="tpe")], n_trials=9)
    other.recall(tmp_path)
    assert len(other) == 0


def test_a_grid_recalls_nothing(tmp_path: Path) -> None:
    plan = make_plan([_cell()])
    plan.write(tmp_path)
    plan.recall(tmp_path)
    assert len(plan) == 2


@pytest.mark.fault(
    "input", "a grid that has changed since it was last run", "The new points and the left-out ones are listed."
)
def test_a_changed_grid_says_what_it_adds_and_leaves_out(tmp_path: Path) -> None:
    assert describe_changes(make_plan([_cell("method=dense")]), tmp_path) == []
    make_plan([_cell("method=dense"), _cell("method=asp")]).write(tmp_path)
    assert describe_changes(make_plan([_cell("method=dense")]), tmp_path) == []  # a part of it, unchanged
    axes: Axes = {"learning_rate.value": (3e-5, 9e-5), "seed": (0, 1)}
    changed = make_plan([_cell("method=dense", axes=axes), _cell("method=asp")])
    assert describe_changes(changed, tmp_path) == [
        f"{changed.cells[0].title}: 3 points more, 1 fewer than before; learning_rate.value +9e-5 -1e-5; seed +1"
    ]
    changed.write(tmp_path)
    assert describe_changes(changed, tmp_path) == []
