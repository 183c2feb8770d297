"""Rows of a task: the same from every place and format, or refused in one line."""

from __future__ import annotations

import csv
import dataclasses
import json
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import datasets
import huggingface_hub
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from huggingface_hub import constants

from nxm_sweep.config.compose import compose_settings
from nxm_sweep.data.demo import generate
from nxm_sweep.data.glue import GLUE_TSV
from nxm_sweep.data.hub import go_offline_unless_reachable
from nxm_sweep.data.loading import TaskRows, load_rows
from nxm_sweep.errors import DataError
from nxm_sweep.settings import DataSettings, TaskSettings

Example = tuple[tuple[str, ...], int | float]

ANYWHERE = DataSettings(path="", revision=None)


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
        yield


def glue(name: str, folder: Path, *overrides: str) -> TaskRows:
    settings = compose_settings([f"task=glue/{name}", f"data.path={folder}", *overrides])
    return load_rows(settings.task, settings.data)


def examples(part: Dataset) -> list[Example]:
    names = [name for name in ("text", "pair") if name in part.column_names]
    assert part.column_names == [*names, "label"]
    return list(zip(zip(*(part[name] for name in names), strict=True), part["label"], strict=True))


def same(one: TaskRows, other: TaskRows) -> bool:
    return (one.digest, one.labels, examples(one.train)) == (other.digest, other.labels, examples(other.train)) and {
        name: examples(part) for name, part in one.validation.items()
    } == {name: examples(part) for name, part in other.validation.items()}


def refusal(action: Callable[[], object]) -> DataError:
    with pytest.raises(DataError) as caught:
        action()
    assert "\n" not in caught.value.message + caught.value.hint
    return caught.value


# --- real GLUE --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Real:
    """What a real task is known to hold: counts, where its texts and label stand in a line, one validation row."""

    folder: str
    counts: tuple[int, int]
    places: tuple[int, ...]
    number: Callable[[str], int | float]
    row: int
    example: Example


def entailed(word: str) -> int:
    return ["entailment", "not_entailment"].index(word)


REAL = {
    "cola": Real("CoLA", (8551, 1043), (3, 1), int, -1, (("John talked to Bill about himself.",), 1)),
    "mrpc": Real(
        "MRPC",
        (3667, 408),
        (3, 4, 0),
        int,
        0,
        (
            (
                "He said the foodservice pie business doesn 't fit the company 's long-term growth strategy .",
                '" The foodservice pie business does not fit our long-term growth strategy .',
            ),
            1,
        ),
    ),
    "rte": Real(
        "RTE",
        (2490, 277),
        (1, 2, 3),
        entailed,
        0,
        (
            (
                (
                    "Dana Reeve, the widow of the actor Christopher Reeve, has died of lung cancer at age 44, according "
                    "to the Christopher Reeve Foundation."
                ),
                "Christopher Reeve had an accident.",
            ),
            1,
        ),
    ),
    "sst2": Real("SST-2", (67349, 872), (0, 1), int, 0, (("it 's a charming and often affecting journey . ",), 1)),
    "stsb": Real(
        "STS-B",
        (5749, 1500),
        (7, 8, 9),
        lambda word: float(np.float32(word)),
        1,
        (("A young child is riding a horse.", "A child is riding a horse."), 4.75),
    ),
}


def read_lines(file: Path, real: Real) -> list[Example]:
    lines = file.read_bytes().decode().split("\n")
    cells = [line.split("\t") for line in lines[0 if real.folder == "CoLA" else 1 :] if line]
    *texts, label = real.places
    return [(tuple(cell[place] for place in texts), real.number(cell[label])) for cell in cells]


@pytest.mark.parametrize("name", REAL)
def test_real_task_is_the_same_from_download_and_hub_layout(name: str, glue_download: Path, glue_hub: Path) -> None:
    real = REAL[name]
    downloaded, hub = glue(name, glue_download), glue(name, glue_hub)
    assert (downloaded.layout, hub.layout) == ("glue download", "hub folder")
    assert (downloaded.digest, downloaded.labels) == (hub.digest, hub.labels)
    train, validation = examples(downloaded.train), examples(downloaded.validation["validation"])
    assert train == examples(hub.train)
    assert validation == examples(hub.validation["validation"])
    assert (len(train), len(validation)) == real.counts
    assert validation[real.row] == real.example
    # Neither source is right because both are: here are the files' lines, split at tabs.
    assert train == read_lines(glue_download / real.folder / "train.tsv", real)
    assert validation == read_lines(glue_download / real.folder / "dev.tsv", real)


