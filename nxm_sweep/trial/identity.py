"""A trial's name: the hash of what can change its outcome, and of nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from nxm_sweep.methods import METHODS
from nxm_sweep.settings import LEFT_OUT_AT, TrialSettings

VERSION = 1
"""Raised when a change of the code changes what the same settings mean."""


def identity_of(
    settings: TrialSettings,
    *,
    data_digest: str,
    model_digest: str,
    teacher_digest: str = "",
    carries_head: bool = False,
) -> tuple[str, dict[str, Any]]:
    """Return a trial's identity (16 hexadecimal digits) and the values that it is the hash of.

    Fields marked as outside identity are left out, as is what the method does not read and what another switch puts out of
    use. Data, model and teacher enter by their content, not by their names or places.

    Args:
        settings: Checked settings.
        data_digest: Hash over the rows.
        model_digest: Hash over the model's files.
        teacher_digest: Hash over the teacher's files; not looked at without distillation.
        carries_head: Whether the model's files hold a classifier head. If not, a new one is drawn in any case.
    """
    kind = METHODS[settings.method.name]
    read = kind.read_settings(settings)
    values = _hashed_fields(settings)
    values.pop("rho")
    shared = values.pop("method")
    method = {"name": shared["name"]}
    if kind.sparse:
        method["trained"] = shared["trained"]
        if shared["importance"]["metric"] != "magnitude":
            method["importance"] = shared["importance"]
    else:
        values.pop("sparsity")
    values = {**read, **values, "method": {**read.get("method", {}), **method}}
    if values["selection"]["name"] == "dev":
        values.pop("selection")
    if settings.distillation.enabled:
        values["distillation"]["teacher"] = teacher_digest
        if settings.task.problem == "regression":  # outputs are compared by their squared difference
            values["distillation"].pop("temperature")
    else:
        values.pop("distillation")
    for key, usual in LEFT_OUT_AT.items():
        group, _, name = key.partition(".")
        if values[group][name] == usual:
            values[group].pop(name)
    head = values.pop("model")["head"]
    if carries_head or head == "keep":
        values["model.head"] = head  # dotted, since "model" is the hash of its content
    values |= {"data": data_digest, "model": model_digest, "version": VERSION}
    return hash_of(values), json.loads(canonical_json(values))


def hash_of(values: dict[str, Any]) -> str:
    """Return the identity that values have which :func:`identity_of` returned, numbers in them changed or not."""
    return hashlib.sha256(canonical_json(values).encode()).hexdigest()[:16]


def canonical_json(value: Any) -> str:
    """Return JSON that equal values share: sorted keys, numbers to 12 significant digits.

    Raises:
        TypeError: A value that JSON cannot hold.
        ValueError: A number that is not finite.
    """
    return json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _canonical(value: Any) -> Any:
    match value:
        case bool() | None | str():
            return value
        case int() | float():
            number = float(f"{value:.12g}")
            return int(number) if number.is_integer() and abs(number) < 2**53 else number
        case dict():
            return {str(key): _canonical(item) for key, item in value.items()}
        case list() | tuple():
            return [_canonical(item) for item in value]
        case _:
            raise TypeError(f"a {type(value).__name__} has no canonical form")


def _hashed_fields(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        fields = [field for field in dataclasses.fields(value) if field.metadata.get("identity", True)]
        return {field.name: _hashed_fields(getattr(value, field.name)) for field in fields}
    return [_hashed_fields(item) for item in value] if isinstance(value, list) else value
