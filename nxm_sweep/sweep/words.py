"""Points, scores and times in words, the same in the live view, the status and the report at the end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from nxm_sweep.notation import alias, short
from nxm_sweep.sweep.claims import read_progress

_LEFT = ("cell", "at", "running trial", "where it is", "hole", "why")


def cell_name(names: Mapping[str, str]) -> str:
    """Return a cell in words: task, method, sparsity, model; distillation where there is a teacher."""
    teacher = names.get("distillation", "none")
    parts = [names.get(part, "") for part in ("task", "method", "sparsity", "model")]
    return " ".join([*parts, *([] if teacher == "none" else [f"distillation={teacher}"])])


def describe(cell: str, values: Mapping[str, Any]) -> str:
    """Return a point in words."""
    return f"{cell} {values_words(values)}"


def values_words(values: Mapping[str, Any]) -> str:
    """Return a point's values: ``lr 2e-4 batch 32``."""
    return " ".join(f"{alias(key)} {short(value)}" for key, value in values.items())


def score_words(value: float | None) -> str:
    """Return a score with four digits."""
    return "-" if value is None else f"{value:.4f}"


def clock(seconds: float) -> str:
    """Return seconds as ``1:05`` or ``2:03:04``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def progress_words(folder: Path) -> str:
    """Return where a running trial is: step, epoch, last score."""
    progress = read_progress(folder)
    parts = []
    if progress is not None and progress["steps"]:
        parts.append(f"step {progress['step']}/{progress['steps']}")
    if progress is not None and progress["epochs"]:
        last = progress["epochs"][-1]
        parts.append(f"epoch {last['epoch']}: {score_words(last['selection'])}")
    return "  ".join(parts) or "starting"


def plain_table(*headers: str) -> Table:
    """Return a table without lines; a narrow terminal wraps its texts and never cuts a number."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for header in headers:
        left = header in _LEFT
        table.add_column(header, justify="left" if left else "right", no_wrap=not left, overflow="fold")
    return table