# --- GLUE made by hand ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """One task of the official download: its header, a line's form, and the words of its labels."""

    folder: str
    header: str
    line: str
    columns: tuple[str, ...]
    names: tuple[str, ...]
    words: tuple[str, ...] = ("0", "1")
    dev_files: tuple[tuple[str, str], ...] = (("validation", "dev.tsv"),)
    bom: str = ""
    last_newline: str = "\n"


MNLI_HEADER = (
    "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse"
)
MADE = {
    "cola": Made("CoLA", "", "gj04|{y}|*|{a}", ("sentence",), ("unacceptable", "acceptable"), last_newline=""),
    "sst2": Made("SST-2", "sentence|label", "{a}|{y}", ("sentence",), ("negative", "positive")),
    "mrpc": Made(
        "MRPC",
        "Quality|#1 ID|#2 ID|#1 String|#2 String",
        "{y}|17|18|{a}|{b}",
        ("sentence1", "sentence2"),
        ("not_equivalent", "equivalent"),
        bom="\ufeff",
    ),
    "stsb": Made(
        "STS-B",
        "index|genre|filename|year|old_index|source1|source2|sentence1|sentence2|score",
        "{i}|main-captions|MSRvid|2012test|0000|none|none|{a}|{b}|{y}",
        ("sentence1", "sentence2"),
        (),
        words=("0.000", "4.250"),
    ),
    "qqp": Made(
        "QQP",
        "id|qid1|qid2|question1|question2|is_duplicate",
        "{i}|3|4|{a}|{b}|{y}",
        ("question1", "question2"),
        ("not_duplicate", "duplicate"),
    ),
    "mnli": Made(
        "MNLI",
        f"{MNLI_HEADER} sentence1 sentence2 label1 gold_label".replace(" ", "|"),
        "{i}|3|3c|fiction|( x )|( y )|(ROOT x)|(ROOT y)|{a}|{b}|neutral|{y}",
        ("premise", "hypothesis"),
        ("entailment", "neutral", "contradiction"),
        words=("entailment", "neutral", "contradiction"),
        dev_files=(("matched", "dev_matched.tsv"), ("mismatched", "dev_mismatched.tsv")),
    ),
    "qnli": Made(
        "QNLI",
        "index|question|sentence|label",
        "{i}|{a}|{b}|{y}",
        ("question", "sentence"),
        ("entailment", "not_entailment"),
        words=("entailment", "not_entailment"),
    ),
    "rte": Made(
        "RTE",
        "index|sentence1|sentence2|label",
        "{i}|{a}|{b}|{y}",
        ("sentence1", "sentence2"),
        ("entailment", "not_entailment"),
        words=("entailment", "not_entailment"),
    ),
    "wnli": Made(
        "WNLI",
        "index|sentence1|sentence2|label",
        "{i}|{a}|{b}|{y}",
        ("sentence1", "sentence2"),
        ("not_entailment", "entailment"),
    ),
}
TEXTS = ['" An opening quote', 'a "quoted" word', "NA", "12.50", "naïve, isn't it ?", 'inch "', " spaces ", "x\u2028y"]


def made_examples(name: str, part: str) -> list[Example]:
    made = MADE[name]
    shift = len(part)  # other rows in each part
    numbers = [0.0, 4.25] if not made.names else range(len(made.names))
    texts = [*TEXTS[shift % 5 :], *TEXTS[: shift % 5], part]
    return [
        ((first, f"{first} again")[: len(made.columns)], numbers[(place + shift) % len(numbers)])
        for place, first in enumerate(texts)
    ]


def made_line(name: str, place: int, example: Example) -> str:
    made, (texts, number) = MADE[name], example
    word = made.words[int(number > 0)] if not made.names else made.words[int(number)]
    filled = {"{i}": str(place), "{a}": texts[0], "{b}": texts[-1], "{y}": word}
    cells = made.line.split("|")
    return "\t".join(filled.get(cell, cell) for cell in cells)


def made_parts(name: str) -> dict[str, str]:
    return {"train": "train.tsv", **dict(MADE[name].dev_files)}


def write_download(name: str, folder: Path) -> Path:
    made = MADE[name]
    (folder / made.folder).mkdir(parents=True)
    for part, file in made_parts(name).items():
        header = made.header
        lines = [made_line(name, place, example) for place, example in enumerate(made_examples(name, part))]
        if name == "mnli" and part != "train":  # dev files carry five annotators' labels
            header = header.replace("label1", "label1|label2|label3|label4|label5")
            lines = [line.replace("\tneutral\t", "\tneutral" * 5 + "\t") for line in lines]
        text = made.bom + "\n".join([header.replace("|", "\t"), *lines] if header else lines)
        text += made.last_newline if part != "train" else "\n"
        (folder / made.folder / file).write_bytes(text.encode())
    return folder


