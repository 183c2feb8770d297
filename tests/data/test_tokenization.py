"""Tokenised rows: what the tokenizer says, once per content, padded to the longest of a batch."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from datasets import Dataset

from nxm_sweep.data.demo import generate
from nxm_sweep.data.loading import TaskRows, heldout_rows, limit_rows
from nxm_sweep.data.tokenization import PadToLongest, cache_key, tokenise, training_rows
from nxm_sweep.errors import DataError
from nxm_sweep.training.model_files import load_tokenizer

Examples = Sequence[tuple[tuple[str, ...], int | float]]

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class CountingTokenizer:
    """A tokenizer that counts how many rows it was given."""

    tokenizer: Any
    counted: list[int] = field(default_factory=list)

    def __call__(self, texts: Sequence[str], *pairs: Sequence[str], **options: Any) -> Any:
        self.counted.append(len(texts))
        return self.tokenizer(texts, *pairs, **options)


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return load_tokenizer(tiny_model)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))


def pairs(split: str, count: int) -> Examples:
    """Demo rows of many lengths."""
    return [
        ((str(row["sentence1"]) + " the" * (number * 7 % 11), str(row["sentence2"])), int(row["label"]))
        for number, row in enumerate(generate("paraphrase", split, count))
    ]


def made(train: Examples, validation: Examples, *, regression: bool = False) -> TaskRows:
    def dataset(examples: Examples) -> Dataset:
        kind = "float32" if regression else "int64"
        names = ("text", "pair")[: len(examples[0][0])]
        columns: dict[str, list[Any]] = {
            name: [texts[place] for texts, _ in examples] for place, name in enumerate(names)
        }
        features = datasets.Features({**dict.fromkeys(names, datasets.Value("string")), "label": datasets.Value(kind)})
        return Dataset.from_dict({**columns, "label": [label for _, label in examples]}, features=features)

    digest = hashlib.sha256(json.dumps([train, validation]).encode()).hexdigest()
    labels = () if regression else ("no", "yes")
    return TaskRows(dataset(train), {"validation": dataset(validation)}, labels, "files", digest)


TRAIN, VALIDATION = pairs("train", 40), pairs("validation", 30)


@pytest.fixture
def rows() -> TaskRows:
    return made(TRAIN, VALIDATION)


def contents(part: Dataset) -> dict[str, list[Any]]:
    return {name: list(part[name]) for name in part.column_names}


# --- tokenising -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_length", [16, 64])
def test_pairs_are_what_the_tokenizer_says_of_each(rows: TaskRows, tokenizer: Any, max_length: int) -> None:
    train = tokenise(rows, tokenizer, tokenizer_digest="t", max_length=max_length).train
    for row, (texts, label) in zip(train, TRAIN, strict=True):
        expected = dict(tokenizer(*texts, truncation="longest_first", max_length=max_length))
        assert row == {**expected, "length": len(expected["input_ids"]), "labels": label}
    longest = max(train["length"])
    assert longest == 16 if max_length == 16 else longest < 64


def test_single_texts_are_tokenised_without_a_pair(tokenizer: Any) -> None:
    rows = made([(("the a of",), 1), (("a",), 0)], [(("the",), 0), (("a",), 1)])
    train = tokenise(rows, tokenizer, tokenizer_digest="t", max_length=8).train
    words = tokenizer.convert_tokens_to_ids(["[CLS]", "the", "a", "of", "[SEP]"])
    assert list(train["input_ids"]) == [words, [words[0], words[2], words[4]]]
    assert list(train["labels"]) == [1, 0]


def test_first_rows_are_taken_in_order(rows: TaskRows, tokenizer: Any) -> None:
    whole = tokenise(rows, tokenizer, tokenizer_digest="t", max_length=32)
    part = tokenise(rows, tokenizer, tokenizer_digest="t", max_length=32, max_train_samples=7, max_eval_samples=5)
    assert list(part.train) == list(whole.train)[:7]
    assert sorted(part.validation["validation"]["row"]) == list(range(5))


def test_asking_for_more_rows_than_there_are_gives_all(rows: TaskRows, tokenizer: Any) -> None:
    data = tokenise(rows, tokenizer, tokenizer_digest="t", max_length=32, max_train_samples=999, max_eval_samples=999)
    assert (len(data.train), len(data.validation["validation"])) == (40, 30)


@pytest.mark.parametrize("max_eval_samples", [None, 13])
def test_validation_is_sorted_by_length_and_row_leads_back(
    rows: TaskRows, tokenizer: Any, max_eval_samples: int | None
) -> None:
    data = tokenise(rows, tokenizer, tokenizer_digest="t", max_length=64, max_eval_samples=max_eval_samples)
    validation = data.validation["validation"]
    lengths = [len(tokenizer(*texts)["input_ids"]) for texts, _ in VALIDATION][:max_eval_samples]
    assert list(validation["row"]) == sorted(range(len(lengths)), key=lambda row: (lengths[row], row))
    assert list(validation["row"]) != list(range(len(lengths)))
    for row in validation:
        texts, label = VALIDATION[row["row"]]
        assert (row["input_ids"], row["labels"]) == (tokenizer(*texts)["input_ids"], label)


# --- the cache --------------------------------------------------------------------------------------------------------


def test_second_call_tokenises_nothing_and_reads_the_same_files(rows: TaskRows, tokenizer: Any, tmp_path: Path) -> None:
    counting = CountingTokenizer(tokenizer)
    first, second = (tokenise(rows, counting, tokenizer_digest="t", max_length=32, cache=tmp_path) for _ in range(2))
    assert sum(counting.counted) == 70
    for one, other in [
        (first.train, second.train),
        (first.validation["validation"], second.validation["validation"]),
    ]:
        assert contents(one) == contents(other)
        assert one.features == other.features
    files = {entry["filename"] for part in (second.train, *second.validation.values()) for entry in part.cache_files}
    assert files >= {str(path) for path in tmp_path.glob("*.arrow")}
    assert len(list(tmp_path.glob("*.arrow"))) == 2


def test_fewer_rows_of_a_cached_task_tokenise_nothing(rows: TaskRows, tokenizer: Any, tmp_path: Path) -> None:
    counting = CountingTokenizer(tokenizer)
    for count in (None, 5, 9):
        tokenise(
            rows,
            counting,
            tokenizer_digest="t",
            max_length=32,
            max_train_samples=count,
            max_eval_samples=count,
            cache=tmp_path,
        )
    assert sum(counting.counted) == 70


@pytest.mark.parametrize("change", ["max_length", "tokenizer", "rows"])
def test_other_content_is_tokenised_anew(rows: TaskRows, tokenizer: Any, tmp_path: Path, change: str) -> None:
    counting = CountingTokenizer(tokenizer)
    tokenise(rows, counting, tokenizer_digest="t", max_length=32, cache=tmp_path)
    other = made([*TRAIN[:-1], (TRAIN[-1][0], 1 - TRAIN[-1][1])], VALIDATION) if change == "rows" else rows
    data = tokenise(
        other,
        counting,
        tokenizer_digest="u" if change == "tokenizer" else "t",
        max_length=16 if change == "max_length" else 32,
        cache=tmp_path,
    )
    assert sum(counting.counted) == 140
    assert max(data.train["length"]) == (16 if change == "max_length" else 32)
    assert data.train[-1]["labels"] == (1 - TRAIN[-1][1] if change == "rows" else TRAIN[-1][1])


def test_train_and_validation_of_equal_rows_are_two_files(tokenizer: Any, tmp_path: Path) -> None:
    tokenise(made(TRAIN, TRAIN), tokenizer, tokenizer_digest="t", max_length=32, cache=tmp_path)
    assert len(list(tmp_path.glob("*.arrow"))) == 2


def test_cache_lies_in_the_datasets_librarys_unless_told(rows: TaskRows, tokenizer: Any, tmp_path: Path) -> None:
    tokenise(rows, tokenizer, tokenizer_digest="t", max_length=32)
    assert len(list((tmp_path / "datasets" / "nxm_sweep").glob("*.arrow"))) == 2


RACER = """
import json, sys, time
from pathlib import Path
from nxm_sweep.data.tokenization import tokenise
from datasets import Dataset
from nxm_sweep.data.loading import TaskRows
place, me, counted = Path(sys.argv[1]), sys.argv[2], []
class Slow:
    def __call__(self, texts, **options):
        counted.append(len(texts))
        time.sleep(0.3)
        return {"input_ids": [list(map(ord, text)) for text in texts]}
