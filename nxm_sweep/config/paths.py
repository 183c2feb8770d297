"""Paths among the settings: a leading ``~`` is expanded once, at validation, and what no system accepts is refused."""

from __future__ import annotations

import operator
from pathlib import Path

from nxm_sweep.errors import ConfigError
from nxm_sweep.settings import TrialSettings

_PATHS = ("output_dir", "data.path", "model.path", "distillation.teacher.path", "sparsity.scan", "sweep.cwd")
"""Keys that hold a path, or may: ``data.path`` and ``model.path`` can also be hub ids, a teacher can be an identity."""


def expand_paths_(settings: TrialSettings) -> None:
    """Expand ``~`` in every path of a trial's settings, in place. A relative path stays relative to the current directory.

    Raises:
        ConfigError: A path that the system cannot look up.
    """
    for key in _PATHS:
        *groups, name = key.split(".")
        holder = operator.attrgetter(".".join(groups))(settings) if groups else settings
        text = getattr(holder, name)
        if text:
            setattr(holder, name, expand(text, key))
    files = settings.task.files
    files.update({split: text and expand(text, f"task.files.{split}") for split, text in files.items()})


def expand(text: str, key: str) -> str:
    """Return the path of a setting with ``~`` expanded.

    Raises:
        ConfigError: There is no such user, or the system cannot look the path up.
    """
    if "://" in text:
        return text
    try:
        path = Path(text).expanduser() if text.startswith("~") else Path(text)
        path.exists()  # raises for a path that is too long, holds NUL, or may not be read
    except OSError as error:
        raise ConfigError(f"{key}: {error.strerror}: {shorten(text)}") from error
    except (RuntimeError, ValueError) as error:  # no such user; NUL or a surrogate
        raise ConfigError(f"{key}: {error}: {shorten(text)}") from error
    return str(path) if text.startswith("~") else text


def shorten(text: str) -> str:
    """Return a path for a message: cut if no screen would hold it."""
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text):,} characters)"