def write_hub(name: str, folder: Path) -> Path:
    made = MADE[name]
    (folder / name).mkdir(parents=True)
    card = ["---", "configs:", f"- config_name: {name}", "  data_files:"]
    label = ClassLabel(names=list(made.names)) if made.names else Value("float32")
    features = Features({**dict.fromkeys(made.columns, Value("string")), "label": label, "idx": Value("int32")})
    for part in [*made_parts(name), "test"]:
        split = f"validation_{part}" if name == "mnli" and "matched" in part else part
        rows = made_examples(name, part)
        columns = {column: [texts[place] for texts, _ in rows] for place, column in enumerate(made.columns)}
        labels = [number if part != "test" else -1 for _, number in rows]
        table = {**columns, "label": labels, "idx": list(range(len(rows)))}
        Dataset.from_dict(table, features=features).to_parquet(folder / name / f"{split}-00000-of-00001.parquet")
        card += [f"  - split: {split}", f"    path: {name}/{split}-*"]
    (folder / "README.md").write_text("\n".join([*card, "---", ""]))
    return folder


def test_every_glue_task_is_made_here() -> None:
    assert set(MADE) == set(GLUE_TSV)


@pytest.mark.parametrize("name", MADE)
def test_made_task_is_the_same_from_download_and_hub_layout(name: str, tmp_path: Path) -> None:
    downloaded = glue(name, write_download(name, tmp_path / "download"))
    hub = glue(name, write_hub(name, tmp_path / "hub"))
    assert (downloaded.layout, hub.layout) == ("glue download", "hub folder")
    assert same(downloaded, hub)
    assert downloaded.labels == MADE[name].names
    assert examples(downloaded.train) == made_examples(name, "train")
    assert list(downloaded.validation) == [part for part, _ in MADE[name].dev_files]
    for part, rows in downloaded.validation.items():
        assert examples(rows) == made_examples(name, part)


BROKEN = "400001\t3\t4\tA question that ends here"


def qqp_with(folder: Path, lines: int, broken: Sequence[int]) -> TaskRows:
    """QQP whose training file has so many lines after the header, of which those numbers (from 0) are broken."""
    good = [f"{number}\t3\t4\tquestion {number}\tanother\t{number % 2}" for number in range(lines)]
    for number in broken:
        good[number] = BROKEN
    text = "\n".join([MADE["qqp"].header.replace("|", "\t"), *good]) + "\n"
    (folder / "QQP" / "train.tsv").write_text(text)
    return glue("qqp", folder)


def test_broken_lines_of_qqp_are_left_out_as_on_the_hub_and_counted(tmp_path: Path) -> None:
    folder = write_download("qqp", tmp_path)
    whole = glue("qqp", folder)
    assert whole.left_out == {}
    file = folder / "QQP" / "train.tsv"
    header, *lines = file.read_text().split("\n")
    file.write_text("\n".join([header, lines[0], BROKEN, *lines[1:]]))
    rows = glue("qqp", folder)
    assert same(rows, whole)
    assert rows.left_out == {"train": 1}


@pytest.mark.fault("data", "a GLUE file that was cut", "exit code 2 with its first broken line")
def test_more_broken_lines_than_qqp_is_known_for_are_refused(tmp_path: Path) -> None:
    folder = write_download("qqp", tmp_path)
    rows = qqp_with(folder, 4000, [1, 2000, 2001])
    assert rows.left_out == {"train": 3}
    assert len(rows.train) == 3997
    error = refusal(lambda: qqp_with(folder, 4000, range(100, 105)))
    assert (
        f"{folder / 'QQP' / 'train.tsv'}, line 102: one of 5 of its 4,001 lines with too few columns" in error.message
    )
    assert "line 4001" in refusal(lambda: qqp_with(folder, 4000, [3999])).message  # a file that was cut


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("damage", ["no label", "unknown label", "not a number", "cut", "blank", "one more"])
@pytest.mark.fault("data", "a damaged line of a GLUE file", "exit code 2 with file and line")
def test_damaged_line_of_the_download_is_refused_by_file_and_line(name: str, damage: str, tmp_path: Path) -> None:
    folder, made = write_download(name, tmp_path), MADE[name]
    file = folder / made.folder / made.dev_files[-1][1]
    lines = file.read_text(encoding="utf-8-sig").split("\n")
    place = 3
    cells = lines[place].split("\t")
    label = {"cola": 1, "mrpc": 0}.get(name, -1)
    word = {"no label": "", "unknown label": "7" if made.names else "seven", "not a number": "nan"}.get(damage)
    if word is not None:
        cells[label] = word
    lines[place] = {"cut": "\t".join(cells[:-1]), "blank": "", "one more": "\t".join([*cells, "x"])}.get(
        damage, "\t".join(cells)
    )
    file.write_text("\n".join(lines))
    if name == "qqp" and damage in {"cut", "blank"}:
        assert glue(name, folder).left_out == {"validation": 1}
    else:
        assert f"{file}, line {place + 1}: " in refusal(lambda: glue(name, folder)).message


