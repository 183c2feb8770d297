"""Files of rows that look usable and are not: each is refused in one short line that leads out."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd
import pytest

from nxm_sweep.data.loading import load_rows
from nxm_sweep.errors import DataError
from nxm_sweep.predict.unlabelled import read_own_rows
from nxm_sweep.settings import DataSettings, TaskSettings

LONGEST = 420  # characters of a message and its hint, of which a test's path takes up to 150
GOOD = "text,label\ngood,up\nbad,down\nok,up\n"
JSON = [{"text": "good", "label": "up"}, {"text": "bad", "label": "down"}]


def load(folder: Path, train: Any, *, ending: str = "csv", dev: Any = None, **changes: Any) -> Any:
    """Load a task of two files in a folder; the validation file has the training file's content by default."""
    files = {}
    for split, content in (("train", train), ("dev", train if dev is None else dev)):
        path = folder / f"{split}.{ending}"
        files[split] = str(path)
        if isinstance(content, pd.DataFrame):
            content.to_parquet(path)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
    settings: dict[str, Any] = {
        "name": "mine",
        "kind": "files",
        "problem": "classification",
        "text_columns": ["text"],
        "label_column": "label",
        "labels": [],
        "metrics": ["accuracy"],
        "selection_metric": "accuracy",
        "train_split": "train",
        "validation_splits": {"validation": "dev"},
        "learning_rates": [1e-5],
        "files": files,
    }
    return load_rows(TaskSettings(**{**settings, **changes}), DataSettings(path="", revision=None))


def refusal(folder: Path, train: Any, **options: Any) -> str:
    """Return the message and the hint of a refusal."""
    with pytest.raises(DataError) as caught:
        load(folder, train, **options)
    text = f"{caught.value.message} | {caught.value.hint}"
    assert "\n" not in text
    assert len(text) <= LONGEST
    return text


# --- CSV and TSV ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "text"),
    [
        ("csv", 'text,label\nfine,up\n"good,up\nbad,down\nok",up\nfine,down\n'),
        ("csv", 'label,text\nup,fine\nup,"good\ndown,bad\nup,ok"\ndown,fine\n'),
        ("csv", 'label,text\n0.5,fine\n1.5,"good\n2.25,bad\n3.5,ok"\n4,fine\n'),  # scores, each once
        ("tsv", 'label\ttext\nup\tfine\nup\t"good\ndown\tbad\nup\tok"\ndown\tfine\n'),
    ],
)
@pytest.mark.fault("data", "an open quote in a CSV or TSV that swallows rows", "exit code 2 with the lines it swallows")
def test_an_open_quote_that_swallows_rows_is_refused_with_its_lines(tmp_path: Path, ending: str, text: str) -> None:
    problem = {"problem": "regression", "metrics": ["pearson"]} if "0.5" in text else {}
    error = refusal(tmp_path, text, ending=ending, **problem)
    assert f"{tmp_path / 'train'}.{ending}, lines 3 to 5: an open quote makes one row of 3" in error
    assert "the quote doubled" in error


def test_a_text_of_several_lines_with_commas_is_no_open_quote(tmp_path: Path) -> None:
    rows = load(tmp_path, 'text,label\n"good, and\nso, up, up\nDear all,\nup",up\nbad,down\n')
    assert list(rows.train["text"]) == ["good, and\nso, up, up\nDear all,\nup", "bad"]


