"""The constant answer and the duplicates between splits, against counting by hand."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Features, Value

from nxm_sweep.config.compose import compose_settings
from nxm_sweep.data.demo import generate
from nxm_sweep.data.loading import TaskRows, load_rows
from nxm_sweep.trial.splits import count_duplicates, describe_splits, warn_of_duplicates

Row = tuple[tuple[str, ...], float]


def dataset(rows: list[Row], *, regression: bool = False) -> Dataset:
    names = ("text", "pair")[: len(rows[0][0])]
    columns: dict[str, list[Any]] = {name: [texts[place] for texts, _ in rows] for place, name in enumerate(names)}
    label = Value("float32" if regression else "int64")
    features = Features({**dict.fromkeys(names, Value("string")), "label": label})
    return Dataset.from_dict({**columns, "label": [label for _, label in rows]}, features=features)


def described(train: list[Row], validation: list[Row], *overrides: str) -> dict[str, Any]:
    regression = "task.problem=regression" in overrides
    labels = () if regression else ("a", "b", "c")
    parts = [dataset(part, regression=regression) for part in (train, validation)]
    settings = compose_settings(
        ["task=files", "task.files.train=t", "task.files.validation=v", "task.text_columns=[t]", *overrides]
    )
    found = describe_splits(TaskRows(parts[0], {"validation": parts[1]}, labels, "files", "d"), settings)
    json.dumps(found, allow_nan=False)
    return found


def labelled(labels: list[float]) -> list[Row]:
    return [((f"row {number}",), label) for number, label in enumerate(labels)]


# --- the constant answer ----------------------------------------------------------------------------------------------


def test_constant_answer_of_mrpc_is_what_its_dev_labels_say(glue_download: Path) -> None:
    """279 of the 408 pairs are paraphrases: F1 of answering so is 2 * 279 / (2 * 279 + 129)."""
    settings = compose_settings(["task=glue/mrpc", f"data.path={glue_download}"])
    scores = describe_splits(load_rows(settings.task, settings.data), settings)["constant"]["validation"]
    lines = (glue_download / "MRPC" / "dev.tsv").read_text(encoding="utf-8-sig").splitlines()[1:]
    yes = sum(line.startswith("1\t") for line in lines)
    accuracy, f1 = yes / len(lines), 2 * yes / (yes + len(lines))
    assert scores == {"accuracy": accuracy, "f1": pytest.approx(f1), "mean": pytest.approx((accuracy + f1) / 2)}
    assert round(100 * scores["mean"], 1) == 74.8


def test_constant_answer_is_the_training_rows_majority_and_not_the_validation_sets() -> None:
    found = described(labelled([0, 1, 1]), labelled([0, 0, 0, 1]))
    assert found["constant"] == {"validation": {"accuracy": 0.25}}


def test_lowest_class_wins_a_tie() -> None:
    assert described(labelled([2, 1, 1, 2]), labelled([1, 2, 2, 2]))["constant"]["validation"] == {"accuracy": 0.25}


def test_constant_answer_of_three_classes_has_a_macro_f1() -> None:
    """Class 1 is found once with two false alarms, F1 1/2; the other two are never answered."""
    found = described(labelled([1, 1, 0, 2]), labelled([0, 1, 2]), "task.metrics=[f1_macro]")
    assert found["constant"]["validation"] == {"f1_macro": pytest.approx(0.5 / 3)}


def test_rows_count_as_they_are_used() -> None:
    train, validation = labelled([0, 1, 1, 1]), labelled([0, 1, 1, 1])
    some = described(train, validation, "training.max_train_samples=1", "training.max_eval_samples=2")
    assert some["constant"]["validation"] == {"accuracy": 0.5}
    assert some["duplicates"]["validation"] == {"rows": 1, "same_label": 1}


def test_rows_held_out_are_no_training_rows() -> None:
    """Of 20 rows the slice of a fifth is 7, 8, 11, 15 (see test_heldout)."""
    held = [7, 8, 11, 15]
    train = labelled([float(number not in held) for number in range(20)])
    validation = [train[number] for number in (7, 8, 9)]
    found = described(train, validation, "selection=heldout", "selection.fraction=0.2")
    assert found["duplicates"]["validation"] == {"rows": 1, "same_label": 1}


def test_constant_answer_of_a_regression_has_no_correlation() -> None:
    overrides = ["task.problem=regression", "task.metrics=[pearson,spearman]", "task.selection_metric=mean"]
    found = described(labelled([1.0, 2.0, 4.5]), labelled([1.0, 3.0]), *overrides)
    assert found["constant"] == {"validation": {"pearson": 0.0, "spearman": 0.0, "mean": 0.0}}


@pytest.mark.parametrize("name", ["paraphrase", "acceptability", "similarity"])
def test_demo_tasks_are_described_with_the_metrics_that_they_report(name: str) -> None:
    settings = compose_settings([f"task=demo/{name}", "task.rows={train: 60, validation: 30}"])
    found = describe_splits(load_rows(settings.task, settings.data), settings)
    extra = {"mean"} if len(settings.task.metrics) > 1 else set()
    assert set(found["constant"]["validation"]) == {*settings.task.metrics, *extra}
    if name == "paraphrase":
        labels = Counter(int(row["label"]) for row in generate(name, "train", 60))
        answer = max(labels, key=lambda label: (labels[label], -label))
        dev = [int(row["label"]) for row in generate(name, "validation", 30)]
        assert found["constant"]["validation"]["accuracy"] == dev.count(answer) / 30


# --- duplicates -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("paired", [False, True], ids=["one text", "two texts"])
def test_duplicates_are_those_that_comparing_each_row_with_each_finds(paired: bool) -> None:
    def rows(count: int, step: int) -> list[Row]:
        words = [f"w{number * step % 7}" for number in range(count)]
        return [((word, f"p{number % 3}") if paired else (word,), number % 2) for number, word in enumerate(words)]

    train, one, two = rows(9, 1), rows(11, 3), [((f"W{number}", "p0")[: 1 + paired], 0.0) for number in range(3)]
    found = count_duplicates(dataset(train), range(9), {"one": dataset(one), "two": dataset(two)})
    both = [any(texts == other for other, _ in train) for texts, _ in one]
    agree = [any(row == other for other in train) for row in one]
    assert found == {"one": {"rows": sum(both), "same_label": sum(agree)}, "two": {"rows": 0, "same_label": 0}}
    assert 0 < sum(agree) < sum(both)


@pytest.mark.parametrize(("name", "rows"), [("CoLA", 16), ("STS-B", 6), ("MRPC", 0)])
def test_duplicates_of_real_tasks_are_those_of_their_files(name: str, rows: int, glue_download: Path) -> None:
    columns = {"CoLA": (3,), "STS-B": (7, 8), "MRPC": (3, 4)}[name]
    texts = [
        [tuple(line.split("\t")[column] for column in columns) for line in file.read_text("utf-8").split("\n") if line]
        for file in (glue_download / name / f"{split}.tsv" for split in ("train", "dev"))
    ]
    skip = 0 if name == "CoLA" else 1
    trained = set(texts[0][skip:])
    assert sum(row in trained for row in texts[1][skip:]) == rows
    settings = compose_settings([f"task=glue/{name.lower().replace('-', '')}", f"data.path={glue_download}"])
    found = describe_splits(load_rows(settings.task, settings.data), settings)["duplicates"]["validation"]
    assert found["rows"] == rows


def test_warning_names_the_number_and_the_share_and_speaks_up_for_a_leak() -> None:
    def warning(**rows: int) -> str:
        return warn_of_duplicates(
            {name: {"rows": count, "same_label": 0} for name, count in rows.items()}, dict.fromkeys(rows, 1500)
        )

    assert warning(validation=0) == ""
    assert warning(validation=6) == "6 of the 1,500 rows of validation (0.4%) are training rows too"
    assert "LEAK" not in warning(validation=750)
    assert warning(matched=0, mismatched=1500) == (
        "DATA LEAK: 1,500 of the 1,500 rows of mismatched (100.0%) are training rows too: the score measures memory, not "
        "generalization"
    )
    assert warning(matched=1, mismatched=3).startswith(
        "1 of the 1,500 rows of matched (0.1%) and 3 of the 1,500 rows of"
    )
