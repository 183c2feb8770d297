"""Content of a report, and the frames that its formats show. Each format escapes text from records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from nxm_sweep.report.frames import CELL, Report
from nxm_sweep.report.labels import CONSTANT, clean_name
from nxm_sweep.report.statistics import Statistics
from nxm_sweep.report.table import PAPER_FIGURES, Table
from nxm_sweep.store.speeds import total

SPEED = (
    "Linear layers alone, with random weights of their shapes (`nxm-sweep speed`); attention and the rest gain nothing."
)
SOURCE = "NxMTransformer (NeurIPS 2021), abstract and text at Table 1; nothing else of its tables was read"


@dataclass(frozen=True)
class Content:
    """Content shown by every format.

    Attributes:
        report: Frames as read.
        table: The results table.
        statistics: Comparisons of the methods.
        target: Folder of the files; links are relative to it.
        watch: Reload interval of the page in seconds; None: never.
    """

    report: Report
    table: Table
    statistics: Statistics
    target: Path = Path()
    watch: float | None = None


def problem_frame(report: Report) -> pd.DataFrame:
    """Return the points without a usable record, for display."""
    columns = [*CELL, "point", "kind", "reason", "identity"]
    return report.problems[columns].rename(columns={"kind": "what", "sparsity": "pattern"})


def reference_lines() -> list[str]:
    """Return the known figures of the paper, labelled."""
    return [f"{label}: {figure}" for label, figure in PAPER_FIGURES]


def difference_frame(differences: pd.DataFrame) -> pd.DataFrame:
    """Return the differences for display: points of 100, empty where untested; empty columns are dropped."""
    rows = [
        {
            "task": row["task"],
            "method": row["method"],
            "pattern": row["sparsity"],
            "model": row["model"],
            "against": row["against"],
            **difference_texts(row),
            "note": "; ".join(filter(None, [_describe_settings(row), row["note"]])),
        }
        for row in differences.to_dict("records")
    ]
    frame = pd.DataFrame(rows)
    return frame.loc[:, [bool((frame[name] != "").any()) for name in frame]]


def difference_texts(row: Mapping[Any, Any]) -> dict[str, str]:
    """Format a difference for display: points of 100, interval, p, counts of seeds and of missing pairs."""

    def format_points(value: Any) -> str:
        return "" if pd.isna(value) else f"{100 * value:+.1f}"

    def format_p(value: Any) -> str:
        return "" if pd.isna(value) else f"{value:.3g}"

    return {
        "points": format_points(row["mean"]),
        "95% interval": f"{format_points(row['low'])} to {format_points(row['high'])}"
        if format_points(row["low"])
        else "",
        "p": format_p(row["p"]),
        "p (Holm)": format_p(row["p_holm"]),
        "McNemar p (Holm)": format_p(row.get("mcnemar_holm")),
        "seeds": f"{row['n']:.0f}",
        "missing pairs": f"{row['missing']:.0f}" if row["missing"] > 0 else "",
    }


def _describe_settings(row: Mapping[Any, Any]) -> str:
    """Return the compared settings, where there was a choice."""
    settings, reference = ("" if pd.isna(row[name]) else str(row[name]) for name in ("settings", "against_settings"))
    return " against ".join(filter(None, [settings, reference]))


def speed_frame(report: Report) -> pd.DataFrame:
    """Return the measurements of 2:4 kernels, for display: milliseconds of all linear layers of a model together."""
    rows = []
    for speed in report.speeds:
        summary = total(speed["layers"])
        if summary is None:
            continue
        name, fastest = summary.best
        engines = summary.tensorrt
        rows.append(
            {
                "model": clean_name(speed["model"]),
                "GPU": clean_name(speed["device"]),
                "type": clean_name(speed["dtype"]),
                "batch": f"{speed['batch']} x {speed['length']}",
                "dense ms": f"{summary.dense:.3f}",
                "2:4 ms": f"{fastest:.3f}",
                "kernel": clean_name(name),
                "speedup": f"{summary.speedup:.2f}",
                "TensorRT speedup": "" if engines is None else f"{engines[0] / engines[1]:.2f}",
            }
        )
    frame = pd.DataFrame(rows)
    return frame.loc[:, [bool((frame[name] != "").any()) for name in frame]]


def entry_frame(table: Table) -> pd.DataFrame:
    """Return the table's entries and the constant answers as data: numbers in the metrics' units, not times 100."""
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
            "missing": ", ".join(f"{count} {kind}" for kind, count in entry.problems.items()),
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
