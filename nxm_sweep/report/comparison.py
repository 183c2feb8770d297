"""Compare two sweeps: their entries, the differences, and what else differs between the sweeps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from nxm_sweep.formatting import display_name, format_value
from nxm_sweep.report.content import Content, difference_texts
from nxm_sweep.report.estimates import holm
from nxm_sweep.report.findings import procedure
from nxm_sweep.report.pairing import CellName, align, difference, sides_of
from nxm_sweep.report.statistics import tested_settings
from nxm_sweep.report.table import Entry, Table, shown

_MUST_AGREE = {
    "weights": "the model {name} has other weights",
    "data": "the task {name} has other rows",
}
_SETTINGS = ("training.", "selection.")
_SWEEPS = ("the first sweep", "the second sweep")


@dataclass(frozen=True)
class Pairing:
    """An entry of either sweep: its cell, the entries of both sweeps, and the test over their common seeds.

    ``tested`` is a row as :func:`~nxm_sweep.report.pairing.difference` returns it, with ``p_holm``.
    """

    task: str
    method: str
    pattern: str
    model: str
    entries: tuple[Entry | None, Entry | None]
    tested: Mapping[str, Any]

    @property
    def scores(self) -> tuple[float | None, float | None]:
        """Both scores, in the metric's unit."""
        first, second = (None if entry is None else entry.value for entry in self.entries)
        return first, second

    @property
    def difference(self) -> float | None:
        """The second score less the first; None where one is missing."""
        first, second = self.scores
        return None if first is None or second is None else second - first

    @property
    def difference_text(self) -> str:
        """The difference in points of 100."""
        return "-" if self.difference is None else f"{100 * self.difference:+.1f}"

    @property
    def tested_texts(self) -> dict[str, str]:
        """The test's numbers for display: second less first over common seeds, in points of 100."""
        texts = difference_texts({**dict.fromkeys(("mean", "low", "high", "p", "p_holm")), **self.tested})
        named = {"points": "paired", "95% interval": "95% interval", "p (Holm)": "p (Holm)", "seeds": "seeds"}
        return {label: texts[name] for name, label in (named | {"missing pairs": "missing pairs"}).items()}

    @property
    def trials(self) -> str:
        """Numbers of trials: ``3 / 1``."""
        return " / ".join("0" if entry is None else str(entry.trials) for entry in self.entries)

    @property
    def hyperparameters(self) -> str:
        """Hyperparameters of the scores, once where they agree."""
        texts = ["-" if entry is None or not entry.hyperparameters else entry.hyperparameters for entry in self.entries]
        return " / ".join(dict.fromkeys(texts))


@dataclass(frozen=True)
class Comparison:
    """Two sweeps side by side.

    Attributes:
        sides: The sweeps.
        names: Their labels.
        pairings: Their entries.
        notes: Notes for the reader.
    """

    sides: tuple[Content, Content]
    names: tuple[str, str]
    pairings: tuple[Pairing, ...]
    notes: tuple[str, ...]

    @property
    def frame(self) -> pd.DataFrame:
        """A row per entry, as texts: both scores times 100, and the second less the first."""
        return pd.DataFrame(
            [
                {
                    **{
                        name: display_name(name, getattr(pairing, name))
                        for name in ("task", "method", "pattern", "model")
                    },
                    **{name: shown(entry) for name, entry in zip(self.names, pairing.entries, strict=True)},
                    "difference": pairing.difference_text,
                    **pairing.tested_texts,
                    "trials": pairing.trials,
                    "hyperparameters": pairing.hyperparameters,
                    "note": pairing.tested.get("note", ""),
                }
                for pairing in self.pairings
            ]
        )