part = Dataset.from_dict({"text": ["a", "the a", "of the a"] * 20, "label": [0, 1, 1] * 20})
(place / me).touch()
while not (place / "go").exists():
    time.sleep(0.002)
rows = TaskRows(part, {"validation": part}, ("no", "yes"), "files", "d")
data = tokenise(rows, Slow(), tokenizer_digest="t", max_length=8, cache=place / "cache")
print(json.dumps([sum(counted), list(data.train), list(data.validation["validation"])]))
"""


def test_two_processes_at_once_write_one_file_and_read_the_same(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path), name],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=ROOT,
        )
        for name in ("one", "two")
    ]
    while not all((tmp_path / name).exists() for name in ("one", "two")) and all(r.poll() is None for r in racers):
        time.sleep(0.01)
    (tmp_path / "go").touch()
    results = []
    for racer in racers:
        out, err = racer.communicate(timeout=60)
        assert racer.returncode == 0, err.decode()
        results.append(json.loads(out))
    assert results[0][1:] == results[1][1:]
    assert results[0][0] + results[1][0] == 120, "each row is tokenised by one of the two"
    files = {path.name for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"}
    assert len(files) == 2
    assert all(len(Dataset.from_file(str(tmp_path / "cache" / name))) == 60 for name in files)


# --- the key ----------------------------------------------------------------------------------------------------------


def test_key_is_the_same_in_every_process_and_differs_with_each_part() -> None:
    assert cache_key("a", 1) == hashlib.sha256(b'["a", 1]').hexdigest()[:32]
    tried: list[tuple[str | float, ...]] = [("a", 1), ("a", 2), ("b", 1), ("a", "1"), ("a1",), ("a", 1, 1), ("a", 0.5)]
    assert len({cache_key(*parts) for parts in tried}) == len(tried)


@pytest.mark.parametrize("part", [pytest.param(object(), id="object"), None, ["a"], {"a": 1}, len], ids=repr)
def test_key_refuses_what_has_no_content_to_hash(part: Any) -> None:
    with pytest.raises(DataError, match=f"text and numbers but got a {type(part).__name__}"):
        cache_key("a", part)


# --- batches ----------------------------------------------------------------------------------------------------------


def test_batch_is_padded_to_its_longest_row_and_not_to_max_length(rows: TaskRows, tokenizer: Any) -> None:
    train = tokenise(rows, tokenizer, tokenizer_digest="t", max_length=64).train
    some = [train[3], train[8], train[9], train[10]]
    longest = max(row["length"] for row in some)
    assert min(row["length"] for row in some) < longest < 64
    batch = PadToLongest(tokenizer)(some)
    assert set(batch) == {"input_ids", "token_type_ids", "attention_mask", "labels"}
    for place, row in enumerate(some):
        empty = [0] * (longest - row["length"])
        assert batch["input_ids"][place].tolist() == row["input_ids"] + [tokenizer.pad_token_id] * len(empty)
        assert batch["attention_mask"][place].tolist() == [1] * row["length"] + empty
        assert batch["token_type_ids"][place].tolist() == row["token_type_ids"] + empty
    assert batch["labels"].tolist() == [TRAIN[number][1] for number in (3, 8, 9, 10)]


def test_validation_batch_drops_length_and_row(rows: TaskRows, tokenizer: Any) -> None:
    validation = tokenise(rows, tokenizer, tokenizer_digest="t", max_length=64).validation["validation"]
    assert {"length", "row"} <= set(validation.column_names)
    batch = PadToLongest(tokenizer)([validation[0], validation[1]])
    assert set(batch) == {"input_ids", "token_type_ids", "attention_mask", "labels"}


def test_classes_are_integers_and_scores_fp32(tokenizer: Any) -> None:
    texts: Examples = [(("a",), 0), (("the",), 1)]
    scores: Examples = [(("a",), 2.6), (("the",), 5.0)]
    for examples, regression, dtype in ((texts, False, torch.int64), (scores, True, torch.float32)):
        rows = made(examples, examples, regression=regression)
        data = tokenise(rows, tokenizer, tokenizer_digest="t", max_length=8)
        labels = PadToLongest(tokenizer)(list(data.train))["labels"]
        torch.testing.assert_close(labels, torch.tensor([label for _, label in examples], dtype=dtype), rtol=0, atol=0)
        assert labels.shape == (2,)


# ---- subsets


def test_a_shuffled_subset_is_fixed_ascending_and_part_of_a_larger_one() -> None:
    small, large = limit_rows(range(1000), 50, "shuffled"), limit_rows(range(1000), 200, "shuffled")
    assert list(small) == sorted(set(small)) == list(limit_rows(range(1000), 50, "shuffled"))
    assert set(small) < set(large)
    assert len(small) == 50
    thirds = [sum(number // 334 == third for number in large) for third in range(3)]
    assert min(thirds) > 40  # of 67 expected; the first 200 would be 200, 0, 0


@pytest.mark.parametrize("subset", ["shuffled", "first"])
def test_a_limit_that_keeps_all_rows_keeps_their_order(subset: str) -> None:
    assert list(limit_rows(range(10), None, subset)) == list(limit_rows(range(10), 10, subset)) == list(range(10))
    assert len(limit_rows(range(10), 3, subset)) == 3


def test_the_first_rows_are_the_first() -> None:
    assert list(limit_rows([4, 7, 9, 11], 2, "first")) == [4, 7]


def test_a_shuffled_subset_takes_no_row_that_is_held_out() -> None:
    held_out = set(heldout_rows(100, 0.3)[1])
    rows = training_rows(100, 40, 0.3, "shuffled")
    assert len(rows) == 40
    assert held_out.isdisjoint(rows)
