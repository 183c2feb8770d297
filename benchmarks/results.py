"""Save a run as JSON in ``benchmarks/results/``, and as a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks.groups import Options
from benchmarks.machine import ROOT, describe
from benchmarks.measure import Figure

RESULTS = ROOT / "benchmarks" / "results"


def save(figures: Sequence[Figure], options: Options, folder: Path) -> Path:
    """Write a run and its table to ``folder``, named by date and commit; return the JSON's path."""
    now, machine = datetime.now(UTC), describe()
    name = f"{now:%Y-%m-%d}-{machine['commit'][:7]}{'-quick' if options.quick else ''}"
    run: dict[str, Any] = {
        "schema": 1,
        "date": now.isoformat(timespec="seconds"),
        "machine": machine,
        "options": asdict(options),
        "figures": [figure.to_dict() for figure in figures],
    }
    folder.mkdir(parents=True, exist_ok=True)
    file = next(path for path in _list_paths(folder, name) if not path.exists())
    file.write_text(json.dumps(_round_values(run), indent=1) + "\n")
    file.with_suffix(".md").write_text(f"{_format_heading(run)}\n\n{markdown(figures)}\n")
    return file


def _list_paths(folder: Path, name: str) -> list[Path]:
    """Return the paths that a run may take; further runs of one day and commit are numbered."""
    return [folder / f"{name}{suffix}.json" for suffix in ("", *(f"-{number}" for number in range(2, 1000)))]


def markdown(figures: Sequence[Figure]) -> str:
    """Return the table of a run: median, least and greatest value over the rounds."""
    rows = [
        (
            figure.name,
            "" if figure.bar is None else f"{'≥' if figure.at_least else '≤'} {figure.bar:g}",
            str(figure),
            {True: "yes", False: "no", None: ""}[figure.is_met],
            len(figure.values) or "",
            figure.counted if figure.values else "",
        )
        for figure in figures
    ]
    headers = ["figure", "bar", "median (min to max)", "met", "rounds", "counted"]
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def _format_heading(run: dict[str, Any]) -> str:
    machine = run["machine"]
    commit = machine["commit"][:7] + (" with changes" if machine["modified"] else "")
    cpu = f"{machine['cpu']}, {machine['cores']} cores, {' '.join(machine['flags'])}"
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    caution = (
        "A quick run: it shows that everything runs, and its figures mean nothing. " if run["options"]["quick"] else ""
    )
    return f"{caution}{run['date'][:10]}, commit {commit}; {cpu}; {versions}."


def _round_values(value: Any) -> Any:
    """Round to four significant digits: more is noise, and the history is kept in git."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _round_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_round_values(item) for item in value]
    return value