@pytest.mark.fault("data", "rows to predict that an open quote swallows", "a warning names the line")
def test_prediction_of_rows_that_an_open_quote_swallows_warns(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('id,text\n1,fine\n2,"good\n3,bad\n4,ok"\n5,fine\n')
    rows = read_own_rows(path, ["text"])
    assert "the text that ends in line 5 may be several rows" in rows.note
    path.write_text('id,text\n1,\n2,"good\nbad, very"\n')
    rows = read_own_rows(path, ["text"])
    assert rows.note == f"{path}: 1 broken rows (0) are answered by what is left of them"
    assert rows.text == ["", "good\nbad, very"]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("text", ["", " \t "])
@pytest.mark.fault("data", "a row without text", "exit code 2 with file and line, instead of training on an empty text")
def test_a_row_without_text_is_refused(tmp_path: Path, ending: str, text: str) -> None:
    rows = [*JSON, {"text": text, "label": "up"}]
    content: Any = {
        "csv": f'{GOOD}"{text}",up\n',
        "jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        "parquet": pd.DataFrame(rows),
    }[ending]
    place = {"csv": "line 5", "jsonl": "line 3", "parquet": "row 2 (from 0)"}[ending]
    error = refusal(tmp_path, content, ending=ending)
    assert (
        f"column 'text' of the split 'train' of mine holds rows without text: {tmp_path}/train.{ending}, {place}"
        in error
    )


@pytest.mark.fault("data", "two columns of one name", "exit code 2, instead of reading the first")
def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    error = refusal(tmp_path, "text,label,text\ngood,up,x\nbad,down,y\n")
    assert "the split 'train' of mine has 2 columns of the name 'text' | rename all but one" in error
    line = '{"text": "good", "label": "up"}\n{"text": "bad", "text": "good", "label": "down"}\n'
    assert "train.jsonl, line 2: the key 'text' is there twice" in refusal(tmp_path, line, ending="jsonl")
    load(tmp_path, "text,label,,\ngood,up,,\nbad,down,,\n")  # as spreadsheets write it


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (GOOD.replace(",", ";"), "its columns seem to be separated by ';'"),
        (GOOD.replace(",", "\t"), r"its columns seem to be separated by '\t'"),
        (GOOD.replace(",label", ", label"), "it has ' label': remove the spaces"),
    ],
)
@pytest.mark.fault("data", "another separator than the file's ending says", "exit code 2 with the separator")
def test_another_separator_is_named(tmp_path: Path, text: str, hint: str) -> None:
    assert hint in refusal(tmp_path, text)


@pytest.mark.fault("data", "a text of 100 MB", "exit code 2 with its line")
def test_a_text_of_a_hundred_megabytes_is_refused(tmp_path: Path) -> None:
    text = "word " * 20_000_000
    error = refusal(tmp_path, f"{GOOD}{text},up\n", dev=GOOD)
    assert f"{tmp_path / 'train.csv'}, line 5: a text of more than 1,000,000 characters" in error
    good = "".join(json.dumps(row) + "\n" for row in JSON)
    error = refusal(tmp_path, f'{good}{{"text": "{text}", "label": "up"}}\n', dev=good, ending="jsonl")
    assert f"holds a text of more than 1,000,000 characters: {tmp_path / 'train.jsonl'}, line 3" in error


# --- labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.fault("data", "one column as text and label", "exit code 2, instead of a score of 1.0")
def test_a_column_is_not_text_and_label_at_once(tmp_path: Path) -> None:
    assert "both name the column 'text'" in refusal(tmp_path, GOOD, label_column="text")
    assert "names twice the column 'text'" in refusal(tmp_path, GOOD, text_columns=["text", "text"])


@pytest.mark.fault("data", "labels that differ in spaces only", "exit code 2 with both labels")
def test_labels_that_differ_in_spaces_only_are_refused(tmp_path: Path) -> None:
    error = refusal(tmp_path, "text,label\ngood,spam\nbad,ham\nok,spam \n")
    assert "column 'label' of mine holds the classes 'spam' and 'spam ', which differ in spaces only" in error
    error = refusal(tmp_path, "text,label\ngood,spam\nbad,ham\n", dev="text,label\ngood, ham\n")
    assert "holds the class ' ham', which is not among ham, spam" in error
    assert error.endswith("remove the spaces around it")


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.fault(
    "data", "numbers with decimals as classes", "exit code 2 with task.problem=regression as the way out"
)
def test_numbers_with_decimals_are_no_classes(tmp_path: Path, ending: str) -> None:
    scores = [step / 2 for step in range(11)] * 9
    table = pd.DataFrame({"text": [f"text {row}" for row in range(99)], "label": scores})
    content: Any = table if ending == "parquet" else table.to_csv(index=False)
    error = refusal(tmp_path, content, ending=ending)
    assert "column 'label' of mine holds 11 numbers with decimals, such as 0.5" in error
    assert "task.problem=regression" in error
    rows = load(tmp_path, content, ending=ending, problem="regression", metrics=["pearson"])
    assert list(rows.train["label"]) == scores
    names = [str(step / 2) for step in range(11)]
    assert load(tmp_path, content, ending=ending, labels=names).labels == tuple(names)
    whole = table.assign(label=[float(row % 5) for row in range(99)])
    assert load(tmp_path, whole, ending="parquet").labels == ("0.0", "1.0", "2.0", "3.0", "4.0")


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.fault("data", "lists of labels", "exit code 2: several labels per row are not supported")
def test_lists_are_no_classes(tmp_path: Path, ending: str) -> None:
    rows = [{"text": "good", "label": ["up", "new"]}, {"text": "bad", "label": ["down"]}]
    content: Any = pd.DataFrame(rows) if ending == "parquet" else "".join(json.dumps(row) + "\n" for row in rows)
    assert "multi-label tasks are not supported" in refusal(tmp_path, content, ending=ending)