def compare_sweeps(first: Content, second: Content, names: tuple[str, str]) -> Comparison:
    """Compare two sweeps entry by entry.

    Args:
        first: A sweep.
        second: Another.
        names: Labels of the sweeps.
    """
    pairings = _test_pairs(first, second, list(_pair_entries(first.table, second.table)))
    shared = dict.fromkeys([*first.table.notes, *second.table.notes])
    notes = ["Scores times 100; the difference is the second less the first.", *_describe_procedure(pairings)]
    notes += [line for line in shared if not getattr(line, "of_one_table", False)]
    for name, content in zip(names, (first, second), strict=True):
        if len(content.report.problems):
            notes.append(f"{name}: {len(content.report.problems)} points without a usable record.")
    notes += _find_disagreements(first.report.trials, second.report.trials)
    return Comparison((first, second), names, tuple(pairings), tuple(notes))


def _pair_entries(
    *tables: Table,
) -> Iterator[tuple[CellName, tuple[CellName, CellName], tuple[Entry | None, Entry | None]]]:
    """Yield each cell by its task's label, its name in either sweep, and both entries."""
    first, second = (
        {
            (task.label, row.method, row.sparsity, row.model): (
                (task.name, row.method, row.sparsity, row.model),
                row.entries[task.name],
            )
            for task in table.tasks
            for row in table.rows
            if task.name in row.entries
        }
        for table in tables
    )
    for cell in dict.fromkeys([*first, *second]):
        (name, entry), (other_name, other_entry) = first.get(cell, (cell, None)), second.get(cell, (cell, None))
        yield cell, (name, other_name), (entry, other_entry)


def _test_pairs(first: Content, second: Content, cells: Sequence[Any]) -> list[Pairing]:
    """Test each cell's second sweep against its first, whatever settings differ between the sweeps."""
    settings = list(dict.fromkeys([*tested_settings(first.report), *tested_settings(second.report)]))
    sides = [sides_of(content.report, settings) for content in (first, second)]
    rows: list[dict[str, Any]] = []
    for _, names, _ in cells:
        pair = [of_sweep.get(name) for of_sweep, name in zip(sides, names, strict=True)]
        named = [replace(side, method=label) for side, label in zip(pair, _SWEEPS, strict=True) if side is not None]
        missing = {"n": 0, "missing": 0, "note": "only one sweep has this entry"}
        rows.append(difference(align(named[::-1], settings, equal=False)) if len(named) == 2 else missing)
    corrected = holm([row.get("p") for row in rows])
    return [
        Pairing(task, method, pattern, model, entries, {**row, "p_holm": p})
        for ((task, method, pattern, model), _, entries), row, p in zip(cells, rows, corrected, strict=True)
    ]


def _describe_procedure(pairings: Sequence[Pairing]) -> Iterator[str]:
    """Yield how the paired differences were tested."""
    frame = pd.DataFrame([pairing.tested for pairing in pairings]).reindex(
        columns=["task", "n", "p", "mcnemar", "choice", "selection"]
    )
    yield from procedure(frame)
    yield "The paired difference is over the seeds that both sweeps have; the difference is that of the entries as they stand."


def _find_disagreements(first: pd.DataFrame, second: pd.DataFrame) -> Iterator[str]:
    """Yield what makes entries of one name differ between sweeps, in their common tasks."""
    both = set(first["task"]) & set(second["task"])
    if not both:
        yield "The two sweeps have no task in common."
        return
    first, second = (side[side["task"].isin(both)] for side in (first, second))
    for column, template in _MUST_AGREE.items():
        name = "model" if column == "weights" else "task"
        sides = [side.groupby(name)[column].agg(set) for side in (first, second)]
        for shared in sides[0].index.intersection(sides[1].index):
            if sides[0][shared] != sides[1][shared]:
                yield f"Not the same: {template.format(name=shared)} in the second sweep."
    for name in [name for name in first.columns if name.startswith(_SETTINGS) and name in second]:
        if name != "training.batch_size" and (texts := _list_values(first[name])) != (
            others := _list_values(second[name])
        ):
            yield f"Settings differ: {name} is {texts} in the first sweep and {others} in the second."
    if set(first["versions"]) != set(second["versions"]):
        yield "The two sweeps ran with different versions of packages."


def _list_values(column: pd.Series[Any]) -> str:
    return ", ".join(sorted({"none" if pd.isna(value) else format_value(value) for value in column.unique()}))
