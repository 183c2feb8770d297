"""The report as Markdown, for GitHub and for reading as plain text."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

import pandas as pd
from tabulate import tabulate

from nxm_sweep.report.content import (
    SOURCE,
    SPEED,
    Content,
    difference_frame,
    problem_frame,
    reference_lines,
    speed_frame,
)
from nxm_sweep.report.labels import replace_unprintable
from nxm_sweep.report.table import best_cells, detail_frame, table_frame

_BLOCK = re.compile(r"^(\d*)([#+\-=.)])")
"""A sign that begins a block, after the number of a list."""


def markdown(content: Content) -> str:
    """Return the report: the table, where each score comes from, differences, problems, commands."""
    report, statistics = content.report, content.statistics
    differences, shared = difference_frame(statistics.differences)
    parts = ["# Results", *(markdown_text(verdict.sentence) for verdict in content.verdicts)]
    parts += [markdown_table(table_frame(content.table), best_cells(content.table)), markdown_list(content.table.notes)]
    parts += [f"Of the paper, for reference only ({SOURCE}):", markdown_list(reference_lines())]
    parts += ["## Where each score comes from", markdown_table(detail_frame(content.table))]
    if len(report.problems):
        parts += ["## Points without a usable record", markdown_table(problem_frame(report))]
    parts += ["## Differences", markdown_table(differences)]
    parts += (
        [markdown_text(f"In brackets: 95% interval; p after Holm's correction. Of all: {shared}.")] if shared else []
    )
    parts += [markdown_list(statistics.sentences or ("There is nothing to compare.",))]
    if statistics.warnings:
        parts += ["## Take care", markdown_list(statistics.warnings)]
    if report.speeds:
        parts += ["## Speed of 2:4 kernels", markdown_table(speed_frame(report)), SPEED]
    if report.commands:
        parts += ["## Commands", "\n".join(f"    {command}" for command in report.commands)]
    return "\n\n".join(parts) + "\n"


def markdown_text(value: Any) -> str:
    """Escape a text for Markdown, on one line."""
    text = (
        replace_unprintable(" ".join(str(value).split()))
        .replace("&", "&amp;")
        .replace("<", "&lt;")
        .replace(">", "&gt;")
    )
    return re.sub(r"([\\`*_\[\]|~$]|:(?=//)|(?<=www)\.)", r"\\\1", text)  # GitHub makes links of addresses


def markdown_table(frame: pd.DataFrame, bold: Collection[tuple[int, int]] = ()) -> str:
    """Return a frame as a GitHub table; ``bold`` lists cells by row and column."""
    if frame.empty:
        return "None."
    rows = [
        [
            f"**{markdown_text(value)}**" if (index, column) in bold else markdown_text(value)
            for column, value in enumerate(row)
        ]
        for index, row in enumerate(frame.itertuples(index=False))
    ]
    heads = [markdown_text(name) for name in frame.columns]
    return tabulate(rows, headers=heads, tablefmt="pipe", disable_numparse=True)


def markdown_list(lines: Sequence[str]) -> str:
    """Return the lines as a list; what would begin a heading or a list in it is escaped."""
    return "\n".join("- " + _BLOCK.sub(r"\1\\\2", markdown_text(line)) for line in lines)
