"""The demo tasks: reproducible, free of leakage, balanced, and not solved by counting words."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from nxm_sweep.data.demo import DEMO_TASKS, Row, generate
from nxm_sweep.errors import DataError

CLASSIFICATION = ("paraphrase", "acceptability")
SPLITS = ("train", "validation", "test")
STORED_DIGESTS = {
    "paraphrase": "962c350098dd176b",
    "acceptability": "09fb0904d5c62677",
    "similarity": "2f1ad1bb0f50747a",
}


def _texts(row: Row) -> list[str]:
    return [str(row[column]) for column in ("sentence", "sentence1", "sentence2") if column in row]


def _inputs(rows: list[Row]) -> list[frozenset[str]]:
    return [frozenset(_texts(row)) for row in rows]


def _labels(rows: list[Row]) -> np.ndarray:
    return np.array([float(row["label"]) for row in rows])


def _digest(rows: list[Row]) -> str:
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


@pytest.mark.parametrize("name", DEMO_TASKS)
def test_rows_equal_the_rows_stored_when_the_task_was_calibrated(name: str) -> None:
    assert _digest(generate(name, "train", 300)) == STORED_DIGESTS[name]


def test_another_process_with_another_hash_seed_writes_the_same_rows() -> None:
    code = (
        "import json; from nxm_sweep.data.demo import DEMO_TASKS, generate; "
        "print(json.dumps([generate(name, 'test', 50) for name in DEMO_TASKS]))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert json.loads(done.stdout) == [generate(name, "test", 50) for name in DEMO_TASKS]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", DEMO_TASKS)
def test_fewer_rows_are_a_prefix_of_more(name: str, split: str) -> None:
    assert generate(name, split, 37) == generate(name, split, 200)[:37]


@pytest.mark.parametrize("name", DEMO_TASKS)
def test_each_seed_writes_other_rows(name: str) -> None:
    first, second = (set(_inputs(generate(name, "train", 200, seed))) for seed in (0, 1))
    assert len(first & second) < 100


@pytest.mark.parametrize("name", DEMO_TASKS)
def test_no_input_repeats_within_a_split_or_in_another_split_of_any_seed(name: str) -> None:
    inputs = {(split, seed): _inputs(generate(name, split, 1500, seed)) for split in SPLITS for seed in (0, 1)}
    assert all(len(set(rows)) == len(rows) for rows in inputs.values())
    seen_in: dict[frozenset[str], set[str]] = {}
    for (split, _), rows in inputs.items():
        for row in rows:
            seen_in.setdefault(row, set()).add(split)
    assert all(len(splits) == 1 for splits in seen_in.values())


@pytest.mark.parametrize("name", ["paraphrase", "similarity"])
def test_no_pair_holds_one_sentence_twice(name: str) -> None:
    assert all(len(pair) == 2 for pair in _inputs(generate(name, "train", 1500)))


@pytest.mark.parametrize("name", DEMO_TASKS)
def test_index_is_the_position_and_every_row_has_the_same_columns(name: str) -> None:
    rows = generate(name, "validation", 50)
    assert [row["idx"] for row in rows] == list(range(50))
    columns = ["sentence"] if name == "acceptability" else ["sentence1", "sentence2"]
    assert {tuple(row) for row in rows} == {(*columns, "label", "idx")}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", CLASSIFICATION)
def test_classes_are_about_balanced(name: str, split: str) -> None:
    labels = _labels(generate(name, split, 1000))
    assert set(labels) == {0.0, 1.0}
    assert 0.45 < labels.mean() < 0.55


def test_similarity_fills_its_range_in_many_steps() -> None:
    labels = _labels(generate("similarity", "train", 1000))
    assert labels.min() < 0.7
    assert labels.max() == 5.0
    assert labels.min() >= 0.0
    assert labels.std() > 1.0
    assert len(set(labels)) >= 15
    thirds = np.histogram(labels, bins=[0, 5 / 3, 10 / 3, 5])[0]
    assert thirds.min() > 150


def _bags(row: Row) -> list[set[str]]:
    return [set(text.split()) for text in _texts(row)]


def _overlap(row: Row) -> float:
    bags = _bags(row)
    return len(set.intersection(*bags)) / len(set.union(*bags))


def _word_features(rows: list[Row], counter: CountVectorizer) -> csr_matrix:
    """Word counts of both sentences, their difference and their overlap; a lone sentence is its own partner."""
    first, second = (counter.transform([_texts(row)[place] for row in rows]) for place in (0, -1))
    overlap = csr_matrix([[_overlap(row)] for row in rows])
    return csr_matrix(hstack([first + second, abs(first - second), overlap]))


@pytest.mark.parametrize(("name", "ceiling"), [("paraphrase", 0.75), ("acceptability", 0.8)])
def test_counting_words_and_their_overlap_does_not_solve_it(name: str, ceiling: float) -> None:
    train, unseen = generate(name, "train", 1500), generate(name, "validation", 500)
    counter = CountVectorizer().fit([" ".join(_texts(row)) for row in train])
    baseline = LogisticRegression(max_iter=2000, C=0.3).fit(_word_features(train, counter), _labels(train))
    assert baseline.score(_word_features(unseen, counter), _labels(unseen)) < ceiling


def test_a_fifth_of_the_negatives_share_no_fewer_words_than_the_lower_half_of_the_paraphrases() -> None:
    rows = generate("paraphrase", "train", 1500)
    overlap, labels = np.array([_overlap(row) for row in rows]), _labels(rows)
    assert (overlap[labels == 0] >= np.median(overlap[labels == 1])).mean() > 1 / 5


@pytest.mark.parametrize(
    ("name", "split", "rows", "named"),
    [("colour", "train", 5, "colour"), ("similarity", "dev", 5, "dev"), ("similarity", "train", 0, "0")],
)
def test_error_names_the_value_it_refuses(name: str, split: str, rows: int, named: str) -> None:
    with pytest.raises(DataError, match=f"must be .* got .*{named}"):
        generate(name, split, rows)


def test_asking_for_more_rows_than_the_grammar_can_write_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nxm_sweep.data.demo._PATIENCE", 3)
    with pytest.raises(DataError, match="holds only"):
        generate("acceptability", "test", 1500)
