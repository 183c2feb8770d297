"""Tables from files: a user's own, and those of the official GLUE download. No row is left out without a word."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from nxm_sweep.errors import DataError
from nxm_sweep.training.tasks import TsvLayout

LINE = "line"
"""Name of an index that holds line numbers."""
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_ENDINGS = (*_DELIMITERS, ".jsonl", ".json", ".parquet")
_LONGEST_FIELD = 2**31 - 1  # characters; the csv module's own limit is 131,072
_BROKEN_SHARE = 1e-3  # of QQP's lines; more of them are damage of another kind


@dataclass(frozen=True, slots=True)
class GlueTable:
    """One file of the official GLUE download.

    Attributes:
        rows: Our columns, with the hub's class numbers.
        left_out: How many broken lines were left out.
    """

    rows: pd.DataFrame
    left_out: int


def read_file(path: Path) -> pd.DataFrame:
    """Read a user's CSV, TSV, JSONL or Parquet, told by its ending. Values of CSV and TSV stay text.

    Returns:
        One row per row of the file. The index is called ``line`` and holds line numbers, but for Parquet, which has none.

    Raises:
        DataError: The file is missing, of another ending, or cannot be read as what it says it is; with the line.
    """
    if path.suffix not in _ENDINGS:
        raise DataError(
            f"{path} must end in one of {', '.join(_ENDINGS)} but ends in {path.suffix!r}",
            hint="convert it, or rename it to what it is",
        )
    if not path.is_file():
        raise DataError(f"there is no file {path}", hint="task.files.* are relative to the current directory")
    if path.suffix == ".parquet":
        try:
            return pd.read_parquet(path)
        except (ValueError, OSError) as error:
            raise DataError(f"{path} cannot be read as parquet: {str(error).splitlines()[0]}") from error
    if path.suffix in _DELIMITERS:
        return _read_delimited(path, _DELIMITERS[path.suffix])
    return _read_jsonl(path)


def read_glue_tsv(path: Path, layout: TsvLayout) -> GlueTable:
    """Read one file of the official GLUE download, line by line: its texts are not quoted.

    Lines with too few columns are left out where the published files are known to hold some, which the hub's data set
    leaves out too.

    Raises:
        DataError: The file is missing or of another task, or a line is broken or has no valid label; with the line.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}", hint="the official GLUE download has it")
    lines = [line.removesuffix("\r") for line in _read_text(path).split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    header: list[Any] = lines[0].split("\t") if layout.has_header and lines else list(range(layout.width))
    missing = [name for name in layout.columns.values() if name not in header]
    if missing:
        raise DataError(f"{path} has no column {missing[0]!r} but {', '.join(map(str, header))}")
    places = {name: header.index(column) for name, column in layout.columns.items()}
    columns: dict[str, list[Any]] = {name: [] for name in places}
    broken: list[int] = []
    for number, line in enumerate(lines[layout.has_header :], start=1 + layout.has_header):
        cells = line.split("\t")
        if layout.has_broken_lines and len(cells) < len(header):
            broken.append(number)
            continue
        _check_width(path, number, len(cells), len(header))
        for name, place in places.items():
            columns[name].append(cells[place])
        columns["label"][-1] = _parse_label(path, number, cells[places["label"]], layout)
    _check_broken(path, broken, len(lines))
    return GlueTable(pd.DataFrame(columns), len(broken))


def _read_delimited(path: Path, delimiter: str) -> pd.DataFrame:
    """A CSV or TSV with a header; blank lines are no rows, and a row that lacks values is an error."""
    csv.field_size_limit(_LONGEST_FIELD)
    reader = csv.reader(io.StringIO(_read_text(path), newline=""), delimiter=delimiter, strict=True)
    rows = _non_empty_rows(path, reader)
    _, header = next(rows, (0, []))
    if not header:
        raise DataError(f"{path} is empty", hint="its first line names the columns")
    numbers, values = [], []
    for number, row in rows:
        _check_width(path, number, len(row), len(header), hint="quote texts that hold the separator")
        numbers.append(number)
        values.append(row)
    table = pd.DataFrame(values, columns=header, dtype=str, index=pd.Index(numbers, name=LINE))
    return table.loc[:, ~table.columns.duplicated()]


def _non_empty_rows(path: Path, reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Rows with the number of their last line."""
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}: {error}",
            hint='a text that holds a quote is quoted, and the quote doubled: "he said ""no"""',
        ) from error


def _read_jsonl(path: Path) -> pd.DataFrame:
    numbers, rows = [], []
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: every line must hold one object but got {type(row).__name__}")
        numbers.append(number)
        rows.append(row)
    if not rows:
        raise DataError(f"{path} is empty", hint="every line holds one object, a row")
    return pd.DataFrame(rows, index=pd.Index(numbers, name=LINE))


def _read_text(path: Path) -> str:
    """A file as text, line ends as they are."""
    try:
        content = path.read_bytes()
        return content.decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {number}: {error.reason}", hint="the file must be UTF-8") from error


def _check_width(path: Path, number: int, found: int, expected: int, hint: str = "") -> None:
    if found != expected:
        raise DataError(f"{path}, line {number}: {found} columns instead of {expected}", hint=hint)


def _parse_label(path: Path, number: int, word: str, layout: TsvLayout) -> int | float:
    if not word:
        raise DataError(f"{path}, line {number}: there is no label", hint="a file that was cut cannot be scored")
    if layout.classes:
        if word not in layout.classes:
            raise DataError(f"{path}, line {number}: the label {word!r} is none of {', '.join(layout.classes)}")
        return layout.classes.index(word)
    try:
        score = float(word)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise DataError(f"{path}, line {number}: the label {word!r} is not a number")
    return score


def _check_broken(path: Path, broken: Sequence[int], lines: int) -> None:
    """Refuse more broken lines than a published file has, and a broken last line: the file was cut."""
    if broken and (broken[-1] == lines or len(broken) > max(1, lines * _BROKEN_SHARE)):
        raise DataError(
            f"{path}, line {broken[0]}: one of {len(broken):,} of its {lines:,} lines with too few columns",
            hint="the published file has a few and ends with a whole line: this one is damaged",
        )
