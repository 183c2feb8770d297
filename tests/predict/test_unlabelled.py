"""Rows without labels: every row of a test set, in the order of its index, the same from both layouts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import datasets
import pandas as pd
import pytest
from datasets import Dataset

from nxm_sweep.errors import DataError
from nxm_sweep.predict.submission import SUBMISSIONS
from nxm_sweep.predict.unlabelled import UnlabelledRows, read_own_rows, read_test_rows
from nxm_sweep.settings import DataSettings

MNLI = "index|promptID|pairID|genre|sentence1_binary_parse|sentence2_binary_parse|sentence1_parse|sentence2_parse"
MNLI_HEADER = f"{MNLI}|sentence1|sentence2"
MNLI_LINE = "{i}|31|31c|fiction|( x )|( y )|(ROOT x)|(ROOT y)|{a}|{b}"
PAIR = ("index|sentence1|sentence2", "{i}|{a}|{b}", ("sentence1", "sentence2"))
NLI_COLUMNS = ("premise", "hypothesis")
# The official download's test sets: file, header, line; then the hub's text columns, configuration and split.
MADE = {
    "CoLA.tsv": ("CoLA/test.tsv", "index|sentence", "{i}|{a}", ("sentence",), "cola", "test"),
    "SST-2.tsv": ("SST-2/test.tsv", "index|sentence", "{i}|{a}", ("sentence",), "sst2", "test"),
    "MRPC.tsv": ("MRPC/test.tsv", "index|#1 ID|#2 ID|#1 String|#2 String", "{i}|7|8|{a}|{b}", PAIR[2], "mrpc", "test"),
    "STS-B.tsv": (
        "STS-B/test.tsv",
        "index|genre|filename|year|old_index|source1|source2|sentence1|sentence2",
        "{i}|main-captions|MSRvid|2012test|0024|none|none|{a}|{b}",
        PAIR[2],
        "stsb",
        "test",
    ),
    "QQP.tsv": ("QQP/test.tsv", "id|question1|question2", "{i}|{a}|{b}", ("question1", "question2"), "qqp", "test"),
    "MNLI-m.tsv": ("MNLI/test_matched.tsv", MNLI_HEADER, MNLI_LINE, NLI_COLUMNS, "mnli", "test_matched"),
    "MNLI-mm.tsv": ("MNLI/test_mismatched.tsv", MNLI_HEADER, MNLI_LINE, NLI_COLUMNS, "mnli", "test_mismatched"),
    "QNLI.tsv": ("QNLI/test.tsv", "index|question|sentence", "{i}|{a}|{b}", ("question", "sentence"), "qnli", "test"),
    "RTE.tsv": ("RTE/test.tsv", *PAIR, "rte", "test"),
    "WNLI.tsv": ("WNLI/test.tsv", *PAIR, "wnli", "test"),
    "AX.tsv": ("diagnostic/diagnostic.tsv", *PAIR[:2], NLI_COLUMNS, "ax", "test"),
}
FIRST = [
    '" An opening quote',
    'a "quoted" word',
    "NA",
    "12.50",
    "naïve, isn't it ?",
    'inch "',
    " spaces ",
    "x\u2028y",
    "",
]
SECOND = [f"{text} again" for text in FIRST]


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
        yield


def line(name: str, index: object, first: str, second: str) -> str:
    values = {"{i}": str(index), "{a}": first, "{b}": second}
    return "\t".join(values.get(cell, cell) for cell in MADE[name][2].split("|"))


def write_download(name: str, folder: Path, lines: Sequence[str] | None = None, end: str = "\n") -> Path:
    path = folder / MADE[name][0]
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = lines or [line(name, index, *texts) for index, texts in enumerate(zip(FIRST, SECOND, strict=True))]
    path.write_bytes(end.join([MADE[name][1].replace("|", "\t"), *lines, ""]).encode())
    return path


def write_hub(folder: Path, names: Sequence[str], order: Sequence[int] = range(len(FIRST))) -> Path:
    configs: dict[str, list[str]] = {}
    for name in names:
        columns, config, split = MADE[name][3:]
        (folder / config).mkdir(parents=True, exist_ok=True)
        texts = dict(zip(columns, (FIRST, SECOND), strict=False))
        table = {column: [values[row] for row in order] for column, values in texts.items()}
        unlabelled = {"label": [-1] * len(order), "idx": list(order)}
        Dataset.from_dict({**table, **unlabelled}).to_parquet(folder / config / f"{split}-00000-of-00001.parquet")
        configs.setdefault(config, []).extend([f"  - split: {split}", f"    path: {config}/{split}-*"])
    card = ["---", "configs:"]
    for config, splits in configs.items():
        card += [f"- config_name: {config}", "  data_files:", *splits]
    (folder / "README.md").write_text("\n".join([*card, "---", ""]))
    return folder


def read(name: str, folder: Path) -> UnlabelledRows:
    return read_test_rows(SUBMISSIONS[name], DataSettings(str(folder), None), MADE[name][3])


def refusal(action: Callable[[], object]) -> DataError:
    with pytest.raises(DataError) as caught:
        action()
    assert "\n" not in caught.value.message + caught.value.hint
    return caught.value


def test_every_test_set_is_made_here() -> None:
    assert set(MADE) == set(SUBMISSIONS)


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["unix", "windows"])
@pytest.mark.parametrize("name", MADE)
def test_every_row_of_the_download_is_read_as_it_stands(name: str, end: str, tmp_path: Path) -> None:
    write_download(name, tmp_path, end=end)
    rows = read(name, tmp_path)
    assert rows.text == FIRST
    assert rows.pair == (SECOND if len(MADE[name][3]) == 2 else None)
    assert (len(rows), rows.note) == (len(FIRST), "")


def test_every_row_of_the_hubs_layout_is_read_as_it_stands(tmp_path: Path) -> None:
    write_hub(tmp_path, list(MADE))
    for name in MADE:
        rows = read(name, tmp_path)
        assert rows.text == FIRST
        assert rows.pair == (SECOND if len(MADE[name][3]) == 2 else None)
        assert rows.note == ""


def test_rows_come_in_the_order_of_their_index(tmp_path: Path) -> None:
    lines = [line("RTE.tsv", index, FIRST[index], SECOND[index]) for index in range(len(FIRST))]
    write_download("RTE.tsv", tmp_path / "download", lines[::-1])
    assert read("RTE.tsv", tmp_path / "download").text == FIRST
    order = [3, 1, 2, 0, *range(4, len(FIRST))]
    assert read("RTE.tsv", write_hub(tmp_path / "hub", ["RTE.tsv"], order)).pair == SECOND


@pytest.mark.parametrize(
    ("indices", "said"),
    [((0, 1, 3), "row 2 holds '3'"), ((0, 0, 1), "row 1 holds '0'"), ((1, 2, 3), "row 0"), ((0, "x", 2), "row 1")],
    ids=["gap", "twice", "from one", "no number"],
)
def test_index_that_does_not_count_from_0_is_refused(indices: Sequence[object], said: str, tmp_path: Path) -> None:
    write_download("RTE.tsv", tmp_path, [line("RTE.tsv", index, "a", "b") for index in indices])
    assert said in refusal(lambda: read("RTE.tsv", tmp_path)).message


def test_a_gap_in_the_hubs_index_is_refused(tmp_path: Path) -> None:
    refusal(lambda: read("RTE.tsv", write_hub(tmp_path, ["RTE.tsv"], [0, 1, 5])))


def test_broken_lines_are_kept_and_named(tmp_path: Path) -> None:
    whole = [line("QQP.tsv", index, f"first {index}", f"second {index}") for index in range(4)]
    write_download("QQP.tsv", tmp_path, [whole[0], "1\ta question that ends here", f"{whole[2]}\tmore", "3", ""])
    rows = read("QQP.tsv", tmp_path)
    assert rows.text == ["first 0", "a question that ends here", "first 2", ""]
    assert rows.pair == ["second 0", "", "second 2", ""]
    assert rows.note.endswith("3 broken rows (1, 2, 3) are answered by what is left of them")


def test_rows_without_a_text_on_the_hub_are_kept_and_named(tmp_path: Path) -> None:
    write_hub(tmp_path, ["RTE.tsv"])
    path = next((tmp_path / "rte").iterdir())
    table = pd.read_parquet(path)
    table.loc[2, "sentence2"] = None
    table.to_parquet(path)
    rows = read("RTE.tsv", tmp_path)
    assert (len(rows), (rows.pair or [])[2]) == (len(FIRST), "")
    assert "1 broken rows (2)" in rows.note


def test_mrpc_is_read_as_microsoft_publishes_it_too(tmp_path: Path) -> None:
    (tmp_path / "MRPC").mkdir()
    lines = [f"1\t{row}\t{row}\t{first}\t{SECOND[row]}" for row, first in enumerate(FIRST)]
    text = "\r\n".join(["\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String", *lines, ""])
    (tmp_path / "MRPC" / "msr_paraphrase_test.txt").write_bytes(text.encode())
    rows = read("MRPC.tsv", tmp_path)
    assert (rows.text, rows.pair) == (FIRST, SECOND)
    write_download("MRPC.tsv", tmp_path, [line("MRPC.tsv", 0, "of the download", "b")])
    assert read("MRPC.tsv", tmp_path).text == ["of the download"]


@pytest.mark.parametrize("place", ["diagnostic/AX.tsv", "AX/AX.tsv"])
def test_diagnostic_set_is_found_under_its_other_names(place: str, tmp_path: Path) -> None:
    path = write_download("AX.tsv", tmp_path)
    (tmp_path / place).parent.mkdir(exist_ok=True)
    path.rename(tmp_path / place)
    assert read("AX.tsv", tmp_path).text == FIRST


def test_test_set_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    for folder in (tmp_path / "none", Path("./none"), tmp_path):
        assert "--data" in refusal(lambda folder=folder: read("RTE.tsv", folder)).hint  # type: ignore[misc]
    write_download("RTE.tsv", tmp_path).rename(tmp_path / "RTE" / "dev.tsv")
    assert f"{tmp_path} holds neither RTE/test.tsv" in refusal(lambda: read("RTE.tsv", tmp_path)).message
    write_hub(tmp_path / "hub", ["MNLI-m.tsv"])
    assert "no such split but test_matched" in refusal(lambda: read("MNLI-mm.tsv", tmp_path / "hub")).message
    (tmp_path / "hub" / "README.md").unlink()
    assert "cannot be loaded" in refusal(lambda: read("MNLI-mm.tsv", tmp_path / "hub")).message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "has no column"),
        (b"index\tsentence1\tsentence2\n", "has no rows"),
        (b"index\tsentence1\n0\ta\n", "has no column 'sentence2' but index, sentence1"),
        (b"index\tsentence1\tsentence2\n0\t\xff\tb\n", "line 2: the byte 0xff is not UTF-8"),
        (b"index\tsentence1\tsentence2\n0\ta\tb\nnew line\tc\n", "must number its 2 rows from 0"),
    ],
    ids=["empty", "header alone", "column", "no text", "torn row"],
)
def test_damaged_test_set_is_refused(content: bytes, said: str, tmp_path: Path) -> None:
    write_download("RTE.tsv", tmp_path).write_bytes(content)
    assert said in refusal(lambda: read("RTE.tsv", tmp_path)).message


@pytest.mark.parametrize("name", ["CoLA.tsv", "SST-2.tsv", "MRPC.tsv", "STS-B.tsv", "RTE.tsv"])
def test_real_test_set_is_whole_and_the_same_from_both_layouts(name: str, glue_download: Path, glue_hub: Path) -> None:
    downloaded, hub = read(name, glue_download), read(name, glue_hub)
    assert len(downloaded) == len(hub) == SUBMISSIONS[name].rows
    assert (downloaded.text, downloaded.pair) == (hub.text, hub.pair)
    assert downloaded.note == hub.note == ""
    lines = (glue_download / MADE[name][0]).read_bytes().decode("utf-8-sig").split("\n")
    assert lines[-2].rstrip("\r").split("\t")[-1] == (downloaded.pair or downloaded.text)[-1]


WRITERS: dict[str, Callable[[pd.DataFrame, Path], object]] = {
    "csv": lambda table, path: table.to_csv(path, index=False),
    "tsv": lambda table, path: table.to_csv(path, index=False, sep="\t"),
    "jsonl": lambda table, path: table.to_json(path, orient="records", lines=True),
    "parquet": lambda table, path: table.to_parquet(path),
}


@pytest.mark.parametrize("ending", WRITERS)
def test_own_rows_are_read_from_every_format_in_their_order(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows.{ending}"
    table = pd.DataFrame({"id": range(len(FIRST), 0, -1), "question": FIRST, "answer": SECOND, "label": ""})
    WRITERS[ending](table, path)
    rows = read_own_rows(path, ["question", "answer"])
    assert (rows.text, rows.pair) == (FIRST, SECOND)
    assert rows.note == f"{path}: 1 broken rows ({FIRST.index('')}) are answered by what is left of them"
    assert read_own_rows(path, ["answer"]).pair is None


def test_own_file_that_does_not_fit_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    assert "--rows" in refusal(lambda: read_own_rows(path, ["text"])).hint
    path.write_text(json.dumps({"title": "a"}) + "\n")
    assert "has no column 'text' but title" in refusal(lambda: read_own_rows(path, ["text"])).message
    path.write_text(json.dumps({"text": 3}) + "\n")
    assert "not text" in refusal(lambda: read_own_rows(path, ["text"])).message
    (tmp_path / "rows.csv").write_text("text\n")
    assert "has no rows" in refusal(lambda: read_own_rows(tmp_path / "rows.csv", ["text"])).message