@pytest.mark.parametrize("name", MADE)
def test_dev_set_that_lost_half_of_its_labels_is_refused(name: str, tmp_path: Path) -> None:
    """It was scored on the other half."""
    folder, made = write_download(name, tmp_path), MADE[name]
    file = folder / made.folder / made.dev_files[0][1]
    first = 0 if name == "cola" else 1
    lines = [line for line in file.read_text(encoding="utf-8-sig").split("\n") if line]
    half, place = first + (len(lines) - first) // 2, {"cola": 1, "mrpc": 0}.get(name, -1)
    for number in range(half, len(lines)):
        cells = lines[number].split("\t")
        cells[place] = ""
        lines[number] = "\t".join(cells)
    file.write_text("\n".join(lines) + "\n")
    assert f"{file}, line {half + 1}: there is no label" in refusal(lambda: glue(name, folder)).message


@pytest.mark.parametrize(
    ("name", "line"),
    [("rte", "9\ta\tb\tmaybe"), ("sst2", "a\t2"), ("sst2", "a\tgood"), ("stsb", "\t".join("0abcdefgh") + "\thigh")],
)
def test_unknown_label_in_the_download_is_refused(name: str, line: str, tmp_path: Path) -> None:
    folder = write_download(name, tmp_path)
    with (folder / MADE[name].folder / "dev.tsv").open("a") as file:
        file.write(line + "\n")
    assert "label" in refusal(lambda: glue(name, folder)).message


def test_broken_download_is_refused(tmp_path: Path) -> None:
    folder = write_download("rte", tmp_path)
    file = folder / "RTE" / "dev.tsv"
    whole = file.read_bytes()
    for broken in (b"", whole + b"1\ta\tb\tentailment\tmore\n", whole + b"1\t\xff\tb\tentailment\n"):
        file.write_bytes(broken)
        assert str(file) in refusal(lambda: glue("rte", folder)).message
    file.write_bytes(whole.replace(b"sentence2", b"other"))
    assert "no column 'sentence2'" in refusal(lambda: glue("rte", folder)).message
    file.unlink()
    assert f"no file {file}" in refusal(lambda: glue("rte", folder)).message


@pytest.mark.parametrize("name", ["cola", "stsb"])
def test_split_without_labels_is_refused(name: str, tmp_path: Path) -> None:
    folder = write_hub(name, tmp_path)
    error = refusal(lambda: glue(name, folder, "task.validation_splits={validation: test}"))
    assert "a split without labels cannot be scored" in error.hint


def test_split_or_task_that_a_folder_lacks_is_refused(tmp_path: Path) -> None:
    folder = write_hub("cola", tmp_path)
    assert "no split 'dev'" in refusal(lambda: glue("cola", folder, "task.validation_splits={validation: dev}")).message
    error = refusal(lambda: glue("rte", folder))
    assert "neither rte/" in error.message
    assert "RTE/" in error.message
    assert "NXM_GLUE" in error.hint


def test_hub_folder_without_its_card_is_refused(tmp_path: Path) -> None:
    folder = write_hub("cola", tmp_path)
    (folder / "README.md").unlink()
    assert "cannot be loaded" in refusal(lambda: glue("cola", folder)).message


# --- the hub ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, list[Any]]]:
    """A hub that does not answer; what was asked of it, loaded and looked up by name."""
    seen: dict[str, list[Any]] = {"asked": [], "loaded": [], "looked up": []}

    class Session:
        def head(self, url: str, timeout: float) -> NoReturn:
            seen["asked"].append(url)
            raise ConnectionError("no network")

    def look_up(host: str, *rest: object, **more: object) -> NoReturn:
        seen["looked up"].append(host)
        raise OSError("no name service")

    load = datasets.load_dataset

    def load_dataset(*arguments: Any, **options: Any) -> Any:
        seen["loaded"].append(arguments)
        return load(*arguments, **options)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_session", Session)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    go_offline_unless_reachable.cache_clear()
    yield seen
    go_offline_unless_reachable.cache_clear()


