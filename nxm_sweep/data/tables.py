"""Read tables from a user's files and the official GLUE download. No row is dropped silently."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from nxm_sweep.errors import DataError, first_line
from nxm_sweep.formatting import format_names, is_number

LINE = "line"
"""Name of an index of line numbers."""
LONGEST_TEXT = 1_000_000
"""Characters of a text. A model reads a few thousand of them, and tokenising more takes minutes."""
DELIMITERS = {".csv": ",", ".tsv": "\t"}
_ENDINGS = (*DELIMITERS, ".jsonl", ".json", ".parquet")
_QUOTING = 'a text that holds a quote is quoted, and the quote doubled: "he said ""no"""'
_UNQUOTED = "; docs/data.md converts a file whose quotes are not doubled"
_OBJECTS = "one object a line: jq -c '.[]' FILE > FILE.jsonl"
_SIGNATURES = {
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"\x1f\x8b": "a gzip file",
    b"PK\x03\x04": "a zip file, as Excel writes them",
    b"PAR1": "a Parquet file",
}
"""First bytes of files that are not UTF-8."""


def read_file(path: Path, label: str | None = None) -> pd.DataFrame:
    """Read a user's CSV, TSV, JSONL or Parquet file, by its suffix. Values of CSV and TSV stay text.

    Args:
        path: The file.
        label: Column of the labels. In CSV and TSV they show where an open quote has swallowed rows.

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
        return _read_parquet(path)
    if path.suffix in DELIMITERS:
        return _read_delimited(path, DELIMITERS[path.suffix], label)
    return _read_jsonl(path)


def check_columns(present: Sequence[object], wanted: Sequence[str], source: str, hint: str) -> None:
    """Raise unless a table has each wanted column once.

    Args:
        present: Names of its columns.
        wanted: Names of those that are read.
        source: Name of the table at the beginning of the message.
        hint: The way out where a column is missing.

    Raises:
        DataError: A column is missing, or there are several of its name.
    """
    for name in wanted:
        count = list(present).count(name)
        if count > 1:
            raise DataError(f"{source} has {count} columns of the name {name!r}", hint="rename all but one")
        if count == 0:
            padded = [other for other in present if str(other).strip() == name]
            separators = [mark for mark in (";", "\t", ",", "|") if len(present) == 1 and mark in str(present[0])]
            if padded:
                hint = f"it has {padded[0]!r}: remove the spaces"
            elif separators:
                hint = f"its columns seem to be separated by {separators[0]!r}: .csv takes commas and .tsv tabs"
            raise DataError(f"{source} has no column {name!r} but {format_names(present)}", hint=hint)


def parts_of(text: str, present: Collection[object]) -> list[str]:
    """Return the columns of a text: the one of its name, or those that ``a+b`` joins."""
    return [text] if text in present else [part.strip() for part in text.split("+")]


def join_columns(table: pd.DataFrame, columns: Sequence[str]) -> pd.Series[Any]:
    """Return the text of each row: that of a column, or those of several as ``word: sentence``; None where one is no text."""
    if len(columns) == 1:
        return table[columns[0]]
    rows = zip(*(table[column] for column in columns), strict=True)
    texts = [": ".join(row) if all(isinstance(text, str) for text in row) else None for row in rows]
    return pd.Series(texts, index=table.index, dtype=object)


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_parquet(path)
        names: list[str] = list(table.select_dtypes("string").columns)
        for name in names:
            table[name] = table[name].astype(object)  # decoded here, not at first use
    except Exception as error:  # Arrow's errors have no common base
        raise DataError(f"{path} cannot be read as parquet: {first_line(error)}") from error
    return table


def _read_delimited(path: Path, delimiter: str, label: str | None) -> pd.DataFrame:
    """Read a CSV or TSV with a header; blank lines are skipped, and a row that lacks values is an error."""
    csv.field_size_limit(LONGEST_TEXT)
    lines = list(io.StringIO(read_text(path), newline=""))
    rows = _iterate_non_empty_rows(path, csv.reader(lines, delimiter=delimiter, strict=True))
    _, _, header = next(rows, (0, 0, []))
    if not header:
        raise DataError(f"{path} is empty", hint="its first line names the columns")
    numbers, values, spans = [], [], []
    for first, last, row in rows:
        check_width(path, last, len(row), len(header), hint="quote texts that hold the separator")
        numbers.append(last)
        values.append(row)
        if last > first:
            spans.append((first, last))
    if label in header and spans:
        position = header.index(label)
        labels = {row[position] for row in values}
        numeric = all(map(is_number, labels))
        for first, last in spans:
            parts = [line.rstrip("\r\n").split(delimiter) for line in lines[first - 1 : last]]
            inside = [part[position].strip('"') for part in parts if len(part) == len(header)]
            count = sum(text in labels or (numeric and is_number(text)) for text in inside)
            if count > 1:  # parts of one text that each have all columns, and a known label in its place
                raise DataError(
                    f"{path}, lines {first} to {last}: an open quote makes one row of {count}",
                    hint=_QUOTING + _UNQUOTED,
                )
    return pd.DataFrame(values, columns=header, dtype=str, index=pd.Index(numbers, name=LINE))


def _iterate_non_empty_rows(path: Path, reader: Any) -> Iterator[tuple[int, int, list[str]]]:
    """Yield rows with the numbers of their first and last line."""
    first = 1
    try:
        for row in reader:
            if row:
                yield first, reader.line_num, row
            first = reader.line_num + 1
    except csv.Error as error:
        if "field limit" in str(error):
            raise DataError(
                f"{path}, line {first}: a text of more than {LONGEST_TEXT:,} characters",
                hint=f"cut it, or close its quote: {_QUOTING}",
            ) from error
        raise DataError(f"{path}, line {reader.line_num}: {error}", hint=_QUOTING + _UNQUOTED) from error


def _read_jsonl(path: Path) -> pd.DataFrame:
    numbers: list[int] = []
    rows: list[dict[str, Any]] = []
    text = read_text(path)
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_make_object)
        except (ValueError, RecursionError) as error:
            if not rows:
                _refuse_whole_document(path, text)
            raise DataError(
                f"{path}, line {number}: {_describe(error)}", hint="every line holds one object, a row"
            ) from error
        if isinstance(row, list):
            _refuse_whole_document(path, text)
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: every line must hold one object but got {type(row).__name__}")
        numbers.append(number)
        rows.append(row)
    if not rows:
        raise DataError(f"{path} is empty", hint="every line holds one object, a row")
    return pd.DataFrame(rows, index=pd.Index(numbers, name=LINE))


def _describe(error: ValueError | RecursionError) -> str:
    match error:
        case json.JSONDecodeError():  # its own text counts the lines within the line
            return f"{error.msg} at character {error.pos + 1}"
        case RecursionError():
            return "it is nested too deeply"
    return first_line(error)


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in row if names.count(name) > 1)!r} is there twice")
    return row


def _refuse_whole_document(path: Path, text: str) -> None:
    """Raise if a file is one JSON value instead of one per line.

    Raises:
        DataError: It is an array, or an object over several lines.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return
    if isinstance(value, list):
        raise DataError(
            f"{path} is one JSON array of {len(value):,} values, but every line must hold one object, a row",
            hint=_OBJECTS,
        )
    if isinstance(value, dict):
        raise DataError(
            f"{path} is one JSON object of the keys {format_names(value)}, but every line must hold one, a row",
            hint="write each row in one line",
        )


