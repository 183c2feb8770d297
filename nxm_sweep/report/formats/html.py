"""The report as one self-contained HTML file: no network, no library, readable without scripts."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from nxm_sweep.report.content import SOURCE, SPEED, Content, difference_frame, speed_frame
from nxm_sweep.report.figures.style import Picture
from nxm_sweep.report.formats.trial_table import columns_of, filters_of, link, trial_rows
from nxm_sweep.report.frames import Report
from nxm_sweep.report.labels import CONSTANT, replace_unprintable
from nxm_sweep.report.statistics import ESTIMATOR, Statistics
from nxm_sweep.report.table import PAPER_FIGURES, Entry, Table, constant_average, constant_text

LARGEST = 3_000_000  # bytes of the page
TRIALS = 1500  # rows of the table of trials, at most
_PROBLEMS = 200
_WARNINGS = 60


def fill(template: str, values: dict[str, Any]) -> str:
    """Return a page from a template; ``values`` are escaped unless they are ``Markup``."""
    environment = Environment(
        loader=PackageLoader("nxm_sweep.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_replace_unprintable,
    )
    script = f"\n{_read_asset('page.js')}"
    return environment.get_template(template).render(
        style=Markup(_read_asset("page.css")),  # noqa: S704 - a file of this package
        script=Markup(script),  # noqa: S704 - a file of this package
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        **values,
    )


def _replace_unprintable(value: Any) -> Any:
    return replace_unprintable(value) if type(value) is str else value


def drawn(picture: Picture) -> dict[str, Any]:
    """Return a picture as values of a template."""
    panels = [Markup(panel.svg) for panel in picture.panels]  # noqa: S704 - matplotlib escapes what it writes
    return {"name": picture.name, "title": picture.title, "words": picture.words, "panels": panels}


@cache
def _read_asset(name: str) -> str:
    return (files("nxm_sweep.report") / "templates" / name).read_text(encoding="utf-8")


def render(content: Content, pictures: Sequence[Picture]) -> str:
    """Return the page, below :data:`LARGEST` bytes: trials and pictures are cut where necessary, with a note.

    Links to records are relative to ``content.target``, the page's folder. The page reloads itself every
    ``content.watch`` seconds.
    """
    for share in (1.0, 0.5, 0.25, 0.1, 0.05, 0.02):  # of the rows; from a quarter on, of the panels too
        kept = [picture if share > 0.25 else _drop_panels(picture, share) for picture in pictures]
        page = _render_page(content, kept, max(1, int(share * TRIALS))).encode(
            errors="replace"
        )  # a lone surrogate has no encoding
        if len(page) <= LARGEST:
            break
    return page.decode()


def _drop_panels(picture: Picture, share: float) -> Picture:
    panels = picture.panels[: max(1, int(share * len(picture.panels)))]
    if len(panels) == len(picture.panels):
        return picture
    text = f"{picture.words} {len(panels)} of {len(picture.panels)} panels; the folder pictures/ holds them all."
    return replace(picture, panels=panels, words=text.strip())


def _render_page(content: Content, pictures: Sequence[Picture], most: int) -> str:
    report, table, statistics = content.report, content.table, content.statistics
    trials, trials_text = trial_rows(report, content.target, most)
    columns, many_models = columns_of(report), len({row.model for row in table.rows}) > 1
    values = {
        "title": f"N:M sparsity sweep: {', '.join(folder.name or str(folder) for folder in report.folders)}",
        "watch": None if content.watch is None else max(1, round(content.watch)),
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        "run": list(facts(report)),
        "commands": report.commands,
        "problems": list(_list_problems(report)),
        "problem_count": len(report.problems),
        "caption": _make_caption(table),
        "many_models": many_models,
        "tasks": table.tasks,
        "averaged": ", ".join(task.label for task in table.tasks if task.name in table.averaged),
        "rows": list(_make_rows(report, table, content.target)),
        "notes": table.notes,
        "references": [*PAPER_FIGURES, ("source", SOURCE)],
        "warnings": _cut_lines(statistics.warnings, _WARNINGS),
        "sentences": _cut_lines(statistics.sentences, 2 * _WARNINGS),
        "differences": _make_differences(statistics, many_models),
        "speed": _make_speed(report),
        "pictures": [drawn(_add_estimator(picture)) for picture in pictures],
        "filters": list(filters_of(columns, trials)),
        "columns": columns,
        "trials": trials,
        "trial_words": trials_text,
        "limits": list(_list_limits(content)),
        "made": _describe_origin(report),
        "sections": ("Run", "Table", "Statistics", "Pictures", "Trials", "Limits"),
    }
    return fill("page.html.jinja", values)


def facts(report: Report) -> Iterator[tuple[str, str]]:
    """Yield the facts of a run: name and text."""
    trials = report.trials
    hours = float(trials["seconds"].sum()) / 3600.0
    yield (
        "records",
        f"{len(trials):,} under {', '.join(map(str, report.folders))}; {hours:,.1f} hours of training in all",
    )
    for name, column in (("tasks", "task"), ("methods", "method"), ("patterns", "sparsity"), ("models", "model")):
        yield name, _list_values(trials[column])
    for name, column in (("epochs", "training.epochs"), ("seeds", "seed"), ("devices", "device")):
        if column in trials:
            yield name, _list_values(trials[column])
    yield "finished", f"{_format_minute(trials['finished'].min())} to {_format_minute(trials['finished'].max())}"
    if trials["commit"].any():
        yield "commits", _list_values(trials["commit"].map(lambda commit: commit[:12] or "none"))
    yield "versions", "; ".join(_list_versions(trials))


def _list_versions(trials: pd.DataFrame) -> Iterator[str]:
    """Yield each package with its versions; several mean records of different installations."""
    packages: dict[str, set[str]] = {}
    for text in trials["versions"].unique():
        for package, version in json.loads(text).items():
            packages.setdefault(str(package)[:60], set()).add(str(version)[:60])
    for package, versions in list(packages.items())[:40]:
        yield f"{package} {', '.join(sorted(versions)[:10])}"


def _format_minute(time: str) -> str:
    """Return ``2026-11-22 21:02 UTC`` for a record's time; any other text stays as it is."""
    try:
        return datetime.fromisoformat(time).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    except ValueError:
        return time