@pytest.mark.fault("data", "a hub that cannot be reached", "exit code 2 after seconds")
def test_data_set_that_is_not_cached_without_network_is_refused_at_once(unreachable: dict[str, list[Any]]) -> None:
    settings = compose_settings(["task=glue/rte", "data.path=nyu-mll/glue"])
    error = refusal(lambda: load_rows(settings.task, settings.data))
    assert "hub cannot be reached" in error.message
    assert "hf download nyu-mll/glue --repo-type dataset --local-dir glue" in error.hint
    assert "data.path=glue" in error.hint
    assert unreachable == {"asked": [constants.ENDPOINT], "loaded": [("nyu-mll/glue", "rte")], "looked up": []}
    assert constants.HF_HUB_OFFLINE
    assert datasets.config.HF_DATASETS_OFFLINE
    refusal(lambda: load_rows(settings.task, settings.data))
    assert len(unreachable["asked"]) == 1


def test_folder_in_the_hubs_layout_asks_no_hub(unreachable: dict[str, list[Any]], tmp_path: Path) -> None:
    glue("cola", write_hub("cola", tmp_path))
    assert (unreachable["asked"], unreachable["looked up"]) == ([], [])


def test_revision_reaches_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder, load, asked = str(write_hub("rte", tmp_path)), datasets.load_dataset, []

    def load_dataset(path: str, name: str, revision: str | None = None, **other: Any) -> Any:
        if path == folder:  # read for comparison
            return load(path, name, **other)
        asked.append((path, name, revision))
        return load(folder, name)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    settings = compose_settings(["task=glue/rte", "data.path=nyu-mll/glue", "data.revision=abc"])
    rows = load_rows(settings.task, settings.data)
    assert asked == [("nyu-mll/glue", "rte", "abc")]
    assert rows.layout == "hub"
    assert same(rows, glue("rte", tmp_path))


@pytest.mark.parametrize("path", ["./none", "/none/here", "~/none", "none", "a/b/c"])
def test_folder_that_is_not_there_is_not_asked_of_the_hub(unreachable: dict[str, list[Any]], path: str) -> None:
    rte = compose_settings(["task=glue/rte"]).task
    error = refusal(lambda: load_rows(rte, DataSettings(path, None)))
    assert f"there is no folder {path}" in error.message
    assert (unreachable["asked"], unreachable["loaded"]) == ([], [])


# --- files ------------------------------------------------------------------------------------------------------------

Table = list[dict[str, Any]]
ROWS: Table = [
    {"text": 'he said "no", twice', "pair": "NA", "label": "up", "more": 1},
    {"text": "123", "pair": "007", "label": "down", "more": 2},
    {"text": "naïve\nin two lines", "pair": "1.50", "label": "None", "more": 3},
    {"text": "a\ttab", "pair": "2020-01-02", "label": "down", "more": 4},
]
DEV: Table = [
    {"text": "4", "pair": "5", "label": "up", "more": 5},
    {"text": "6", "pair": "7", "label": "down", "more": 6},
]


def write_csv(rows: Table, path: Path, delimiter: str = ",") -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def write_jsonl(rows: Table, path: Path) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


WRITERS: dict[str, Callable[[Table, Path], object]] = {
    "csv": write_csv,
    "tsv": lambda rows, path: write_csv(rows, path, "\t"),
    "jsonl": write_jsonl,
    "json": write_jsonl,
    "parquet": lambda rows, path: Dataset.from_list(rows).to_parquet(path),
}


def task(folder: Path, ending: str, **changes: Any) -> TaskSettings:
    """A task of ``train`` and ``dev`` files in a folder."""
    plain = TaskSettings(
        name="mine",
        kind="files",
        problem="classification",
        text_columns=["text", "pair"],
        label_column="label",
        labels=[],
        metrics=["accuracy"],
        selection_metric="accuracy",
        train_split="train",
        validation_splits={"validation": "dev"},
        learning_rates=[1e-5],
        files={split: str(folder / f"{split}.{ending}") for split in ("train", "dev")},
    )
    return dataclasses.replace(plain, **changes)


def from_files(folder: Path, train: Table, dev: Table, ending: str = "jsonl", **changes: Any) -> TaskRows:
    folder.mkdir(exist_ok=True)
    WRITERS[ending](train, folder / f"train.{ending}")
    WRITERS[ending](dev, folder / f"dev.{ending}")
    return load_rows(task(folder, ending, **changes), ANYWHERE)


def with_labels(labels: Sequence[Any]) -> Table:
    return [{"text": f"text {place}", "pair": "other", "label": label} for place, label in enumerate(labels)]


