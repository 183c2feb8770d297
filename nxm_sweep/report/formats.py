"""What every format of the report shows, and the report as CSV and JSON. Each format escapes what came from a record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from csv import QUOTE_NONNUMERIC
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from nxm_sweep.report.frames import CELL, Report
from nxm_sweep.report.names import CONSTANT
from nxm_sweep.report.statistics import ESTIMATOR, Statistics
from nxm_sweep.report.table import REFERENCES, Table

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
    return [f"{label}: {figure}" for label, figure in REFERENCES]


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


def csv(frame: pd.DataFrame) -> str:
    """Return a frame as CSV; a text that a spreadsheet would run as a formula begins with an apostrophe."""
    safe = frame.copy()
    for name in safe.columns[safe.dtypes.map(lambda kind: not pd.api.types.is_numeric_dtype(kind))]:
        safe[name] = safe[name].map(_no_formula)
    safe.columns = pd.Index([_no_formula(name) for name in safe.columns])
    text: str = safe.to_csv(index=False, quoting=QUOTE_NONNUMERIC)  # a spreadsheet may split at other signs than commas
    return text


def to_json(content: Content) -> str:
    """Return everything as JSON: table, trials, problems, statistics."""
    statistics, table = content.statistics, content.table
    whole = {
        "table": asdict(table),
        "paper": {"source": SOURCE, "figures": dict(REFERENCES)},
        "trials": _records(content.report.trials),
        "problems": _records(content.report.problems),
        "differences": _records(statistics.differences),
        "gaps": _records(statistics.gaps),
        "expected_best": {"estimator": ESTIMATOR, "values": _records(statistics.expected)},
        "warnings": statistics.warnings,
        "sentences": statistics.sentences,
        "commands": content.report.commands,
    }
    parts = (f"{json.dumps(name)}: {_lines(value)}" for name, value in whole.items())
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _lines(value: Any) -> str:
    """JSON with a line for each entry of a list: ten thousand trials are written in no time, and can be read."""
    if not isinstance(value, list):
        return json.dumps(value, allow_nan=False)
    return "[\n " + ",\n ".join(json.dumps(row, allow_nan=False) for row in value) + "\n]" if value else "[]"


def _no_formula(value: Any) -> Any:
    if not isinstance(value, str) or value[:1] not in {"=", "+", "-", "@", "\t", "\r"} or _is_number(value):
        return value
    return f"'{value}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    values = frame.astype(object)
    rows = values.where(values.notna(), None).to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]
