"""What a sensitivity scan found, as a table: the most sensitive matrix first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from nxm_sweep.scan import sizes_of


def show_scan(scan: Mapping[str, Any], console: Console) -> None:
    """Print a settled scan."""
    console.print(_table(scan))
    console.print(f"{_rows(scan['rows'])}; in {scan.get('precision', 'fp32')}")
    metric, dense = scan["metric"], scan["dense"]
    console.print(f"dense: loss {dense['loss']:.4f}, {metric} {_score(dense['score'])}")
    for name, found in scan["everywhere"].items():
        console.print(
            f"{name} everywhere: loss {found['loss']:.4f}, {metric} {_score(found['score'])}; no training after"
        )
    chosen = scan["chosen"]
    count = Counter(chosen["matrices"].values())
    parts = ", ".join(f"{held} in {count[held]}" for held in sorted(count))
    result = "" if chosen["loss"] is None else f": loss {chosen['loss']:.4f}, {metric} {_score(chosen['score'])}"
    console.print(
        f"chosen for a density of {scan['settings']['density']:g}: {parts} matrices; density {chosen['density']:.4f}{result}"
    )


def _table(scan: Mapping[str, Any]) -> Table:
    candidates = scan["candidates"]
    found = {(reading["matrix"], reading["constraint"]): reading for reading in scan["readings"]}
    worst = {name: max(found[name, held]["loss_rise"] for held in candidates) for name in sizes_of(scan)}
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("matrix", overflow="fold")
    for header in ("weights", *(f"{name}: {column}" for name in candidates for column in ("loss", "score")), "chosen"):
        table.add_column(header, justify="right")
    for name, size in sorted(sizes_of(scan).items(), key=lambda item: -worst[item[0]]):
        readings = [found[name, held] for held in candidates]
        cells = [cell for reading in readings for cell in (_signed(reading["loss_rise"]), _drop(reading["score_drop"]))]
        table.add_row(name.removesuffix(".weight"), f"{size:,}", *cells, scan["chosen"]["matrices"][name])
    return table


def _rows(rows: Mapping[str, Any]) -> str:
    if rows["seen"] is None:
        seen = "whether the model was trained on them is not known"
    elif rows["seen"]:
        seen = f"the model was trained on {rows['seen']} of them, so its losses on them are too low"
    else:
        seen = "the model was not trained on them"
    return f"scored on {rows['count']} of {rows['of']} training rows; {seen}"


def _signed(value: float) -> str:
    return f"{round(value, 4) + 0.0:+.4f}"  # never -0.0000


def _drop(value: float | None) -> str:
    return "-" if value is None else _signed(-value)


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
