"""The results table, against numbers worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import t as student

from nxm_sweep.report.comparison import compare_sweeps
from nxm_sweep.report.content import Content
from nxm_sweep.report.frames import read_report
from nxm_sweep.report.statistics import compare
from nxm_sweep.report.table import Entry, Table, detail_frame, make_table, table_frame
from tests.report.records import plan, record, write


def entry(table: Table, method: str, task: str = "glue/rte", model: str = "tiny") -> Entry:
    (row,) = (row for row in table.rows if (row.method, row.model) == (method, model))
    return row.entries[task]


def test_an_entry_is_the_best_of_its_cell_with_what_gave_it(tmp_path: Path) -> None:
    write(
        tmp_path,
        record("a", 0.61, lr=1e-4),
        record("b", 0.64, lr=2e-4, batch=16),
        record("c", 0.60, lr=3e-4),
        record("d", 0.70, method="dense"),
    )
    table = make_table(read_report([tmp_path]))
    best = entry(table, "asp")
    assert (best.value, best.text, best.trials, best.identities) == (0.64, "64.0", 3, ("b",))
    assert best.hyperparameters == "lr 2e-4, batch 16, seed 0"
    assert best.optimistic
    assert [row.method for row in table.rows] == ["dense", "asp"]


def test_other_rows_may_select_and_then_the_reported_score_is_shown(tmp_path: Path) -> None:
    write(tmp_path, record("a", 0.9, lr=1e-4, selected=0.5), record("b", 0.6, lr=2e-4, selected=0.8))
    best = entry(make_table(read_report([tmp_path])), "asp")
    assert (best.value, best.identities, best.optimistic) == (0.6, ("b",), False)


def trained(identity: str, scores: list[float], seed: int = 0, **other: Any) -> dict[str, Any]:
    """A record with one dev score per epoch, of which the best is selected."""
    best = max(scores)
    made = record(identity, best, seed=seed, epoch=scores.index(best) + 1, **other)
    made["epochs"] = [
        {**made["epochs"][0], "epoch": number, "selection": score, "pruned": {"validation": {"accuracy": score}}}
        for number, score in enumerate(scores, start=1)
    ]
    return made


def test_the_last_epoch_is_scored_on_request_and_nothing_of_it_was_selected(tmp_path: Path) -> None:
    write(tmp_path, trained("a", [0.5, 0.7, 0.6]), trained("b", [0.7, 0.6, 0.62], seed=1))
    best = entry(make_table(read_report([tmp_path]), "seed"), "asp")
    assert best.value == pytest.approx(0.7)
    assert best.optimistic
    report = read_report([tmp_path], last_epoch=True)
    table = make_table(report, "seed")
    last = entry(table, "asp")
    assert last.value == pytest.approx(0.61)
    assert not last.optimistic
    assert "Scored at the last epoch: none was selected." in table.notes
    assert set(report.scores["value"]) == {0.6, 0.62}
    assert set(report.trials["epoch"]) == {3}


def test_settings_chosen_by_the_last_epochs_score_are_optimistic_all_the_same(tmp_path: Path) -> None:
    write(tmp_path, trained("a", [0.7, 0.6]), trained("b", [0.6, 0.65], lr=2e-4))
    table = make_table(read_report([tmp_path], last_epoch=True))
    assert (entry(table, "asp").value, entry(table, "asp").optimistic) == (0.65, True)
    (note,) = (note for note in table.notes if note.startswith("Optimistic"))
    assert note.startswith("Optimistic: hyperparameters were selected")


def test_an_epoch_that_held_out_rows_selected_is_the_only_one_with_a_score(tmp_path: Path) -> None:
    held = record("a", 0.9, epoch=1, selected=0.5)
    held["epochs"].append({**held["epochs"][0], "epoch": 2, "selection": 0.4})
    write(tmp_path, held)
    assert entry(make_table(read_report([tmp_path], last_epoch=True)), "asp").value == 0.9


def test_the_mean_over_seeds_is_of_the_best_hyperparameters_with_students_interval(tmp_path: Path) -> None:
    low, high = (0.60, 0.61, 0.62), (0.66, 0.64, 0.65)
    write(
        tmp_path,
        *(record(f"a{seed}", value, lr=1e-4, seed=seed) for seed, value in enumerate(low)),
        *(record(f"b{seed}", value, lr=2e-4, seed=seed) for seed, value in enumerate(high)),
        record("c", 0.9, lr=3e-4),  # one seed alone is no mean of three
    )
    best = entry(make_table(read_report([tmp_path]), by="seed"), "asp")
    assert best.value == pytest.approx(0.65)
    reach = float(student.ppf(0.975, 2)) * 0.01 / math.sqrt(3)
    assert (best.low, best.high) == pytest.approx((0.65 - reach, 0.65 + reach))
    assert best.text == "65.0 ± 2.5"
    assert dict(zip(best.identities, best.scores, strict=True)) == {"b0": 0.66, "b1": 0.64, "b2": 0.65}
    assert (best.seeds, best.trials, best.hyperparameters) == (3, 7, "lr 2e-4, batch 32")


def test_the_notes_say_what_seeds_and_numbers_of_trials_do_to_the_entries(tmp_path: Path) -> None:
    write(
        tmp_path,
        *(record(f"a{seed}", 0.6 + seed / 100, seed=seed) for seed in range(3)),
        record("d", 0.7, method="dense"),
    )
    report = read_report([tmp_path])
    best, means = make_table(report).notes, make_table(report, by="seed").notes
    assert "The best is also the best of up to 3 seeds: --by seed gives means, which are less optimistic." in best
    assert any(note.startswith("Cells of RTE have 1 to 3 trials, and the best of more is higher") for note in best)
    assert "Cells have 1 to 3 seeds; an entry without ± rests on one." in means
    assert not any("higher by chance" in note or "best of up to" in note for note in means)


def test_the_notes_are_silent_about_seeds_where_every_cell_has_one_trial(tmp_path: Path) -> None:
    write(tmp_path, record("a", 0.6), record("d", 0.7, method="dense"))
    report = read_report([tmp_path])
    assert not any("seeds:" in note or "chance" in note for note in make_table(report).notes)
    assert not any("without ±" in note for note in make_table(report, by="seed").notes)


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    write(tmp_path, record("a", 0.6))
    best = entry(make_table(read_report([tmp_path]), by="seed"), "asp")
    assert (best.low, best.high, best.text) == (None, None, "60.0")


def test_the_average_is_over_the_tasks_that_every_row_has(tmp_path: Path) -> None:
    write(
        tmp_path,
        record("a", 0.6),
        record("b", 0.8, task="glue/mrpc", metrics=("accuracy", "f1")),
        record("c", 0.7, method="dense"),
        record("d", 0.9, method="dense", task="glue/mrpc", metrics=("accuracy", "f1")),
        record("e", 0.5, method="dense", task="glue/cola", metrics=("matthews",)),
    )
    table = make_table(read_report([tmp_path]))
    assert [task.label for task in table.tasks] == ["CoLA", "MRPC", "RTE"]
    assert [task.metric for task in table.tasks] == ["Matthews", "mean of accuracy and F1", "accuracy"]
    assert table.averaged == ("glue/mrpc", "glue/rte")
    assert {row.method: row.average for row in table.rows} == {"dense": pytest.approx(0.8), "asp": pytest.approx(0.7)}
    frame = table_frame(table)
    assert list(frame["average"]) == ["80.0", "70.0", "-"]  # the last row is the constant answer's
    assert list(frame["CoLA (Matthews; 2,490)"]) == ["50.0", "-", "-"]
    assert "The average is over the tasks that every row has: MRPC, RTE." in table.notes


def test_macro_f1_is_called_so(tmp_path: Path) -> None:
    write(tmp_path, record("a", 0.6, task="files", metrics=("f1_macro",)))
    assert [task.metric for task in make_table(read_report([tmp_path])).tasks] == ["macro F1"]


def test_a_task_that_a_row_has_no_score_of_is_not_averaged(tmp_path: Path) -> None:
    write(
        tmp_path, record("a", 0.6), record("b", 0.8, method="dense"), record("c", 0.9, method="dense", task="glue/cola")
    )
    plan(tmp_path, ["x"], cell="glue/cola asp 2of4 tiny")
    table = make_table(read_report([tmp_path]))
    assert table.averaged == ("glue/rte",)
    assert {row.method: row.average for row in table.rows} == {"dense": 0.8, "asp": 0.6}


def test_without_a_task_in_every_row_there_is_no_average_and_that_is_said(tmp_path: Path) -> None:
    write(tmp_path, record("a", 0.6), record("b", 0.8, method="dense", task="glue/cola"))
    table = make_table(read_report([tmp_path]))
    assert "No task has a score in every row, so there is no average." in table.notes
    assert "average" not in table_frame(table)


def test_mnli_shows_both_sets_and_counts_with_their_mean(tmp_path: Path) -> None:
    reported = {"matched": {"accuracy": 0.84, "loss": 0.4}, "mismatched": {"accuracy": 0.86, "loss": 0.4}}
    write(tmp_path, record("a", 0.84, task="glue/mnli", reported=reported))
    best = entry(make_table(read_report([tmp_path])), "asp", "glue/mnli")
    assert best.text == "84.0/86.0"
    assert best.value == pytest.approx(0.85)


def test_each_score_of_mnli_is_of_the_trial_at_its_place(tmp_path: Path) -> None:
    for seed, (matched, mismatched) in enumerate([(0.80, 0.82), (0.84, 0.86)]):
        reported = {"matched": {"accuracy": matched}, "mismatched": {"accuracy": mismatched}}
        write(tmp_path, record(f"{9 - seed}", matched, task="glue/mnli", reported=reported, seed=seed))
    write(
        tmp_path, record("7", 0.7, task="glue/mnli", reported={"matched": {"f1": 0.5}}, seed=2)
    )  # no set with the metric
    table = make_table(read_report([tmp_path]), by="seed")
    mean = entry(table, "asp", "glue/mnli")
    assert dict(zip(mean.identities, mean.scores, strict=True)) == pytest.approx({"9": 0.81, "8": 0.85, "7": 0.7})
    assert mean.value == pytest.approx((0.81 + 0.85 + 0.7) / 3)


def test_points_without_a_record_are_counted_in_their_entry_and_named(tmp_path: Path) -> None:
    write(tmp_path, record("a", 0.6))
    plan(tmp_path, ["a", "b", "c"])
    failed = tmp_path / "trials" / "b"
    failed.mkdir()
    (failed / "failures.json").write_text(
        '[{"kind": "non-finite", "message": "the training loss became nan", "when": "2026-01-01T00:00:00+00:00"}]'
    )
    report = read_report([tmp_path])
    table = make_table(report)
    assert entry(table, "asp").problems == {"non-finite": 1, "to do": 1}
    assert table_frame(table).iloc[0, 3] == "60.0 [2 missing]"
    assert any("Points without a usable record: 2" in note for note in table.notes)
    assert list(report.problems["reason"]) == ["the training loss became nan", "not trained yet"]
    assert list(report.problems["point"]) == [
        "learning_rate.value=0.0001, seed=1",
        "learning_rate.value=0.0001, seed=2",
    ]


def test_a_cell_without_any_record_has_a_row_all_the_same(tmp_path: Path) -> None:
    write(tmp_path, record("a", 0.6))
    plan(tmp_path, ["x"], cell="glue/rte  nxm  2of4  tiny")
    found = entry(make_table(read_report([tmp_path])), "nxm")
    assert (found.value, found.text, found.problems) == (None, "-", {"to do": 1})


def test_two_contents_of_one_models_name_are_told_apart(tmp_path: Path) -> None:
    write(tmp_path, record("a", 0.6, weights="1" * 64), record("b", 0.7, weights="2" * 64))
    table = make_table(read_report([tmp_path]))
    assert [row.model for row in table.rows] == ["tiny (111111)", "tiny (222222)"]


def test_differing_budgets_are_said(tmp_path: Path) -> None:
    write(tmp_path, record("a", 0.6, epochs=2), record("b", 0.7, epochs=3))
    notes = make_table(read_report([tmp_path])).notes
    assert "Budgets differ: RTE has trials with training.epochs 2, 3." in notes


def test_details_name_the_trials(tmp_path: Path) -> None:
    write(tmp_path, record("a", 0.6), record("b", 0.7, lr=2e-4))
    row = detail_frame(make_table(read_report([tmp_path]))).iloc[0]
    assert (row["score"], row["trials"], row["trial"]) == ("70.0", 2, "b")


def test_two_sweeps_are_compared_entry_by_entry(tmp_path: Path) -> None:
    first = write(tmp_path / "first", record("a", 0.6), record("b", 0.7, method="dense"))
    second = write(tmp_path / "second", record("a", 0.65), record("c", 0.5, method="nxm", rho=1e-3))
    reports = [read_report([folder]) for folder in (first, second)]
    contents = [Content(report, make_table(report), compare(report)) for report in reports]
    frame = compare_sweeps(contents[0], contents[1], ("one", "two")).frame
    rows = {row["method"]: (row["one"], row["two"], row["difference"]) for row in frame.to_dict("records")}
    assert rows == {"Dense": ("70.0", "-", "-"), "ASP": ("60.0", "65.0", "+5.0"), "NxM": ("-", "50.0", "-")}
