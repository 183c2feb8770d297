"""What a command answers, called in this process."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Answer:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


def ask(main: Callable[[], int], *line: object) -> Answer:
    """Call a command's ``main`` with a command line, the program's name first."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setenv("HYDRA_FULL_ERROR", "0")
        patch.setattr(sys, "argv", list(map(str, line)))
        code = main()
    return Answer(code, out.getvalue(), err.getvalue())