@pytest.mark.parametrize("ending", WRITERS)
def test_every_format_gives_the_rows_as_they_were_written(ending: str, tmp_path: Path) -> None:
    rows = from_files(tmp_path, ROWS, DEV, ending)
    assert rows.labels == ("None", "down", "up")
    assert rows.layout == "files"
    assert examples(rows.train) == [
        ((row["text"], row["pair"]), ["None", "down", "up"].index(row["label"])) for row in ROWS
    ]
    assert examples(rows.validation["validation"]) == [(("4", "5"), 2), (("6", "7"), 1)]
    assert same(rows, from_files(tmp_path / "other place", ROWS, DEV))


@pytest.mark.parametrize("ending", WRITERS)
def test_numbered_classes_are_in_order_of_their_numbers(ending: str, tmp_path: Path) -> None:
    rows = from_files(tmp_path, with_labels([10, 2, 1, -3]), with_labels([2, 10]), ending)
    assert rows.labels == ("-3", "1", "2", "10")
    assert list(rows.train["label"]) == [3, 2, 1, 0]
    assert list(rows.validation["validation"]["label"]) == [2, 3]


@pytest.mark.parametrize("ending", WRITERS)
def test_regression_labels_are_the_numbers(ending: str, tmp_path: Path) -> None:
    changes = {"problem": "regression", "metrics": ["pearson"]}
    rows = from_files(tmp_path, with_labels([2.5, 0.0, 5.0]), with_labels([-1.25, 1e3]), ending, **changes)
    assert rows.labels == ()
    assert list(rows.train["label"]) == [2.5, 0.0, 5.0]
    assert list(rows.validation["validation"]["label"]) == [-1.25, 1000.0]
    assert rows.train.features["label"] == Value("float32")


def test_given_class_order_is_kept_even_where_training_rows_lack_a_class(tmp_path: Path) -> None:
    names = ["up", "None", "sideways", "down"]
    rows = from_files(tmp_path, ROWS, DEV, labels=names)
    assert rows.labels == tuple(names)
    assert list(rows.train["label"]) == [0, 3, 1, 3]


def test_one_text_column_gives_no_pair(tmp_path: Path) -> None:
    rows = from_files(tmp_path, ROWS, DEV, text_columns=["pair"])
    assert examples(rows.validation["validation"]) == [(("5",), 2), (("7",), 1)]


def test_column_of_numbers_in_a_csv_stays_text(tmp_path: Path) -> None:
    numbers = [
        {"text": text, "pair": "1", "label": label} for text, label in (("007", "a"), ("1.50", "b"), ("1e5", "a"))
    ]
    assert list(from_files(tmp_path, numbers, numbers, "csv").train["text"]) == ["007", "1.50", "1e5"]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("value", [123, None, True], ids=["number", "null", "truth"])
def test_value_of_another_type_in_a_text_column_is_refused(ending: str, value: Any, tmp_path: Path) -> None:
    wrong = [{**row, "text": value} for row in DEV]
    assert "column 'text' of the split 'validation' of mine holds values that are not text" in (
        refusal(lambda: from_files(tmp_path, ROWS, wrong, ending)).message
    )


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("problem", ["classification", "regression"])
@pytest.mark.parametrize("split", ["train", "dev"])
@pytest.mark.fault("data", "a row without a label", "exit code 2 with file and line")
def test_row_without_a_label_is_refused(ending: str, problem: str, split: str, tmp_path: Path) -> None:
    whole, broken = with_labels([1, 2, 3]), with_labels([1, None, 2])
    train, dev = (broken, whole) if split == "train" else (whole, broken)
    error = refusal(lambda: from_files(tmp_path, train, dev, ending, problem=problem, metrics=[]))
    assert f"split {split!r} of mine has a row without a label" in error.message


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("strange", ["sideways", "-1"])
@pytest.mark.fault("data", "a class that no training row has", "exit code 2 with file and line")
def test_class_that_training_rows_lack_is_refused(ending: str, strange: str, tmp_path: Path) -> None:
    error = refusal(lambda: from_files(tmp_path, with_labels(["0", "1"]), with_labels(["0", strange]), ending))
    assert f"class {strange!r}, which is not among 0, 1" in error.message


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("label", ["high", "nan", "inf"])
def test_regression_label_that_is_no_number_is_refused(label: str, split: str, tmp_path: Path) -> None:
    good, bad = with_labels(["1", "2"]), with_labels(["1", label])
    train, dev = (bad, good) if split == "train" else (good, bad)
    error = refusal(lambda: from_files(tmp_path, train, dev, problem="regression"))
    assert f"{split!r} of mine holds a label that is not a number" in error.message


