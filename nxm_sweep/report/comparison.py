"""Two sweeps side by side: the entries that both have, by how much they differ, and what else differs between the two."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from nxm_sweep.notation import short
from nxm_sweep.report.formats import Content, csv
from nxm_sweep.report.latex import latex_table
from nxm_sweep.report.markdown import markdown_list, markdown_table
from nxm_sweep.report.table import Table, shown

_MUST_AGREE = {
    "weights": "the model {name} has other weights",
    "data": "the task {name} has other rows",
}
_SETTINGS = ("training.", "selection.")
_OF_A_TABLE = (
    "Points without",
    "The average is",
    "No task has a score in every row",
    "Cells ",
    "The best is",
)  # notes of one table alone


@dataclass(frozen=True)
class Comparison:
    """Two sweeps side by side: a row per entry of either, and what a reader must know."""

    frame: pd.DataFrame
    notes: tuple[str, ...]


def compare_sweeps(first: Content, second: Content, names: tuple[str, str]) -> Comparison:
    """Return two sweeps side by side.

    Args:
        first: A sweep.
        second: Another.
        names: What the sweeps are called.
    """
    shared = dict.fromkeys([*first.table.notes, *second.table.notes])
    notes = [line for line in shared if not line.startswith(_OF_A_TABLE)]
    for name, content in zip(names, (first, second), strict=True):
        if len(content.report.problems):
            notes.append(f"{name}: {len(content.report.problems)} points without a usable record.")
    notes += _disagreements(first.report.trials, second.report.trials)
    return Comparison(compare_tables(first.table, second.table, names), tuple(notes))


def compare_tables(first: Table, second: Table, names: tuple[str, str]) -> pd.DataFrame:
    """Return one row per entry of either table: both scores times 100, and the second less the first.

    Args:
        first: A sweep's table.
        second: Another's.
        names: What the sweeps are called.
    """
    sides = [
        {
            (task.label, row.method, row.sparsity, row.model): row.entries[task.name]
            for task in table.tasks
            for row in table.rows
            if task.name in row.entries
        }
        for table in (first, second)
    ]
    keys = list(dict.fromkeys([*sides[0], *sides[1]]))
    rows = []
    for key in keys:
        entries = [side.get(key) for side in sides]
        values = [None if entry is None else entry.value for entry in entries]
        row = dict(zip(("task", "method", "pattern", "model"), key, strict=True))
        row |= {name: shown(entry) for name, entry in zip(names, entries, strict=True)}
        known = [value for value in values if value is not None]
        row["difference"] = f"{100 * (known[1] - known[0]):+.1f}" if len(known) == 2 else "-"
        row["trials"] = " / ".join("0" if entry is None else str(entry.trials) for entry in entries)
        texts = ["-" if entry is None or not entry.hyperparameters else entry.hyperparameters for entry in entries]
        row["hyperparameters"] = texts[0] if texts[0] == texts[1] else " / ".join(texts)
        rows.append(row)
    return pd.DataFrame(rows)


def comparison_files(comparison: Comparison, formats: Sequence[str]) -> dict[str, str]:
    """Return the texts of the files of a comparison, by name; formats that it has not are left out."""
    return {f"comparison.{ending}": text(comparison) for name, (ending, text) in _FILES.items() if name in formats}


def _json(comparison: Comparison) -> str:
    return json.dumps({"rows": comparison.frame.to_dict("records"), "notes": comparison.notes}, indent=1) + "\n"


def _markdown(comparison: Comparison) -> str:
    return f"# Comparison\n\n{markdown_table(comparison.frame)}\n\n{markdown_list(comparison.notes)}\n"


_FILES: dict[str, tuple[str, Callable[[Comparison], str]]] = {
    "markdown": ("md", _markdown),
    "latex": ("tex", lambda comparison: latex_table(comparison.frame, comparison.notes)),
    "csv": ("csv", lambda comparison: csv(comparison.frame)),
    "json": ("json", _json),
}


def _disagreements(first: pd.DataFrame, second: pd.DataFrame) -> Iterator[str]:
    """What makes two sweeps' entries of one name unlike each other, in the tasks that both have."""
    both = set(first["task"]) & set(second["task"])
    if not both:
        yield "The two sweeps have no task in common."
        return
    first, second = (side[side["task"].isin(both)] for side in (first, second))
    for column, words in _MUST_AGREE.items():
        name = "model" if column == "weights" else "task"
        sides = [side.groupby(name)[column].agg(set) for side in (first, second)]
        for shared in sides[0].index.intersection(sides[1].index):
            if sides[0][shared] != sides[1][shared]:
                yield f"Not the same: {words.format(name=shared)} in the second sweep."
    for name in [name for name in first.columns if name.startswith(_SETTINGS) and name in second]:
        if name != "training.batch_size" and (texts := _values(first[name])) != (others := _values(second[name])):
            yield f"Settings differ: {name} is {texts} in the first sweep and {others} in the second."
    if set(first["versions"]) != set(second["versions"]):
        yield "The two sweeps ran with different versions of packages."


def _values(column: pd.Series[Any]) -> str:
    return ", ".join(sorted({"none" if pd.isna(value) else short(value) for value in column.unique()}))
