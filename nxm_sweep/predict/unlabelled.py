"""Rows without labels: GLUE's test sets in both layouts, or a user's file. No row is dropped."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset

from nxm_sweep.data.glue import GLUE_TSV
from nxm_sweep.data.loading import load_hub
from nxm_sweep.data.tables import DELIMITERS, check_columns, join_columns, parts_of, read_file, read_text
from nxm_sweep.errors import DataError
from nxm_sweep.formatting import format_names
from nxm_sweep.predict.submission import Submission
from nxm_sweep.settings import DataSettings

_INDICES = ("index", "id", "idx")  # columns with a row's number, in the download or on the hub
_HINT = "--data takes a hub id, a folder in the hub's layout or the official GLUE download, with the test sets"
_NAMED = 5  # rows listed in a note


@dataclass(frozen=True, slots=True)
class UnlabelledRows:
    """Texts in the order of their index.

    Attributes:
        text: First text of each row.
        pair: Second text of each row; None if the task has one text.
        source: Where they were read from.
        note: Warning about broken rows, which are still predicted; empty if there are none.
    """

    text: list[str]
    pair: list[str] | None
    source: str
    note: str = ""

    def __len__(self) -> int:
        return len(self.text)


def read_test_rows(submission: Submission, data: DataSettings, columns: Sequence[str]) -> UnlabelledRows:
    """Read one of GLUE's test sets.

    Args:
        submission: The test set.
        data: Location of the task's rows.
        columns: The task's text columns, by their names on the hub.

    Raises:
        DataError: The test set is not there, or its rows are not numbered from 0.
    """
    folder = Path(data.path).expanduser()
    if not folder.is_dir() and (data.path.startswith((".", "/", "~")) or data.path.count("/") != 1):
        raise DataError(f"there is no folder {data.path}", hint=_HINT)
    file = next((folder / name for name in submission.places if (folder / name).is_file()), None)
    if file is not None:
        return _read_tsv(file, submission, columns)
    if folder.is_dir() and not (folder / submission.config).is_dir():
        raise DataError(
            f"{folder} holds neither {submission.places[0]} (the official GLUE download) nor {submission.config}/ (the hub's "
            "layout)",
            hint=_HINT,
        )
    try:
        local = folder.is_dir()
        splits = load_hub(str(folder) if local else data.path, submission.config, None if local else data.revision)
    except DataError as error:
        raise DataError(error.message, hint=_HINT) from error
    source = f"{data.path} ({submission.config}, {submission.split})"
    if submission.split not in splits:
        raise DataError(f"{source}: there is no such split but {format_names(splits)}", hint=_HINT)
    table = splits[submission.split]
    return _order_rows(table.to_pandas() if isinstance(table, Dataset) else table, columns, source)


def read_own_rows(path: Path, columns: Sequence[str]) -> UnlabelledRows:
    """Read a user's CSV, TSV, JSONL or Parquet file; columns other than ``columns`` are ignored.

    Raises:
        DataError: The file cannot be read, lacks a column, or has a value that is not text.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}", hint="--rows takes a CSV, TSV, JSONL or Parquet file")
    table = read_file(path)
    parts = {text: parts_of(text, list(table.columns)) for text in columns}
    read = list(dict.fromkeys(itertools.chain(*parts.values())))
    check_columns(
        list(table.columns), read, str(path), hint="it must hold the text columns that the trial was trained on"
    )
    for column in read:
        if not all(isinstance(value, str) for value in table[column]):
            raise DataError(f"column {column!r} of {path} holds values that are not text")
    empty = (table[read].map(str.strip) == "").any(axis=1).to_numpy()
    texts = pd.DataFrame({text: join_columns(table, names) for text, names in parts.items()})
    rows = _order_rows(texts, columns, str(path), np.flatnonzero(empty).tolist())
    return replace(rows, note="; ".join(filter(None, [rows.note, _describe_open_quote(path, table, read)])))


def _describe_open_quote(path: Path, table: pd.DataFrame, columns: Sequence[str]) -> str:
    """Return a note on the first text with a line break in which a line has as many columns as the file's own."""
    delimiter = DELIMITERS.get(path.suffix, "")
    for column in columns if delimiter else ():
        for number, text in table[column].items():
            if any(line.count(delimiter) + 1 == table.shape[1] for line in text.split("\n")[1:-1]):
                return (
                    f"{path}: the text that ends in line {number} may be several rows after a quote that is not closed"
                )
    return ""


def _read_tsv(path: Path, submission: Submission, columns: Sequence[str]) -> UnlabelledRows:
    """Read a file of the download line by line: a CSV reader would take parts of a text for quotes or line breaks."""
    header, *lines = (line.removesuffix("\r") for line in read_text(path).split("\n"))
    names = header.split("\t")
    rows = [line.split("\t") for line in lines if line]
    broken = [number for number, row in enumerate(rows) if len(row) != len(names)]
    table = pd.DataFrame(
        [[*row, *[""] * (len(names) - len(row))][: len(names)] for row in rows], columns=names, dtype=str
    )
    layout = (
        dict.fromkeys(("sentence",), "sentence") if submission.task == "cola" else GLUE_TSV[submission.task].columns
    )
    table = table.rename(columns={theirs: ours for ours, theirs in layout.items() if ours != "label"})
    return _order_rows(table, columns, str(path), broken)


def _order_rows(table: pd.DataFrame, columns: Sequence[str], source: str, broken: Sequence[int] = ()) -> UnlabelledRows:
    check_columns(list(table.columns), columns, source, _HINT)
    if len(table) == 0:
        raise DataError(f"{source} has no rows")
    index = next((name for name in _INDICES if name in table.columns and name not in columns), None)
    incomplete = table[list(columns)].isna().any(axis=1).to_numpy() | np.isin(np.arange(len(table)), broken)
    if index is not None:
        numbers = pd.to_numeric(table[index], errors="coerce")
        if sorted(numbers) != list(range(len(table))):
            wrong = next((row for row, number in enumerate(numbers) if number != row), 0)
            raise DataError(
                f"{source} must number its {len(table):,} rows from 0, but the column {index!r} of row {wrong} "
                f"holds {table[index].iloc[wrong]!r}",
                hint="a file that was cut or put together numbers otherwise: take the published one",
            )
        order = np.argsort(numbers.to_numpy())
        table, incomplete = table.iloc[order], incomplete[order]
    incomplete_rows = [row for row, is_incomplete in enumerate(incomplete) if is_incomplete]
    texts = [table[name].fillna("").astype(str).tolist() for name in columns]
    note = _describe_broken(source, incomplete_rows)
    return UnlabelledRows(texts[0], texts[1] if len(texts) == 2 else None, source, note)


def _describe_broken(source: str, broken: Sequence[int]) -> str:
    if not broken:
        return ""
    more = " ..." if len(broken) > _NAMED else ""
    rows = ", ".join(map(str, broken[:_NAMED]))
    return f"{source}: {len(broken)} broken rows ({rows}{more}) are answered by what is left of them"
