"""Terminal output: one finished trial, or finished trials side by side."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from rich.console import Console
from rich.table import Table

from nxm_sweep.formatting import constraint_text, display_name, format_score, format_value
from nxm_sweep.report.labels import CONSTANT, MARK, METHOD_ORDER, place_in
from nxm_sweep.store.paths import RESULT, trial_folder
from nxm_sweep.store.record import Record
from nxm_sweep.store.records import (
    Core,
    beats,
    check_complete,
    constant_value,
    pattern_of,
    reported_value,
    selected_epoch,
    unpruned_value,
)


class _Value(TypedDict):
    value: float


class _Training(TypedDict):
    batch_size: int
    precision: str


class _Config(TypedDict):
    learning_rate: _Value
    rho: NotRequired[_Value]
    training: _Training


class Listed(Core):
    """What :func:`print_trials` reads of a record, besides what the frames have read."""

    config: _Config


def trial_summary(record: Record, output_dir: str, console: Console) -> None:
    """Print a finished trial: its epochs, the best score, the verification, and the record's path.

    Raises:
        RecordError: The record lacks a key.
    """
    path = trial_folder(Path(output_dir), record["identity"]) / RESULT
    check_complete(record, path)
    table = Table(box=None, pad_edge=False, header_style="bold")
    metric = record["selection"]["metric"]
    pruned = bool(record["sparsity"]["targets"])
    headers = ["epoch", f"{metric} pruned", "unpruned", "training loss", "||W-P(W)||/||W||"]
    for header in headers if pruned else ["epoch", metric, "training loss"]:
        table.add_column(header, justify="right")
    for entry in record["epochs"]:
        cells = [str(entry["epoch"]), format_score(entry["selection"])]
        if pruned:
            cells.append(format_score(entry["unpruned_selection"]))
        cells.append(_format_number(entry["training_loss"], 4))
        if pruned:
            cells.append(_format_number(entry["relative_distance"], 3))
        table.add_row(*cells, style="bold" if entry["epoch"] == record["best"]["epoch"] else None)
    console.print(table)
    console.print(_describe_best(record), soft_wrap=True)
    console.print(_describe_verification(record), soft_wrap=True)
    console.print(f"{record['seconds']['total']:.0f} s, {record['tokens']:,} tokens; record: {path}", soft_wrap=True)


def print_trials(records: Iterable[Record], console: Console) -> None:
    """Print finished trials side by side: a table per task, model and precision, a row per trial.

    Scores are those reported at the selected epoch; MNLI's is the mean of m and mm.
    """
    for (task, model, precision), trials in itertools.groupby(sorted(records, key=_sort_key), key=_table_key):
        table = Table(
            box=None,
            pad_edge=False,
            padding=(0, 1, 0, 0),
            header_style="bold",
            title=f"{display_name('task', task)}  {display_name('model', model)}  {precision}",
            title_justify="left",
        )
        for header in ("method", "pattern"):
            table.add_column(header, no_wrap=True)
        for header in ("lr", "batch", "rho", "pruned", "unpruned", "epoch", "residual", "s"):
            table.add_column(header, justify="right", no_wrap=True)
        metrics, constants = set(), set()
        for record in trials:
            table.add_row(*_format_row(record))
            metrics.add(record["selection"]["metric"])
            constants.add(constant_value(record))
        known = [format_score(constant) for constant in sorted(one for one in constants if one is not None)] or ["-"]
        score = " to ".join(dict.fromkeys([known[0], known[-1]]))
        table.add_row(CONSTANT, *"----", score, score, *"---")
        console.print(table)
        console.print(
            f"score times 100: {', '.join(sorted(metrics))}; {MARK} does not beat the constant answer", style="dim"
        )


def _format_row(record: Record) -> list[str]:
    config = record["config"]
    epoch, value = selected_epoch(record), reported_value(record)
    pruned = bool(epoch["pruned"])
    score = format_score(value) + (MARK if beats(float(value), constant_value(record)) is False else "")
    return [
        display_name("method", record["method"]),
        display_name("pattern", pattern_of(record)),
        format_value(config["learning_rate"]["value"]),
        str(config["training"]["batch_size"]),
        format_value(config["rho"]["value"]) if "rho" in record["hashed"] else "-",
        score if pruned else "-",
        format_score(unpruned_value(record)) if pruned else score,
        str(epoch["epoch"]),
        _format_number(epoch["relative_distance"], 3),
        f"{record['seconds']['total']:.0f}",
    ]


def _table_key(record: Record) -> tuple[str, str, str]:
    return record["task"], record["model_name"], record["config"]["training"]["precision"]


def _sort_key(record: Record) -> tuple[Any, ...]:
    return *_table_key(record), place_in(METHOD_ORDER)(record["method"]), record["identity"]


def _describe_best(record: Record) -> str:
    best, selection, precision = record["best"], record["selection"], record["config"]["training"]["precision"]
    if selection.get("name", "dev") == "dev":
        return f"best {selection['metric']} {format_score(best['value'])} at epoch {best['epoch']}, in {precision}"
    return (
        f"selected epoch {best['epoch']}: {selection['metric']} {format_score(best['selection_value'])} on held-out "
        "training rows; "
        f"{format_score(best['value'])} on {selection['reported_set']}, in {precision}"
    )


def _describe_verification(record: Record) -> str:
    checked = record["sparsity"]["checked"]
    if not checked:
        return "dense: no matrix is pruned"
    exact = sum(check["exact"] for check in checked)
    constraints = ", ".join(sorted({constraint_text(check["constraint"]) for check in checked}))
    return f"verified from the saved file: {exact} of {len(checked)} matrices hold exactly {constraints}"


def _format_number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
