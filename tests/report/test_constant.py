"""The constant answer: its row in every table, and the mark on what does not beat it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from sklearn.metrics import accuracy_score, f1_score

from nxm_sweep.report.content import Content
from nxm_sweep.report.formats.trial_table import trial_rows
from nxm_sweep.report.formats.write import FORMATS
from nxm_sweep.report.formats.write import write as write_files
from nxm_sweep.report.frames import read_report
from nxm_sweep.report.statistics import compare
from nxm_sweep.report.table import make_table, table_frame
from nxm_sweep.report.terminal import print_trials
from nxm_sweep.store.record import Record
from tests.report.records import predict, record, write

CONSTANT = 0.75


def sweep(folder: Path) -> Path:
    """A cell above the constant answer, and three cells below, at it and with both."""
    return write(
        folder,
        record("d0", 0.80, method="dense", constant=CONSTANT),
        record("a0", 0.75, constant=CONSTANT),
        record("g0", 0.50, method="gradual", constant=CONSTANT),
        record("n0", 0.76, method="nxm", lr=1e-4, constant=CONSTANT),
        record("n1", 0.31, method="nxm", lr=2e-4, constant=CONSTANT),
    )


def make_content(folder: Path, by: str = "best") -> Content:
    report = read_report([folder])
    table = make_table(report, by)
    return Content(report, table, compare(report), target=folder / "reports")


def test_every_table_has_its_row_and_marks_what_does_not_beat_it(tmp_path: Path) -> None:
    content = make_content(sweep(tmp_path))
    frame = table_frame(content.table)
    assert list(frame["method"]) == ["Dense", "ASP", "NxM", "Gradual", "constant answer"]
    assert list(frame.iloc[:, 3]) == ["80.0", "75.0\u2020", "76.0", "50.0\u2020", "75.0"]
    assert list(frame["average"]) == ["80.0", "75.0", "76.0", "50.0", "75.0"]
    list(write_files(content, tmp_path, list(FORMATS)))
    files = {path.name: path.read_text() for path in tmp_path.iterdir() if path.is_file()}
    for name in ("table.md", "table.tex", "index.html"):
        assert "constant answer" in files[name]
    assert files["table.md"].count("50.0\u2020") == 2  # the table and where each score comes from
    assert files["table.tex"].count(r"50.0$\dagger$") == 1
    assert files["document.tex"].count(r"50.0$\dagger$") == 2
    assert "50.0\u2020" in files["index.html"]
    assert "50.00\u2020" in files["index.html"]  # the trial
    entries = pd.read_csv(tmp_path / "table.csv")
    assert entries.set_index("method")["value"]["constant answer"] == CONSTANT
    assert dict(zip(entries["method"], entries["beats_constant"].map(str), strict=True)) == {
        "dense": "True",
        "asp": "False",
        "nxm": "True",
        "gradual": "False",
        "constant answer": "nan",
    }
    whole = json.loads(files["report.json"])
    assert [task["constants"] for task in whole["table"]["tasks"]] == [[CONSTANT]]
    assert {row["identity"]: row["beats_constant"] for row in whole["trials"]} == {
        "d0": True,
        "a0": False,
        "g0": False,
        "n0": True,
        "n1": False,
    }


def test_every_trial_that_does_not_beat_it_is_marked(tmp_path: Path) -> None:
    report = read_report([sweep(tmp_path)])
    rows, _ = trial_rows(report, tmp_path, 10)
    scores = {cell.text for row in rows for cell in row if cell.text.startswith(("80", "75", "50", "76", "31"))}
    assert scores == {"80.00", "75.00\u2020", "50.00\u2020", "76.00", "31.00\u2020"}
    file = io.StringIO()
    records = [json.loads(Path(path).read_text()) for path in report.trials["path"]]
    print_trials([cast("Record", {**one, "config": _config(one)}) for one in records], Console(file=file, width=140))
    lines = {line.split()[0]: line for line in file.getvalue().splitlines() if line.strip()}
    assert "50.00\u2020" in lines["Gradual"]
    assert "\u2020" not in lines["Dense"]
    assert lines["constant"].split()[2:] == ["-", "-", "-", "-", "75.00", "75.00", "-", "-", "-"]


def _config(one: dict[str, Any]) -> dict[str, Any]:
    return {"learning_rate": one["hashed"]["learning_rate"], "training": one["hashed"]["training"]}


def test_it_is_no_method_of_the_statistics(tmp_path: Path) -> None:
    statistics = make_content(sweep(tmp_path)).statistics
    for frame in (statistics.differences, statistics.gaps, statistics.expected):
        assert "constant answer" not in set(frame["method"])


def test_collapse_is_told_of_every_method_and_of_single_trials(tmp_path: Path) -> None:
    warnings = make_content(sweep(tmp_path)).statistics.warnings
    told = [warning for warning in warnings if "constant answer" in warning]
    end = "does not beat the constant answer (75.0): the training may have collapsed."
    assert told == [
        f"1 of 1 trial of RTE ASP 2:4 tiny {end}",
        f"1 of 1 trial of RTE Gradual 2:4 tiny {end}",
        f"1 of 2 trials of RTE NxM 2:4 tiny {end}",
    ]


def test_old_records_show_it_as_missing_and_are_told_by_what_they_have(tmp_path: Path) -> None:
    write(tmp_path, record("d", 0.7, method="dense"), record("a", 0.5), record("n", 0.5, method="nxm"))
    predict(tmp_path, "d", [0, 1, 1], [0, 1, 1])
    predict(tmp_path, "a", [0, 1, 1], [1, 1, 1])
    content = make_content(tmp_path)
    assert list(table_frame(content.table).iloc[-1]) == ["constant answer", "-", "-", "-", "-"]
    assert not any("\u2020" in text for row in table_frame(content.table).to_numpy() for text in row)
    assert any(note.startswith("3 of 3 records predate") for note in content.table.notes)
    told = [warning for warning in content.statistics.warnings if "collapsed" in warning]
    assert told == [
        "The best trial of RTE ASP 2:4 tiny gives every row the same answer: the training may have collapsed."
    ]


def test_trials_of_other_rows_have_other_constants_and_each_is_held_against_its_own(tmp_path: Path) -> None:
    write(tmp_path, record("a", 0.60, constant=0.55), record("d", 0.62, method="dense", constant=0.65))
    table = make_content(tmp_path).table
    assert list(table_frame(table).iloc[:, 3]) == ["62.0\u2020", "60.0", "55.0 to 65.0"]
    assert table_frame(table)["average"].iloc[-1] == "-"


def test_a_mean_over_seeds_is_held_against_it(tmp_path: Path) -> None:
    write(tmp_path, *(record(f"a{seed}", 0.7 + seed / 10, seed=seed, constant=CONSTANT) for seed in range(2)))
    table = make_content(tmp_path, by="seed").table
    assert table.rows[0].entries["glue/rte"].beats_constant is False  # 0.75 on average
    assert table.rows[0].entries["glue/rte"].text.endswith("\u2020")


def test_mnlis_is_the_mean_of_both_sets(tmp_path: Path) -> None:
    reported = {"matched": {"accuracy": 0.36}, "mismatched": {"accuracy": 0.34}}
    constant = {"matched": 0.35, "mismatched": 0.36}
    write(tmp_path, record("a", 0.36, task="glue/mnli", reported=reported, constant=constant))
    table = make_content(tmp_path).table
    assert table.tasks[0].constants == pytest.approx((0.355,))
    assert table.rows[0].entries["glue/mnli"].beats_constant is False


def test_mrpcs_is_what_scikit_learn_scores_for_the_majority() -> None:
    """74.8, MRPC's constant answer: 279 of the 408 validation rows are paraphrases."""
    labels, answers = np.array([1] * 279 + [0] * 129), np.ones(408, dtype=int)
    scores = {"accuracy": accuracy_score(labels, answers), "f1": f1_score(labels, answers)}
    assert f"{50 * sum(scores.values()):.1f}" == "74.8"
