"""What every format of the report shows, and the report as CSV and JSON. Each format escapes what came from a record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from nxm_sweep.report.frames import CELL, Report
from nxm_sweep.report.labels import CONSTANT
from nxm_sweep.report.statistics import Statistics
from nxm_sweep.report.table import PAPER_FIGURES, Table

SOURCE = "NxMTransformer (NeurIPS 2021), abstract and text at Table 1; nothing else of its tables was read"


@dataclass(frozen=True)
class Content:
    """What every format shows.

    Attributes:
        report: What was read.
        table: The results table.
        statistics: What the trials say about the methods.
        target: The folder that the files are written to; links are relative to it.
        watch: Seconds after which the page reloads itself; None: never.
    """

    report: Report
    table: Table
    statistics: Statistics
    target: Path = Path()
    watch: float | None = None


def problem_frame(report: Report) -> pd.DataFrame:
    """Return the points without a usable record, for reading."""
    columns = [*CELL, "point", "kind", "reason", "identity"]
    return report.problems[columns].rename(columns={"kind": "what", "sparsity": "pattern"})


def reference_lines() -> list[str]:
    """Return what was read of the paper's figures, labelled."""
    return [f"{label}: {figure}" for label, figure in PAPER_FIGURES]


def difference_frame(differences: pd.DataFrame) -> pd.DataFrame:
    """Return the differences for reading: points of 100, empty where nothing was tested; without a column that is empty."""
    rows = [
        {
            "task": row["task"],
            "method": row["method"],
            "pattern": row["sparsity"],
            "model": row["model"],
            "against": row["against"],
            **difference_texts(row),
            "note": "; ".join(filter(None, [_settings_note(row), row["note"]])),
        }
        for row in differences.to_dict("records")
    ]
    frame = pd.DataFrame(rows)
    return frame.loc[:, [bool((frame[name] != "").any()) for name in frame]]


def difference_texts(row: Mapping[Any, Any]) -> dict[str, str]:
    """Return a difference's numbers for reading: points of 100, interval, p, numbers of seeds and of missing pairs."""

    def points(value: Any) -> str:
        return "" if pd.isna(value) else f"{100 * value:+.1f}"

    def small(value: Any) -> str:
        return "" if pd.isna(value) else f"{value:.3g}"

    return {
        "points": points(row["mean"]),
        "95% interval": f"{points(row['low'])} to {points(row['high'])}" if points(row["low"]) else "",
        "p": small(row["p"]),
        "p (Holm)": small(row["p_holm"]),
        "McNemar p (Holm)": small(row.get("mcnemar_holm")),
        "seeds": f"{row['n']:.0f}",
        "missing pairs": f"{row['missing']:.0f}" if row["missing"] > 0 else "",
    }


def _settings_note(row: Mapping[Any, Any]) -> str:
    """Which settings were compared, where there were several."""
    mine, reference = ("" if pd.isna(row[name]) else str(row[name]) for name in ("settings", "against_settings"))
    return " against ".join(filter(None, [mine, reference]))


def entry_frame(table: Table) -> pd.DataFrame:
    """Return the table's entries and the constant answers for a program: numbers in the metrics' units, not times 100."""
    rows = [
        {
            "task": task.name,
            "method": row.method,
            "sparsity": row.sparsity,
            "model": row.model,
            "metric": task.metric,
            "train_rows": task.train_rows,
            **{name: getattr(entry, name) for name in ("value", "low", "high", "trials", "seeds", "hyperparameters")},
            "optimistic": entry.optimistic,
            "beats_constant": entry.beats_constant,
            "missing": ", ".join(f"{count} {kind}" for kind, count in entry.holes.items()),
            "identities": " ".join(entry.identities),
            "scores": " ".join(map(str, entry.scores)),
        }
        for task in table.tasks
        for row in table.rows
        if (entry := row.entries.get(task.name)) is not None
    ]
    constants = [
        {
            "task": task.name,
            "method": CONSTANT,
            "metric": task.metric,
            "train_rows": task.train_rows,
            "value": score,
            "trials": 0,
            "seeds": 0,
        }
        for task in table.tasks
        for score in task.constants or (None,)
    ]
    return pd.DataFrame([*rows, *constants])