def test_regression_that_cannot_be_scored_is_refused(tmp_path: Path) -> None:
    error = refusal(lambda: from_files(tmp_path, with_labels([1, 2]), with_labels([3, 3]), problem="regression"))
    assert "no correlation exists" in error.message


def test_one_class_alone_is_refused(tmp_path: Path) -> None:
    error = refusal(lambda: from_files(tmp_path, with_labels(["a", "a"]), with_labels(["a"])))
    assert "the class 'a' alone" in error.message


def test_f1_of_three_classes_is_refused_before_training(tmp_path: Path) -> None:
    labels = with_labels(["a", "b", "c"])
    error = refusal(lambda: from_files(tmp_path, labels, labels, metrics=["f1"]))
    assert "f1 takes two classes but mine has 3" in error.message
    assert "task.metrics=[f1_macro]" in error.hint
    from_files(tmp_path, labels, labels, metrics=["f1_macro"])
    from_files(tmp_path, labels[:2], labels[:2], metrics=["f1"])


@pytest.mark.parametrize("ending", WRITERS)
@pytest.mark.parametrize("missing", ["pair", "label"])
def test_missing_column_is_named_with_those_there_are(ending: str, missing: str, tmp_path: Path) -> None:
    less = [{name: value for name, value in row.items() if name != missing} for row in DEV]
    error = refusal(lambda: from_files(tmp_path, ROWS, less, ending))
    assert f"the split 'dev' of mine has no column {missing!r} but {', '.join(less[0])}" in error.message
    assert "task.text_columns" in error.hint


@pytest.mark.parametrize("ending", WRITERS)
def test_missing_empty_and_damaged_files_are_refused(ending: str, tmp_path: Path) -> None:
    from_files(tmp_path, ROWS, DEV, ending)
    file = tmp_path / f"dev.{ending}"
    for content in (b"", b"\xff\xfe\x00\x01\x80\n"):
        file.write_bytes(content)
        refusal(lambda: load_rows(task(tmp_path, ending), ANYWHERE))
    file.unlink()
    assert f"no file {file}" in refusal(lambda: load_rows(task(tmp_path, ending), ANYWHERE)).message


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_file_of_a_header_alone_is_refused(ending: str, tmp_path: Path) -> None:
    from_files(tmp_path, ROWS, DEV, ending)
    file = tmp_path / f"dev.{ending}"
    file.write_text(file.read_text().splitlines()[0] + "\n")
    assert "'dev' of mine has no rows" in refusal(lambda: load_rows(task(tmp_path, ending), ANYWHERE)).message


@pytest.mark.parametrize("name", ["dev.txt", "dev.CSV", "dev", "dev.csv.gz"])
def test_other_ending_is_refused_with_those_that_are_read(name: str, tmp_path: Path) -> None:
    from_files(tmp_path, ROWS, DEV)
    files = {"train": str(tmp_path / "train.jsonl"), "dev": str(tmp_path / name)}
    error = refusal(lambda: load_rows(task(tmp_path, "jsonl", files=files), ANYWHERE))
    assert ".csv, .tsv, .jsonl, .json, .parquet" in error.message


def test_split_that_no_file_is_given_for_is_refused(tmp_path: Path) -> None:
    error = refusal(lambda: from_files(tmp_path, ROWS, DEV, validation_splits={"validation": "other"}))
    assert "no split 'other' but train, dev" in error.message


@pytest.mark.fault("data", "an unquoted comma in a text", "exit code 2 with the line")
def test_unquoted_comma_in_a_text_is_refused_and_not_read_as_columns(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\ngood, really,up\nbad, really,down\n")
    (tmp_path / "dev.csv").write_text("text,label\ngood,up\nbad,down\n")
    error = refusal(lambda: load_rows(task(tmp_path, "csv", text_columns=["text"]), ANYWHERE))
    assert f"{tmp_path / 'train.csv'}, line 2: 3 columns instead of 2" in error.message
    assert "quote texts" in error.hint


def test_json_of_another_form_than_an_object_a_line_is_refused(tmp_path: Path) -> None:
    from_files(tmp_path, ROWS, DEV, "json")
    (tmp_path / "dev.json").write_text("3\n")
    assert (
        "every line must hold one object but got int"
        in refusal(lambda: load_rows(task(tmp_path, "json"), ANYWHERE)).message
    )


def test_byte_order_mark_of_a_spreadsheet_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    plain = from_files(tmp_path, ROWS, DEV, "csv")
    for name in ("train.csv", "dev.csv"):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + (tmp_path / name).read_bytes())
    assert same(load_rows(task(tmp_path, "csv"), ANYWHERE), plain)


