"""Read tables from a user's files and the official GLUE download. No row is dropped silently."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from nxm_sweep.errors import DataError, first_line

LINE = "line"
"""Name of an index of line numbers."""
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_ENDINGS = (*_DELIMITERS, ".jsonl", ".json", ".parquet")
_LONGEST_FIELD = 2**31 - 1  # characters; the csv module's own limit is 131,072


def read_file(path: Path) -> pd.DataFrame:
    """Read a user's CSV, TSV, JSONL or Parquet file, by its suffix. Values of CSV and TSV stay text.

    Returns:
        One row per row of the file. The index ``line`` has line numbers, except for Parquet, which has none.

    Raises:
        DataError: The file is missing, has another suffix, or cannot be read in its format; with the line.
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
            raise DataError(f"{path} cannot be read as parquet: {first_line(error)}") from error
    if path.suffix in _DELIMITERS:
        return _read_delimited(path, _DELIMITERS[path.suffix])
    return _read_jsonl(path)


def _read_delimited(path: Path, delimiter: str) -> pd.DataFrame:
    """Read a CSV or TSV with a header; blank lines are skipped, and a row that lacks values is an error."""
    csv.field_size_limit(_LONGEST_FIELD)
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True)
    rows = _iterate_non_empty_rows(path, reader)
    _, header = next(rows, (0, []))
    if not header:
        raise DataError(f"{path} is empty", hint="its first line names the columns")
    numbers, values = [], []
    for number, row in rows:
        check_width(path, number, len(row), len(header), hint="quote texts that hold the separator")
        numbers.append(number)
        values.append(row)
    table = pd.DataFrame(values, columns=header, dtype=str, index=pd.Index(numbers, name=LINE))
    return table.loc[:, ~table.columns.duplicated()]


def _iterate_non_empty_rows(path: Path, reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Yield rows with the number of their last line."""
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
    for number, line in enumerate(read_text(path).split("\n"), start=1):
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


def read_text(path: Path) -> str:
    """Return a file's UTF-8 text, line ends unchanged.

    Raises:
        DataError: The file cannot be read, or is not UTF-8.
    """
    try:
        content = path.read_bytes()
        return content.decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {number}: {error.reason}", hint="the file must be UTF-8") from error


def check_width(path: Path, number: int, found: int, expected: int, hint: str = "") -> None:
    """Raise unless a row has as many columns as the header.

    Raises:
        DataError: With the file, the line and both numbers.
    """
    if found != expected:
        raise DataError(f"{path}, line {number}: {found} columns instead of {expected}", hint=hint)