def _list_values(values: pd.Series[Any]) -> str:
    """Return distinct values with their counts."""
    counts = values.dropna().value_counts(sort=False).sort_index(key=lambda index: index.map(str))
    shown = [f"{value:g}" if isinstance(value, float) else str(value) for value in counts.index[:20]]
    more = f" and {len(counts) - 20} more" if len(counts) > 20 else ""
    return ", ".join(f"{value} ({count:,})" for value, count in zip(shown, counts, strict=False)) + more


def _list_problems(report: Report) -> Iterator[dict[str, str]]:
    for row in report.problems.head(_PROBLEMS).drop(columns="seed").fillna("").to_dict("records"):
        cell = " ".join(str(row[name]) for name in ("task", "method", "sparsity", "model", "point") if row[name])
        yield {"where": cell or f"trial {row['identity']}", "kind": str(row["kind"]), "reason": str(row["reason"])}


def _make_caption(table: Table) -> str:
    what = "Best of each cell's trials" if table.by == "best" else "Mean over seeds ± half of the 95% interval"
    return f"{what}; n is the cell's number of trials. Scores times 100; a link leads to the record."


def _make_rows(report: Report, table: Table, target: Path) -> Iterator[dict[str, Any]]:
    paths = dict(zip(report.trials["identity"], report.trials["path"], strict=True))
    for row in table.rows:
        entries = [_make_entry(row.entries.get(task.name), paths, target) for task in table.tasks]
        average = "-" if row.average is None else f"{100 * row.average:.1f}"
        yield {
            "method": row.method,
            "sparsity": row.sparsity,
            "model": row.model,
            "entries": entries,
            "average": average,
        }
    constants = [{"text": constant_text(task), "href": "", "words": ""} for task in table.tasks]
    average = constant_average(table)
    yield {"method": CONSTANT, "sparsity": "-", "model": "-", "entries": constants, "average": average}


def _make_entry(entry: Entry | None, paths: dict[Any, Any], target: Path) -> dict[str, str]:
    if entry is None:
        return {"text": "-", "href": "", "words": "not run"}
    path = paths.get(entry.identities[0]) if entry.identities else None
    parts = [f"n {entry.trials}"] if entry.trials else []
    parts += [f"{entry.seeds} seeds"] if entry.seeds > 1 else []
    parts += [entry.hyperparameters] if entry.hyperparameters else []
    parts += [f"{count} {kind}" for kind, count in entry.problems.items()]
    return {"text": entry.text, "href": link(str(path), target) if path else "", "words": "; ".join(parts)}


def _make_differences(statistics: Statistics, many_models: bool) -> dict[str, Any]:
    """Return the table of differences: heads with their type (name, number, words), rows, and their total."""
    frame = difference_frame(statistics.differences.head(_PROBLEMS))
    if not many_models:
        frame = frame.drop(columns="model", errors="ignore")
    names = ("task", "method", "pattern", "model")
    types = ["name" if name in names else "words" if name == "note" else "number" for name in frame.columns]
    rows = frame.itertuples(index=False, name=None)
    return {
        "heads": list(zip(frame.columns, types, strict=True)),
        "rows": list(rows),
        "all": len(statistics.differences),
    }


def _make_speed(report: Report) -> dict[str, Any]:
    frame = speed_frame(report)
    return {"heads": list(frame.columns), "rows": list(frame.itertuples(index=False, name=None)), "words": SPEED}


def _add_estimator(picture: Picture) -> Picture:
    if picture.name != "expected-best" or not picture.panels:
        return picture
    return replace(picture, words=f"{picture.words} Estimator: {ESTIMATOR}.")


def _cut_lines(lines: Sequence[str], most: int) -> list[str]:
    more = [f"... and {len(lines) - most} more; report.json holds them all."] if len(lines) > most else []
    return [*lines[:most], *more]


def _list_limits(content: Content) -> Iterator[str]:
    trials = content.report.trials
    seeds = (
        trials.groupby(["task", "method", "sparsity", "model"])["seed"].nunique()
        if "seed" in trials
        else pd.Series([1])
    )
    if seeds.min() < 2:
        cells = "Every cell was" if seeds.max() < 2 else f"{int((seeds < 2).sum())} of {len(seeds)} cells were"
        yield f"{cells} trained with one seed: how much of a difference is chance cannot be told."
    if any(entry.optimistic for row in content.table.rows for entry in row.entries.values()):
        yield "Scores were selected on the rows that they are reported on: they are optimistic, the more so the more trials."
    if len(set(trials["device"])) > 1 or len(set(trials["versions"])) > 1:
        yield "Records of different devices or package versions stand side by side."
    yield "Sparse matrices are stored densely: seconds are those of training and say nothing of a sparse model's speed."


def _describe_origin(report: Report) -> str:
    folders = " ".join(map(str, report.folders))
    newest = _format_minute(report.trials["finished"].max())
    return f"Made by python -m nxm_sweep.report {folders} from records alone; the newest is of {newest}."
