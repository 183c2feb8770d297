"""Points without a usable record, each once, with all that is known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nxm_sweep.report.labels import clean_name, method_name, reason
from nxm_sweep.store.attempts import read_failures
from nxm_sweep.store.paths import PLANS, trial_folder
from nxm_sweep.store.plans import PlannedCell, cells_of, read_plan, rules_of
from nxm_sweep.store.state import DONE, FAILED, TO_DO, pattern_in, read_states

_REASONS = {TO_DO: "not trained yet", "running": "it is being trained"}
_UNKNOWN = dict.fromkeys(("task", "method", "sparsity", "model", "point"), "")


def problem(folder: Path, identity: str, kind: Any, why: Any) -> dict[str, Any]:
    """Return a row of a report's problems."""
    known = {"folder": str(folder), "identity": clean_name(identity), "kind": clean_name(kind), "reason": reason(why)}
    return {**_UNKNOWN, **known, "seed": None}


def damaged_plans(folder: Path) -> list[dict[str, Any]]:
    """Return a row for every unreadable plan of a sweep."""
    files = sorted((folder / PLANS).glob("*.json"))
    return [
        problem(folder, file.stem, "unreadable", f"{file.name}, a sweep's plan, is damaged")
        for file in files
        if read_plan(file) is None
    ]


def planned(
    folder: Path, plan: Mapping[str, Any], settled: set[str], patterns: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Return a row for every planned point that is not settled.

    Trials that a search has not suggested yet have no point; one row counts them. ``patterns`` holds those of the
    folder's records by identity, so that a cell has one name with and without a record.
    """
    rows = []
    for cell in cells_of(plan):
        names = _name_cell(cell, pattern_in(cell, patterns))
        points = {point.identity: point for point in cell.points if point.identity not in settled}
        states = read_states(folder, points.values(), **rules_of(plan))
        for identity, point in points.items():
            state = states.states[identity]
            if state == DONE:  # its record arrived while the report read the others
                continue
            failure = states.failures.get(identity)
            kind = failure.kind if failure is not None and state == FAILED else state
            why = failure.message if failure is not None else _REASONS.get(state, "")
            values = clean_name(", ".join(f"{key}={value}" for key, value in dict(point.values).items()), 300)
            row = {**problem(folder, identity, kind, why), **names, "point": values}
            rows.append({**row, "seed": _parse_seed(point.values)})
        missing = cell.wanted - len(cell.points)
        if missing > 0:
            rows.append({**problem(folder, "", TO_DO, f"{missing} trials of a search are still to come"), **names})
    return rows


def unplanned(folder: Path, identity: str) -> dict[str, Any]:
    """Return a row for a trial's folder with neither a record nor a plan."""
    failures = read_failures(trial_folder(folder, identity))
    if failures:
        return problem(folder, identity, failures[-1].kind, failures[-1].message)
    return problem(folder, identity, "unfinished", "it has left no record, and no sweep's plan names it")


def _parse_seed(values: Mapping[str, Any]) -> float | None:
    seed = values.get("seed")
    return float(seed) if isinstance(seed, int | float) else None


def _name_cell(cell: PlannedCell, pattern: str) -> dict[str, str]:
    names = {**cell.names, "sparsity": pattern}
    label = method_name(names.pop("method", ""), names.pop("distillation", None))
    return {**{key: clean_name(value) for key, value in names.items() if key in _UNKNOWN}, "method": label}
