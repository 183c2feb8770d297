"""The page's table of trials: columns, rows, and cells as text, number and link."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from nxm_sweep.formatting import display_name, format_value, short_name
from nxm_sweep.report.frames import CELL, Report
from nxm_sweep.report.labels import MARK
from nxm_sweep.store.paths import TRIALS

_FILTERS = ("task", "method", "pattern", "model")
_CHOICES = 200  # most of a filter
_AXES = 6  # most hyperparameters with a column
PAGES = 40  # most trials with a page of their own: a page takes half a second
_LONGEST_FILE = 200  # bytes of an identity that can be a file's name


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the page: its head, the frame's column, whether it sorts as numbers, and their format.

    Numbers are shown times ``factor``.
    """

    name: str
    source: str
    numeric: bool = False
    form: str = ""
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class TableCell:
    """A cell: shown text, value to sort by, link."""

    text: str
    value: str = ""
    numeric: bool = False
    href: str = ""


def columns_of(report: Report) -> list[Column]:
    """Return the columns: cell, hyperparameters, results."""
    trials = report.trials
    names = ("task", "method", "pattern", "model")
    columns = [Column(name, source) for name, source in zip(names, CELL, strict=True)]
    if len(report.folders) > 1:
        columns.insert(0, Column("folder", "folder"))
    for source in report.hyperparameters()[:_AXES]:
        numeric = pd.api.types.is_numeric_dtype(trials[source]) and not pd.api.types.is_bool_dtype(trials[source])
        columns.append(Column(short_name(source), source, numeric=numeric))
    return [
        *columns,
        Column("score", "value", numeric=True, form="{:.2f}", factor=100.0),
        Column("unpruned", "unpruned", numeric=True, form="{:.2f}", factor=100.0),
        Column("residual", "residual", numeric=True, form="{:.3f}"),
        Column("epoch", "epoch", numeric=True, form="{:.0f}"),
        Column("seconds", "seconds", numeric=True, form="{:.0f}"),
        Column("trial", "identity"),
        Column("record", "path"),
    ]


def trial_rows(report: Report, target: Path, most: int) -> tuple[list[list[TableCell]], str]:
    """Return rows of at most ``most`` trials, the best of every cell kept first, and a text on what was left out.

    Rows are in the order of cells, best first.
    """
    trials = report.trials
    kept = trials.sort_values(["rank", *CELL], kind="stable").head(most)
    kept = kept.sort_values([*CELL, "rank"], kind="stable")
    text = f"All {len(trials):,} trials; scores times 100; the best of each cell comes first."
    if len(kept) < len(trials):
        text = (
            f"The best {len(kept):,} of {len(trials):,} trials, from every cell alike; scores times 100. "
            "trials.csv holds them all."
        )
    columns = columns_of(report)
    wanted = [column.source for column in columns]
    rows = kept[wanted].itertuples(index=False, name=None)
    pages, links = page_addresses(report), [link(str(path), target) for path in kept["path"]]
    pages_of_rows = [pages.get(str(path), record) for path, record in zip(kept["path"], links, strict=True)]
    marks = [MARK if above is False else "" for above in kept["beats_constant"]]
    return [
        [
            _make_cell(column, value, page if column.source == "identity" else record, mark)
            for column, value in zip(columns, row, strict=True)
        ]
        for row, page, record, mark in zip(rows, pages_of_rows, links, marks, strict=True)
    ], text


def page_addresses(report: Report) -> dict[str, str]:
    """Return the address, relative to the report's page, of each trial that has a page, by its record's path.

    The best trials of every cell have one, at most :data:`PAGES` in all.
    """
    best = report.trials.sort_values(["rank", *CELL], kind="stable").drop_duplicates("identity").head(PAGES)
    names = zip(best["path"], best["identity"], strict=True)
    return {
        str(path): quote(f"{TRIALS}/{identity}.html")
        for path, identity in names
        if len(identity.encode(errors="replace")) <= _LONGEST_FILE
    }


def drop_empty(
    columns: Sequence[Column], rows: Sequence[Sequence[TableCell]]
) -> tuple[list[Column], list[list[TableCell]]]:
    """Return the columns with a text in any row, and the rows without the others."""
    kept = [index for index in range(len(columns)) if any(row[index].text for row in rows)]
    return [columns[index] for index in kept], [[row[index] for index in kept] for row in rows]


def filters_of(columns: Sequence[Column], rows: Sequence[Sequence[TableCell]]) -> Iterator[dict[str, Any]]:
    """Yield the filters of a page's table: each column of names with more than one value, and its values."""
    for index, column in enumerate(columns):
        options = list(dict.fromkeys(row[index].text for row in rows)) if column.name in _FILTERS else []
        if len(options) > 1:
            yield {"name": column.name, "column": index, "options": options[:_CHOICES]}


def link(path: str, target: Path) -> str:
    """Return the relative address of a file for a page in the folder ``target``."""
    return quote(Path(os.path.relpath(path, target)).as_posix())


def _make_cell(column: Column, value: Any, href: str, mark: str) -> TableCell:
    if column.source in {"identity", "path"}:
        return TableCell(str(value)[:8] if column.source == "identity" else "JSON", href=href)
    missing = value is None or bool(pd.isna(value))
    if not column.numeric:
        text = display_name(column.source, str(value)) if column.source in CELL else format_value(value)
        return TableCell("" if missing else " ".join(text.split()))  # as the page's script reads it
    if missing:
        return TableCell("", numeric=True)
    text = column.form.format(column.factor * float(value)) if column.form else format_value(value)
    text += mark if column.source == "value" else ""
    return TableCell(text, value=f"{float(value):.12g}", numeric=True)
