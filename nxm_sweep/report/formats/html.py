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

from nxm_sweep.formatting import display_name
from nxm_sweep.report.content import SOURCE, SPEED, Content, difference_frame, problem_frame, speed_frame
from nxm_sweep.report.figures.style import Picture
from nxm_sweep.report.formats.trial_table import columns_of, drop_empty, filters_of, link, page_addresses, trial_rows
from nxm_sweep.report.frames import Report
from nxm_sweep.report.labels import CONSTANT, replace_unprintable
from nxm_sweep.report.statistics import Statistics
from nxm_sweep.report.table import (
    PAPER_FIGURES,
    Entry,
    Table,
    best_entries,
    constant_average,
    constant_text,
    difference_to_dense,
)

LARGEST = 3_000_000  # bytes of the page
TRIALS = 1500  # rows of the table of trials, at most
_PROBLEMS = 200
_WARNINGS = 60
_AVERAGED = 3  # most tasks named in the head of the average
_BESIDE = 5  # most tasks of a table that leaves room for cautions beside it
DENSE_STORAGE = (
    "Sparse matrices are stored densely: seconds are those of training and say nothing of a sparse model's speed."
)
VERDICT = "verdict"
"""Name of the picture beside the verdict."""


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
    return {
        "name": picture.name,
        "title": picture.title,
        "words": picture.words,
        "panels": [Markup(panel.svg) for panel in picture.panels],  # noqa: S704 - matplotlib escapes what it writes
        "legend": [{"svg": Markup(one.svg), "label": one.label} for one in picture.legend],  # noqa: S704 - the same
    }


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
    columns, trials = drop_empty(columns_of(report), trials)
    many_models = len({row.model for row in table.rows}) > 1
    verdict, others = _split_pictures(pictures)
    values = {
        "title": f"N:M sparsity sweep: {', '.join(folder.name or str(folder) for folder in report.folders)}",
        "watch": None if content.watch is None else max(1, round(content.watch)),
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        "verdicts": content.verdicts,
        "verdict_picture": verdict,
        "limits": list(_list_limits(content)),
        "caption": _make_caption(table),
        "wide": len(table.tasks) > _BESIDE,
        "tasks": table.tasks,
        "averaged": _name_averaged(table),
        "rows": list(_make_rows(report, table, content.target)),
        "notes": [*table.notes, DENSE_STORAGE],
        "warnings": _cut_lines(statistics.warnings, _WARNINGS),
        "sentences": _cut_lines(statistics.sentences, 2 * _WARNINGS),
        "differences": _make_differences(statistics, many_models),
        "speed": _make_speed(report),
        "pictures": [drawn(picture) for picture in others if picture.panels],
        "without": [f"{picture.name.replace('-', ' ')} ({picture.words})" for picture in others if not picture.panels],
        "filters": list(filters_of(columns, trials)),
        "columns": columns,
        "trials": trials,
        "trial_words": trials_text,
        "run": list(facts(report)),
        "commands": report.commands,
        "problems": list(_list_problems(report)),
        "problem_count": len(report.problems),
        "references": [*PAPER_FIGURES, ("source", SOURCE)],
        "made": _describe_origin(report),
        "sections": ("Results", "Differences", "Pictures", "Trials", "Run"),
    }
    return fill("page.html.jinja", values)


def _name_averaged(table: Table) -> str:
    """Return the averaged tasks, or their number where it is large; empty without any."""
    labels = [task.label for task in table.tasks if task.name in table.averaged]
    return ", ".join(labels) if len(labels) <= _AVERAGED else f"{len(labels)} tasks"


def _split_pictures(pictures: Sequence[Picture]) -> tuple[dict[str, Any] | None, list[Picture]]:
    """Return the verdict's picture, if it is drawn, and the others."""
    of_verdict = [picture for picture in pictures if picture.name == VERDICT]
    drawn_verdict = drawn(of_verdict[0]) if of_verdict and of_verdict[0].panels else None
    return drawn_verdict, [picture for picture in pictures if picture.name != VERDICT]


def facts(report: Report) -> Iterator[tuple[str, str]]:
    """Yield the facts of a run: name and text."""
    trials = report.trials
    hours = float(trials["seconds"].sum()) / 3600.0
    yield (
        "records",
        f"{len(trials):,} under {', '.join(map(str, report.folders))}; {hours:,.1f} hours of training in all",
    )
    for name, column in (("tasks", "task"), ("methods", "method"), ("patterns", "sparsity"), ("models", "model")):
        yield name, _list_values(trials[column].map(lambda value, kind=column: _name_value(kind, value)))
    for name, column in (("epochs", "training.epochs"), ("seeds", "seed"), ("devices", "device")):
        if column in trials:
            yield name, _list_values(trials[column])
    yield "finished", f"{format_minute(trials['finished'].min())} to {format_minute(trials['finished'].max())}"
    if trials["commit"].any():
        yield "commits", _list_values(trials["commit"].map(lambda commit: commit[:12] or "none"))
    yield "versions", "; ".join(_list_versions(trials))


def _name_value(kind: str, value: str) -> str:
    return "dense" if value == "dense" and kind == "sparsity" else display_name(kind, value)


