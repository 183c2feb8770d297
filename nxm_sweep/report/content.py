"""Content of a report, and the frames that its formats show. Each format escapes text from records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from nxm_sweep.formatting import display_name
from nxm_sweep.report.frames import CELL, Report
from nxm_sweep.report.labels import CONSTANT, clean_name
from nxm_sweep.report.statistics import Statistics
from nxm_sweep.report.table import PAPER_FIGURES, Table
from nxm_sweep.report.verdict import Verdict, make_verdicts
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

    @cached_property
    def verdicts(self) -> tuple[Verdict, ...]:
        """The best sparse method of each pattern and model."""
        return make_verdicts(self.table, self.statistics)


def problem_frame(report: Report) -> pd.DataFrame:
    """Return the points without a usable record, for display."""
    columns = [*CELL, "point", "kind", "reason", "identity"]
    frame = report.problems[columns].astype(object)
    for kind in CELL:
        frame[kind] = frame[kind].map(lambda name, kind=kind: display_name(kind, str(name)) if name else "")
    return frame.rename(columns={"kind": "what", "sparsity": "pattern"})


def reference_lines() -> list[str]:
    """Return the known figures of the paper, labelled."""
    return [f"{label}: {figure}" for label, figure in PAPER_FIGURES]


def difference_frame(differences: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Return the differences for display, and the notes that all of them share.

    A row per task, method, pattern and model; a column per reference, ``against ASP``: points of 100, the 95% interval
    in brackets and the corrected p, as far as there are any. Columns without content are left out.
    """
    of_averages = _find_shared(differences[differences["task"] == "average"])
    shared = list(dict.fromkeys([*_find_shared(differences), *of_averages]))
    keys = ["task", "method", "sparsity", "model"]
    rows: list[dict[str, str]] = []
    references = list(dict.fromkeys(differences["against"]))
    for names, group in differences.groupby(keys, sort=False):
        cell = {kind: display_name(kind, str(name)) for kind, name in zip(keys, names, strict=True)}
        of_row = {row["against"]: row for row in group.to_dict("records")}
        texts = {_head(name): _format_difference(of_row[name]) if name in of_row else "" for name in references}
        seeds = dict.fromkeys(f"{row['n']:.0f}" for row in of_row.values())
        rows.append({**cell, **texts, "seeds": " / ".join(seeds), "note": _merge_notes(of_row, shared)})
    frame = pd.DataFrame(rows, columns=[*keys, *map(_head, references), "seeds", "note"])
    frame = frame.rename(columns={"sparsity": "pattern"})
    counts = set(frame["seeds"])
    if len(counts) == 1 and (count := counts.pop()).isdecimal():
        frame["seeds"] = ""
        shared += [f"{count} seeds"] if count != "1" else []
    return frame.loc[:, [bool((frame[name] != "").any()) for name in frame]], "; ".join(shared)


def _find_shared(differences: pd.DataFrame) -> list[str]:
    """Return the notes that each of the differences has."""
    every = [_list_notes(row) for row in differences.to_dict("records")]
    return [part for part in every[0] if all(part in notes for notes in every)] if every else []


def _head(against: str) -> str:
    return f"against {'dense' if against == 'dense' else display_name('method', against)}"


def _format_difference(row: Mapping[Any, Any]) -> str:
    """Format one difference: ``+4.1 [+3.0 to +5.2], p 0.004``."""
    texts = difference_texts(row)
    text = texts["points"] + (f" [{texts['95% interval']}]" if texts["95% interval"] else "")
    text += f", p {texts['p (Holm)']}" if texts["p (Holm)"] else ""
    return text + (f", McNemar p {texts['McNemar p (Holm)']}" if texts["McNemar p (Holm)"] else "")


def _list_notes(row: Mapping[Any, Any]) -> list[str]:
    return [part for part in (_describe_settings(row), *str(row["note"]).split("; ")) if part]


def _merge_notes(of_row: Mapping[str, Mapping[Any, Any]], shared: Sequence[str]) -> str:
    """Return the notes of a row's differences; one that is not of every reference names its own."""
    heads: dict[str, list[str]] = {}
    for against, row in of_row.items():
        for part in _list_notes(row):
            heads.setdefault(part, []).append(_head(against).removeprefix("against "))
    return "; ".join(
        part if len(names) == len(of_row) else f"against {' and '.join(names)}: {part}"
        for part, names in heads.items()
        if part not in shared
    )


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
    """Return the compared settings in which both sides differ."""
    settings, reference = (
        [] if pd.isna(row[name]) else str(row[name]).split(", ") for name in ("settings", "against_settings")
    )
    sides = (
        ", ".join(text for text in one if text not in other)
        for one, other in ((settings, reference), (reference, settings))
    )
    return " against ".join(filter(None, sides))


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
