"""Which keys of a record its type does not describe."""

from __future__ import annotations

from collections.abc import Iterator
from types import UnionType
from typing import Any, NotRequired, get_args, get_origin, get_type_hints, is_typeddict


def undescribed(value: Any, kind: Any, place: str = "") -> Iterator[str]:
    """Keys of a value that its TypedDict does not list, and required ones that are missing."""
    if get_origin(kind) is NotRequired or type(None) in get_args(kind):
        kind = next(part for part in get_args(kind) if part is not type(None))
        if get_origin(kind) is UnionType:
            kind = next(part for part in get_args(kind) if part is not type(None))
    if value is None:
        return
    if is_typeddict(kind):
        types = get_type_hints(kind, include_extras=True)
        required = {name for name, hint in types.items() if get_origin(hint) is not NotRequired}
        yield from (f"{place}{name}" for name in (set(value) - set(types)) | (required - set(value)))
        for name in set(value) & set(types):
            yield from undescribed(value[name], types[name], f"{place}{name}.")
    elif get_origin(kind) is list:
        for item in value:
            yield from undescribed(item, get_args(kind)[0], place)
