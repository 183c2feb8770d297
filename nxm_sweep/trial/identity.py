"""A trial's identity: the hash of what can change its outcome, and of nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nxm_sweep.methods import METHODS
from nxm_sweep.settings import LEFT_OUT_AT, TrialSettings

VERSION = 1
"""Incremented when a code change alters the meaning of the same settings."""

_UNLEARNED = {"epochs", "max_length", "max_train_samples", "max_eval_samples", "subset", "precision", "devices"}
"""Settings of a training that pruning once and scoring read, too: the rows may calibrate the importance."""
_OF_SOME_METHODS = re.compile(r"(rho|method\.(?:admm|sr_ste|gradual|warmup_asp))(?:\.|$)")


def identity_of(
    settings: TrialSettings,
    *,
    data_digest: str,
    model_digest: str,
    teacher_digest: str = "",
    carries_head: bool = False,
) -> tuple[str, dict[str, Any]]:
    """Return a trial's identity (16 hexadecimal digits) and the values that it hashes.

    Excluded are fields marked as outside identity, fields that the method does not read, and fields that another switch
    disables. Data, model and teacher enter by content, not by name or location.

    Args:
        settings: Checked settings.
        data_digest: Hash over the rows.
        model_digest: Hash over the model's files.
        teacher_digest: Hash over the teacher's files; ignored without distillation.
        carries_head: Whether the model's files contain a classifier head. If not, a new one is always drawn.
    """
    method_class = METHODS[settings.method.name]
    read = method_class.read_settings(settings)
    values = _collect_hashed_fields(settings)
    values.pop("rho")
    shared = values.pop("method")
    method = {"name": shared["name"]}
    if method_class.sparse:
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
    _drop_unlearned_(values)
    if values["training"]["max_train_samples"] is None and values["training"]["max_eval_samples"] is None:
        values["training"]["subset"] = LEFT_OUT_AT["training.subset"]  # there is no subset
    for key, usual in LEFT_OUT_AT.items():
        group, _, name = key.partition(".")
        if values[group].get(name) == usual:
            values[group].pop(name)
    head = values.pop("model")["head"]
    if carries_head or head == "keep":
        values["model.head"] = head  # dotted, since "model" is the hash of its content
    values |= {"data": data_digest, "model": model_digest, "version": VERSION}
    return hash_of(values), json.loads(canonical_json(values))


def _drop_unlearned_(values: dict[str, Any]) -> None:
    """Drop what only a training reads from the values of a trial without epochs, in place."""
    if values["training"]["epochs"] > 0:
        return
    for key in ("seed", "learning_rate"):
        values.pop(key)
    values["method"].pop("trained", None)
    values["training"] = {name: value for name, value in values["training"].items() if name in _UNLEARNED}


def hash_of(values: dict[str, Any]) -> str:
    """Return the identity of values from :func:`identity_of`, with or without changed numbers."""
    return hashlib.sha256(canonical_json(values).encode()).hexdigest()[:16]


def find_unread(overrides: Iterable[str], hashed: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys of a command line that belong to another method: ``rho.value`` for ``asp``, ``method.sr_ste.decay``.

    Args:
        overrides: The command line.
        hashed: The values that each trial's identity hashes.
    """
    read = {f"method.{name}" for values in hashed for name in values["method"]}
    read |= {"rho" for values in hashed if "rho" in values}
    keys = dict.fromkeys(word.partition("=")[0] for word in overrides)
    return [key for key in keys if (group := _OF_SOME_METHODS.match(key)) and group[1] not in read]


def canonical_json(value: Any) -> str:
    """Return JSON that is identical for equal values: sorted keys, numbers to 12 significant digits.

    Raises:
        TypeError: A value has no JSON form.
        ValueError: A number is not finite.
    """
    return json.dumps(_canonicalize(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _canonicalize(value: Any) -> Any:
    match value:
        case bool() | None | str():
            return value
        case int() | float():
            number = float(f"{value:.12g}")
            return int(number) if number.is_integer() and abs(number) < 2**53 else number
        case dict():
            return {str(key): _canonicalize(item) for key, item in value.items()}
        case list() | tuple():
            return [_canonicalize(item) for item in value]
        case _:
            raise TypeError(f"a {type(value).__name__} has no canonical form")


def _collect_hashed_fields(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        fields = [field for field in dataclasses.fields(value) if field.metadata.get("identity", True)]
        return {field.name: _collect_hashed_fields(getattr(value, field.name)) for field in fields}
    return [_collect_hashed_fields(item) for item in value] if isinstance(value, list) else value
