"""Tables from files: a user's own, and those of the official GLUE download."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pandas as pd

from nxm_sweep.errors import DataError
from nxm_sweep.training.tasks import TsvLayout

_READERS = {".csv": ",", ".tsv": "\t", ".jsonl": None, ".json": None, ".parquet": None}


def read_file(path: Path) -> pd.DataFrame:
    """Read a user's CSV, TSV, JSONL or Parquet, told by its ending. Values of CSV and TSV stay text.

    Raises:
        DataError: The file is missing, of another ending, or cannot be read as what it says it is.
    """
    if path.suffix not in _READERS:
        raise DataError(
            f"{path} must end in one of {', '.join(_READERS)} but ends in {path.suffix!r}",
            hint="convert it, or rename it to what it is",
        )
    if not path.is_file():
        raise DataError(f"there is no file {path}", hint="task.files.* are relative to the current directory")
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        if path.suffix in {".jsonl", ".json"}:
            return _read_jsonl(path)
        # As text: otherwise pandas makes numbers of texts that look like some.
        table = pd.read_csv(path, sep=_READERS[path.suffix], keep_default_na=False, dtype=str)
    except (ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read as {path.suffix[1:]}: {str(error).splitlines()[0]}") from error
    if not isinstance(table.index, pd.RangeIndex):  # pandas took the first value for a row's name
        raise DataError(
            f"{path} has a row with more values than its header", hint="quote texts that hold the separator"
        )
    return table


def _read_jsonl(path: Path) -> pd.DataFrame:
    with path.open(encoding="utf-8-sig") as lines:
        rows = [json.loads(line) for line in lines if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("every line must hold one object")
    return pd.DataFrame(rows)


def read_glue_tsv(path: Path, layout: TsvLayout) -> pd.DataFrame:
    """Read one file of the official GLUE download into our columns, with the hub's class numbers.

    Raises:
        DataError: The file is missing, damaged, or of another task.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}", hint="the official GLUE download has it")
    try:
        table = pd.read_csv(
            path,
            sep="\t",
            header=0 if layout.has_header else None,
            quoting=csv.QUOTE_NONE,
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
            on_bad_lines="error",
        )
    except (ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read as tsv: {str(error).splitlines()[0]}") from error
    missing = [name for name in layout.columns.values() if name not in table.columns]
    if missing:
        raise DataError(f"{path} has no column {missing[0]!r} but {', '.join(map(str, table.columns))}")
    table = pd.DataFrame({name: table[column] for name, column in layout.columns.items()})
    labelled = table["label"] != ""  # QQP has broken lines, which the hub's data set leaves out
    table = table[labelled].reset_index(drop=True)
    if layout.classes:
        table["label"] = table["label"].map({word: number for number, word in enumerate(layout.classes)})
        if bool(table["label"].isna().any()):
            raise DataError(f"{path} has labels other than {', '.join(layout.classes)}")
    else:
        table["label"] = pd.to_numeric(table["label"], errors="coerce")
    return table
