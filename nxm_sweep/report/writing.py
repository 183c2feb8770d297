"""The report's files, each written whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from nxm_sweep.errors import RecordError
from nxm_sweep.report.comparison import Comparison, comparison_json, comparison_markdown
from nxm_sweep.report.comparison_page import comparison_page
from nxm_sweep.report.formats import Content, csv, entry_frame, to_json
from nxm_sweep.report.latex import latex, latex_table
from nxm_sweep.report.markdown import markdown
from nxm_sweep.report.page import render
from nxm_sweep.report.plots import draw

Files = dict[str, str]


def page_files(content: Content) -> Files:
    """Return the page, and its pictures as files of their own."""
    pictures = draw(content.report, content.table, content.statistics)
    panels = {
        f"pictures/{picture.name}{f'-{place}' if place else ''}.svg": panel.file()
        for picture in pictures
        for place, panel in enumerate(picture.panels)
    }
    return {"index.html": render(content, pictures), **panels}


FORMATS: dict[str, Callable[[Content], Files]] = {
    "markdown": lambda content: {"table.md": markdown(content)},
    "latex": lambda content: {"table.tex": latex(content)},
    "csv": lambda content: {
        "table.csv": csv(entry_frame(content.table)),
        "trials.csv": csv(content.report.trials),
        "problems.csv": csv(content.report.problems),
    },
    "json": lambda content: {"report.json": to_json(content)},
    "html": page_files,
}
"""What can be written: by a format's name, the files and their text."""


COMPARISON_FORMATS: dict[str, Callable[[Comparison, Path], Files]] = {
    "markdown": lambda comparison, _: {"comparison.md": comparison_markdown(comparison)},
    "latex": lambda comparison, _: {"comparison.tex": latex_table(comparison.frame, comparison.notes)},
    "csv": lambda comparison, _: {"comparison.csv": csv(comparison.frame)},
    "json": lambda comparison, _: {"comparison.json": comparison_json(comparison)},
    "html": comparison_page,
}
"""The same of two sweeps side by side; links are relative to the folder."""


def write(content: Content, folder: Path, formats: Sequence[str]) -> Iterator[Path]:
    """Write the files of the formats; yield the path of each.

    Raises:
        RecordError: The folder cannot be written to.
    """
    for name in formats:
        yield from _write_files(FORMATS[name](content), folder)


def write_comparison(comparison: Comparison, folder: Path, formats: Sequence[str]) -> Iterator[Path]:
    """Write two sweeps side by side; yield the path of each file.

    Raises:
        RecordError: The folder cannot be written to.
    """
    for name in formats:
        yield from _write_files(COMPARISON_FORMATS[name](comparison, folder), folder)


def _write_files(files: Files, folder: Path) -> Iterator[Path]:
    """Write texts as files of a folder, each whole; yield the path of each."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            path = folder / file
            path.parent.mkdir(exist_ok=True)
            fresh = path.with_name(f".{path.name}.tmp")
            fresh.write_text(text, encoding="utf-8", errors="replace")  # half a surrogate pair has no bytes
            fresh.replace(path)
            yield path
    except OSError as error:
        raise RecordError(f"the report cannot be written: {error}", hint="--to takes another folder") from error
