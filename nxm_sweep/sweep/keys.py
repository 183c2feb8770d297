"""Dotted keys: what they name in settings and in nested dictionaries, and their values as the command line takes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nxm_sweep.settings import TrialSettings

_PLAIN = re.compile(r"(?!(null|true|false|nan|inf)$)[A-Za-z_./][\w./-]*", re.IGNORECASE)
"""A word that the command line takes without quotes, and for nothing but a word."""
_BEFORE_QUOTE = re.compile(r"(\\+)(?='|$)")
"""Backslashes that a quoted word needs twice; elsewhere one is one."""


def can_be_axis(settings: TrialSettings, key: str) -> bool:
    """Return whether a key names a number or a word that changes a trial; no device, no path, no group."""
    place: Any = settings
    for name in key.split("."):
        known = getattr(place, "__dataclass_fields__", {})
        if name not in known or not all(known[name].metadata.get(mark, True) for mark in ("identity", "axis")):
            return False
        place = getattr(place, name)
    return place is None or isinstance(place, int | float | str)


def word(value: Any) -> str:
    """Return a value as the command line takes it."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:.12g}"
        case str() if not _PLAIN.fullmatch(value):
            return "'" + _BEFORE_QUOTE.sub(r"\1\1", value).replace("'", "\\'") + "'"
    return str(value)


def assign_(settings: TrialSettings, values: Mapping[str, Any]) -> TrialSettings:
    """Set dotted keys in place."""
    for key, value in values.items():
        *path, leaf = key.split(".")
        place: Any = settings
        for name in path:
            place = getattr(place, name)
        setattr(place, leaf, value)
    return settings


def value_at(settings: TrialSettings, key: str) -> Any:
    """Return the value of a dotted key."""
    place: Any = settings
    for name in key.split("."):
        place = getattr(place, name)
    return place


def exists(settings: TrialSettings, key: str) -> bool:
    """Return whether a dotted key names a setting or a group of them."""
    place: Any = settings
    for name in key.split("."):
        if name not in getattr(place, "__dataclass_fields__", {}):
            return False
        place = getattr(place, name)
    return True


def has(tree: Any, key: str) -> bool:
    """Return whether a dotted key names a plain value in nested dictionaries."""
    for name in key.split("."):
        if not isinstance(tree, dict) or name not in tree:
            return False
        tree = tree[name]
    return not isinstance(tree, dict)


def holder_of(tree: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """Return the dictionary that holds a dotted key, and the key's last part."""
    *path, leaf = key.split(".")
    for name in path:
        tree = tree[name]
    return tree, leaf
