"""Write docs/reliability.md from the tests marked ``fault``: ``python docs/make_reliability.py``."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
TESTS, PAGE = ROOT / "tests", ROOT / "docs" / "reliability.md"
AREAS = {
    "process": "Processes, signals and machines",
    "storage": "Files and storages",
    "input": "Command lines and settings",
    "data": "Rows of a task",
    "model": "Models and tokenizers",
    "security": "Security",
}


class Fault(NamedTuple):
    """One row of the page: the arguments of a test's mark, and the test."""

    area: str
    fault: str
    outcome: str
    test: str
    slow: bool


def page() -> str:
    """Return the page."""
    faults = sorted(read_faults(), key=lambda row: (list(AREAS).index(row.area), row.fault.lower()))
    lines = [
        "# Reliability",
        "",
        "<!-- Made by docs/make_reliability.py from the tests marked `fault`. -->",
        "",
        "Each row is a fault that a test provokes with a real process, a real signal or a real file, and what happens then.",
        "Tests in *italics* are slow ones, run by `make test-slow`.",
        "",
        "`python -m tests.soak` runs a sweep of your choice under random kills, stops and full disks, and compares its records",
        "with those of an undisturbed one ([soak.py](../tests/soak.py)).",
    ]
    for area, title in AREAS.items():
        rows = [row for row in faults if row.area == area]
        if rows:
            lines += ["", f"## {title}", "", "| fault | what happens | test |", "|---|---|---|"]
            lines += [f"| {row.fault} | {row.outcome} | {_link(row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def read_faults() -> Iterator[Fault]:
    """Yield a row per ``@pytest.mark.fault(area, fault, outcome)``."""
    for file in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                marks = [ast.unparse(mark) for mark in node.decorator_list]
                slow = any(mark.startswith("pytest.mark.slow") for mark in marks)
                for mark in node.decorator_list:
                    if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.fault":
                        area, fault, outcome = (_sentence(ast.literal_eval(argument)) for argument in mark.args)
                        yield Fault(area.lower(), fault, outcome, f"{file.relative_to(ROOT)}::{node.name}", slow)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".")


def _link(row: Fault) -> str:
    path, name = row.test.split("::")
    link = f"[`{name.removeprefix('test_')}`](../{path})"
    return f"*{link}*" if row.slow else link


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