@pytest.mark.parametrize(
    ("ending", "text", "expected"),
    [
        ("csv", "label,text\n0,a\n1\n", "line 3: 1 columns instead of 2"),
        ("tsv", 'label\ttext\n0\t"two\nlines"\n1\n', "line 4: 1 columns instead of 2"),
        ("csv", 'label,text\n0,a\n1,"never closed\n0,b\n', "line 4: "),
        ("csv", 'label,text\n0,"a" quote\n', "line 2: "),
        ("csv", "label,text\n0,a\n\n,b\n", "line 4"),
        ("csv", "label,text\n0,a\n2,b\n2,c\n", "line 3 and 1 more"),
        ("jsonl", '{"label": "0", "text": "a"}\n\n{"label": \n', "line 3: "),
        ("jsonl", '{"label": "0", "text": "a"}\n{"label": "1"}\n', "line 2"),
    ],
)
def test_row_of_a_file_that_cannot_be_used_is_refused_by_file_and_line(
    ending: str, text: str, expected: str, tmp_path: Path
) -> None:
    whole: Table = [{"label": "0", "text": "a"}, {"label": "1", "text": "b"}]
    WRITERS[ending](whole, tmp_path / f"train.{ending}")
    file = tmp_path / f"dev.{ending}"
    file.write_text(text)
    error = refusal(lambda: load_rows(task(tmp_path, ending, text_columns=["text"]), ANYWHERE))
    assert f"{file}, {expected}" in error.message


def test_row_of_a_source_without_lines_is_named_by_its_number(tmp_path: Path) -> None:
    wrong = [*with_labels(["0", "1"]), *with_labels(["5"])]
    error = refusal(lambda: from_files(tmp_path, with_labels(["0", "1"]), wrong, "parquet"))
    assert f"{tmp_path / 'dev.parquet'}, row 2 (from 0)" in error.message
    hub = write_hub("cola", tmp_path / "hub")
    error = refusal(lambda: glue("cola", hub, "task.validation_splits={validation: test}"))
    assert "holds classes other than 0 to 1: row 0 (from 0) and" in error.message


# --- the digest -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["train", "validation"])
def test_digest_changes_with_one_character_one_label_and_the_order(part: str, tmp_path: Path) -> None:
    def digest(rows: Table) -> str:
        train, dev = (rows, DEV) if part == "train" else (ROWS, rows)
        return from_files(tmp_path, train, dev, labels=["None", "down", "up"]).digest

    rows = ROWS if part == "train" else DEV
    first, *rest = rows
    variants = [
        rows,
        [{**first, "text": first["text"] + "."}, *rest],
        [{**first, "pair": first["pair"] + "."}, *rest],
        [{**first, "text": first["pair"], "pair": first["text"]}, *rest],
        [{**first, "label": "down"}, *rest],
        [*rest, first],
        [*rows, first],
    ]
    assert len({digest(variant) for variant in variants}) == len(variants)


def test_digest_does_not_change_with_columns_that_are_not_read(tmp_path: Path) -> None:
    other = [{"even": "more", **row, "more": 0} for row in ROWS]
    assert from_files(tmp_path, other, DEV).digest == from_files(tmp_path, ROWS, DEV).digest


def test_digest_tells_text_from_pair_and_training_from_validation(tmp_path: Path) -> None:
    both = from_files(tmp_path, ROWS, ROWS).digest
    assert from_files(tmp_path, ROWS, [*ROWS, *DEV]).digest != from_files(tmp_path, [*ROWS, *DEV], ROWS).digest
    assert from_files(tmp_path, ROWS, ROWS, text_columns=["text"]).digest != both
    assert from_files(tmp_path, ROWS, ROWS, text_columns=["pair", "text"]).digest != both


def test_digest_does_not_depend_on_how_many_rows_are_used() -> None:
    rows = ["task=demo/paraphrase", "task.rows={train: 20, validation: 10}"]
    whole, part = compose_settings(rows), compose_settings([*rows, "training.max_train_samples=5"])
    assert load_rows(part.task, part.data).digest == load_rows(whole.task, whole.data).digest


# --- the demo ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["paraphrase", "acceptability", "similarity"])
def test_demo_task_gives_the_grammars_rows(name: str) -> None:
    settings = compose_settings([f"task=demo/{name}", "task.rows={train: 12, validation: 6}"])
    rows = load_rows(settings.task, settings.data)
    assert rows.layout == "demo"
    for split, part in (("train", rows.train), ("validation", rows.validation["validation"])):
        written = generate(name, split, 12 if split == "train" else 6)
        assert examples(part) == [
            (tuple(str(row[column]) for column in settings.task.text_columns), row["label"]) for row in written
        ]
