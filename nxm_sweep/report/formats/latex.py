"""The report as a LaTeX document for pdflatex: booktabs where it is installed, otherwise LaTeX's own rules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from nxm_sweep.report.content import SOURCE, Content, difference_frame, problem_frame, reference_lines
from nxm_sweep.report.labels import MARK
from nxm_sweep.report.table import detail_frame, table_frame

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    "±": r"$\pm$",
    MARK: r"$\dagger$",
    "-": "{-}",  # two of them would become a dash
    "[": "{[}",  # after the end of a row, LaTeX would read these two as options
    "*": "{*}",
}
_ROWS = 30  # most of a table on one page
_HEAD = r"""\documentclass[10pt]{article}
\usepackage[a4paper,landscape,margin=15mm]{geometry}
\usepackage[T1]{fontenc}
\usepackage{graphicx,longtable,textcomp}
\IfFileExists{booktabs.sty}{\usepackage{booktabs}}%
  {\let\toprule\hline\let\midrule\hline\let\bottomrule\hline}% where only LaTeX's base is installed
\setlength{\tabcolsep}{4pt}
\begin{document}"""


def latex(content: Content) -> str:
    """Return the document: the table, its notes, where each score comes from, differences, problems, commands."""
    report, statistics = content.report, content.statistics
    parts = [_HEAD, *_make_tables(table_frame(content.table)), _format_list(content.table.notes)]
    parts.append(
        rf"\noindent Of the paper, for reference ({latex_text(SOURCE)}): {latex_text('; '.join(reference_lines()))}."
    )
    parts += [
        r"\section*{Where each score comes from}",
        *_make_long_table(detail_frame(content.table), hyperparameters=55, trial=40),
    ]
    parts += [r"\section*{Differences}", *_make_long_table(difference_frame(statistics.differences), note=50)]
    parts += [_format_list(statistics.sentences)]
    if statistics.warnings:
        parts += [r"\section*{Take care}", _format_list(statistics.warnings)]
    if len(report.problems):
        parts += [r"\section*{Points without a usable record}"]
        parts += _make_long_table(problem_frame(report), point=60, reason=60)
    if report.commands:
        parts += [r"\section*{Commands}", _format_list(report.commands)]
    return "\n".join([*(part for part in parts if part), r"\end{document}", ""])


def latex_table(frame: pd.DataFrame, notes: Sequence[str]) -> str:
    """Return a document of one frame and its notes."""
    return "\n".join([_HEAD, *_make_long_table(frame, hyperparameters=80), _format_list(notes), r"\end{document}", ""])


def latex_text(value: Any) -> str:
    """Escape a text for LaTeX; characters outside ASCII become code points."""
    characters = (_ESCAPES.get(character, character) for character in " ".join(str(value).split()))
    return "".join(one if one.isascii() else f"{{[}}U+{ord(one):04X}]" for one in characters if one.isprintable())


def _make_tables(frame: pd.DataFrame) -> Iterator[str]:
    """Yield the frame as tables no wider than a page."""
    columns = "l" * min(3, len(frame.columns)) + "r" * max(0, len(frame.columns) - 3)
    header = " & ".join(_format_header(name) for name in frame.columns)
    for start in range(0, len(frame), _ROWS):
        rows = frame.iloc[start : start + _ROWS]
        yield "\n".join(
            [
                r"\begin{table}[h!]\centering",
                r"\caption{Scores on the reported sets, times 100.}" if start == 0 else r"\caption{Continued.}",
                r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
                rf"\begin{{tabular}}{{{columns}}}",
                r"\toprule",
                rf"{header} \\",
                r"\midrule",
                *(rf"{_format_row(row)} \\" for row in rows.itertuples(index=False)),
                r"\bottomrule",
                r"\end{tabular}}",
                r"\end{table}",
            ]
        )


def _make_long_table(frame: pd.DataFrame, **widths: int) -> list[str]:
    """Return the frame as a table of any number of pages; ``widths`` in mm are of columns with wrapped text."""
    if frame.empty:
        return ["None."]
    columns = "".join(rf"p{{{widths[name]}mm}}" if name in widths else "l" for name in frame.columns)
    return [
        rf"{{\scriptsize\raggedright\begin{{longtable}}{{{columns}}}",
        r"\toprule",
        rf"{' & '.join(latex_text(name) for name in frame.columns)} \\",
        r"\midrule\endhead",
        *(rf"{_format_row(row)} \\" for row in frame.itertuples(index=False)),
        r"\bottomrule",
        r"\end{longtable}}",
    ]


def _format_row(values: Sequence[Any]) -> str:
    return " & ".join(latex_text(value) for value in values)


def _format_list(lines: Sequence[str]) -> str:
    if not lines:
        return ""
    return "\n".join(
        [r"\begin{itemize}\raggedright", *(rf"\item {latex_text(line)}" for line in lines), r"\end{itemize}"]
    )


def _format_header(name: str) -> str:
    """Return a column's head, a part in brackets below it."""
    first, bracket, rest = name.partition(" (")
    if not bracket:
        return latex_text(name)
    return rf"\shortstack{{{latex_text(first)}\\{{\scriptsize {latex_text(rest.removesuffix(')'))}}}}}"
