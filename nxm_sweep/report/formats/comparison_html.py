"""A comparison of two sweeps as one HTML file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from nxm_sweep.formatting import display_name
from nxm_sweep.report.comparison import Comparison, Pairing
from nxm_sweep.report.content import Content
from nxm_sweep.report.figures.score_plots import by_method
from nxm_sweep.report.figures.style import INK, Picture
from nxm_sweep.report.formats.html import drawn, facts, fill
from nxm_sweep.report.formats.trial_table import Column, TableCell, drop_empty, filters_of, link
from nxm_sweep.report.table import Entry, shown
from nxm_sweep.store.paths import REPORTS

_NAMES = ("task", "method", "pattern", "model")
_TESTED = {"paired": "mean", "95% interval": "", "p (Holm)": "p_holm", "seeds": "n", "missing pairs": "missing"}
"""Columns of the test, and the number that each sorts by."""
_TITLE = "Scores in both sweeps"


def comparison_page(comparison: Comparison, target: Path) -> dict[str, str]:
    """Return the page and the files of its picture by name; links are relative to ``target``."""
    image = changes(comparison.pairings)
    columns = [*(Column(name, name) for name in _NAMES), *(Column(f"{number}", "", numeric=True) for number in (1, 2))]
    columns.append(Column("difference", "", numeric=True))
    columns += [Column(name, "", numeric=name != "95% interval") for name in _TESTED]
    columns += [Column(name, "") for name in ("trials", "hyperparameters", "note")]
    columns, rows = drop_empty(
        columns, [_make_row(pairing, comparison.sides, target) for pairing in comparison.pairings]
    )
    values = {
        "title": f"N:M sparsity sweeps: {' against '.join(_name_folder(side) for side in comparison.sides)}",
        "watch": None,
        "sections": ("Entries", "Differences", "Notes", "Sweeps"),
        "sides": [
            _describe_side(name, side, target) for name, side in zip(comparison.names, comparison.sides, strict=True)
        ],
        "caption": "Scores times 100, and the second less the first; a link leads to the record.",
        "columns": columns,
        "rows": rows,
        "filters": list(filters_of(columns, rows)),
        "picture": drawn(image),
        "notes": comparison.notes,
        "made": f"Made by python -m nxm_sweep.report {' '.join(str(side.report.folders[0]) for side in comparison.sides)} "
        "from records alone.",
    }
    files = {
        f"pictures/{image.name}{f'-{index}' if index else ''}.svg": panel.file(image.legend)
        for index, panel in enumerate(image.panels)
    }
    return {"comparison.html": fill("comparison.html.jinja", values), **files}


def changes(pairings: Sequence[Pairing]) -> Picture:
    """Draw each entry's change of score: a panel per task and model, a row per method from a tick to a mark."""
    both = pd.DataFrame(
        [
            {
                "task": pairing.task,
                "method": pairing.method,
                "sparsity": pairing.pattern,
                "model": pairing.model,
                "first": 100 * first,
                "value": 100 * second,
            }
            for pairing in pairings
            for first, second in [pairing.scores]
            if first is not None and second is not None
        ]
    )
    if both.empty:
        return Picture("differences", _TITLE, words="The sweeps have no entry in common.")

    def mark(axes: Axes, row: Any, at: float) -> None:
        axes.hlines(at, row.first, row.value, color=INK, linewidth=0.9)
        axes.plot(row.first, at, linestyle="none", marker="|", markersize=7, color=INK)

    words = "Ticks are the first sweep's scores, marks and numbers the second's; the broken line is its dense score."
    return by_method("differences", _TITLE, both, mark, words=words)


def _describe_side(name: str, side: Content, target: Path) -> dict[str, Any]:
    own = side.report.folders[0] / REPORTS / "index.html"
    return {"name": name, "href": link(str(own), target) if own.exists() else "", "facts": list(facts(side.report))}


def _name_folder(side: Content) -> str:
    folder = side.report.folders[0]
    return folder.name or str(folder)


def _make_row(pairing: Pairing, sides: Sequence[Content], target: Path) -> list[TableCell]:
    names = [TableCell(" ".join(display_name(name, getattr(pairing, name)).split())) for name in _NAMES]
    scores = [_make_score_cell(entry, side, target) for entry, side in zip(pairing.entries, sides, strict=True)]
    difference = pairing.difference
    value = "" if difference is None else f"{difference:.12g}"
    tested = [
        TableCell(
            text, value="" if numbers is None or pd.isna(numbers) else f"{numbers:.12g}", numeric=name != "95% interval"
        )
        for name, text in pairing.tested_texts.items()
        for numbers in [pairing.tested.get(_TESTED[name])]
    ]
    texts = [TableCell(text) for text in (pairing.trials, pairing.hyperparameters, pairing.tested.get("note", ""))]
    return [*names, *scores, TableCell(pairing.difference_text, value=value, numeric=True), *tested, *texts]


def _make_score_cell(entry: Entry | None, side: Content, target: Path) -> TableCell:
    value = "" if entry is None or entry.value is None else f"{entry.value:.12g}"
    return TableCell(shown(entry), value=value, numeric=True, href="".join(_link_trial(entry, side, target)))


def _link_trial(entry: Entry | None, side: Content, target: Path) -> Iterator[str]:
    """Yield the address of the first trial behind an entry."""
    if entry is not None and entry.identities:
        trials = side.report.trials
        yield link(str(trials.loc[trials["identity"] == entry.identities[0], "path"].iloc[0]), target)
