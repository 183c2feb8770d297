"""The report as CSV and JSON."""

from __future__ import annotations

import json
import re
from csv import QUOTE_NONNUMERIC
from dataclasses import asdict
from typing import Any

import pandas as pd

from nxm_sweep.formatting import is_number
from nxm_sweep.report.content import SOURCE, Content
from nxm_sweep.report.statistics import ESTIMATOR
from nxm_sweep.report.table import PAPER_FIGURES

_FORMULA = re.compile(
    r"[\s\x00-\x1f\x7f-\xa0\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]*[=+\-@\t\r\uff1d\uff0b\uff0d\uff20]"
)
"""What a spreadsheet may run: white space and invisible characters before the sign are dropped by some."""


def to_csv(frame: pd.DataFrame) -> str:
    """Return a frame as CSV; an apostrophe precedes text that a spreadsheet would run as a formula."""
    safe = frame.copy()
    for name in safe.columns[safe.dtypes.map(lambda dtype: not pd.api.types.is_numeric_dtype(dtype))]:
        safe[name] = safe[name].map(_escape_formula)
    safe.columns = pd.Index([_escape_formula(name) for name in safe.columns])
    text: str = safe.to_csv(index=False, quoting=QUOTE_NONNUMERIC)  # a spreadsheet may split at more than commas
    return text


def to_json(content: Content) -> str:
    """Return everything as JSON: table, trials, problems, statistics."""
    statistics, table = content.statistics, content.table
    whole = {
        "verdicts": [verdict.sentence for verdict in content.verdicts],
        "table": asdict(table),
        "paper": {"source": SOURCE, "figures": dict(PAPER_FIGURES)},
        "trials": _to_records(content.report.trials),
        "problems": _to_records(content.report.problems),
        "differences": _to_records(statistics.differences),
        "gaps": _to_records(statistics.gaps),
        "expected_best": {"estimator": ESTIMATOR, "values": _to_records(statistics.expected)},
        "warnings": statistics.warnings,
        "sentences": statistics.sentences,
        "speeds": list(content.report.speeds),
        "commands": content.report.commands,
    }
    parts = (f"{json.dumps(name)}: {_dump_lines(value)}" for name, value in whole.items())
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _dump_lines(value: Any) -> str:
    """Return JSON with a line per entry of a list: fast for ten thousand trials, and readable."""
    if not isinstance(value, list):
        return json.dumps(value, allow_nan=False)
    return "[\n " + ",\n ".join(json.dumps(row, allow_nan=False) for row in value) + "\n]" if value else "[]"


def _escape_formula(value: Any) -> Any:
    if not isinstance(value, str) or not _FORMULA.match(value) or is_number(value):
        return value
    return f"'{value}"


def _to_records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    values = frame.astype(object)
    rows = values.where(values.notna(), None).to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]
