"""What the report reads from a folder, and what it does not believe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nxm_sweep.report.content import Content
from nxm_sweep.report.formats.write import FORMATS
from nxm_sweep.report.formats.write import write as write_files
from nxm_sweep.report.frames import read_report
from nxm_sweep.report.statistics import compare
from nxm_sweep.report.table import make_table
from nxm_sweep.store.files import write_json
from tests.report.records import plan, record, write


def problems(folder: Path) -> dict[str, tuple[str, str]]:
    rows = read_report([folder]).problems.to_dict("records")
    return {row["identity"]: (row["kind"], row["reason"]) for row in rows}


def test_old_plans_and_new_ones_name_the_cell_of_a_problem(tmp_path: Path) -> None:
    plan(tmp_path, ["a"], cell="glue/rte  nxm  2of4  tiny")
    plan(tmp_path, ["b"], cell="glue/rte nxm 2of4 tiny")
    plan(tmp_path, ["c"], cell="my task nxm 2of4 my model distillation=full")
    file = tmp_path / "sweeps" / "c.json"
    written = json.loads(file.read_text())
    names = {"task": "my task", "method": "nxm", "sparsity": "2of4", "model": "my model", "distillation": "full"}
    written["cells"][0]["names"] = names
    file.write_text(json.dumps(written))
    found = read_report([tmp_path]).problems.set_index("identity")[["task", "method", "sparsity", "model"]]
    assert list(found.loc["a"]) == list(found.loc["b"]) == ["glue/rte", "nxm", "2of4", "tiny"]
    assert list(found.loc["c"]) == ["my task", "nxm (distillation=full)", "2of4", "my model"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"cells": []}',
        '{"cells": [{"name": "x"}], "written": 1}',
        '{"cells": 1, "written": 1}',
        "[" * 100_000,
    ],
    ids=["empty", "torn", "list", "no time", "no points", "no cells", "deep"],
)
def test_a_damaged_plan_is_listed_and_the_others_are_read(tmp_path: Path, text: str) -> None:
    write(tmp_path, record("a", 0.6))
    plan(tmp_path, ["a", "b"])
    (tmp_path / "sweeps" / "broken.json").write_text(text)
    assert problems(tmp_path) == {
        "broken": ("unreadable", "broken.json, a sweep's plan, is damaged"),
        "b": ("to do", "not trained yet"),
    }


def _changed(place: str, value: Any) -> dict[str, Any]:
    whole = record("a", 0.5, rho=1e-3)
    inner = whole
    *path, last = place.split("/")
    for name in path:
        inner = inner[name]
    inner[last] = value
    return whole


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("best/value", float("nan")),
        ("best/value", float("inf")),
        ("best/value", 10**400),
        ("best/value", None),
        ("best/selection_value", float("nan")),
        ("best/epoch", 7),
        ("identity", "b"),
        ("hashed/seed", "first"),
        ("hashed/learning_rate", {"value": "high"}),
        ("steps", "many"),
        ("epochs", []),
        ("sparsity", None),
    ],
)
def test_a_record_that_is_none_is_listed_with_its_reason(tmp_path: Path, place: str, value: object) -> None:
    folder = tmp_path / "trials" / "a"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(_changed(place, value)))
    (kind, reason) = problems(tmp_path)["a"]
    assert kind == ("incomplete" if place.startswith(("hashed", "steps")) else "unreadable")
    assert "result.json" in reason


@pytest.mark.parametrize("text", ["[" * 100_000, '{"schema": 99}', "\x00"], ids=["deep", "later", "zero"])
def test_a_file_that_cannot_be_read_is_listed(tmp_path: Path, text: str) -> None:
    (tmp_path / "trials" / "a").mkdir(parents=True)
    (tmp_path / "trials" / "a" / "result.json").write_text(text)
    assert problems(tmp_path)["a"][0] == "unreadable"


def test_folders_that_no_plan_names_are_listed_with_their_last_failure(tmp_path: Path) -> None:
    failures = [
        {"kind": kind, "message": "m\n\x1b[31m", "when": "now", "new": 1} for kind in ("killed", "out of memory")
    ]
    write_json(tmp_path / "trials" / "a" / "failures.json", failures)
    (tmp_path / "trials" / "b").mkdir()
    assert problems(tmp_path) == {
        "a": ("out of memory", "m \ufffd[31m"),
        "b": ("unfinished", "it has left no record, and no sweep's plan names it"),
    }


def test_trials_of_a_search_that_are_still_to_come_are_counted(tmp_path: Path) -> None:
    write(tmp_path, record("a", 0.6))
    plan(tmp_path, ["a"])
    file = tmp_path / "sweeps" / "a.json"
    written = json.loads(file.read_text())
    written["cells"][0]["wanted"] = 5
    file.write_text(json.dumps(written))
    assert problems(tmp_path) == {"": ("to do", "4 trials of a search are still to come")}


def test_with_and_without_a_teacher_are_two_rows(tmp_path: Path) -> None:
    taught = {**record("b", 0.7), "distillation": {"name": "full", "teacher_digest": "t"}}
    write(tmp_path, record("a", 0.6), taught)
    assert [row.method for row in make_table(read_report([tmp_path])).rows] == ["asp", "asp (distillation=full)"]


def test_scores_selected_on_other_rows_are_not_compared_within_an_entry(tmp_path: Path) -> None:
    write(tmp_path, record("a", 0.6), record("b", 0.5, lr=2e-4, selected=0.9))
    rows = make_table(read_report([tmp_path])).rows
    assert {row.method: row.average for row in rows} == {"asp (selection=dev)": 0.6, "asp (selection=heldout)": 0.5}


def test_precisions_within_an_entry_are_told_apart_and_each_is_compared_with_its_own(tmp_path: Path) -> None:
    write(
        tmp_path,
        record("a", 0.6, method="dense"),
        record("b", 0.7, method="dense", precision="bf16"),
        record("c", 0.5),
        record("d", 0.4, precision="bf16"),
        record("e", 0.9, task="glue/cola"),
    )
    report = read_report([tmp_path])
    table = make_table(report)
    assert {row.method: row.entries["glue/rte"].text for row in table.rows} == {
        "dense (precision=bf16)": "70.0",
        "dense (precision=fp32)": "60.0",
        "asp (precision=bf16)": "40.0",
        "asp (precision=fp32)": "50.0",
    }
    assert "Trained and scored in bf16 and fp32, which are not compared with each other: RTE." in table.notes
    assert "Trained and scored in fp32: CoLA." in table.notes
    found = compare(report).differences
    means = {row["method"]: row["mean"] for row in found[found["against"] == "dense"].to_dict("records")}
    assert means == pytest.approx({"asp (precision=bf16)": -0.3, "asp (precision=fp32)": -0.1})


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_one_precision_is_named_once(precision: str, tmp_path: Path) -> None:
    write(tmp_path, record("a", 0.6, precision=precision), record("b", 0.7, method="dense", precision=precision))
    table = make_table(read_report([tmp_path]))
    assert [row.method for row in table.rows] == ["dense", "asp"]
    assert [note for note in table.notes if "scored in" in note] == [f"Trained and scored in {precision}."]


def test_two_patterns_of_one_name_are_told_apart(tmp_path: Path) -> None:
    first, second = record("a", 0.6), record("b", 0.7)
    first["hashed"]["sparsity"], second["hashed"]["sparsity"] = {"rules": [1]}, {"rules": [2]}
    write(tmp_path, first, second)
    patterns = {row.sparsity for row in make_table(read_report([tmp_path])).rows}
    assert len(patterns) == 2
    assert all(pattern.startswith("2of4 (") for pattern in patterns)


def test_a_cell_with_and_without_a_record_has_one_pattern_and_it_is_what_the_matrices_hold(tmp_path: Path) -> None:
    write(tmp_path, record("a", 0.6, method="admm_unstructured", held="0.5 unstructured"))
    for cell, points in (("glue/rte admm_unstructured 2of4 tiny", ["a", "b"]), ("glue/cola nxm 2of4 tiny", ["c"])):
        plan(tmp_path, points, cell=cell)  # old plans, which do not say what is held
    plan(tmp_path, ["d"], cell="glue/cola admm_unstructured 2of4 tiny")
    file = tmp_path / "sweeps" / "d.json"
    written = json.loads(file.read_text())
    written["cells"][0]["pattern"] = "50% unstructured"
    file.write_text(json.dumps(written))
    report = read_report([tmp_path])
    assert list(report.trials["sparsity"]) == ["50% unstructured"]
    found = report.problems.set_index("identity")["sparsity"].to_dict()
    assert found == {"b": "50% unstructured", "c": "2of4", "d": "50% unstructured"}
    rows = make_table(report).rows
    assert [(row.method, row.sparsity) for row in rows] == [("admm_unstructured", "50% unstructured"), ("nxm", "2of4")]


def test_every_format_shows_what_the_matrices_hold(tmp_path: Path) -> None:
    free: dict[str, Any] = {"method": "admm_unstructured", "held": "0.5 unstructured"}
    write(
        tmp_path,
        *(record(f"u{seed}", 0.6 + seed / 100, seed=seed, **free) for seed in range(2)),
        *(record(f"d{seed}", 0.7 + seed / 100, seed=seed, method="dense") for seed in range(2)),
    )
    report = read_report([tmp_path])
    table = make_table(report)
    content = Content(report, table, compare(report), target=tmp_path)
    list(write_files(content, tmp_path, list(FORMATS)))
    for name in ("table.md", "table.tex", "table.csv", "report.json", "index.html"):
        text = (tmp_path / name).read_text()
        assert "50% unstructured" in text.replace("\\%", "%")
        assert "2of4" not in text.replace('"sparsity_name": "2of4"', "").replace('"rules": ["2of4", ""]', "")


def test_a_setting_cannot_stand_in_for_a_result(tmp_path: Path) -> None:
    whole = record("a", 0.6)
    whole["hashed"] |= {"value": 0.99, "task": "other"}
    write(tmp_path, whole)
    (trial,) = read_report([tmp_path]).trials.to_dict("records")
    assert (trial["value"], trial["task"]) == (0.6, "glue/rte")


def test_records_of_before_are_read() -> None:
    examples = Path(__file__).resolve().parents[2] / "outputs" / "examples" / "rte-mrpc"
    report = read_report([examples])
    assert len(report.trials) == 16
    assert report.problems.empty
    best = max(
        (json.loads(path.read_text()) for path in (examples / "trials").glob("*/result.json")),
        key=lambda found: (found["task"], found["method"] == "nxm", found["best"]["value"]),
    )
    row = next(row for row in make_table(report).rows if row.method == "nxm")
    assert row.entries["glue/rte"].value == best["best"]["value"]


@pytest.mark.parametrize(
    ("task", "reported", "value"),
    [
        ("glue/mnli", {"matched": {"accuracy": 0.8}, "mismatched": {"accuracy": 0.9}}, 0.85),
        ("glue/mnli", {"matched": {"accuracy": 0.8}, "mismatched": {"f1": 0.9}}, 0.8),
        ("glue/mnli", {"matched": {"f1": 0.9}}, 0.8),  # no set has the metric: the record's own value
        ("mine", {"first": {"accuracy": 0.8}, "second": {"accuracy": 0.9}}, 0.8),
    ],
)
def test_a_trial_has_one_value_and_mnlis_is_the_mean_of_both_sets(
    tmp_path: Path, task: str, reported: dict[str, dict[str, float]], value: float
) -> None:
    written = record("a", 0.8, task=task, reported=reported)
    written["best"]["unpruned_value"] = 0.7
    written["epochs"][0]["unpruned"] = {name: {"accuracy": 0.7} for name in reported}
    (trial,) = read_report([write(tmp_path, written)]).trials.to_dict("records")
    assert (trial["value"], trial["selected"], trial["unpruned"]) == (pytest.approx(value), 0.8, pytest.approx(0.7))
