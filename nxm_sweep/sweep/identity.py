"""A trial's name: the hash of what can change its outcome, and of nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from nxm_sweep.settings import TrialSettings

VERSION = 1
"""Raised when a change of the code changes what the same settings mean."""


def identity_of(settings: TrialSettings, *, data_digest: str, model_digest: str) -> tuple[str, dict[str, Any]]:
    """Return a trial's identity (16 hexadecimal digits) and the values that it is the hash of.

    Fields marked as outside identity are left out, as are the groups that the method does not read. Data and model enter
    by their content, not by their names or places.

    Args:
        settings: Checked settings.
        data_digest: Hash over the rows.
        model_digest: Hash over the model's files.
    """
    values = _hashed_fields(settings)
    reads = set(settings.method.uses)
    if "sparsity" not in reads:
        values.pop("sparsity")
        values["method"].pop("trained")
    if "rho" not in reads:
        values.pop("rho")
    if "admm" not in reads:
        values["method"].pop("admm")
    values |= {"data": data_digest, "model": model_digest, "version": VERSION}
    canonical = canonical_json(values)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16], json.loads(canonical)


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