def _list_versions(trials: pd.DataFrame) -> Iterator[str]:
    """Yield each package with its versions; several mean records of different installations."""
    packages: dict[str, set[str]] = {}
    for text in trials["versions"].unique():
        for package, version in json.loads(text).items():
            packages.setdefault(str(package)[:60], set()).add(str(version)[:60])
    for package, versions in list(packages.items())[:40]:
        yield f"{package} {', '.join(sorted(versions)[:10])}"


def format_minute(time: str) -> str:
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
    for row in problem_frame(report).head(_PROBLEMS).fillna("").to_dict("records"):
        cell = " ".join(str(row[name]) for name in ("task", "method", "pattern", "model", "point") if row[name])
        yield {"where": cell or f"trial {row['identity']}", "kind": str(row["what"]), "reason": str(row["reason"])}


def _make_caption(table: Table) -> str:
    counts = [entry.trials for row in table.rows for entry in row.entries.values() if entry.trials]
    trials = " to ".join(dict.fromkeys(map(str, (min(counts), max(counts))))) if counts else "no"
    best = f"best of {trials} trials" if trials != "1" else "one trial each"
    what = best if table.by == "best" else "mean over seeds ± half of the 95% interval"
    text = f"Scores times 100: {what}; a score leads to its trial."
    text += " Small: less the dense score." if any(row.is_dense for row in table.rows) else ""
    return text + (" Bold: the best sparse score of its pattern." if best_entries(table) else "")


def _make_rows(report: Report, table: Table, target: Path) -> Iterator[dict[str, Any]]:
    pages = page_addresses(report)
    paths = dict(zip(report.trials["identity"], report.trials["path"], strict=True))
    best = best_entries(table)
    patterns = len({row.sparsity for row in table.rows if not row.is_dense}) > 1
    models = len({row.model for row in table.rows}) > 1
    for index, row in enumerate(table.rows):
        entries = [
            {
                **_make_entry(row.entries.get(task.name), paths, pages, target),
                "difference": _format_points(difference_to_dense(table, row, task.name)),
                "best": (index, task.name) in best,
            }
            for task in table.tasks
        ]
        average = {
            "text": "-" if row.average is None else f"{100 * row.average:.1f}",
            "difference": _format_points(difference_to_dense(table, row, "average")),
            "best": (index, "average") in best,
        }
        names = {kind: display_name(kind, text) for kind, text in row.names.items()}
        kinds = [kind for kind, shown in (("pattern", patterns), ("model", models)) if shown and names[kind] != "-"]
        yield {
            "method": names["method"],
            "of": ", ".join(names[kind] for kind in kinds),
            "entries": entries,
            "average": average,
            "dense": row.is_dense,
        }
    plain = {"href": "", "words": "", "missing": "", "difference": "", "best": False}
    constants = [{**plain, "text": constant_text(task)} for task in table.tasks]
    average = {**plain, "text": constant_average(table)}
    if any(task.constants for task in table.tasks):
        yield {"method": CONSTANT, "of": "", "entries": constants, "average": average, "dense": False}


def _format_points(difference: float | None) -> str:
    return "" if difference is None else f"{100 * difference:+.1f}"


def _make_entry(entry: Entry | None, paths: dict[Any, Any], pages: dict[str, str], target: Path) -> dict[str, str]:
    """Return an entry's text, the address of its trial, and where it comes from as its title."""
    if entry is None:
        return {"text": "-", "href": "", "words": "not run", "missing": ""}
    path = str(paths[entry.identities[0]]) if entry.identities and entry.identities[0] in paths else ""
    parts = [f"best of {entry.trials} trials" if entry.seeds < 2 else f"{entry.seeds} seeds"] if entry.trials else []
    parts += [entry.hyperparameters] if entry.hyperparameters else []
    missing = ", ".join(f"{count} {kind}" for kind, count in entry.problems.items())
    href = pages.get(path) or (link(path, target) if path else "")
    return {"text": entry.text, "href": href, "words": "; ".join(parts), "missing": missing}


def _make_differences(statistics: Statistics, many_models: bool) -> dict[str, Any]:
    """Return the table of differences: heads with their type (name, number, words), rows, and what all rows share."""
    frame, shared = difference_frame(statistics.differences)
    if not many_models:
        frame = frame.drop(columns="model", errors="ignore")
    names = ("task", "method", "pattern", "model")
    types = ["name" if name in names else "words" if name == "note" else "number" for name in frame.columns]
    rows = list(frame.head(_PROBLEMS).itertuples(index=False, name=None))
    count = f"{len(rows)} of {len(frame)}" if len(rows) < len(frame) else f"{len(frame)}"
    caption = f"{count} row{'' if count == '1' else 's'}, in points (score times 100), paired by seed."
    if statistics.differences["low"].notna().any():
        caption += " In brackets the 95% interval, Student's; p after Holm's correction for all tests of the table."
    caption += f" Of all: {shared}." if shared else ""
    return {"heads": list(zip(frame.columns, types, strict=True)), "rows": rows, "caption": caption}


def _make_speed(report: Report) -> dict[str, Any]:
    frame = speed_frame(report)
    return {"heads": list(frame.columns), "rows": list(frame.itertuples(index=False, name=None)), "words": SPEED}


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


def _describe_origin(report: Report) -> str:
    folders = " ".join(map(str, report.folders))
    newest = format_minute(report.trials["finished"].max())
    return f"Made by python -m nxm_sweep.report {folders} from records alone; the newest is of {newest}."
