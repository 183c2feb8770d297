"""The results as a LaTeX table to input, and the report as a document for pdflatex.

The table needs booktabs. The document also compiles where only LaTeX's base is installed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import pandas as pd

from nxm_sweep.formatting import display_name
from nxm_sweep.report.content import SOURCE, Content, difference_frame, problem_frame, reference_lines
from nxm_sweep.report.labels import MARK
from nxm_sweep.report.table import Table, best_cells, detail_frame, table_frame

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
    '"': r"{\char34}",  # in every font encoding
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    "±": r"$\pm$",
    MARK: r"$\dagger$",
    "[": "{[}",  # after the end of a row, LaTeX would read these two as options
    "*": "{*}",
}
_ROWS = 30  # most of a table on one page
_LABEL = "tab:nxm-sweep"
_SIGNED = re.compile(r"[+-]\d[\d.]*(?: to [+-]\d[\d.]*)?")
_INPUT = r"% \input this file; the preamble needs \usepackage{booktabs}"
_HEAD = r"""\documentclass[10pt]{article}
\usepackage[a4paper,landscape,margin=15mm]{geometry}
\usepackage[T1]{fontenc}
\usepackage{graphicx,longtable,textcomp}
\IfFileExists{booktabs.sty}{\usepackage{booktabs}}%
  {\let\toprule\hline\let\midrule\hline\let\bottomrule\hline}% where only LaTeX's base is installed
\setlength{\tabcolsep}{4pt}
\begin{document}"""


def latex(content: Content) -> str:
    """Return the results as tables to input: booktabs, the best sparse scores in bold, a caption and a label."""
    caption = _describe_table(content.table)
    tables = _make_tables(table_frame(content.table), best_cells(content.table), caption, label=_LABEL)
    return "\n".join([_INPUT, *tables, ""])


def latex_document(content: Content) -> str:
    """Return the document: verdict, table, notes, where each score comes from, differences, problems, commands."""
    report, statistics = content.report, content.statistics
    differences, shared = difference_frame(statistics.differences)
    parts = [_HEAD, _format_list([verdict.sentence for verdict in content.verdicts])]
    parts += [latex(content).removeprefix(_INPUT), _format_list(content.table.notes)]
    parts.append(
        rf"\noindent Of the paper, for reference ({latex_text(SOURCE)}): {latex_text('; '.join(reference_lines()))}."
    )
    parts += [
        r"\section*{Where each score comes from}",
        *_make_long_table(detail_frame(content.table), hyperparameters=55, trial=40),
    ]
    parts += [r"\section*{Differences}", *_make_long_table(differences, note=50)]
    parts += [latex_text(f"In brackets: 95% interval; p after Holm's correction. Of all: {shared}.")] if shared else []
    parts += [_format_list(statistics.sentences)]
    if statistics.warnings:
        parts += [r"\section*{Take care}", _format_list(statistics.warnings)]
    if len(report.problems):
        parts += [r"\section*{Points without a usable record}"]
        parts += _make_long_table(problem_frame(report), point=60, reason=60)
    if report.commands:
        parts += [r"\section*{Commands}", _format_list(report.commands)]
    return "\n".join([*(part for part in parts if part), r"\end{document}", ""])


def latex_frame(frame: pd.DataFrame, caption: str, label: str) -> str:
    """Return a frame of texts as tables to input."""
    return "\n".join([_INPUT, *_make_tables(frame, (), latex_text(caption), label=label), ""])


def latex_frame_document(frame: pd.DataFrame, notes: Sequence[str]) -> str:
    """Return a document of one frame and its notes."""
    return "\n".join([_HEAD, *_make_long_table(frame, hyperparameters=80), _format_list(notes), r"\end{document}", ""])


def _describe_table(table: Table) -> str:
    """Return the caption: what an entry is, what is bold, and what the dagger means."""
    entry = "best of each cell's trials" if table.by == "best" else "mean over seeds $\\pm$ half of the 95\\% interval"
    entries = [entry for row in table.rows for entry in row.entries.values()]
    patterns = dict.fromkeys(
        latex_text(display_name("pattern", row.sparsity)) for row in table.rows if not row.is_dense
    )
    models = dict.fromkeys(latex_text(display_name("model", row.model)) for row in table.rows)
    of_all = [next(iter(names)) for names in (models, patterns) if len(names) == 1]
    where = f" ({', '.join(of_all)})" if of_all else ""
    parts = [f"Scores on the reported sets, times 100: {entry}{where}."]
    parts += ["Bold: the best sparse score of each pattern and model."] if best_cells(table) else []
    if any(entry.beats_constant is False for entry in entries):
        parts.append(r"$\dagger$: does not beat the constant answer.")
    if any(entry.optimistic for entry in entries if entry.value is not None):
        parts.append("Selected on the reported rows, so optimistic.")
    return " ".join(parts)


def latex_text(value: Any) -> str:
    """Escape a text for LaTeX; characters outside ASCII become code points, and a number's sign a true one."""
    if _SIGNED.fullmatch(str(value)):
        return f"${str(value).replace(' to ', '$ to $')}$"
    characters = (_ESCAPES.get(character, character) for character in " ".join(str(value).split()))
    text = "".join(one if one.isascii() else f"{{[}}U+{ord(one):04X}]" for one in characters if one.isprintable())
    return text.replace("--", "-{}-").replace("--", "-{}-")  # two of them would become a dash


def _make_tables(frame: pd.DataFrame, bold: Collection[tuple[int, int]], caption: str, *, label: str) -> Iterator[str]:
    """Yield the frame as tables of at most :data:`_ROWS` rows; names stand left, scores right."""
    kept = [str(name) for name in frame if name not in {"model", "pattern"} or frame[name].nunique() > 2]
    places = {column: frame.columns.get_loc(column) for column in kept}
    names = sum(name in {"task", "method", "pattern", "model"} for name in kept)
    columns = "l" * names + "r" * (len(kept) - names)
    header = " & ".join(_format_header(name) for name in kept)
    for start in range(0, len(frame), _ROWS):
        rows = frame.iloc[start : start + _ROWS]
        lines = [
            " & ".join(
                rf"\textbf{{{latex_text(row[name])}}}" if (index, places[name]) in bold else latex_text(row[name])
                for name in kept
            )
            for index, row in enumerate(rows.to_dict("records"), start)
        ]
        yield "\n".join(
            [
                r"\begin{table}[htbp]",
                r"\centering",
                rf"\caption{{{caption}}}" if start == 0 else r"\caption{Continued.}",
                rf"\label{{{label}}}" if start == 0 else rf"\label{{{label}-{start // _ROWS + 1}}}",
                rf"\begin{{tabular}}{{{columns}}}",
                r"\toprule",
                rf"{header} \\",
                r"\midrule",
                *(rf"{line} \\" for line in lines),
                r"\bottomrule",
                r"\end{tabular}",
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
