"""GLUE's submission format: what a file may hold, and that what breaks it is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nxm_sweep.errors import DataError, ModelError
from nxm_sweep.predict.submission import (
    SUBMISSIONS,
    broken_rules,
    check_submission,
    words_of,
    write_predictions,
    wrong_count,
)

# As gluebenchmark.com takes them: file, label words, rows of the test set.
NLI = {"entailment", "not_entailment"}
GLUE = {
    "CoLA.tsv": ({"0", "1"}, 1063),
    "SST-2.tsv": ({"0", "1"}, 1821),
    "MRPC.tsv": ({"0", "1"}, 1725),
    "STS-B.tsv": (set(), 1379),
    "QQP.tsv": ({"0", "1"}, 390965),
    "MNLI-m.tsv": ({"entailment", "neutral", "contradiction"}, 9796),
    "MNLI-mm.tsv": ({"entailment", "neutral", "contradiction"}, 9847),
    "QNLI.tsv": (NLI, 5463),
    "RTE.tsv": (NLI, 3000),
    "WNLI.tsv": ({"0", "1"}, 146),
    "AX.tsv": ({"entailment", "neutral", "contradiction"}, 1104),
}


def test_files_words_and_counts_are_those_of_glue() -> None:
    assert {name: (set(each.words), each.rows) for name, each in SUBMISSIONS.items()} == GLUE


def test_words_follow_the_hubs_class_numbers() -> None:
    assert SUBMISSIONS["RTE.tsv"].words == SUBMISSIONS["QNLI.tsv"].words == ("entailment", "not_entailment")
    assert SUBMISSIONS["MNLI-mm.tsv"].words == ("entailment", "neutral", "contradiction")
    assert SUBMISSIONS["WNLI.tsv"].words == ("0", "1")


def test_likeliest_class_is_said_by_its_word() -> None:
    logits = np.array([[0.5, 0.1, -1.0], [-3.0, -2.0, -2.5], [0.0, 0.1, 9.0]])
    assert words_of(logits, ("a", "b", "c"), clip=False) == ["a", "b", "c"]


def test_numbers_are_brought_into_the_range_of_sts_b_alone() -> None:
    outputs = np.array([[-0.25], [0.0], [3.1415926], [5.0], [7.5]])
    assert words_of(outputs, (), clip=True) == ["0.000000", "0.000000", "3.141593", "5.000000", "5.000000"]
    assert words_of(outputs, (), clip=False) == ["-0.250000", "0.000000", "3.141593", "5.000000", "7.500000"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_output_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(ModelError, match="row 1 is not finite"):
        words_of(np.array([[0.0, 1.0], [value, 0.0]]), ("a", "b"), clip=False)


@pytest.mark.parametrize("name", GLUE)
def test_file_that_was_written_breaks_no_rule(name: str, tmp_path: Path) -> None:
    words = SUBMISSIONS[name].words or ("0.000000", "2.5", "5.000000")
    path = tmp_path / "new" / name
    write_predictions(path, [*words, words[0]])
    lines = ["index\tprediction", *(f"{index}\t{word}" for index, word in enumerate([*words, words[0]]))]
    assert path.read_bytes() == "".join(f"{line}\n" for line in lines).encode()
    assert [each.name for each in path.parent.iterdir()] == [name]
    assert check_submission(path, SUBMISSIONS[name]) == []


GOOD = "index\tprediction\n0\tentailment\n1\tnot_entailment\n"


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "first line"),
        ("index\tprediction\n", "no rows"),
        (GOOD.replace("index", "id"), "first line must be 'index<TAB>prediction' but is 'id"),
        (f"\ufeff{GOOD}", "first line"),
        (GOOD.removeprefix("index\tprediction\n"), "first line"),
        (GOOD.replace("\t", ","), "first line"),
        (GOOD.replace("\n", "\r\n"), "first line"),
        (GOOD.removesuffix("\n"), "last line does not end"),
        (f"{GOOD}\n", "row 2 ('')"),
        (GOOD.replace("1\t", "1 "), "row 1 ('1 not_entailment')"),
        (GOOD.replace("0\tent", "0\t\tent"), "row 0"),
        (GOOD.replace("1\tnot", "2\tnot"), "index must count from 0, but not so row 1 ('2<TAB>not_entailment')"),
        (GOOD.replace("0\tent", "1\tent"), "row 0"),
        (GOOD.replace("1\tnot", "01\tnot"), "row 1"),
        (
            GOOD.replace("not_entailment", "contradiction"),
            "must be one of entailment, not_entailment, but not so row 1",
        ),
        (GOOD.replace("not_entailment", "Entailment"), "row 1"),
        (GOOD.replace("not_entailment", " entailment"), "row 1"),
        (GOOD.replace("not_entailment", "1"), "row 1"),
        (GOOD.replace("not_entailment", "entailment\r"), "row 1"),
        (GOOD.replace("not_entailment", ""), "row 1"),
    ],
)
def test_broken_file_is_noticed(text: str, rule: str, tmp_path: Path) -> None:
    path = tmp_path / "RTE.tsv"
    path.write_bytes(GOOD.encode())
    assert check_submission(path, SUBMISSIONS["RTE.tsv"]) == []
    path.write_bytes(text.encode())
    broken = check_submission(path, SUBMISSIONS["RTE.tsv"])
    assert any(rule in line for line in broken), broken
    assert all("\n" not in line for line in broken)


@pytest.mark.parametrize("value", ["5.000001", "-0.1", "nan", "inf", "high", "", "1,5"])
def test_score_that_sts_b_does_not_have_is_noticed(value: str, tmp_path: Path) -> None:
    path = tmp_path / "STS-B.tsv"
    path.write_text(f"index\tprediction\n0\t2.5\n1\t{value}\n")
    (broken,) = check_submission(path, SUBMISSIONS["STS-B.tsv"])
    assert broken.startswith("a prediction must be a number from 0 to 5, but not so row 1")


def test_numbers_without_a_range_may_be_any(tmp_path: Path) -> None:
    path = tmp_path / "own.tsv"
    path.write_text("index\tprediction\n0\t-12.5\n1\t1e9\n")
    assert broken_rules(path, ()) == []
    path.write_text("index\tprediction\n0\t-12.5\n1\tnan\n")
    assert broken_rules(path, ()) == ["a prediction must be a number, but not so row 1 ('1<TAB>nan')"]


def test_without_words_any_answer_may_stand_but_none(tmp_path: Path) -> None:
    path = tmp_path / "own.tsv"
    path.write_text("index\tprediction\n0\tyes\n1\t7\n")
    assert broken_rules(path, None) == []
    path.write_text("index\tprediction\n0\tyes\n1\t\n")
    assert broken_rules(path, None) == ["a prediction must be there, but not so row 1 ('1<TAB>')"]


def test_many_broken_rows_are_counted_and_three_named(tmp_path: Path) -> None:
    path = tmp_path / "RTE.tsv"
    write_predictions(path, ["maybe"] * 3000)
    (broken,) = check_submission(path, SUBMISSIONS["RTE.tsv"])
    assert broken.endswith("and 2997 more")


def test_file_that_is_no_text_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "RTE.tsv"
    path.write_bytes(b"index\tprediction\n0\t\xff\n")
    assert check_submission(path, SUBMISSIONS["RTE.tsv"]) == ["it is not UTF-8 at byte 19"]
    with pytest.raises(DataError, match="cannot be read"):
        check_submission(tmp_path / "none.tsv", SUBMISSIONS["RTE.tsv"])


def test_number_of_rows_is_that_of_the_published_set() -> None:
    assert wrong_count(3000, SUBMISSIONS["RTE.tsv"]) == ""
    assert wrong_count(2999, SUBMISSIONS["RTE.tsv"]) == "GLUE's test set has 3,000 rows but there are 2,999"


def test_place_that_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_predictions(tmp_path / "taken" / "RTE.tsv", ["entailment"])
    (tmp_path / "RTE.tsv").mkdir()
    with pytest.raises(DataError, match="cannot be written"):
        write_predictions(tmp_path / "RTE.tsv", ["entailment"])
    assert sorted(each.name for each in tmp_path.iterdir()) == ["RTE.tsv", "taken"]