def read_text(path: Path) -> str:
    """Return a file's UTF-8 text, line ends unchanged.

    Raises:
        DataError: The file cannot be read, or is not UTF-8.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    known = next((name for start, name in _SIGNATURES.items() if content.startswith(start)), None)
    if known is None and 0 in content[:1000]:  # in no text, but every other byte of English in UTF-16
        known = {(True, False): "UTF-16BE", (False, True): "UTF-16LE"}.get(
            (content[0] == 0, content[1:2] == b"\0"), "binary"
        )
    if known is not None:
        hint = f"iconv -f {known} -t UTF-8 FILE > NEW" if known.startswith("UTF") else "unpack or export it first"
        raise DataError(f"{path} must be text in UTF-8 but seems to be {known}", hint=hint)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, line {number}: the byte 0x{content[error.start]:02x} is not UTF-8",
            hint="the file may be in Windows-1252 (cp1252): iconv -f CP1252 -t UTF-8 FILE > NEW",
        ) from error


def check_width(path: Path, number: int, found: int, expected: int, hint: str = "") -> None:
    """Raise unless a row has as many columns as the header.

    Raises:
        DataError: With the file, the line and both numbers.
    """
    if found != expected:
        raise DataError(f"{path}, line {number}: {found} columns instead of {expected}", hint=hint)