@pytest.mark.fault("data", "a label column in which every row is its own class", "exit code 2 with the counts")
def test_a_class_per_row_is_refused(tmp_path: Path) -> None:
    rows = "text,label\n" + "".join(f"text {row},id{row}\n" for row in range(300))
    assert "column 'label' of mine holds 300 classes in 300 rows" in refusal(tmp_path, rows)
    assert len(load(tmp_path, rows, labels=[f"id{row}" for row in range(300)]).labels) == 300


@pytest.mark.fault("data", "a message that would list thousands of names", "the first few names, and a count")
def test_lists_in_messages_are_cut(tmp_path: Path) -> None:
    train = "text,label\n" + "".join(f"text {row},class{row % 3000}\n" for row in range(9000))
    error = refusal(tmp_path, train, dev=f"text,label\ngood,{'x' * 5000}\n")
    assert "which is not among class0, class1" in error
    assert "and 2,992 more" in error
    columns = ",".join(f"column{number}" for number in range(3000))
    assert "and 2,992 more" in refusal(tmp_path, f"{columns}\n{columns}\n")


# --- JSON Lines -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"text": "bad", "label": }', "Expecting value at character 26"),
        ("[" * 100_000, "it is nested too deeply"),
        ('{"text":' * 100_000, "it is nested too deeply"),
        (f'{{"label": {"1" * 5000}}}', "Exceeds the limit"),
    ],
)
@pytest.mark.fault(
    "data", "a broken line of JSON Lines", "exit code 2 with the line of the file and the character in it"
)
def test_a_broken_line_of_json_lines_is_named_by_the_files_own_line(tmp_path: Path, line: str, problem: str) -> None:
    good = "".join(json.dumps(row) + "\n" for row in JSON)
    error = refusal(tmp_path, f"{good}\n{line}\n", ending="jsonl")
    assert f"{tmp_path / 'train.jsonl'}, line 4: {problem}" in error
    assert "line 1 column" not in error


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.fault(
    "data", "a JSON array instead of JSON Lines", "exit code 2, its name, and the command that converts it"
)
def test_a_json_array_is_called_by_its_name(tmp_path: Path, indent: int | None) -> None:
    error = refusal(tmp_path, json.dumps(JSON, indent=indent), ending="json")
    assert f"{tmp_path / 'train.json'} is one JSON array of 2 values" in error
    assert "jq -c '.[]'" in error
    assert "is one JSON object of the keys text, label" in refusal(
        tmp_path, json.dumps(JSON[0], indent=2), ending="json"
    )


# --- encodings --------------------------------------------------------------------------------------------------------

ACCENTS = "text,label\ngood,up\nnaïve “so”,down\n"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (ACCENTS.encode("utf-16"), "seems to be UTF-16 | iconv -f UTF-16 -t UTF-8"),
        (ACCENTS.encode("utf-16-le"), "seems to be UTF-16LE | iconv -f UTF-16LE -t UTF-8"),
        (ACCENTS.encode("utf-16-be"), "seems to be UTF-16BE | iconv -f UTF-16BE -t UTF-8"),
        (ACCENTS.encode("utf-32"), "seems to be UTF-32 | iconv -f UTF-32 -t UTF-8"),
        (ACCENTS.encode("cp1252"), "line 3: the byte 0xef is not UTF-8 | the file may be in Windows-1252 (cp1252)"),
        (gzip.compress(ACCENTS.encode(), mtime=0), "seems to be a gzip file"),
        (b"PK\x03\x04" + bytes(range(256)), "seems to be a zip file, as Excel writes them"),
    ],
)
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
@pytest.mark.fault(
    "data", "rows in UTF-16 or Windows-1252", "exit code 2 with the likely encoding and how to convert it"
)
def test_another_encoding_is_named(tmp_path: Path, content: bytes, problem: str, ending: str) -> None:
    assert problem in refusal(tmp_path, content, ending=ending)


