"""Output of every command: literal text without passwords, errors on standard error with a hint, and plain tables."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from rich import progress
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from nxm_sweep.errors import NxmSweepError

T = TypeVar("T")
BAD_INPUT = 2
"""Exit code of every command for invalid input."""


def program(command: str) -> str:
    """Return a command's name for its usage line, as it was invoked."""
    called = Path(sys.argv[0]).name
    return called if called.endswith(f" {command}") else f"python -m nxm_sweep.{command}"


def path_argument(text: str) -> Path:
    """Return the path that an option names, with ``~`` expanded: the shell does not in ``--to=~/x``.

    Raises:
        ArgumentTypeError: There is no such user.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} names no user's home: {error}") from error


_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, marks that reverse the direction of the text, and lone surrogates; not tab and newline."""
_LONGEST = 2_000
"""Characters of an error; a message with the user's own value in it may be longer than any screen."""
_USER = re.compile(r"(\w+://)\S*@")  # up to the last @: a password may contain @ or /
_PASSWORD = re.compile(
    r"""\w+://[^/\s'"]*@ | \w+://[^\s@]*:[^\s@]*@ | \bhf_\w{30} | """
    r"""(?i:password|passwd|pwd|secret|api_?key|access_?token|auth_?token)\w*['"]?\s*[=:]\s*[^\s,}\]]""",
    re.VERBOSE,
)
"""An address with a user, a token of the hub, or a key that is called a password."""
_URL = re.compile(r"\w+://\S+")


class TextConsole(Console):
    """A console that prints every text as it is: no markup, emoji codes or highlighting, control characters escaped.

    Names, paths and tensor names come from files of others; none of them colours, erases or retitles a terminal.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(escape_unprintable(text), **options)  # before a table measures it

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else escape_unprintable(segment.text)
            yield Segment(text, segment.style, segment.control)


def escape_unprintable(text: str) -> str:
    r"""Return text with each character that controls a terminal as its escape, such as ``\x1b``."""
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode(), text)


def holds_password(text: str) -> bool:
    """Return whether text appears to hold a password, a token, or an address with a user."""
    return _PASSWORD.search(text) is not None


def mask(text: str) -> str:
    """Return text with the users and passwords in its addresses masked."""

    def hide(match: re.Match[str]) -> str:
        try:
            parts = urlsplit(match[0])
        except ValueError:  # not an address
            return match[0]
        query = urlencode(
            [(key, "***" if "pass" in key.lower() else value) for key, value in parse_qsl(parts.query)], safe="*"
        )
        return urlunsplit(parts._replace(query=query))

    return _URL.sub(hide, _USER.sub(r"\1***@", text))


def error_console(*, quiet: bool = False) -> Console:
    """Return a console on standard error that neither wraps nor colours its output."""
    return TextConsole(stderr=True, soft_wrap=True, quiet=quiet)


def print_error(error: NxmSweepError, console: Console | None = None) -> None:
    """Print an error, with its hint if it has one."""
    console = console or error_console()
    console.print(f"error: {mask(_one_line(error.message))}")
    if error.hint:
        console.print(f"hint: {_one_line(error.hint)}")


def _one_line(text: str) -> str:
    text = " ".join(text.splitlines())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def track(items: Iterable[T], total: int, what: str, *, many: int) -> Iterator[T]:
    """Yield the items; if there are many, show how far they are: a bar on a terminal, a line elsewhere."""
    if total <= many:
        yield from items
        return
    console = error_console()
    if not console.is_terminal:
        console.print(f"{total:,} {what}; this takes a while")
        yield from items
        return
    yield from progress.track(items, what, total, console=console, transient=True)


_LEFT = ("cell", "at", "running trial", "where it is", "problem", "why")


def plain_table(*headers: str) -> Table:
    """Return a table without rules; a narrow terminal wraps texts and never cuts a number."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for header in headers:
        left = header in _LEFT
        table.add_column(header, justify="left" if left else "right", no_wrap=not left, overflow="fold")
    return table
