"""Labels from people or machines, safe to show: short, on one line, without control characters."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from nxm_sweep.formatting import format_value, short_name

METHOD_ORDER = ("dense", "asp", "warmup_asp", "admm_unstructured", "nxm_paper", "nxm", "nxm_refit", "sr_ste", "gradual")
"""The order of methods in tables, legends and sentences; others follow by name."""
CONSTANT = "constant answer"
"""Label of the constant answer's row."""
MARK = "\u2020"
"""A dagger, after scores that do not beat the constant answer."""
LONGEST = 120
"""Most characters of a name; a longer one is cut with a note."""
_REASON = 300


def clean_name(value: Any, longest: int = LONGEST) -> str:
    """Return a text for a table: unprintable characters are replaced, a long text is cut with a note."""
    text = str(value)
    if len(text) <= longest and text.isprintable():
        return text
    note = f"... ({len(text):,} characters)" if len(text) > longest else ""
    return replace_unprintable(text[:longest]) + note


def replace_unprintable(text: str) -> str:
    """Return text without characters that control something: a terminal, a line, the direction of writing."""
    return text if text.isprintable() else "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def reason(value: Any) -> str:
    """Return a reason for a table: on one line, cleaned as by :func:`clean_name`."""
    return clean_name(" ".join(str(value)[: 4 * _REASON].split()), _REASON)


def place_in(order: Sequence[str]) -> Callable[[str], tuple[int, str]]:
    """Return a key that sorts names into ``order``, others after them by name; additions in brackets are ignored."""

    def sort_key(text: str) -> tuple[int, str]:
        base = text.partition(" (")[0]
        return (order.index(base) if base in order else len(order)), text

    return sort_key


def command(words: list[Any]) -> str:
    """Return a sweep's command line, quoted for a shell."""
    return " ".join(["python -m nxm_sweep -m", *(shlex.quote(clean_name(word)) for word in words)])


def method_name(method: Any, distillation: Any) -> str:
    """Return a method's label; with a teacher it is a method of its own."""
    return (
        clean_name(method)
        if distillation in {None, "none"}
        else f"{clean_name(method)} (distillation={clean_name(distillation)})"
    )


def settings_text(trial: Mapping[str, Any] | pd.Series[Any], names: Sequence[str]) -> str:
    """Return a trial's named settings on one line, without those that its method does not read."""
    known = [name for name in names if name in trial and pd.notna(trial[name])]
    return ", ".join(f"{short_name(name)} {format_value(trial[name])}" for name in known)
