"""What the terminal shows at the end of one trial."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def trial_summary(record: Mapping[str, Any], console: Console) -> None:
    """Print a finished trial: a line per epoch, the best, what was verified, and where the record is."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    metric = record["selection"]["metric"]
    pruned = bool(record["sparsity"]["targets"])
    for column in ["epoch", f"{metric} pruned" if pruned else metric, "unpruned", "training loss", "||W-P(W)||/||W||"]:
        if pruned or column not in {"unpruned", "||W-P(W)||/||W||"}:
            table.add_column(column, justify="right")
    for entry in record["epochs"]:
        best = entry["epoch"] == record["best"]["epoch"]
        cells = [str(entry["epoch"]), _number(entry["selection"])]
        if pruned:
            cells.append(_number(entry["unpruned_selection"]))
        cells.append(_number(entry["training_loss"]))
        if pruned:
            cells.append(_number(entry["relative_distance"], 3))
        table.add_row(*cells, style="bold" if best else None)
    console.print(table)
    console.print(f"best {metric} {_number(record['best']['value'])} at epoch {record['best']['epoch']}")
    console.print(_verified(record))
    seconds = record["seconds"]["total"]
    console.print(f"{seconds:.0f} s, {record['tokens']:,} tokens; record: trials/{record['identity']}/result.json")


def _verified(record: Mapping[str, Any]) -> str:
    checked = record["sparsity"]["checked"]
    if not checked:
        return "dense: no matrix is pruned"
    exact = sum(check["exact"] for check in checked)
    constraints = sorted({check["constraint"] for check in checked})
    return f"verified from the saved file: {exact} of {len(checked)} matrices hold exactly {', '.join(constraints)}"


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
