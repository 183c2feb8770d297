"""How every command tells of an error: what was wrong in one line, the way out in another, both on standard error."""

from __future__ import annotations

from rich.console import Console

from nxm_sweep.errors import NxmSweepError

BAD_INPUT = 2
"""Exit code of every command for input that cannot be used."""


def error_console(*, quiet: bool = False) -> Console:
    """Return a console on standard error that neither wraps nor colours what it prints."""
    return Console(stderr=True, soft_wrap=True, highlight=False, quiet=quiet)


def tell(error: NxmSweepError, console: Console | None = None) -> None:
    """Print an error, with its hint if it has one."""
    console = console or error_console()
    console.print(f"error: {error.message}", markup=False)
    if error.hint:
        console.print(f"hint: {error.hint}", markup=False)
