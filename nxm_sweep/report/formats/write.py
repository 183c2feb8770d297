"""Write the report's files atomically."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from nxm_sweep.errors import RecordError
from nxm_sweep.report.comparison import Comparison
from nxm_sweep.report.content import Content, entry_frame
from nxm_sweep.report.figures.draw import draw
from nxm_sweep.report.formats.comparison_html import comparison_page
from nxm_sweep.report.formats.html import render
from nxm_sweep.report.formats.latex import latex, latex_document, latex_frame, latex_frame_document
from nxm_sweep.report.formats.markdown import markdown, markdown_list, markdown_table
from nxm_sweep.report.formats.plain import to_csv, to_json
from nxm_sweep.report.formats.trial_html import trial_pages
from nxm_sweep.store.files import write_text

Files = dict[str, str]


def page_files(content: Content) -> Files:
    """Return the page, the pages of trials, and the pictures as separate files."""
    pictures = draw(content.report, content.table, content.statistics, content.verdicts)
    panels = {
        f"pictures/{picture.name}{f'-{index}' if index else ''}.svg": panel.file(picture.legend)
        for picture in pictures
        for index, panel in enumerate(picture.panels)
    }
    return {"index.html": render(content, pictures), **panels, **trial_pages(content)}


FORMATS: dict[str, Callable[[Content], Files]] = {
    "markdown": lambda content: {"table.md": markdown(content)},
    "latex": lambda content: {"table.tex": latex(content)},
    "csv": lambda content: {
        "table.csv": to_csv(entry_frame(content.table)),
        "trials.csv": to_csv(content.report.trials),
        "problems.csv": to_csv(content.report.problems),
    },
    "json": lambda content: {"report.json": to_json(content)},
    "html": page_files,
    "latex-document": lambda content: {"document.tex": latex_document(content)},
}
"""Files and their text, by the name of a format."""
DEFAULT_FORMATS = tuple(name for name in FORMATS if name != "latex-document")
"""Formats that are written unless others are named."""
COMPARISON_FORMATS: dict[str, Callable[[Comparison, Path], Files]] = {
    "markdown": lambda comparison, _: {"comparison.md": comparison_markdown(comparison)},
    "latex": lambda comparison, _: {"comparison.tex": comparison_latex(comparison)},
    "csv": lambda comparison, _: {"comparison.csv": to_csv(comparison.frame)},
    "json": lambda comparison, _: {"comparison.json": comparison_json(comparison)},
    "html": comparison_page,
    "latex-document": lambda comparison, _: {
        "comparison-document.tex": latex_frame_document(comparison.frame, comparison.notes)
    },
}
"""The same of a comparison; links are relative to the folder."""


def write(content: Content, folder: Path, formats: Sequence[str]) -> Iterator[Path]:
    """Write the files of the formats; yield the path of each.

    Raises:
        RecordError: The folder cannot be written to.
    """
    for name in formats:
        yield from _write_files(FORMATS[name](content), folder)


def write_comparison(comparison: Comparison, folder: Path, formats: Sequence[str]) -> Iterator[Path]:
    """Write a comparison of two sweeps; yield the path of each file.

    Raises:
        RecordError: The folder cannot be written to.
    """
    for name in formats:
        yield from _write_files(COMPARISON_FORMATS[name](comparison, folder), folder)


def _write_files(files: Files, folder: Path) -> Iterator[Path]:
    """Write texts atomically as files of a folder; yield the path of each."""
    try:
        for file, text in files.items():
            write_text(folder / file, text)
            yield folder / file
    except OSError as error:
        raise RecordError(f"the report cannot be written: {error}", hint="--to takes another folder") from error


def comparison_json(comparison: Comparison) -> str:
    """Return the rows and the notes as JSON."""
    return json.dumps({"rows": comparison.frame.to_dict("records"), "notes": comparison.notes}, indent=1) + "\n"


def comparison_latex(comparison: Comparison) -> str:
    """Return the scores of both sweeps, and their difference with its test, as a table."""
    caption = f"Scores times 100 of two sweeps ({comparison.names[0]}; {comparison.names[1]}), and their difference."
    heads = dict(zip(comparison.names, ("sweep 1", "sweep 2"), strict=True))
    frame = comparison.frame.drop(columns=["trials", "hyperparameters", "note", "missing pairs"]).rename(columns=heads)
    return latex_frame(frame, caption, "tab:nxm-sweep-comparison")


def comparison_markdown(comparison: Comparison) -> str:
    """Return the rows and the notes as Markdown."""
    return f"# Comparison\n\n{markdown_table(comparison.frame)}\n\n{markdown_list(comparison.notes)}\n"
