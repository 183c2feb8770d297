"""Texts that people or machines chose, made fit to be shown: short, on one line, without control characters."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from nxm_sweep.formatting import format_value, short_name

METHOD_ORDER = ("dense", "asp", "warmup_asp", "admm_unstructured", "nxm_paper", "nxm", "nxm_refit", "sr_ste", "gradual")
"""The order of methods in tables, legends and sentences; others follow by name."""
CONSTANT = "constant answer"
"""What the row of the constant answer is called."""
MARK = "\u2020"
"""A dagger, behind scores that do not beat the constant answer."""
LONGEST = 120
"""Characters of a name; of a longer one the rest is cut, and that is said."""
_REASON = 300


def clean_name(value: Any, longest: int = LONGEST) -> str:
    """Return a text for a table: what cannot be printed is replaced, what is too long is cut with a note."""
    text = str(value)
    if len(text) <= longest and text.isprintable():
        return text
    note = f"... ({len(text):,} characters)" if len(text) > longest else ""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text[:longest]) + note


def reason(value: Any) -> str:
    """Return why something failed, for a table: as :func:`name`, in words as they stand."""
    return clean_name(" ".join(str(value)[: 4 * _REASON].split()), _REASON)


def place_in(order: Sequence[str]) -> Callable[[str], tuple[int, str]]:
    """Return the key that sorts names into an order, those that it lacks behind them by name; additions do not count."""

    def place(text: str) -> tuple[int, str]:
        base = text.partition(" (")[0]
        return (order.index(base) if base in order else len(order)), text

    return place


def command(words: list[Any]) -> str:
    """Return a sweep's command line, quoted for a shell."""
    return " ".join(["python -m nxm_sweep -m", *(shlex.quote(clean_name(word)) for word in words)])


def method_name(method: Any, distillation: Any) -> str:
    """Return what a table's row is called: a method that learns from a teacher is another one than without."""
    return (
        clean_name(method)
        if distillation in {None, "none"}
        else f"{clean_name(method)} (distillation={clean_name(distillation)})"
    )


def settings_text(trial: Mapping[str, Any] | pd.Series[Any], names: Sequence[str]) -> str:
    """Return a trial's settings of those names in one line; those that its method does not read are left out."""
    known = [name for name in names if name in trial and pd.notna(trial[name])]
    return ", ".join(f"{short_name(name)} {format_value(trial[name])}" for name in known)
