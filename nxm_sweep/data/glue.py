"""The official GLUE download: layout of each task's TSV files, and a reader for them.

Source: the layout of the data that gluebenchmark.com distributes; class numbers as in the hub data set ``nyu-mll/glue``.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from nxm_sweep.data.tables import check_width, read_text
from nxm_sweep.errors import DataError
from nxm_sweep.formatting import format_names

_MICROSOFT = "msr_paraphrase_train.txt"
_BROKEN_SHARE = 1e-3  # of QQP's lines; a larger share is damage of another kind


@dataclass(frozen=True, slots=True)
class GlueTable:
    """One file of the official GLUE download.

    Attributes:
        rows: Our columns, with the hub's class numbers.
        left_out: Number of broken lines that were left out.
    """

    rows: pd.DataFrame
    left_out: int


def read_glue_tsv(path: Path, layout: TsvLayout) -> GlueTable:
    """Read one file of the official GLUE download, line by line: its texts are not quoted.

    Lines with too few columns are left out if the published files are known to contain some; the hub's data set leaves
    them out too.

    Raises:
        DataError: The file is missing or of another task, or a line, which is named, is broken or has no valid label.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}", hint="the official GLUE download has it")
    lines = [line.removesuffix("\r") for line in read_text(path).split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    header: list[Any] = lines[0].split("\t") if layout.has_header and lines else list(range(layout.width))
    missing = [name for name in layout.columns.values() if name not in header]
    if missing:
        raise DataError(f"{path} has no column {missing[0]!r} but {format_names(header)}")
    positions = {name: header.index(column) for name, column in layout.columns.items()}
    columns: dict[str, list[Any]] = {name: [] for name in positions}
    broken: list[int] = []
    for number, line in enumerate(lines[layout.has_header :], start=1 + layout.has_header):
        cells = line.split("\t")
        if layout.has_broken_lines and len(cells) < len(header):
            broken.append(number)
            continue
        check_width(path, number, len(cells), len(header))
        for name, position in positions.items():
            columns[name].append(cells[position])
        columns["label"][-1] = _parse_label(path, number, cells[positions["label"]], layout)
    _check_broken(path, broken, len(lines))
    return GlueTable(pd.DataFrame(columns), len(broken))


def refuse_unsplit_mrpc(folder: Path) -> None:
    """Raise if a folder holds MRPC as Microsoft publishes it, which has no validation set.

    Raises:
        DataError: It does, and GLUE's files are not there.
    """
    for place in (folder, folder / "MRPC"):
        if (place / _MICROSOFT).is_file() and not (place / "train.tsv").exists():
            raise DataError(
                f"{place} holds MRPC as Microsoft publishes it: {_MICROSOFT} has GLUE's train and dev sets in one",
                hint="write the rows that GLUE's mrpc_dev_ids.tsv lists to MRPC/dev.tsv and the others to MRPC/train.tsv, "
                "or take the hub's: hf download nyu-mll/glue --repo-type dataset --local-dir glue",
            )


def _parse_label(path: Path, number: int, text: str, layout: TsvLayout) -> int | float:
    if not text:
        raise DataError(f"{path}, line {number}: there is no label", hint="a file that was cut cannot be scored")
    if layout.classes:
        if text not in layout.classes:
            raise DataError(
                f"{path}, line {number}: the label {reprlib.repr(text)} is none of {', '.join(layout.classes)}"
            )
        return layout.classes.index(text)
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise DataError(f"{path}, line {number}: the label {reprlib.repr(text)} is not a number")
    return score


def _check_broken(path: Path, broken: Sequence[int], lines: int) -> None:
    """Raise if more lines are broken than in a published file, or the last one is: the file is truncated."""
    if broken and (broken[-1] == lines or len(broken) > max(1, lines * _BROKEN_SHARE)):
        raise DataError(
            f"{path}, line {broken[0]}: one of {len(broken):,} of its {lines:,} lines with too few columns",
            hint="the published file has a few and ends with a whole line: this one is damaged",
        )


@dataclass(frozen=True, slots=True)
class TsvLayout:
    """Layout of one task's files.

    Attributes:
        folder: The task's folder in the download.
        columns: TSV column of each of our columns: its name, or its position if the file has no header.
        classes: Label texts in the order of the hub's class numbers; empty: the column contains scores.
        has_header: Whether train and dev files start with a header row.
        has_broken_lines: Whether the published files contain lines with too few columns (texts with line breaks).
        files: File of each split of the hub's data set.
    """

    folder: str
    columns: dict[str, str | int]
    classes: tuple[str, ...] = ("0", "1")
    has_header: bool = True
    has_broken_lines: bool = False
    files: tuple[tuple[str, str], ...] = (("train", "train.tsv"), ("validation", "dev.tsv"))

    @property
    def width(self) -> int:
        """Number of columns of a file without a header; 0 with a header, which defines it."""
        return 0 if self.has_header else 1 + max(int(column) for column in self.columns.values())


_NLI = ("entailment", "not_entailment")
GLUE_TSV: dict[str, TsvLayout] = {
    "cola": TsvLayout("CoLA", {"sentence": 3, "label": 1}, has_header=False),
    "sst2": TsvLayout("SST-2", {"sentence": "sentence", "label": "label"}),
    "mrpc": TsvLayout("MRPC", {"sentence1": "#1 String", "sentence2": "#2 String", "label": "Quality"}),
    "stsb": TsvLayout("STS-B", {"sentence1": "sentence1", "sentence2": "sentence2", "label": "score"}, classes=()),
    "qqp": TsvLayout(
        "QQP",
        {"question1": "question1", "question2": "question2", "label": "is_duplicate"},
        has_broken_lines=True,
    ),
    "mnli": TsvLayout(
        "MNLI",
        {"premise": "sentence1", "hypothesis": "sentence2", "label": "gold_label"},
        classes=("entailment", "neutral", "contradiction"),
        files=(
            ("train", "train.tsv"),
            ("validation_matched", "dev_matched.tsv"),
            ("validation_mismatched", "dev_mismatched.tsv"),
        ),
    ),
    "qnli": TsvLayout("QNLI", {"question": "question", "sentence": "sentence", "label": "label"}, classes=_NLI),
    "rte": TsvLayout("RTE", {"sentence1": "sentence1", "sentence2": "sentence2", "label": "label"}, classes=_NLI),
    "wnli": TsvLayout("WNLI", {"sentence1": "sentence1", "sentence2": "sentence2", "label": "label"}),
}
