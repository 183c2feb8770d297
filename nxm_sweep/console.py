"""Output of every command: errors on standard error, with the hint in a second line, and plain tables."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from nxm_sweep.errors import NxmSweepError

BAD_INPUT = 2
"""Exit code of every command for invalid input."""


def program(command: str) -> str:
    """Return a command's name for its usage line, as it was invoked."""
    called = Path(sys.argv[0]).name
    return called if called.endswith(f" {command}") else f"python -m nxm_sweep.{command}"


def error_console(*, quiet: bool = False) -> Console:
    """Return a console on standard error that neither wraps nor colours its output."""
    return Console(stderr=True, soft_wrap=True, highlight=False, quiet=quiet)


def print_error(error: NxmSweepError, console: Console | None = None) -> None:
    """Print an error, with its hint if it has one."""
    console = console or error_console()
    console.print(f"error: {error.message}", markup=False)
    if error.hint:
        console.print(f"hint: {error.hint}", markup=False)


_LEFT = ("cell", "at", "running trial", "where it is", "problem", "why")


def plain_table(*headers: str) -> Table:
    """Return a table without rules; a narrow terminal wraps texts and never cuts a number."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for header in headers:
        left = header in _LEFT
        table.add_column(header, justify="left" if left else "right", no_wrap=not left, overflow="fold")
    return table