# --- MRPC -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["", "MRPC"])
@pytest.mark.fault("data", "MRPC as Microsoft publishes it", "exit code 2: it has no dev set, and where there is one")
def test_mrpc_as_microsoft_publishes_it_is_explained(tmp_path: Path, place: str) -> None:
    folder = tmp_path / place
    folder.mkdir(exist_ok=True)
    rows = '\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n1\t7\t8\t" One opens .\tAnother .\r\n'
    (folder / "msr_paraphrase_train.txt").write_text(rows)
    changes = {"kind": "glue", "name": "mrpc", "config": "mrpc", "text_columns": ["sentence1", "sentence2"]}
    with pytest.raises(DataError) as caught:
        load_rows(TaskSettings(**{**plain_task(), **changes}), DataSettings(path=str(tmp_path), revision=None))
    assert f"{folder} holds MRPC as Microsoft publishes it" in caught.value.message
    assert "mrpc_dev_ids.tsv" in caught.value.hint


def plain_task() -> dict[str, Any]:
    return {
        "problem": "classification",
        "label_column": "label",
        "labels": [],
        "metrics": ["accuracy"],
        "selection_metric": "accuracy",
        "train_split": "train",
        "validation_splits": {"validation": "validation"},
        "learning_rates": [1e-5],
        "files": {},
    }


# --- mutations --------------------------------------------------------------------------------------------------------

_INSERTED = (
    b'"',
    b"\n",
    b"\r",
    b",",
    b"\t",
    b"{",
    b"[",
    b"null",
    b"NaN",
    b"1e999",
    b"\0",
    b"\xff\xfe",
    b"\xe2\x80\xa8",
)


def mutate(content: bytes, random: Random) -> bytes:
    """Change, remove, repeat or insert a few bytes, or cut the rest."""
    for _ in range(random.choice([1, 1, 2, 5])):
        place, length = random.randrange(len(content) + 1), random.randrange(1, 40)
        before, after = content[:place], content[place:]
        content = random.choice(
            [
                before + random.randbytes(1) + after[1:],
                before + after[length:],
                before + content[length : 2 * length] + after,
                before + random.choice(_INSERTED) + after,
                before,
            ]
        )
    return content


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.fault("data", "files of rows with a few bytes changed, 400 of them", "each is read or refused in one line")
def test_mutated_files_are_read_or_refused(tmp_path: Path, ending: str) -> None:
    table = pd.DataFrame([{"text": f'text {row}, "é"', "label": ["up", "down"][row % 2]} for row in range(8)])
    content = {
        "csv": table.to_csv(index=False).encode(),
        "tsv": table.to_csv(index=False, sep="\t").encode(),
        "jsonl": table.to_json(orient="records", lines=True).encode(),
        "parquet": table.to_parquet(),
    }[ending]
    random, refused = Random(14), []
    for _ in range(100):
        try:
            load(tmp_path, mutate(content, random), ending=ending)
        except DataError as error:
            refused.append(error.message + error.hint)
    assert 0 < len(refused) < 100
    assert [text for text in refused if "\n" in text or len(text) > LONGEST] == []


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sweep", [False, True])
def test_the_command_ends_with_two_lines_before_a_model_loads(tmp_path: Path, tiny_model: Path, *, sweep: bool) -> None:
    (tmp_path / "rows.csv").write_text("text,label\ngood,spam\nbad,ham\nok,spam \n")
    command = [
        *(sys.executable, "-m", "nxm_sweep", "task=files", "task.text_columns=[text]", "method=dense"),
        *(f"task.files.{split}={tmp_path / 'rows.csv'}" for split in ("train", "validation")),
        *("model=local", f"model.path={tiny_model}", f"output_dir={tmp_path / 'o'}", *(["-m"] if sweep else [])),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 2, done.stderr
    assert "which differ in spaces only" in lines[0]
    assert lines[1].lower().startswith("hint: ")
    assert not list((tmp_path / "o").glob("trials/*/result.json"))
